// Figures: spectra with a slider over recordings, and numbers over recordings.
"use strict";

const report = JSON.parse(document.getElementById("report-data").textContent);
const root = document.documentElement;
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const isCoarse = matchMedia("(pointer: coarse)").matches; // a finger scrolls the page
const DASHES = ["solid", "dash", "dashdot", "longdash"]; // dots are for negative λ
const TOOLS = [
  ["toImage"],
  ["zoom2d", "pan2d"],
  ["zoomIn2d", "zoomOut2d", "resetScale2d"],
]; // named one by one: by default Plotly adds a tool that sends the figure to its makers
const NUM_COLORS = 7;
const PLAY_MILLISECONDS = 450;

// --- numbers -------------------------------------------------------------------

function decode(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Float32Array(bytes.buffer);
}

// An array that the page holds as base64, decoded when it is first needed.
function arrayOf(owner, name) {
  if (typeof owner[name] === "string") owner[name] = decode(owner[name]);
  return owner[name];
}

function shortened(value) {
  return Number.isFinite(value) ? Number(value.toPrecision(8)) : "";
}

function rangeOf(values, isLog) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null || !Number.isFinite(value) || (isLog && value <= 0)) continue;
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (low > high) return null;
  if (isLog) [low, high] = [Math.log10(low), Math.log10(high)];
  const margin = 0.03 * (high - low) || 0.5 * Math.abs(high) || 1;
  return [low - margin, high + margin];
}

// --- looks ---------------------------------------------------------------------

function colorOf(name) {
  return getComputedStyle(root).getPropertyValue(`--${name}`).trim();
}

// One color for each name, one dash for each run.
function lookOf(item) {
  const turn = item.run_place + Math.floor(item.name_place / NUM_COLORS);
  const color = `c${item.name_place % NUM_COLORS}`;
  return { color: colorOf(color), variable: `var(--${color})`, dash: DASHES[turn % DASHES.length] };
}

// Plotly reads tags and entities in names; these stay what they are.
function literal(text) {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

// A label of two parts takes two lines where there is no room for one.
function wrapped(title) {
  const isNarrow = root.clientWidth < 560;
  return isNarrow ? literal(title).replace(", ", ",<br>") : literal(title);
}

function axis(title, isLog, range) {
  return {
    type: isLog ? "log" : "linear",
    title: { text: wrapped(title), standoff: 8 },
    ...(range === null ? { autorange: true } : { range }), // Plotly 4 trips over null
    gridcolor: colorOf("rule"),
    linecolor: colorOf("rule"),
    zeroline: false,
    showline: true,
    exponentformat: "power",
    ...(isLog && range !== null && range[1] - range[0] > 2 ? { dtick: decadesApart(range) } : { nticks: 7 }),
    automargin: true,
  };
}

function decadesApart(range) {
  return Math.max(1, Math.ceil((range[1] - range[0]) / 6));
}

function layoutOf(xaxis, yaxis, revision) {
  return {
    xaxis,
    yaxis,
    uirevision: revision,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colorOf("ink"), family: getComputedStyle(document.body).fontFamily },
    margin: { l: 56, r: 10, t: isCoarse ? 36 : 10, b: 48 }, // room for the tools
    showlegend: false,
    hovermode: "closest",
    hoverlabel: { namelength: -1 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colorOf("soft"), activecolor: colorOf("accent") },
    dragmode: isCoarse ? false : "zoom",
  };
}

function configOf(title) {
  return {
    responsive: true,
    displaylogo: false,
    doubleClick: "reset",
    modeBarButtons: TOOLS,
    toImageButtonOptions: { format: "svg", filename: title.replace(/[^A-Za-z0-9]+/g, "-") },
  };
}

// --- parts of a panel ----------------------------------------------------------

function made(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children);
  return element;
}

function makeToggle(text, isPressed, onChange) {
  const button = makeButton(text, () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(now));
    onChange(now);
  });
  button.setAttribute("aria-pressed", String(isPressed));
  return button;
}

function makeSwatch(item) {
  const look = lookOf(item);
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const line = document.createElementNS(space, "line");
  const dash = { solid: "", dash: "7 4", longdash: "12 3", dashdot: "7 3 2 3" }[look.dash];
  const shape = { x1: 0, y1: 5, x2: 26, y2: 5, "stroke-width": 3, "stroke-dasharray": dash };
  for (const [name, value] of Object.entries(shape)) line.setAttribute(name, value);
  line.style.stroke = look.variable;
  svg.setAttribute("width", 26);
  svg.setAttribute("height", 10);
  svg.append(line);
  return svg;
}

// Check boxes for curves; `abouts` are the places of what is said beside the names.
function makeLegend(items, shown, onChange) {
  const abouts = [];
  const list = made("ul", "legend");
  items.forEach((item, place) => {
    const box = made("input");
    box.type = "checkbox";
    box.checked = shown.has(place);
    box.addEventListener("change", () => {
      if (box.checked) shown.add(place);
      else shown.delete(place);
      onChange();
    });
    abouts.push(made("span", "about"));
    const text = made("span", "name", item.label, " ", abouts[place]);
    list.append(made("li", "", made("label", "", box, makeSwatch(item), text)));
  });
  const set = (isShown) => () => {
    list.querySelectorAll("input").forEach((box, place) => {
      box.checked = isShown;
      if (isShown) shown.add(place);
      else shown.delete(place);
    });
    onChange();
  };
  const buttons = [makeButton("Show all", set(true)), makeButton("Show none", set(false))];
  return { list, abouts, buttons: items.length > 2 ? buttons : [] };
}

function makeSlider(numbers, onMove) {
  const input = made("input");
  Object.assign(input, { type: "range", min: 0, max: numbers.length - 1, step: 1 });
  input.setAttribute("aria-label", "epoch or step");
  const output = made("output");
  const move = (place) => {
    input.value = place;
    output.textContent = `epoch or step ${numbers[place]}`;
    input.setAttribute("aria-valuetext", output.textContent);
    onMove(numbers[place]);
  };
  let timer = 0;
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "▶ Play";
  };
  const step = () => {
    move(Number(input.value) + 1);
    if (Number(input.value) === numbers.length - 1) stop();
  };
  const play = makeButton("▶ Play", () => {
    if (timer) return stop();
    if (Number(input.value) === numbers.length - 1) move(0);
    play.textContent = "❚❚ Pause";
    timer = setInterval(step, PLAY_MILLISECONDS);
    return undefined;
  });
  input.addEventListener("input", () => {
    stop();
    move(Number(input.value));
  });
  return { bar: made("div", "slider", play, input, output), move };
}
