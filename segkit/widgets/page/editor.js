import { asker, labelled, make, shown } from "./asking.js";
import { VirtualList } from "./list.js";
import { Stage, begin } from "./stage.js";

const TOOLS = [
  ["choose", "Choose", "v", "Click objects to choose them; click the background to choose none"],
  ["split", "Split", "s", "Draw a line right across an object"],
  ["draw", "Draw", "d", "Draw around a new object"],
  ["paint", "Add", "a", "Choose one object, then paint to make it larger"],
  ["erase", "Erase", "e", "Paint over what is no object; with an object chosen, only from that one"],
];

export default {
  render({ model, el }) {
    const root = begin(el, "Object editor");
    const editor = new Editor(model, root);
    return () => editor.close();
  },
};

class Editor {
  constructor(model, root) {
    this.model = model;
    this.root = root;
    this.asking = asker(model);
    this.points = [];
    const picture = make("div", { class: "sk-picture" });
    const side = make("div", { class: "sk-form" });
    this.tools = make("div", { class: "sk-bar", role: "toolbar", "aria-label": "Tools" });
    root.append(this.tools, make("div", { class: "sk-columns" }, picture, side));
    this.stage = new Stage(model, this.asking, picture);
    this.stage.paint = (pen) => this.paint(pen);
    this.stage.clicked = (place) => this.click(place);
    this.buildTools();
    this.buildSide(side);
    this.use("choose");
    const canvas = this.stage.canvas;
    canvas.addEventListener("keydown", (event) => this.typed(event));
    const follow = () => this.follow();
    this.watched = ["selected", "changes", "can_undo", "can_redo", "listed", "region", "versions", "message", "failed", "columns_shown"].map((name) => [`change:${name}`, follow]);
    for (const [name, call] of this.watched) model.on(name, call);
    this.asking.listen("rows", () => this.list.forget());
    this.follow();
  }

  button(text, title, call, extra = "") {
    return make("button", { type: "button", class: `sk-button ${extra}`, title, onclick: call }, text);
  }

  buildTools() {
    this.toolButtons = new Map(TOOLS.map(([name, text, key, title]) => [name, this.button(text, `${title} (${key.toUpperCase()})`, () => this.use(name))]));
    this.merge = this.button("Merge", "Make one object of the chosen ones (M)", () => this.edit("merge"));
    this.remove = this.button("Delete", "Make the chosen objects background (Delete)", () => this.edit("delete"));
    this.undo = this.button("↶ Undo", "Take the last change back (Ctrl+Z)", () => this.edit("undo"));
    this.redo = this.button("↷ Redo", "Do it again (Ctrl+Y)", () => this.edit("redo"));
    this.size = make("input", { type: "range", min: "1", max: "40", value: "5" });
    this.here = this.button("Region here", "Correct the part in the middle of the picture", () => this.moveRegion());
    this.tools.append(...this.toolButtons.values(), this.merge, this.remove, labelled("Brush", this.size), make("span", { class: "sk-gap" }), this.here, this.undo, this.redo);
  }

  buildSide(side) {
    this.head = make("div", { class: "sk-line sk-headline" });
    side.append(this.head);
    this.list = new VirtualList(side, {
      height: 330, row: 26, name: "Objects and their measurements",
      fetch: async (start, count) => (await this.asking.ask("rows", { start, count })).content.rows,
      draw: (row, place) => this.row(row, place),
    });
    this.counted = make("div", { class: "sk-counted" });
    this.who = make("input", { type: "text", value: this.model.get("who"), placeholder: "your name" });
    this.who.addEventListener("change", () => { this.model.set("who", this.who.value); this.model.save_changes(); });
    this.note = make("input", { type: "text", placeholder: "why" });
    this.saving = this.button("Save version", "Store the changes as a new version; older ones stay", () => this.save(), "sk-main");
    this.message = make("div", { class: "sk-message", role: "status", "aria-live": "polite" });
    this.history = make("details", { class: "sk-history" }, make("summary", {}, "Versions"));
    side.append(this.counted, make("div", { class: "sk-savebar" }, labelled("Who", this.who), labelled("Note", this.note), this.saving), this.message, this.history);
  }

  row([label, ...values], place) {
    const chosen = this.model.get("selected").includes(label);
    const toggle = (event) => { this.choose(label); this.centre(label); event.preventDefault(); };
    const cells = [label, ...values].map((value) => make("span", {}, shown(value)));
    const node = make("div", { class: `sk-line${chosen ? " sk-chosen" : ""}`, tabindex: "0", role: "button", "aria-pressed": String(chosen), "data-place": String(place), "data-label": String(label) }, ...cells);
    node.addEventListener("click", toggle);
    node.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") toggle(event);
      else if (event.key === "ArrowDown") node.nextSibling?.focus();
      else if (event.key === "ArrowUp") node.previousSibling?.focus();
      else { this.typed(event); return; }
      event.preventDefault();
    });
    return node;
  }

  follow() {
    const { model } = this;
    const selected = model.get("selected");
    const changed = model.get("changes").length;
    this.stage.selected = new Set(selected);
    this.stage.recompose();
    this.head.replaceChildren(...model.get("columns_shown").map((name) => make("span", { title: name }, name)));
    this.list.setTotal(model.get("listed"));
    this.list.show();
    this.root.dataset.listed = model.get("listed");
    this.counted.textContent = `${model.get("listed").toLocaleString("en")} objects here · ${selected.length} chosen · ${changed} ${changed === 1 ? "change" : "changes"} not saved`;
    this.merge.disabled = selected.length < 2;
    this.remove.disabled = selected.length < 1;
    this.undo.disabled = !model.get("can_undo");
    this.redo.disabled = !model.get("can_redo");
    this.saving.disabled = !changed;
    const [, , rows, columns] = model.get("region");
    this.here.hidden = rows === model.get("rows") && columns === model.get("columns");
    this.say(model.get("message"), model.get("failed"));
    const lines = model.get("versions").map((each) => make("li", {}, `${each.version}: ${each.objects} objects, ${each.who}, ${each.when}${each.note ? ` — ${each.note}` : ""}`));
    this.history.hidden = !lines.length;
    this.history.replaceChildren(make("summary", {}, `Versions (${lines.length})`), make("ul", {}, ...lines));
    this.stage.draw();
  }

  say(text, failed = false) {
    this.message.textContent = text;
    this.message.toggleAttribute("data-failed", failed);
  }

  // Choosing

  choose(label) {
    const selected = this.model.get("selected");
    this.model.set("selected", selected.includes(label) ? selected.filter((each) => each !== label) : [...selected, label]);
    this.model.save_changes();
  }

  async click(place) {
    const label = this.stage.labelAt(place);
    if (label) {
      this.choose(label);
      const { content } = await this.asking.ask("find", { label });
      if (content.place !== null) this.list.reveal(content.place);
    } else if (this.model.get("selected").length) {
      this.model.set("selected", []);
      this.model.save_changes();
    }
  }

  async centre(label) {
    const { content } = await this.asking.ask("place", { label });
    if (content.row === null || content.row === undefined) return;
    const [x, y] = this.stage.on(content.row, content.column);
    if (x < 0 || y < 0 || x > this.stage.wide || y > this.stage.high) this.stage.look(content.row, content.column, this.stage.view.scale);
  }

  // Tools

  use(name) {
    this.used = name;
    for (const [each, button] of this.toolButtons) button.setAttribute("aria-pressed", String(each === name));
    this.stage.canvas.classList.toggle("sk-tool", name !== "choose");
    this.points = [];
    this.stage.tool = name === "choose" ? null : {
      down: (place) => { this.points = [place]; this.target = this.stage.labelAt(place); },
      move: (place) => { this.points.push(place); this.stage.draw(); },
      hover: (place) => { this.pointer = place; if (name === "paint" || name === "erase") this.stage.draw(); },
      up: () => this.finish(),
    };
    this.stage.draw();
  }

  finish() {
    const points = thinned(this.points);
    const [chosen] = this.model.get("selected");
    const radius = Number(this.size.value);
    this.points = [];
    this.stage.draw();
    if (this.used === "split") this.edit("split", { points, objects: [chosen ?? this.crossed(points)] });
    else if (this.used === "draw") this.edit("draw", { points });
    else if (this.used === "paint") this.edit("paint", { points, radius, objects: [chosen ?? this.target] });
    else this.edit("erase", { points, radius, objects: chosen ? [chosen] : [] });
  }

  // The object that a line is drawn over most.
  crossed(points) {
    const seen = new Map();
    for (let place = 1; place < points.length; place++) {
      for (let part = 0; part < 1; part += 0.05) {
        const label = this.stage.labelAt([0, 1].map((axis) => points[place - 1][axis] + part * (points[place][axis] - points[place - 1][axis])));
        if (label) seen.set(label, (seen.get(label) ?? 0) + Math.hypot(points[place][0] - points[place - 1][0], points[place][1] - points[place - 1][1]));
      }
    }
    return [...seen].sort((one, other) => other[1] - one[1])[0]?.[0] ?? 0;
  }

  async edit(what, fields = {}) {
    const objects = fields.objects ?? this.model.get("selected");
    this.say("");
    try {
      await this.asking.ask("edit", { do: what, ...fields, objects });
    } catch (error) {
      this.say(error.message, true);
    }
  }

  async save() {
    this.saving.disabled = true;
    try {
      await this.asking.ask("save", { who: this.who.value, note: this.note.value });
      this.note.value = "";
    } catch (error) {
      this.say(error.message, true);
    }
    this.follow();
  }

  async moveRegion() {
    const { row, column } = this.stage.view;
    await this.asking.ask("region", { row: Math.round(row), column: Math.round(column) }).catch((error) => this.say(error.message, true));
  }

  typed(event) {
    const key = event.key.toLowerCase();
    const control = event.ctrlKey || event.metaKey;
    const tool = TOOLS.find(([, , each]) => each === key);
    if (control && (key === "y" || (key === "z" && event.shiftKey))) this.edit("redo");
    else if (control && key === "z") this.edit("undo");
    else if (control) return;
    else if (tool) this.use(tool[0]);
    else if (key === "m") this.edit("merge");
    else if (key === "delete" || key === "backspace") this.edit("delete");
    else if (key === "escape") { this.use("choose"); this.model.set("selected", []); this.model.save_changes(); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  paint(pen) {
    const { stage } = this;
    const [row, column, rows, columns] = this.model.get("region");
    if (rows !== stage.rows || columns !== stage.columns) {
      const [left, top] = stage.on(row, column);
      pen.save();
      pen.setLineDash([6, 4]);
      pen.strokeStyle = "#fff";
      pen.strokeRect(left, top, columns * stage.view.scale, rows * stage.view.scale);
      pen.restore();
    }
    const brush = this.used === "paint" || this.used === "erase";
    const wide = Number(this.size.value) * 2 * stage.view.scale;
    pen.strokeStyle = pen.fillStyle = this.used === "erase" ? "rgba(255, 80, 80, 0.6)" : "rgba(255, 255, 255, 0.85)";
    if (this.points.length) {
      pen.beginPath();
      this.points.forEach(([y, x], place) => pen[place ? "lineTo" : "moveTo"](...stage.on(y, x)));
      if (this.used === "draw") pen.closePath();
      pen.lineWidth = brush ? wide : 2;
      pen.lineCap = pen.lineJoin = "round";
      if (brush) pen.globalAlpha = 0.5;
      pen.stroke();
      pen.globalAlpha = 1;
      pen.lineWidth = 1;
    } else if (brush && this.pointer) {
      pen.beginPath();
      pen.arc(...stage.on(...this.pointer), wide / 2, 0, 2 * Math.PI);
      pen.stroke();
    }
  }

  close() {
    for (const [name, call] of this.watched) this.model.off(name, call);
    this.list.close();
    this.stage.close();
  }
}

// Points closer than half a pixel tell nothing more.
function thinned(points) {
  const kept = points.slice(0, 1);
  for (const point of points.slice(1)) {
    const last = kept[kept.length - 1];
    if (Math.hypot(point[0] - last[0], point[1] - last[1]) >= 0.5) kept.push(point);
  }
  return kept;
}
