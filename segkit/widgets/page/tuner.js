import { asker, labelled, later, make } from "./asking.js";
import { Form } from "./form.js";
import { Stage, begin } from "./stage.js";

// Values go to the kernel at most so often, in milliseconds; there only the newest counts.
const PACE = 40;

export default {
  render({ model, el }) {
    const root = begin(el, "Segmentation tuner");
    const asking = asker(model);
    const picture = make("div", { class: "sk-picture" });
    const side = make("div", { class: "sk-form" });
    root.append(make("div", { class: "sk-columns" }, picture, side));
    const stage = new Stage(model, asking, picture);
    stage.paint = (pen) => outline(stage, pen, model.get("crop"));

    const methods = make("select", { onchange: () => { model.set("method", methods.value); model.save_changes(); } }, ...model.get("methods").map((each) => make("option", { value: each }, each)));
    const outcome = make("div", { class: "sk-outcome", role: "status", "aria-live": "polite" });
    const rows = make("div", { class: "sk-rows" });
    const send = later(PACE, () => model.save_changes());
    const form = new Form(rows, (values) => { model.set("values", values); send(); });
    const here = make("button", { type: "button", class: "sk-button", title: "Segment the crop in the middle of the picture", onclick: () => asking.ask("crop", { row: Math.round(stage.view.row), column: Math.round(stage.view.column) }) }, "Crop here");
    const reset = make("button", { type: "button", class: "sk-button", onclick: () => { const own = Object.fromEntries(model.get("fields").map((field) => [field.name, field.default])); form.update(own); model.set("values", own); model.save_changes(); } }, "Defaults");
    const apply = make("button", { type: "button", class: "sk-button sk-main", onclick: queue }, "Apply to project");
    const message = make("div", { class: "sk-message", role: "status", "aria-live": "polite" });
    side.append(make("div", { class: "sk-top" }, labelled("Method", methods)), outcome, rows, make("div", { class: "sk-bar sk-buttons" }, reset, here, apply), message);

    async function queue() {
      apply.disabled = true;
      await asking.ask("apply").catch((error) => { message.textContent = error.message; message.toggleAttribute("data-failed", true); });
      apply.disabled = false;
    }
    const build = () => { methods.value = model.get("method"); form.build(model.get("fields"), model.get("values")); };
    const follow = () => { if (JSON.stringify(form.values) !== JSON.stringify(model.get("values"))) form.update(model.get("values")); };
    const tell = () => {
      const [seconds, crop] = [model.get("seconds"), model.get("crop")];
      outcome.replaceChildren();
      if (seconds === null) { outcome.append("segmenting …"); return; }
      const whole = crop[2] === model.get("rows") && crop[3] === model.get("columns");
      const place = whole ? "whole image" : `crop of ${crop[3]} × ${crop[2]} px`;
      outcome.append(make("b", {}, `${model.get("objects").toLocaleString("en")} objects`), ` in ${seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(1)} s`} · ${place}`);
      root.dataset.objects = model.get("objects");
    };
    const say = () => { message.textContent = model.get("message"); message.toggleAttribute("data-failed", model.get("failed")); };
    const watched = [["change:fields", build], ["change:values", follow], ["change:seconds", tell], ["change:objects", tell], ["change:crop", () => { tell(); stage.draw(); }], ["change:message", say], ["change:failed", say]];
    for (const [name, call] of watched) model.on(name, call);
    build();
    tell();
    say();
    here.hidden = model.get("crop")[2] === model.get("rows") && model.get("crop")[3] === model.get("columns");
    return () => {
      for (const [name, call] of watched) model.off(name, call);
      stage.close();
    };
  },
};

function outline(stage, pen, [row, column, rows, columns]) {
  if (rows === stage.rows && columns === stage.columns) return;
  const [left, top] = stage.on(row, column);
  const [right, bottom] = stage.on(row + rows, column + columns);
  pen.save();
  pen.setLineDash([6, 4]);
  pen.strokeStyle = "#fff";
  pen.strokeRect(left, top, right - left, bottom - top);
  pen.restore();
}
