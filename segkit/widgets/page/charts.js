import { labelled, make, shown } from "./asking.js";
import { clock, keyed, say } from "./cards.js";

// Lines over time. Each says its unit and its window; lines differ in dash as well as in colour.

const SVG = "http://www.w3.org/2000/svg";
const LEFT = 52, RIGHT = 10, TOP = 8, BOTTOM = 22, HEIGHT = 170, MOST_LINES = 6, DAY = 86400;

function draw(kind, attributes, ...children) {
  const node = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// A time below a chart of so many seconds: the hour or the day, so that the next one has room.
function mark(moment, seconds) {
  const when = new Date(moment * 1000);
  return seconds <= 1.5 * DAY ? when.toLocaleTimeString("en-GB").slice(0, 5) : when.toLocaleDateString("en-CA");
}

function steps(low, high, wanted) {
  const rough = (high - low) / wanted || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].find((each) => each * power >= rough) * power;
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(Number(value.toPrecision(12)));
  return found;
}

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  for (const [limit, letter] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) if (size >= limit) return `${Number((value / (letter === "k" ? 1e3 : limit)).toPrecision(3))}${letter}`;
  return String(Number(value.toPrecision(3)));
}

class Chart {
  constructor() {
    this.title = make("h3");
    this.note = make("p", { class: "sk-caption" });
    this.legend = make("ul", { class: "sk-legend" });
    this.plot = make("div", { class: "sk-plot", onpointermove: (event) => this.point(event), onpointerleave: () => this.leave() });
    this.tip = make("div", { class: "sk-tip", hidden: true });
    this.none = make("p", { class: "sk-none" }, "Nothing measured in this time.");
    this.root = make("figure", { class: "sk-chart" }, this.title, this.legend, this.none, this.plot, this.note);
    this.root.skChart = this;
    this.watcher = new ResizeObserver(() => this.paint());
    this.watcher.observe(this.plot);
  }

  update(chart) {
    this.chart = chart;
    say(this.title, `${chart.title}, ${chart.unit}`);
    say(this.note, [chart.window, chart.limit ? `limit ${short(chart.limit.value)} ${chart.unit}` : ""].filter(Boolean).join(" · "));
    this.legend.replaceChildren(...chart.series.slice(0, MOST_LINES).map((series, n) => {
      const last = series.points.findLast((each) => each[1] !== null);
      return make("li", {}, draw("svg", { viewBox: "0 0 24 8", class: "sk-sample", "aria-hidden": "true" }, draw("path", { d: "M0 4H24", class: `sk-line sk-line-${n}` })), `${series.name}${last ? ` ${shown(last[1])}` : ""}`);
    }));
    this.paint();
  }

  paint() {
    const { chart } = this, width = this.plot.clientWidth;
    if (!chart) return;
    const points = chart.series.flatMap((series) => series.points.filter((each) => each[1] !== null));
    this.none.hidden = points.length > 0;
    this.plot.hidden = !points.length;
    if (!points.length || width < 80) return;
    const near = chart.limit && chart.limit.value < 4 * Math.max(...points.map((each) => each[1]));
    const [from, to] = chart.span;
    const top = Math.max(...points.map((each) => each[1]), near ? chart.limit.value : 0) || 1;
    this.x = (time) => LEFT + ((time - from) / (to - from || 1)) * (width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - value / (top * 1.05)) * (HEIGHT - TOP - BOTTOM);
    const svg = draw("svg", { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": this.words() });
    for (const value of steps(0, top, 4)) svg.append(draw("path", { class: "sk-rule", d: `M${LEFT} ${y(value).toFixed(1)}H${width - RIGHT}` }), draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, short(value)));
    const places = Math.max(2, Math.min(6, Math.floor(width / 130)));
    for (let n = 0; n <= places; n++) {
      const time = from + (n / places) * (to - from);
      svg.append(draw("text", { x: this.x(time), y: HEIGHT - 5, "text-anchor": n === 0 ? "start" : n === places ? "end" : "middle" }, mark(time, to - from)));
    }
    chart.series.slice(0, MOST_LINES).forEach((series, n) => svg.append(draw("path", { class: `sk-line sk-line-${n}`, d: this.line(series.points, y, chart.gap) })));
    if (near) svg.append(draw("path", { class: "sk-limit", d: `M${LEFT} ${y(chart.limit.value).toFixed(1)}H${width - RIGHT}` }), draw("text", { x: width - RIGHT, y: y(chart.limit.value) - 4, "text-anchor": "end" }, `${chart.limit.name} ${short(chart.limit.value)}`));
    this.plot.replaceChildren(svg, this.tip);
  }

  // Where nothing was measured the line is broken.
  line(points, y, gap) {
    let path = "", before = null;
    for (const [time, value] of points) {
      if (value === null) { before = null; continue; }
      path += `${before === null || time - before > gap ? "M" : "L"}${this.x(time).toFixed(1)} ${y(value).toFixed(1)}`;
      if (before === null || time - before > gap) path += "h0.5";
      before = time;
    }
    return path;
  }

  words() {
    const lines = this.chart.series.map((series) => {
      const values = series.points.map((each) => each[1]).filter((each) => each !== null);
      return values.length ? `${series.name}: ${shown(values.at(-1))} now, ${shown(Math.min(...values))} to ${shown(Math.max(...values))}` : `${series.name}: nothing`;
    });
    return `${this.chart.title}, ${this.chart.unit}, ${this.chart.window}. ${lines.join("; ")}`;
  }

  point(event) {
    const { chart } = this;
    if (!this.x || !chart) return;
    const place = event.clientX - this.plot.getBoundingClientRect().left;
    const all = [...new Set(chart.series.flatMap((series) => series.points.map((each) => each[0])))];
    if (!all.length) return;
    const time = all.reduce((best, each) => Math.abs(this.x(each) - place) < Math.abs(this.x(best) - place) ? each : best);
    const rows = chart.series.slice(0, MOST_LINES).map((series) => [series.name, series.points.find((each) => each[0] === time)?.[1]]).filter((each) => each[1] !== undefined && each[1] !== null);
    this.tip.replaceChildren(make("b", {}, clock(time)), make("table", {}, ...rows.map(([name, value]) => make("tr", {}, make("th", {}, name), make("td", {}, `${shown(value)} ${chart.unit}`)))));
    this.tip.hidden = false;
    this.tip.style.top = "8px";
    this.tip.style.left = `${Math.min(this.x(time) + 12, Math.max(0, this.plot.clientWidth - this.tip.offsetWidth - 4))}px`;
  }

  leave() { this.tip.hidden = true; }
}

export function chartsCard(root, port) {
  const figures = make("div", { class: "sk-charts" }), tables = make("div");
  const range = make("select"), bar = make("div", { class: "sk-bar" }, labelled("Show the last", range));
  range.addEventListener("change", async () => update((await port.ask("range", { range: range.value })).content));
  root.append(bar, figures, tables);
  const build = () => new Chart().root;
  const buildTable = () => {
    const [title, note, head, body] = [make("h3"), make("p", { class: "sk-caption" }), make("tr"), make("tbody")];
    const node = make("div", { class: "sk-figures" }, title, make("div", { class: "sk-sideways", tabindex: "0", role: "region" }, make("table", { class: "sk-table" }, make("thead", {}, head), body)), note);
    node.skFill = (table) => {
      say(title, table.title);
      say(note, table.note ?? "");
      node.children[1].setAttribute("aria-label", table.title);
      const isFigure = (place) => typeof table.rows[0]?.[place] === "number";
      head.replaceChildren(...table.columns.map((each, place) => make("th", { scope: "col", class: isFigure(place) ? "sk-figure" : "" }, each)));
      if (node.querySelector("details[open]")) return;
      body.replaceChildren(...table.rows.map((row) => make("tr", {}, ...row.map((value) => cell(value)))));
      node.children[1].hidden = !table.rows.length;
    };
    return node;
  };
  function update(facts) {
    bar.hidden = !facts.ranges;
    if (facts.ranges && !range.options.length) range.append(...facts.ranges.map((each) => make("option", { value: each.name }, each.words.replace("last ", ""))));
    if (facts.range) range.value = facts.range;
    keyed(figures, facts.charts ?? [], (chart) => chart.name, build, (node, chart) => node.skChart.update(chart));
    keyed(tables, facts.tables ?? [], (table) => table.title, buildTable, (node, table) => node.skFill(table));
  }
  return {
    update,
    close() { for (const node of figures.children) node.skChart.watcher.disconnect(); },
  };
}

function cell(value) {
  if (typeof value === "number") return make("td", { class: "sk-figure" }, shown(value));
  if (value && value.more) return make("td", {}, make("details", {}, make("summary", {}, value.short), make("pre", { tabindex: "0" }, value.more)));
  return make("td", {}, value ?? "–");
}
