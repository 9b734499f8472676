import { make } from "./asking.js";

// Parts that all cards share. Text from outside only ever becomes text.

export const STATES = {
  queued: { mark: "○", word: "queued" },
  running: { mark: "▶", word: "running" },
  done: { mark: "✓", word: "done" },
  failed: { mark: "✕", word: "failed" },
  cancelled: { mark: "–", word: "cancelled" },
};

const whole = new Intl.NumberFormat("en");
export const count = (value) => whole.format(value);

export function many(value, what) {
  return `${count(value)} ${what}${value === 1 ? "" : "s"}`;
}

export function stateChip(state) {
  const known = STATES[state] ?? { mark: "?", word: state };
  return make("span", { class: `sk-state sk-${state}` }, make("span", { "aria-hidden": "true" }, known.mark), ` ${known.word}`);
}

// A length of time as people say it: "40 s", "12 min", "3 h 20 min", "2 d 4 h".
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 36) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

export function clock(moment) {
  if (moment === null || moment === undefined) return "–";
  const when = new Date(moment * 1000);
  const day = when.toDateString() === new Date().toDateString() ? "" : `${when.toLocaleDateString("en-CA")} `;
  return day + when.toLocaleTimeString("en-GB");
}

export function rate(value) {
  return value >= 100 ? count(Math.round(value)) : String(Number(value.toPrecision(2)));
}

export function timeLeft(pace, left) {
  if (!left) return "";
  if (!pace) return "not known yet";
  if (pace.most === null) return `at least ${duration(pace.least)}`;
  const [least, most] = [duration(pace.least), duration(pace.most)];
  return least === most ? `about ${least}` : `${least} to ${most}`;
}

export function paceText(pace) {
  if (!pace) return "not known yet";
  return `${rate(pace.per_minute)} a minute (${rate(pace.low)} to ${rate(pace.high)})`;
}

// Keep one child for each item, in order, without making those anew that stay: who has the focus keeps it.
export function keyed(parent, items, key, build, refresh) {
  parent.skKept ??= new Map();
  const old = parent.skKept;
  const kept = new Map();
  let place = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    const node = old.get(name) ?? build(item);
    kept.set(name, node);
    refresh(node, item);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
  for (const [name, node] of old) if (!kept.has(name)) node.remove();
  parent.skKept = kept;
}

export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// Ask a person before something is done; answers true only for a yes.
export function confirmed(root, question, detail, yes) {
  return new Promise((resolve) => {
    const heading = make("h3", {}, question);
    const dialog = make("dialog", { class: "sk-dialog", "aria-label": question }, heading, make("p", {}, detail));
    const close = (answer) => { dialog.close(); dialog.remove(); resolve(answer); };
    const no = make("button", { class: "sk-button", type: "button", onclick: () => close(false) }, "No, leave it");
    const go = make("button", { class: "sk-button sk-main", type: "button", onclick: () => close(true) }, yes);
    dialog.append(make("div", { class: "sk-bar sk-end" }, no, go));
    dialog.addEventListener("cancel", (event) => { event.preventDefault(); close(false); });
    root.append(dialog);
    dialog.showModal();
    no.focus();
  });
}

// Cards of one page speak to each other: "segkit:run" and "segkit:job" say what a person chose.
export function announce(what, detail) {
  document.dispatchEvent(new CustomEvent(`segkit:${what}`, { detail }));
}

export function hearing(what, call) {
  const hear = (event) => call(event.detail);
  document.addEventListener(`segkit:${what}`, hear);
  return () => document.removeEventListener(`segkit:${what}`, hear);
}

export function sparkline(values, label) {
  const width = 240, height = 36, most = Math.max(1, ...values), step = width / Math.max(1, values.length);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  for (const [name, value] of Object.entries({ viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "sk-spark", preserveAspectRatio: "none" })) svg.setAttribute(name, value);
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", values.map((value, n) => `M${(n * step + 0.5).toFixed(1)} ${height}v${(-(height - 2) * value / most - (value ? 1 : 0.4)).toFixed(1)}h${Math.max(1, step - 1).toFixed(1)}V${height}z`).join(""));
  svg.append(path);
  return svg;
}
