// Questions to the kernel, and its answers. Each view of a widget has its own.

export function asker(model) {
  const me = Math.random().toString(36).slice(2);
  const waiting = new Map();
  const listeners = new Map();
  let number = 0;
  const hear = (content, buffers) => {
    if (content.tell !== undefined) {
      listeners.get(content.tell)?.(content, buffers);
      return;
    }
    const asked = waiting.get(content.id);
    if (!asked) return;
    waiting.delete(content.id);
    if (content.error) asked.reject(new Error(content.error));
    else asked.resolve({ content, buffers });
  };
  model.on("msg:custom", hear);
  return {
    ask(what, fields = {}, buffers = []) {
      const id = `${me}-${++number}`;
      const answer = new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
      model.send({ id, ask: what, ...fields }, undefined, buffers);
      return answer;
    },
    listen(what, call) { listeners.set(what, call); },
    close() { model.off("msg:custom", hear); waiting.clear(); },
  };
}

export async function unpacked(view) {
  if (!view || view.byteLength === 0) return null;
  const bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

export function make(kind, attributes = {}, ...children) {
  const node = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

let fields = 0;
export function labelled(text, control, attributes = {}) {
  control.id = `sk-field-${Math.random().toString(36).slice(2, 8)}-${++fields}`;
  return make("span", { class: "sk-field", ...attributes }, make("label", { for: control.id }, text), control);
}

export function later(milliseconds, call) {
  let timer = null;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => call(...given), milliseconds);
  };
}

export function shown(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number" || Number.isInteger(value)) return String(value);
  return Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}
