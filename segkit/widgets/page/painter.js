import { asker, labelled, make } from "./asking.js";
import { Stage, begin } from "./stage.js";

const COLOURS = { background: "#ff5a5a", object: "#4dd2ff", border: "#ffd23d", "rub out": "#bbbbbb" };

export default {
  render({ model, el }) {
    const root = begin(el, "Classifier painter");
    const asking = asker(model);
    const bar = make("div", { class: "sk-bar", role: "toolbar", "aria-label": "Brushes" });
    root.append(bar);
    const stage = new Stage(model, asking, root);
    let used = null;
    let points = [];
    let pointer = null;
    const buttons = new Map(model.get("kinds").map((kind) => {
      const chip = make("i", { class: "sk-dot", "aria-hidden": "true" });
      chip.style.background = COLOURS[kind];
      return [kind, make("button", { type: "button", class: "sk-button", onclick: () => use(used === kind ? null : kind) }, chip, kind)];
    }));
    const size = make("input", { type: "range", min: "0", max: "30", value: "2" });
    const undo = make("button", { type: "button", class: "sk-button", onclick: () => ask("undo") }, "↶ Undo");
    const train = make("button", { type: "button", class: "sk-button sk-main", onclick: () => ask("train") }, "Train");
    const apply = make("button", { type: "button", class: "sk-button", onclick: () => ask("apply") }, "Apply to project");
    const counted = make("div", { class: "sk-counted" });
    const message = make("div", { class: "sk-message", role: "status", "aria-live": "polite" });
    bar.append(...buttons.values(), labelled("Brush", size), make("span", { class: "sk-gap" }), undo, train, apply);
    root.append(counted, message);

    function ask(what, fields = {}) {
      return asking.ask(what, fields).catch((error) => say(error.message, true));
    }
    function say(text, failed) {
      message.textContent = text;
      message.toggleAttribute("data-failed", failed);
    }
    function use(kind) {
      used = kind;
      for (const [each, button] of buttons) button.setAttribute("aria-pressed", String(each === kind));
      stage.canvas.classList.toggle("sk-tool", kind !== null);
      stage.tool = kind === null ? null : {
        down: (place) => { points = [place]; },
        move: (place) => { points.push(place); stage.draw(); },
        hover: (place) => { pointer = place; stage.draw(); },
        up: () => { const drawn = points; points = []; ask("stroke", { kind: used, points: drawn, radius: Number(size.value) }); },
      };
    }
    function line(pen, { kind, points: drawn, radius }) {
      const wide = Math.max(1, 2 * radius * stage.view.scale);
      pen.strokeStyle = pen.fillStyle = COLOURS[kind];
      pen.lineWidth = wide;
      pen.lineCap = pen.lineJoin = "round";
      pen.beginPath();
      drawn.forEach(([row, column], place) => pen[place ? "lineTo" : "moveTo"](...stage.on(row, column)));
      if (drawn.length === 1) pen.lineTo(...stage.on(drawn[0][0], drawn[0][1] + 0.01));
      pen.stroke();
    }
    stage.paint = (pen) => {
      pen.save();
      pen.globalAlpha = 0.6;
      for (const stroke of model.get("strokes")) line(pen, stroke);
      if (points.length) line(pen, { kind: used, points, radius: Number(size.value) });
      else if (used && pointer) line(pen, { kind: used, points: [pointer], radius: Number(size.value) });
      pen.restore();
      const [row, column, rows, columns] = model.get("crop");
      if (rows !== stage.rows || columns !== stage.columns) {
        const [left, top] = stage.on(row, column);
        pen.strokeStyle = "#fff";
        pen.strokeRect(left, top, columns * stage.view.scale, rows * stage.view.scale);
      }
    };
    const follow = () => {
      const painted = model.get("painted");
      counted.textContent = `Painted here: ${Object.entries(painted).map(([kind, pixels]) => `${pixels.toLocaleString("en")} px ${kind}`).join(" · ") || "nothing yet"}`;
      const busy = model.get("busy");
      train.disabled = busy;
      train.textContent = busy ? "Training …" : "Train";
      apply.disabled = !model.get("model");
      undo.disabled = !model.get("strokes").length;
      root.dataset.objects = model.get("objects");
      root.dataset.model = model.get("model");
      say(model.get("message"), model.get("failed"));
      stage.draw();
    };
    const watched = ["painted", "busy", "model", "strokes", "message", "failed", "objects"].map((name) => `change:${name}`);
    for (const name of watched) model.on(name, follow);
    use(null);
    follow();
    return () => {
      for (const name of watched) model.off(name, follow);
      stage.close();
    };
  },
};
