import { make, labelled, later, shown, unpacked } from "./asking.js";

// The picture: pieces of an image and its labels, asked for as they come into view, drawn on a canvas.

// Those of segkit.overlays, so that an object has the same colour everywhere.
const COLOURS = [[86, 180, 233], [230, 159, 0], [0, 200, 140], [240, 228, 66], [255, 110, 60], [224, 140, 190]];
const KEPT = 160; // pieces that stay in memory
const FLIGHTS = 6; // questions under way at once
const NICE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];

export class Stage {
  constructor(model, asking, root) {
    this.model = model;
    this.asking = asking;
    this.root = root;
    this.tiles = new Map();
    this.flights = 0;
    this.selected = new Set();
    this.hovered = 0;
    this.measured = new Map();
    this.tool = null; // what dragging does instead of moving the picture
    this.paint = null; // draws a tool's marks over the picture
    this.fill = 0.25;
    this.objectsShown = true;
    this.view = null;
    this.took();
    this.build();
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.frame);
    this.watched = [["change:objects", () => this.describe()], ["change:title", () => this.describe()]];
    for (const [name, call] of this.watched) model.on(name, call);
    asking.listen("labels", (content) => this.refresh(content.box));
  }

  took() {
    const { model } = this;
    this.rows = model.get("rows");
    this.columns = model.get("columns");
    this.levels = model.get("levels");
    this.tile = model.get("tile");
    this.channels = model.get("channels").map((each) => ({ ...each, shown: true, from: each.low, to: each.high }));
    this.lookup();
  }

  build() {
    this.canvas = make("canvas", { class: "sk-canvas", tabindex: "0", role: "img" });
    this.tip = make("div", { class: "sk-tip", hidden: true });
    this.hint = make("div", { class: "sk-hint", hidden: true }, "Click the picture, then scroll to zoom");
    this.frame = make("div", { class: "sk-frame" }, this.canvas, this.tip, this.hint);
    this.frame.style.height = `${this.model.get("height")}px`;
    this.where = make("span", { class: "sk-where" });
    this.told = make("span", { class: "sk-told", role: "status", "aria-live": "polite" });
    this.bar = make("div", { class: "sk-bar", role: "toolbar", "aria-label": "Picture" });
    const button = (text, title, call) => make("button", { type: "button", class: "sk-button sk-icon", title, "aria-label": title, onclick: call }, text);
    this.bar.append(
      button("+", "Zoom in (+)", () => this.zoom(1.5)),
      button("−", "Zoom out (−)", () => this.zoom(1 / 1.5)),
      button("⤢", "Show the whole image (0)", () => this.fit()),
      button("1:1", "One image pixel per screen pixel (1)", () => this.zoomTo(1)),
    );
    if (this.model.get("objects") !== null) {
      const show = make("input", { type: "checkbox", checked: true, onchange: () => { this.objectsShown = show.checked; this.recompose(); } });
      const fill = make("input", { type: "range", min: "0", max: "100", value: "25", oninput: () => { this.fill = fill.value / 100; this.recompose(); } });
      this.bar.append(labelled("Objects", show), labelled("Fill", fill));
    }
    this.side = make("details", { class: "sk-channels" }, make("summary", {}, this.channels.length > 1 ? "Channels and contrast" : "Contrast"));
    this.channels.forEach((channel, number) => this.side.append(this.channelRow(channel, number)));
    this.root.append(this.bar, this.frame, make("div", { class: "sk-foot" }, this.where, this.told), this.side);
    this.listen();
    this.describe();
  }

  channelRow(channel, number) {
    const span = channel.most - channel.least || 1;
    const step = String(span <= 4 ? span / 200 : Math.max(1, Math.round(span / 400)));
    const limits = { type: "range", min: String(channel.least), max: String(channel.most), step };
    const change = () => {
      channel.low = Math.min(Number(low.value), Number(high.value) - Number(step));
      channel.high = Math.max(Number(high.value), Number(low.value) + Number(step));
      values.textContent = `${shown(channel.low)} – ${shown(channel.high)}`;
      this.lookup();
      this.recompose();
      this.requantise(channel);
    };
    const low = make("input", { ...limits, value: String(channel.low), oninput: change });
    const high = make("input", { ...limits, value: String(channel.high), oninput: change });
    low.value = channel.low;
    high.value = channel.high;
    const values = make("span", { class: "sk-values" }, `${shown(channel.low)} – ${shown(channel.high)}`);
    const row = make("div", { class: "sk-channel" });
    const see = make("input", { type: "checkbox", checked: true, onchange: () => { channel.shown = see.checked; this.lookup(); this.forgetPixels(); } });
    const colour = make("input", { type: "color", value: channel.colour, oninput: () => { channel.colour = colour.value; this.lookup(); this.recompose(); } });
    if (this.channels.length > 1) row.append(labelled(channel.name, see));
    row.append(labelled("Colour", colour), labelled("Black", low), labelled("White", high), values);
    return row;
  }

  // A new contrast that is much narrower than what was sent, or goes beyond it, is worth other bytes.
  requantise(channel) {
    channel.soon ??= later(250, () => {
      const sent = channel.to - channel.from;
      const wanted = channel.high - channel.low;
      if (wanted > sent / 3 && channel.low >= channel.from && channel.high <= channel.to) return;
      [channel.from, channel.to] = [channel.low, channel.high];
      this.lookup();
      this.forgetPixels();
    });
    channel.soon();
  }

  // For each byte that was sent, what it adds to red, green and blue.
  lookup() {
    for (const channel of this.channels) {
      const colour = [1, 3, 5].map((place) => parseInt(channel.colour.slice(place, place + 2), 16));
      channel.table = colour.map((part) => {
        const table = new Float32Array(256);
        for (let byte = 0; byte < 256; byte++) {
          const value = channel.from + (byte / 255) * (channel.to - channel.from);
          table[byte] = part * Math.min(1, Math.max(0, (value - channel.low) / (channel.high - channel.low || 1)));
        }
        return table;
      });
    }
  }

  describe() {
    const objects = this.model.get("objects");
    const found = objects === null ? "" : `, ${objects.toLocaleString("en")} objects`;
    this.canvas.setAttribute("aria-label", `${this.model.get("title")}, ${this.columns} × ${this.rows} pixels${found}. Arrow keys move, plus and minus zoom.`);
    this.told.textContent = `${this.model.get("title")} · ${this.columns} × ${this.rows} px${found}`;
  }

  // Where we are

  resize() {
    const box = this.frame.getBoundingClientRect();
    if (!box.width || !box.height) return;
    this.dpr = window.devicePixelRatio || 1;
    [this.wide, this.high] = [box.width, box.height];
    this.canvas.width = Math.round(this.wide * this.dpr);
    this.canvas.height = Math.round(this.high * this.dpr);
    if (!this.view || this.fitted) this.fit();
    else this.draw();
  }

  fit() {
    this.look(this.rows / 2, this.columns / 2, Math.min(this.wide / this.columns, this.high / this.rows));
    this.fitted = true; // and stays so when the page makes room or takes some
  }

  look(row, column, scale) {
    this.fitted = false;
    const least = Math.min(this.wide / this.columns, this.high / this.rows) / 2;
    this.view = {
      scale: Math.min(40, Math.max(Math.min(least, 1), scale)),
      row: Math.min(this.rows, Math.max(0, row)),
      column: Math.min(this.columns, Math.max(0, column)),
    };
    this.draw();
  }

  zoom(by, x = this.wide / 2, y = this.high / 2) {
    const [row, column] = this.at(x, y);
    const scale = Math.min(40, this.view.scale * by);
    this.look(row - (y - this.high / 2) / scale, column - (x - this.wide / 2) / scale, scale);
  }

  zoomTo(scale) { this.look(this.view.row, this.view.column, scale); }

  at(x, y) {
    const { row, column, scale } = this.view;
    return [row + (y - this.high / 2) / scale, column + (x - this.wide / 2) / scale];
  }

  on(row, column) {
    const { scale } = this.view;
    return [(column - this.view.column) * scale + this.wide / 2, (row - this.view.row) * scale + this.high / 2];
  }

  get level() {
    return Math.min(this.levels - 1, Math.max(0, Math.floor(Math.log2(1 / (this.view.scale * this.dpr)) + 0.25)));
  }

  visible(level) {
    const edge = this.tile * 2 ** level;
    const [top, left] = this.at(0, 0);
    const [bottom, right] = this.at(this.wide, this.high);
    const found = [];
    for (let row = Math.max(0, Math.floor(top / edge)); row * edge < Math.min(this.rows, bottom); row++) {
      for (let column = Math.max(0, Math.floor(left / edge)); column * edge < Math.min(this.columns, right); column++) {
        found.push({ level, row, column, far: Math.hypot((row + 0.5) * edge - this.view.row, (column + 0.5) * edge - this.view.column) });
      }
    }
    return found.sort((one, other) => one.far - other.far);
  }

  // Pieces

  key(level, row, column) { return `${level}/${row}/${column}`; }

  wanted() {
    if (!this.view) return;
    const objects = this.model.get("objects") !== null;
    let missing = 0;
    for (const place of this.visible(this.level)) {
      const key = this.key(place.level, place.row, place.column);
      let tile = this.tiles.get(key);
      if (!tile) {
        tile = { ...place, wide: Math.min(this.tile, Math.ceil(this.columns / 2 ** place.level) - place.column * this.tile), high: Math.min(this.tile, Math.ceil(this.rows / 2 ** place.level) - place.row * this.tile) };
      }
      this.tiles.delete(key);
      this.tiles.set(key, tile); // newest last
      if (tile.planes && !tile.oldPixels && (!objects || (tile.seen && !tile.oldLabels))) continue;
      missing++;
      if (tile.asking || this.flights >= FLIGHTS) continue;
      this.fetch(tile, objects);
    }
    for (const [key, tile] of this.tiles) {
      if (this.tiles.size <= KEPT) break;
      if (!tile.asking) this.tiles.delete(key);
    }
    this.root.toggleAttribute("data-drawn", missing === 0);
  }

  async fetch(tile, objects) {
    tile.asking = true;
    this.flights++;
    const { level, row, column } = tile;
    try {
      const pixels = tile.planes && !tile.oldPixels ? null : this.fetchPixels(tile, { level, row, column });
      const labels = !objects || (tile.seen && !tile.oldLabels) ? null : this.fetchLabels(tile, { level, row, column });
      await Promise.all([pixels, labels]);
      this.root.removeAttribute("data-fault");
      this.compose(tile);
    } catch (error) {
      this.told.textContent = error.message;
      this.root.setAttribute("data-fault", error.message);
      tile.planes ??= [];
      tile.seen = true;
    } finally {
      tile.asking = false;
      this.flights--;
      this.draw();
    }
  }

  async fetchPixels(tile, place) {
    tile.oldPixels = false;
    const used = this.channels.flatMap((channel, number) => (channel.shown ? [[number, channel.from, channel.to]] : []));
    if (!used.length) { tile.planes = []; return; }
    const { buffers } = await this.asking.ask("pixels", { ...place, channels: used });
    const bytes = new Uint8Array(await unpacked(buffers[0]));
    const size = tile.wide * tile.high;
    tile.planes = used.map(([number], place) => [number, bytes.subarray(place * size, (place + 1) * size)]);
  }

  async fetchLabels(tile, place) {
    tile.oldLabels = false;
    const { buffers } = await this.asking.ask("labels", place);
    const bytes = await unpacked(buffers[0]);
    tile.labels = bytes ? new Uint32Array(bytes) : null;
    tile.seen = true;
  }

  compose(tile) {
    if (!tile.planes) return;
    const { wide, high } = tile;
    tile.canvas ??= make("canvas", { width: wide, height: high });
    const pen = tile.canvas.getContext("2d");
    const picture = pen.createImageData(wide, high);
    const out = picture.data;
    const planes = tile.planes.filter(([number]) => this.channels[number].shown).map(([number, bytes]) => [bytes, ...this.channels[number].table]);
    for (let place = 0, to = 0; place < wide * high; place++, to += 4) {
      let red = 0, green = 0, blue = 0;
      for (const [bytes, reds, greens, blues] of planes) {
        const value = bytes[place];
        red += reds[value]; green += greens[value]; blue += blues[value];
      }
      out[to] = red; out[to + 1] = green; out[to + 2] = blue; out[to + 3] = 255;
    }
    if (tile.labels && this.objectsShown) this.overlay(tile, out);
    pen.putImageData(picture, 0, 0);
  }

  overlay({ labels, wide, high }, out) {
    const stride = wide + 2;
    for (let row = 0; row < high; row++) {
      for (let column = 0; column < wide; column++) {
        const place = (row + 1) * stride + column + 1;
        const label = labels[place];
        if (!label) continue;
        const edge = labels[place - 1] !== label || labels[place + 1] !== label || labels[place - stride] !== label || labels[place + stride] !== label;
        const chosen = label === this.hovered || this.selected.has(label);
        const share = edge ? 1 : chosen ? Math.max(0.45, this.fill) : this.fill;
        const colour = chosen && edge ? [255, 255, 255] : COLOURS[label % COLOURS.length];
        const to = (row * wide + column) * 4;
        for (let part = 0; part < 3; part++) out[to + part] += (colour[part] - out[to + part]) * share;
      }
    }
  }

  recompose() {
    if (!this.view) return;
    for (const tile of this.tiles.values()) tile.stale = true;
    this.draw();
  }

  forgetPixels() {
    for (const tile of this.tiles.values()) tile.oldPixels = true;
    this.draw();
  }

  // Labels changed in a box (row, column, row, column) of the image, or everywhere.
  refresh(box) {
    this.measured.clear();
    for (const tile of this.tiles.values()) {
      const edge = this.tile * 2 ** tile.level;
      const outside = box && (tile.row * edge > box[2] + 1 || (tile.row + 1) * edge < box[0] - 1 || tile.column * edge > box[3] + 1 || (tile.column + 1) * edge < box[1] - 1);
      if (!outside) tile.oldLabels = true;
    }
    this.draw();
  }

  // Drawing

  draw() {
    if (this.due || !this.view) return;
    this.due = true;
    requestAnimationFrame(() => { this.due = false; this.paintAll(); });
  }

  paintAll() {
    if (this.closed) return;
    this.wanted();
    const pen = this.canvas.getContext("2d");
    pen.setTransform(this.dpr, 0, 0, this.dpr, 0, 0);
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, this.wide, this.high);
    const level = this.level;
    for (const place of this.visible(level)) this.paintPlace(pen, place);
    this.paint?.(pen);
    this.scaleBar(pen);
  }

  paintPlace(pen, { level, row, column }) {
    for (let far = level; far < this.levels; far++) {
      const by = 2 ** (far - level);
      const tile = this.tiles.get(this.key(far, Math.floor(row / by), Math.floor(column / by)));
      if (!tile?.planes || !(tile.canvas || tile.stale)) continue;
      if (tile.stale || !tile.canvas) { tile.stale = false; this.compose(tile); }
      if (tile.canvas) { this.paintTile(pen, tile, row, column, level, by); return; }
    }
  }

  paintTile(pen, tile, row, column, level, by) {
    const edge = this.tile * 2 ** level;
    const [x, y] = this.on(row * edge, column * edge);
    const [right, bottom] = this.on(Math.min(this.rows, (row + 1) * edge), Math.min(this.columns, (column + 1) * edge));
    const part = this.tile / by;
    const left = (column - tile.column * by) * part, top = (row - tile.row * by) * part;
    pen.imageSmoothingEnabled = this.view.scale * this.dpr * 2 ** tile.level < 1;
    pen.drawImage(tile.canvas, left, top, Math.min(part, tile.wide - left), Math.min(part, tile.high - top), x, y, right - x + 0.3, bottom - y + 0.3);
  }

  scaleBar(pen) {
    const size = this.model.get("pixel_size_um");
    const unit = size ? "µm" : "px";
    const perPixel = this.view.scale / (size || 1);
    const length = NICE.filter((each) => each * perPixel <= this.wide / 4).pop();
    if (!length) return;
    const wide = length * perPixel;
    pen.fillStyle = "rgba(0, 0, 0, 0.55)";
    pen.fillRect(10, this.high - 34, wide + 16, 26);
    pen.fillStyle = "#fff";
    pen.fillRect(18, this.high - 14, wide, 3);
    pen.font = "12px sans-serif";
    pen.textAlign = "center";
    pen.fillText(`${length} ${unit}`, 18 + wide / 2, this.high - 19);
  }

  // People

  listen() {
    const { canvas } = this;
    let from = null;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      const place = this.at(event.offsetX, event.offsetY);
      if (this.tool && event.button === 0 && !event.altKey && this.tool.down(place, event) !== false) { from = { tool: true }; return; }
      from = { x: event.clientX, y: event.clientY, view: { ...this.view }, moved: false };
    });
    canvas.addEventListener("pointermove", (event) => {
      const place = this.at(event.offsetX, event.offsetY);
      this.point(place, event);
      if (from?.tool) this.tool.move?.(place, event);
      else if (from) {
        const [x, y] = [event.clientX - from.x, event.clientY - from.y];
        from.moved ||= Math.hypot(x, y) > 3;
        if (from.moved) this.look(from.view.row - y / this.view.scale, from.view.column - x / this.view.scale, this.view.scale);
      } else this.tool?.hover?.(place, event);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (from?.tool) this.tool.up?.(this.at(event.offsetX, event.offsetY), event);
      else if (from && !from.moved) this.clicked?.(this.at(event.offsetX, event.offsetY), event);
      from = null;
    });
    canvas.addEventListener("pointerleave", () => { this.tip.hidden = true; this.hint.hidden = true; this.hover(0); });
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey && canvas.getRootNode().activeElement !== canvas) { this.hint.hidden = false; return; }
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY / 300), event.offsetX, event.offsetY);
    }, { passive: false });
    canvas.addEventListener("focus", () => { this.hint.hidden = true; });
    canvas.addEventListener("dblclick", (event) => { if (!this.tool) this.zoom(2, event.offsetX, event.offsetY); });
    canvas.addEventListener("keydown", (event) => this.typed(event));
  }

  typed(event) {
    const step = 60 / this.view.scale;
    const moves = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] };
    const keys = { "+": () => this.zoom(1.5), "=": () => this.zoom(1.5), "-": () => this.zoom(1 / 1.5), 0: () => this.fit(), 1: () => this.zoomTo(1) };
    if (event.ctrlKey || event.metaKey) return;
    const move = moves[event.key];
    if (move) this.look(this.view.row + move[0], this.view.column + move[1], this.view.scale);
    else if (keys[event.key]) keys[event.key]();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  labelAt([row, column]) {
    const level = this.level;
    const scale = 2 ** level;
    const [y, x] = [Math.floor(row / scale), Math.floor(column / scale)];
    const tile = this.tiles.get(this.key(level, Math.floor(y / this.tile), Math.floor(x / this.tile)));
    if (!tile?.labels || row < 0 || column < 0 || row >= this.rows || column >= this.columns) return 0;
    return tile.labels[((y % this.tile) + 1) * (tile.wide + 2) + (x % this.tile) + 1] || 0;
  }

  point(place, event) {
    const [row, column] = place.map(Math.floor);
    const inside = row >= 0 && column >= 0 && row < this.rows && column < this.columns;
    this.where.textContent = inside ? `row ${row}, column ${column}` : "";
    const label = inside && this.objectsShown ? this.labelAt(place) : 0;
    this.hover(label);
    this.showTip(label, event);
  }

  hover(label) {
    if (label === this.hovered) return;
    this.hovered = label;
    this.recompose();
  }

  async showTip(label, event) {
    this.tip.hidden = !label;
    if (!label) return;
    const [x, y] = [event.offsetX, event.offsetY];
    this.placeTip(x, y);
    if (Number(this.tip.dataset.label) === label && this.measured.has(label)) return;
    this.tip.dataset.label = label;
    const title = make("b", {}, `Object ${label}`);
    if (!this.measured.has(label)) {
      this.tip.replaceChildren(title);
      this.measured.set(label, (await this.asking.ask("object", { label }).catch(() => ({ content: { measured: [] } }))).content.measured);
    }
    if (Number(this.tip.dataset.label) !== label) return;
    const rows = (this.measured.get(label) ?? []).map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, shown(value))));
    this.tip.replaceChildren(title, make("table", {}, ...rows));
    this.placeTip(x, y);
  }

  // Beside the pointer, inside the picture.
  placeTip(x, y) {
    const left = x < this.wide / 2 ? x + 16 : x - 16 - this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, left)}px`;
    this.tip.style.top = `${Math.max(0, Math.min(y + 12, this.high - this.tip.offsetHeight - 4))}px`;
  }

  close() {
    this.closed = true;
    this.observer.disconnect();
    for (const [name, call] of this.watched) this.model.off(name, call);
    this.asking.close();
  }
}

export function begin(el, name) {
  const root = make("div", { class: "sk", role: "group", "aria-label": name });
  el.append(root);
  return root;
}
