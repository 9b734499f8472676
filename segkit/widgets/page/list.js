import { make } from "./asking.js";

// A list of any length of which only the rows in view exist. `fetch(start, count)` promises rows, `draw(row, place)` makes a node.

// Browsers draw nothing that is taller than some 30 million pixels; beyond this the scroll bar stands for more rows than pixels.
const TALLEST = 8_000_000;
const BLOCK = 100;
const BLOCKS = 12;

export class VirtualList {
  constructor(root, { height, row, across = () => 1, fetch, draw, name }) {
    Object.assign(this, { row, across, fetch, draw });
    this.total = 0;
    this.blocks = new Map();
    this.room = make("div", { class: "sk-room" });
    this.scroller = make("div", { class: "sk-scroll", tabindex: "0", role: "region", "aria-label": name }, this.room);
    this.scroller.style.height = `${height}px`;
    root.append(this.scroller);
    this.scroller.addEventListener("scroll", () => this.show(), { passive: true });
    this.observer = new ResizeObserver(() => this.show());
    this.observer.observe(this.scroller);
  }

  setTotal(total) {
    this.total = total;
    this.show();
  }

  forget() {
    for (const block of this.blocks.values()) block.old = true;
    this.show();
  }

  clear() {
    this.blocks.clear();
    this.scroller.scrollTop = 0;
    this.show();
  }

  get lines() { return Math.ceil(this.total / this.across()); }

  // Places of the first and the one after the last that can be seen.
  inView() {
    const high = this.scroller.clientHeight || 300;
    const whole = this.lines * this.row;
    const tall = Math.min(TALLEST, whole);
    this.room.style.height = `${tall}px`;
    const share = tall > high ? this.scroller.scrollTop / (tall - high) : 0;
    const top = whole > TALLEST ? share * (whole - high) : this.scroller.scrollTop;
    const first = Math.max(0, Math.floor(top / this.row));
    const last = Math.min(this.lines, Math.ceil((top + high) / this.row));
    this.shift = this.scroller.scrollTop - (top - first * this.row);
    return [first * this.across(), Math.min(this.total, last * this.across())];
  }

  at(place) {
    const block = this.blocks.get(Math.floor(place / BLOCK));
    return block?.rows?.[place % BLOCK];
  }

  show() {
    if (this.due) return;
    this.due = true;
    requestAnimationFrame(() => { this.due = false; this.paint(); });
  }

  paint() {
    if (this.closed) return;
    const [first, last] = this.inView();
    const nodes = [];
    for (let place = first; place < last; place++) {
      const row = this.at(place);
      const node = row ? this.draw(row, place) : make("div", { class: "sk-waiting", "aria-hidden": "true" }, "…");
      node.style.position = "absolute";
      node.style.top = `${this.shift + Math.floor((place - first) / this.across()) * this.row}px`;
      node.style.height = `${this.row}px`;
      const wide = 100 / this.across();
      node.style.left = `${(place % this.across()) * wide}%`;
      node.style.width = `${wide}%`;
      nodes.push(node);
    }
    const focused = this.room.contains(document.activeElement) ? document.activeElement.dataset.place : null;
    this.room.replaceChildren(...nodes);
    if (focused) this.room.querySelector(`[data-place="${focused}"]`)?.focus({ preventScroll: true });
    this.want(first, last);
  }

  want(first, last) {
    for (let number = Math.floor(first / BLOCK); number * BLOCK < last; number++) {
      const block = this.blocks.get(number) ?? {};
      this.blocks.delete(number);
      this.blocks.set(number, block); // newest last
      if (!block.asking && (!block.rows || block.old)) this.load(number, block);
    }
    for (const number of this.blocks.keys()) {
      if (this.blocks.size <= BLOCKS) break;
      this.blocks.delete(number);
    }
  }

  async load(number, block) {
    block.asking = true;
    block.old = false;
    try {
      block.rows = await this.fetch(number * BLOCK, BLOCK);
    } catch (error) {
      block.rows ??= [];
      this.scroller.setAttribute("data-fault", error.message);
    }
    block.asking = false;
    this.show();
  }

  reveal(place) {
    const top = Math.floor(place / this.across()) * this.row;
    if (top < this.scroller.scrollTop || top + this.row > this.scroller.scrollTop + this.scroller.clientHeight) this.scroller.scrollTop = top - this.row;
  }

  close() {
    this.closed = true;
    this.observer.disconnect();
  }
}
