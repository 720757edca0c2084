// Curves and stacked bars over rounds, as SVG. One path a series, so that hundreds of rounds stay
// smooth, and a cursor that all charts of a page share.

import { draw, make } from "./page.js";

const HEIGHT = 184;
const EDGE = { left: 44, right: 10, top: 8, bottom: 22 };

// The rounds that the charts show, and the one that is looked at.
export class Cursor {
  constructor(input, output) {
    [this.input, this.output] = [input, output];
    [this.last, this.rest, this.at, this.pinned] = [0, 0, 0, false];
    this.charts = [];
    input.addEventListener("input", () => this.move(Number(input.value)));
  }

  // Later rounds have come: the cursor goes along to `rest` unless someone has put it elsewhere.
  extend(last, rest) {
    [this.last, this.rest] = [last, rest];
    this.input.max = last;
    if (!this.pinned || this.at > last) this.show(rest);
  }

  move(round) {
    this.pinned = round !== this.rest;
    this.show(round);
  }

  show(round) {
    this.at = Math.max(0, Math.min(this.last, round));
    this.input.value = this.at;
    this.output.textContent = String(this.at);
    for (const chart of this.charts) chart.point();
  }
}

class Chart {
  constructor(title, unit, cursor) {
    this.cursor = cursor;
    this.series = [];
    this.svg = draw("svg", { role: "img" });
    this.legend = make("ul", { class: "legend" });
    this.figure = make("figure", {}, make("figcaption", {}, title, make("small", {}, unit)), this.legend, this.svg);
    this.title = title;
    cursor.charts.push(this);
    new ResizeObserver(() => this.redraw()).observe(this.svg);
    this.svg.addEventListener("pointermove", (event) => this.cursor.move(this.roundAt(event.offsetX)));
    this.svg.addEventListener("pointerdown", (event) => this.cursor.move(this.roundAt(event.offsetX)));
  }

  // `series` are { name, values, look }: values an array by round, with holes; `look` see below.
  show(series) {
    if (series.map((each) => each.name).join() !== this.series.map((each) => each.name).join()) {
      this.values = series.map(() => make("b"));
      this.legend.replaceChildren(...series.map(({ name, look }, n) => make("li", {}, this.mark(look), `${name} `, this.values[n])));
    }
    this.series = series;
    this.redraw();
  }

  redraw() {
    const width = this.svg.clientWidth;
    if (!width || !this.series.length) return;
    this.width = width;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const [low, high] = this.range();
    [this.low, this.high] = [low, high];
    const parts = [];
    for (const value of ticks(low, high, 4)) {
      const y = this.y(value);
      parts.push(draw("line", { class: "axis", x1: EDGE.left, x2: width - EDGE.right, y1: y, y2: y }));
      parts.push(draw("text", { class: "tick", x: EDGE.left - 6, y: y + 4, "text-anchor": "end" }, tidy(value)));
    }
    for (const round of ticks(this.first(), this.cursor.last, Math.max(2, Math.floor(width / 80)))) {
      if (Number.isInteger(round)) {
        parts.push(draw("text", { class: "tick", x: this.x(round), y: HEIGHT - 6, "text-anchor": "middle" }, String(round)));
      }
    }
    this.pointer = draw("g");
    this.svg.replaceChildren(...parts, ...this.shapes(), this.pointer);
    this.svg.setAttribute("aria-label", this.summary());
    this.point();
  }

  // The cursor's line, and the values there.
  point() {
    if (!this.pointer) return;
    const { at } = this.cursor;
    const x = this.x(at);
    this.pointer.replaceChildren(draw("line", { class: "cursor", x1: x, x2: x, y1: EDGE.top, y2: HEIGHT - EDGE.bottom }), ...this.dots(at));
    this.series.forEach(({ values }, n) => {
      this.values[n].textContent = values[at] === undefined || values[at] === null ? "–" : this.tell(values[at]);
    });
  }

  dots() {
    return [];
  }

  summary() {
    const said = this.series.map(({ name, values }) => {
      const last = values.findLast((value) => typeof value === "number");
      return `${name} ${last === undefined ? "not known" : this.tell(last)}`;
    });
    return `${this.title} by round, last ${this.cursor.last}: ${said.join(", ")}`;
  }

  x(round) {
    const [from, to] = [this.first(), Math.max(this.cursor.last, this.first() + 1)];
    return EDGE.left + ((round - from) / (to - from)) * (this.width - EDGE.left - EDGE.right);
  }

  y(value) {
    const part = (value - this.low) / (this.high - this.low || 1);
    return EDGE.top + (1 - part) * (HEIGHT - EDGE.top - EDGE.bottom);
  }

  roundAt(x) {
    const part = (x - EDGE.left) / (this.width - EDGE.left - EDGE.right);
    return Math.round(this.first() + part * (this.cursor.last - this.first()));
  }

  first() {
    return 0;
  }
}

// What tells a series from the others, by a number: a colour and, for those who see no colours, a
// dash or a hatch. Eight looks have eight colours; the next eight have them with other dashes.
export function lineOf(look) {
  return `line${look % 8} dash${(look + 3 * Math.floor(look / 8)) % 8}`;
}

export function filled(look, make) {
  const hatch = look % 8 ? [make({ fill: `url(#hatch${look % 8})` })] : [];
  return [make({ class: `fill${look % 8}` }), ...hatch];
}

export function swatch(look) {
  const rect = (paint) => draw("rect", { width: "100%", height: "100%", ...paint });
  return draw("svg", { class: "swatch", "aria-hidden": "true" }, ...filled(look, rect));
}

// Lines, each with a colour and a dash of its own. `top` is the highest value there can be.
export class Curves extends Chart {
  constructor(title, unit, cursor, { top = null } = {}) {
    super(title, unit, cursor);
    this.top = top;
  }

  mark(look) {
    return draw("svg", { viewBox: "0 0 26 10", "aria-hidden": "true" }, draw("line", { class: `curve ${lineOf(look)}`, x1: 0, x2: 26, y1: 5, y2: 5 }));
  }

  range() {
    const known = this.series.flatMap(({ values }) => values.filter((value) => typeof value === "number"));
    const high = this.top ?? Math.max(...known, known.length ? 1e-3 : 1);
    const low = this.top === null ? 0 : Math.min(Math.floor(Math.min(...known, 0.9) * 10) / 10, 0.9);
    return [Math.max(low, 0), this.top ?? ticks(0, high, 4).at(-1) + (ticks(0, high, 4)[1] ?? high)];
  }

  shapes() {
    return this.series.map(({ values, look }) => draw("path", { class: `curve ${lineOf(look)}`, d: this.path(values) }));
  }

  path(values) {
    let [text, pen] = ["", "M"];
    values.forEach((value, round) => {
      if (typeof value !== "number") return;
      text += `${pen}${this.x(round).toFixed(1)} ${this.y(value).toFixed(1)}`;
      pen = "L";
    });
    return text;
  }

  dots(at) {
    return this.series.flatMap(({ values, look }) =>
      typeof values[at] === "number" ? [draw("circle", { class: `dot fill${look % 8}`, cx: this.x(at), cy: this.y(values[at]), r: 3.5 })] : [],
    );
  }

  tell(value) {
    return value.toFixed(3);
  }
}

// Bars of which each part is one series.
export class Bars extends Chart {
  mark(look) {
    return swatch(look);
  }

  first() {
    return 1;
  }

  range() {
    const totals = [1e-3];
    for (let round = 1; round <= this.cursor.last; round += 1) {
      totals.push(this.series.reduce((sum, { values }) => sum + (values[round] ?? 0), 0));
    }
    const high = totals.reduce((most, total) => Math.max(most, total));
    const steps = ticks(0, high, 4);
    return [0, Math.max(high, steps.at(-1))];
  }

  x(round) {
    const step = (this.width - EDGE.left - EDGE.right) / Math.max(this.cursor.last, 1);
    return EDGE.left + (round - 0.5) * step;
  }

  roundAt(x) {
    const step = (this.width - EDGE.left - EDGE.right) / Math.max(this.cursor.last, 1);
    return Math.max(1, Math.ceil((x - EDGE.left) / step));
  }

  shapes() {
    const step = (this.width - EDGE.left - EDGE.right) / Math.max(this.cursor.last, 1);
    const wide = Math.min(Math.max(step * 0.8, 0.6), 40);
    const base = [];
    return this.series.flatMap(({ values, look }) => {
      let path = "";
      values.forEach((value, round) => {
        if (!value) return;
        const below = base[round] ?? 0;
        base[round] = below + value;
        const [top, bottom] = [this.y(below + value), this.y(below)];
        path += `M${(this.x(round) - wide / 2).toFixed(1)} ${bottom.toFixed(1)}V${top.toFixed(1)}h${wide.toFixed(1)}V${bottom.toFixed(1)}Z`;
      });
      return filled(look, (paint) => draw("path", { ...paint, d: path }));
    });
  }

  tell(value) {
    return `${value < 10 ? value.toFixed(1) : Math.round(value)} s`;
  }
}

// Round values between two ends, about as many as asked for.
export function ticks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n += 1) found.push(n * step);
  return found;
}

const tidy = (value) => String(Number(value.toPrecision(6)));
