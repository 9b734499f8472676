import { make } from "./asking.js";

// A control for each field: a slider with a number box, a checkbox, a list, or text; "auto" where it may be left out.

let forms = 0;

export class Form {
  constructor(root, change) {
    this.root = root;
    this.change = change;
    this.name = `sk-form-${Math.random().toString(36).slice(2, 8)}-${++forms}`;
  }

  build(fields, values) {
    this.values = { ...values };
    this.fields = fields;
    this.refreshers = new Map();
    this.root.replaceChildren(...fields.map((field) => this.row(field)));
  }

  // The values changed elsewhere.
  update(values) {
    this.values = { ...values };
    for (const [name, refresh] of this.refreshers) refresh(values[name]);
  }

  set(name, value) {
    this.values = { ...this.values, [name]: value };
    this.change(this.values);
  }

  row(field) {
    const id = `${this.name}-${field.name}`;
    const unit = field.unit ? ` (${field.unit})` : "";
    const label = make("label", { for: id }, `${field.label}${unit}`);
    const help = make("div", { class: "sk-help", id: `${id}-help` }, field.description);
    const { head = [], body = [], refresh } = this[field.kind === "integer" ? "number" : field.kind](field, id);
    for (const control of [...head, ...body]) control.setAttribute?.("aria-describedby", `${id}-help`);
    this.refreshers.set(field.name, refresh);
    refresh(this.values[field.name]);
    return make("div", { class: `sk-row sk-${field.kind}`, "data-field": field.name }, make("div", { class: "sk-head" }, label, ...head), ...body, help);
  }

  number(field, id) {
    const even = field.even;
    const slider = make("input", { type: "range", id, min: even ? field.low : 0, max: even ? field.high : 1000, step: even ? field.step : 1 });
    for (const [name, value] of [["min", even ? field.low : 0], ["max", even ? field.high : 1000], ["step", even ? field.step : 1]]) slider.setAttribute(name, value);
    const box = make("input", { type: "number", "aria-label": `${field.label}, as a number` });
    box.setAttribute("step", "any");
    const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10(field.step) - 1e-9)));
    const rounded = (value) => Number((Math.round(value / field.step) * field.step).toFixed(digits));
    const value = () => even ? rounded(Number(slider.value)) : rounded(field.low + Math.expm1((slider.value / 1000) * Math.log1p((field.high - field.low) / field.step)) * field.step);
    const place = (number) => { slider.value = even ? number : (1000 * Math.log1p((number - field.low) / field.step)) / Math.log1p((field.high - field.low) / field.step); };
    slider.addEventListener("input", () => { box.value = value(); this.set(field.name, value()); });
    box.addEventListener("change", () => {
      const number = Number(box.value);
      if (box.value === "" || !Number.isFinite(number)) { refresh(this.values[field.name]); return; }
      place(number);
      this.set(field.name, field.kind === "integer" ? Math.round(number) : number);
    });
    const auto = field.optional ? make("input", { type: "checkbox", "aria-label": `${field.label}: automatic` }) : null;
    auto?.addEventListener("change", () => {
      const number = auto.checked ? null : this.last ?? rounded(even ? (field.low + field.high) / 2 : Math.min(field.high, Math.max(field.low, 20)));
      refresh(number);
      this.set(field.name, number);
    });
    const refresh = (number) => {
      const open = number !== null && number !== undefined;
      if (auto) auto.checked = !open;
      slider.disabled = box.disabled = !open;
      box.value = open ? number : "";
      if (open) { place(number); slider.setAttribute("aria-valuetext", `${number} ${field.unit}`); }
    };
    const head = auto ? [make("label", { class: "sk-auto" }, auto, "auto")] : [];
    return { head, body: [make("div", { class: "sk-slide" }, slider, box)], refresh };
  }

  flag(field, id) {
    const check = make("input", { type: "checkbox", id, onchange: () => this.set(field.name, check.checked) });
    return { head: [check], refresh: (value) => { check.checked = Boolean(value); } };
  }

  choice(field, id) {
    const list = make("select", { id, onchange: () => this.set(field.name, list.value) }, ...field.choices.map((each) => make("option", { value: each }, each)));
    return { body: [list], refresh: (value) => { list.value = value; } };
  }

  text(field, id) {
    const box = make("input", { type: "text", id, onchange: () => this.set(field.name, box.value === "" && field.optional ? null : box.value) });
    return { body: [box], refresh: (value) => { box.value = value ?? ""; } };
  }
}
