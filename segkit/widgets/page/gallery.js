import { asker, make } from "./asking.js";
import { VirtualList } from "./list.js";
import { begin } from "./stage.js";

const KEPT = 400; // pictures that stay in the page
const FLIGHTS = 4;
const GAP = 12;

export default {
  render({ model, el }) {
    const root = begin(el, "Image gallery");
    const asking = asker(model);
    const pictures = new Map(); // image → { url, note } or a promise of it
    const waiting = [];
    let flights = 0;
    const edge = model.get("edge");
    const told = make("div", { class: "sk-foot" });
    root.append(told);
    const list = new VirtualList(root, {
      height: model.get("height"), row: edge + 52, name: "Images",
      across: () => Math.max(1, Math.floor((list?.scroller.clientWidth || 900) / (edge + GAP))),
      fetch: async (start, count) => (await asking.ask("rows", { start, count })).content.rows,
      draw,
    });

    function draw([number, name, note], place) {
      const chosen = model.get("selected") === number;
      const node = make("figure", { class: `sk-thumb${chosen ? " sk-chosen" : ""}`, tabindex: "0", role: "button", "aria-pressed": String(chosen), "data-place": String(place), "data-image": String(number) });
      const known = pictures.get(number);
      if (known?.url) node.append(make("img", { src: known.url, alt: name }));
      else node.append(make("div", { class: "sk-blank" }, known ? "" : "…"));
      node.append(make("figcaption", { title: `${name}\n${known?.note ?? note}` }, make("b", {}, name), make("span", {}, known?.note ?? note)));
      if (!known) want(number);
      const choose = () => { model.set("selected", number); model.save_changes(); list.show(); };
      node.addEventListener("click", choose);
      node.addEventListener("keydown", (event) => {
        const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: list.across(), ArrowUp: -list.across() };
        if (event.key === "Enter" || event.key === " ") choose();
        else if (steps[event.key]) move(place + steps[event.key]);
        else return;
        event.preventDefault();
        event.stopPropagation();
      });
      return node;
    }

    function move(place) {
      if (place < 0 || place >= list.total) return;
      list.reveal(place);
      setTimeout(() => list.room.querySelector(`[data-place="${place}"]`)?.focus({ preventScroll: true }), 60);
    }

    // What came into view last is drawn first; what was scrolled past is not asked for.
    function want(number) {
      if (!waiting.includes(number)) waiting.push(number);
      if (waiting.length > 80) waiting.shift();
      next();
    }

    async function next() {
      if (flights >= FLIGHTS || !waiting.length) return;
      const number = waiting.pop();
      if (!list.room.querySelector(`[data-image="${number}"]`) && waiting.length > 20) { next(); return; }
      flights++;
      try {
        const { content, buffers } = await asking.ask("picture", { image: number });
        const bytes = buffers[0];
        const url = bytes?.byteLength ? URL.createObjectURL(new Blob([bytes], { type: "image/webp" })) : null;
        pictures.set(number, { url, note: content.note });
      } catch (error) {
        pictures.set(number, { url: null, note: error.message });
      }
      flights--;
      for (const [old, { url }] of pictures) {
        if (pictures.size <= KEPT) break;
        if (url) URL.revokeObjectURL(url);
        pictures.delete(old);
      }
      root.dataset.pictures = pictures.size;
      list.show();
      next();
    }

    const follow = () => {
      told.textContent = `${model.get("title")} · ${model.get("total").toLocaleString("en")} images`;
      list.forget();
      list.setTotal(model.get("total"));
    };
    const choose = () => list.show();
    model.on("change:total", follow);
    model.on("change:selected", choose);
    const timer = setInterval(() => { if (!document.hidden) asking.ask("look").catch(() => {}); }, 10000);
    follow();
    return () => {
      clearInterval(timer);
      model.off("change:total", follow);
      model.off("change:selected", choose);
      for (const { url } of pictures.values()) if (url) URL.revokeObjectURL(url);
      list.close();
      asking.close();
    };
  },
};
