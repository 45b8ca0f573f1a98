// Numbers over recordings, and the start of the page.
"use strict";

class SeriesPanel {
  constructor(section, panel) {
    this.panel = panel;
    this.logY = false;
    this.shown = new Set(panel.shown);
    this.plot = made("div", "plot");
    const legend = makeLegend(panel.lines, this.shown, () => this.draw());
    const controls = made(
      "div",
      "controls",
      makeToggle("log values", false, (isLog) => {
        this.logY = isLog;
        this.draw();
      }),
      made("span", "gap"),
      makeButton("Numbers, CSV", () => this.save()),
    );
    const all = made("div", "controls", ...legend.buttons);
    section.querySelector(".live-only").append(controls, this.plot, all, legend.list);
  }

  tracesOf(line, place) {
    if (!this.shown.has(place)) return [];
    const { color, dash } = lookOf(line);
    const has = line.stderrs.some((error) => error !== null && error > 0);
    const errors = { type: "data", array: line.stderrs, color, thickness: 1.2, width: 3 };
    return [
      {
        ...{ x: line.numbers, y: line.values, mode: "lines+markers" },
        ...{ line: { color, dash, width: 1.8 }, marker: { size: 5, color } },
        ...{ name: literal(line.label), meta: { curve: place } },
        ...(has ? { error_y: errors } : {}),
        hovertemplate: `%{x}: %{y:.5~g}${has ? " ± %{error_y.array:.2~g}" : ""}<extra>%{fullData.name}</extra>`,
      },
    ];
  }

  draw() {
    this.isDrawn = true;
    const traces = this.panel.lines.flatMap((line, place) => this.tracesOf(line, place));
    const layout = layoutOf(
      { ...axis("epoch or step", false, null), ...wholeTicks(this.panel.lines) },
      axis(this.panel.title, this.logY, null),
      `${this.logY}`,
    );
    if (!traces.length) layout.annotations = [emptyNote()];
    return Plotly.react(this.plot, traces, layout, configOf(this.panel.title));
  }

  save() {
    const rows = [["run", "name", "number", "value", "stderr"]];
    for (const line of this.panel.lines) {
      line.numbers.forEach((number, i) => {
        rows.push([line.run, line.name, number, line.values[i], line.stderrs[i]]);
      });
    }
    saveCsv(this.panel.title, rows);
  }
}

// Where Plotly would put marks between few whole numbers.
function wholeTicks(lines) {
  const numbers = lines.flatMap((line) => line.numbers);
  return Math.max(...numbers) - Math.min(...numbers) < 8 ? { dtick: 1 } : {};
}

function startPanels() {
  const panels = report.panels.map((panel, place) => {
    const section = document.getElementById(`panel-${place}`);
    const kind = panel.kind === "spectra" ? SpectraPanel : SeriesPanel;
    return [section, new kind(section, panel)];
  });
  const drawers = new Map(panels);
  const observer = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((found) => found.isIntersecting)) {
        observer.unobserve(entry.target);
        drawers.get(entry.target).draw();
      }
    },
    { rootMargin: "800px" },
  );
  for (const [section] of panels) observer.observe(section);
  window.addEventListener("beforeprint", () => {
    for (const panel of drawers.values()) if (!panel.isDrawn) panel.draw();
  });
  return panels.map(([, panel]) => panel);
}

function startTheme(panels) {
  const button = document.getElementById("theme");
  const isDark = () => (root.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
  const redraw = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    for (const panel of panels) if (panel.isDrawn) panel.draw();
  };
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    redraw();
  });
  prefersDark.addEventListener("change", redraw);
  redraw();
}

root.classList.add("live");
startTheme(startPanels());
