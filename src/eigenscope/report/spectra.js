// A panel of spectra: densities or eigenvalues by rank, at one recording.
"use strict";

class SpectraPanel {
  constructor(section, panel) {
    this.panel = panel;
    this.numbers = [...new Set(panel.curves.flatMap((c) => c.frames.map((f) => f.number)))]
      .filter((number) => number !== null)
      .sort((a, b) => a - b);
    this.number = this.numbers.at(-1) ?? null;
    const isSigned = panel.is_signed;
    this.state = { view: "density", logX: !isSigned, logY: isSigned, bands: true, held: true };
    this.shown = new Set(panel.shown);
    this.plot = made("div", "plot");
    this.build(section.querySelector(".live-only"));
  }

  build(host) {
    const change = (part) => {
      Object.assign(this.state, part);
      this.ranges = null;
      this.draw();
    };
    const toggle = (text, name) =>
      makeToggle(text, this.state[name], (is) => change({ [name]: is }));
    const logX = toggle("log λ", "logX");
    const logY = toggle("log density", "logY");
    const view = makeToggle("By rank", false, (isRank) => {
      const isDensity = !isRank;
      const log = { logX: isRank || !this.panel.is_signed, logY: isRank || this.panel.is_signed };
      logX.textContent = isDensity ? "log λ" : "log rank";
      logY.textContent = isDensity ? "log density" : "log |λ|";
      logX.setAttribute("aria-pressed", String(log.logX));
      logY.setAttribute("aria-pressed", String(log.logY));
      change({ view: isDensity ? "density" : "rank", ...log });
    });
    const legend = makeLegend(this.panel.curves, this.shown, () => change({}));
    this.abouts = legend.abouts;
    const saves = [
      makeButton("Eigenvalues, CSV", () => this.saveValues()),
      makeButton("Density, CSV", () => this.saveDensity()),
    ];
    const bands = this.panel.has_bands ? [toggle("95 % bands", "bands")] : [];
    const held = this.numbers.length > 1 ? [toggle("Axes of all", "held")] : [];
    const gap = made("span", "gap");
    const bar = made("div", "controls", view, logX, logY, ...bands, ...held, gap, ...saves);
    this.caption = made("p", "caption");
    host.append(bar);
    if (this.numbers.length > 1) {
      const slider = makeSlider(this.numbers, (number) => {
        this.number = number;
        if (!this.state.held) this.ranges = null;
        if (this.isDrawn) this.draw();
      });
      slider.move(this.numbers.length - 1);
      host.append(slider.bar);
    }
    const all = made("div", "controls", ...legend.buttons);
    host.append(this.plot, all, legend.list, this.caption);
  }

  // The frame at the slider's number, or the latest before it; static ones always.
  frameOf(curve) {
    let found = null;
    for (const frame of curve.frames) {
      if (frame.number === null || frame.number <= this.number) found = frame;
    }
    return found;
  }

  // Parts of a frame, as points: the positive (or only) one, the negative one.
  partsOf(frame) {
    if (this.state.view === "rank") {
      return [rankPoints(frame, 1), rankPoints(frame, -1)].filter((part) => part.x.length);
    }
    if (!this.state.logX) return [densityPoints(frame.linear, false, this.state.logY)];
    return [frame.log, frame.negative]
      .map((grid, i) => grid && densityPoints(grid, true, this.state.logY, i === 1))
      .filter(Boolean);
  }

  tracesOf(curve, place) {
    const frame = this.frameOf(curve);
    this.abouts[place].textContent = this.about(curve, frame);
    if (frame === null || !this.shown.has(place)) return [];
    const isRank = this.state.view === "rank";
    return this.partsOf(frame).flatMap((part) => {
      const look = lookOf(curve);
      const dash = part.isNegative ? "dot" : look.dash;
      const what = isRank ? "rank %{x:,.5~g}<br>|λ| = " : "λ = %{x:.4~g}<br>density ";
      const line = {
        ...{ x: part.x, y: part.y, mode: isRank ? "lines+markers" : "lines" },
        ...{ line: { color: look.color, width: 1.8, dash }, marker: { size: 4 } },
        name: literal(curve.label) + (part.isNegative ? " (negative λ)" : ""),
        meta: { curve: place, number: frame.number, isBand: false },
        hovertemplate: `${part.isNegative && !isRank ? "−" : ""}${what}%{y:.4~g}<extra>%{fullData.name}</extra>`,
      };
      const isBanded = this.state.bands && part.lower;
      return isBanded ? [bandTrace(part, look.color, place), line] : [line];
    });
  }

  about(curve, frame) {
    const words = [`D = ${curve.dimension.toLocaleString("en")}`];
    if (!curve.exact) words.push("estimate");
    if (frame === null) return `${words.join(", ")}, nothing recorded yet`;
    if (frame.number !== null && frame.number < this.number) words.push(`at ${frame.number}`);
    if (this.state.view === "density" && this.state.logX) {
      if (frame.log === null) words.push("none above the noise floor");
      else {
        const omitted = frame.log.omitted - (1 - (frame.negative?.omitted ?? 1));
        if (omitted > 5e-4) words.push(`${(100 * omitted).toPrecision(3)} % within the noise floor`);
        words.push(`σ = ${frame.log.width.toPrecision(2)} decades`);
      }
    }
    return words.join(", ");
  }

  // Axes that hold all recordings let the slider move the curves and not the axes.
  allRanges() {
    const x = [];
    const y = [];
    for (const place of this.shown) {
      const curve = this.panel.curves[place];
      const frames = this.state.held ? curve.frames : [this.frameOf(curve)];
      for (const frame of frames.filter(Boolean)) {
        for (const part of this.partsOf(frame)) {
          for (const value of part.x) x.push(value);
          for (const value of part.y) y.push(value);
        }
      }
    }
    const isDensity = this.state.view === "density";
    const vertical = rangeOf(y, this.state.logY);
    if (vertical && !this.state.logY && isDensity) vertical[0] = 0;
    return { x: rangeOf(x, this.state.logX), y: vertical };
  }

  draw() {
    this.isDrawn = true;
    const { view, logX, logY, held } = this.state;
    const isDensity = view === "density";
    this.ranges ??= this.allRanges();
    const traces = this.panel.curves.flatMap((curve, place) => this.tracesOf(curve, place));
    const per = logX ? "decade" : "unit of λ";
    const quantity = this.panel.quantity;
    const hasNegative = traces.some((trace) => trace.name.endsWith(" (negative λ)"));
    const across = isDensity && logX && hasNegative ? `modulus of ${quantity}` : quantity;
    const layout = layoutOf(
      axis(isDensity ? across : "rank", logX, this.ranges.x),
      axis(isDensity ? `density per ${per}` : "|λ|", logY, this.ranges.y),
      `${view} ${logX} ${logY} ${held || this.number}`,
    );
    if (!traces.length) layout.annotations = [emptyNote()];
    this.caption.textContent = this.said();
    return Plotly.react(this.plot, traces, layout, configOf(this.panel.title));
  }

  said() {
    const { view, logX } = this.state;
    const words = [report.captions[view === "rank" ? "rank" : logX ? "log" : "linear"]];
    if (view === "density" && this.panel.has_bands) words.push(report.captions.bands);
    if (!isCoarse) words.push("Drag to zoom, double-click for all.");
    return words.join(" ");
  }

  *framesWithNames() {
    for (const curve of this.panel.curves) {
      for (const frame of curve.frames) yield [[curve.run, curve.name, frame.number], frame];
    }
  }

  saveValues() {
    const rows = [["run", "spectrum", "number", "eigenvalue", "count"]];
    for (const [names, frame] of this.framesWithNames()) {
      const counts = arrayOf(frame, "counts");
      arrayOf(frame, "values").forEach((value, i) => {
        rows.push([...names, shortened(value), counts ? shortened(counts[i]) : 1]);
      });
    }
    saveCsv(`${this.panel.title} eigenvalues`, rows);
  }

  saveDensity() {
    const isLog = this.state.view === "density" && this.state.logX;
    const height = isLog ? "density_per_decade" : "density_per_unit";
    const rows = [["run", "spectrum", "number", "eigenvalue", height, "lower", "upper"]];
    for (const [names, frame] of this.framesWithNames()) {
      for (const grid of isLog ? [frame.negative, frame.log] : [frame.linear]) {
        if (grid === null) continue;
        const sign = grid === frame.negative ? -1 : 1;
        const { x, y, lower, upper } = densityPoints(grid, isLog, false);
        x.forEach((place, i) => {
          const band = lower ? [shortened(lower[i]), shortened(upper[i])] : ["", ""];
          rows.push([...names, shortened(sign * place), shortened(y[i]), ...band]);
        });
      }
    }
    saveCsv(`${this.panel.title} density`, rows);
  }
}

// Points of a density; on a log axis what no eigenvalue can give is left out.
function densityPoints(grid, isLogX, isLogY, isNegative = false) {
  const heights = arrayOf(grid, "heights");
  const x = Array.from(heights, (_, i) => {
    const place = grid.start + i * grid.step;
    return isLogX ? 10 ** place : place;
  });
  const least = isLogY ? 0.05 * grid.least : -Infinity;
  const y = Array.from(heights, (height) => (height > least ? height : null));
  if (!grid.lower) return { x, y, isNegative };
  const lower = Array.from(arrayOf(grid, "lower"), (height) => Math.max(height, least));
  const upper = Array.from(arrayOf(grid, "upper"), (height) => Math.max(height, least));
  return { x, y, lower, upper, isNegative };
}

// |λ| of one sign against rank, largest first; the noise floor is where it ends.
function rankPoints(frame, sign) {
  const values = arrayOf(frame, "values");
  const counts = arrayOf(frame, "counts");
  const x = [];
  const y = [];
  let rank = 0;
  for (let step = 0; step < values.length; step += 1) {
    const place = sign > 0 ? values.length - 1 - step : step;
    if (sign * values[place] <= frame.floor) break;
    rank += counts ? counts[place] : 1;
    x.push(rank);
    y.push(sign * values[place]);
  }
  return { x, y, isNegative: sign < 0 };
}

function bandTrace(part, color, place) {
  return {
    x: [...part.x, ...part.x.toReversed()],
    y: [...part.upper, ...part.lower.toReversed()],
    ...{ mode: "lines", fill: "toself", line: { width: 0 }, fillcolor: `${color}26` },
    ...{ hoverinfo: "skip", name: "", meta: { curve: place, isBand: true } },
  };
}

function emptyNote() {
  const text = "nothing to show: choose curves below, or another axis";
  return { text, showarrow: false, x: 0.5, y: 0.5, xref: "paper", yref: "paper" };
}
