import { asker, make, shown } from "./asking.js";
import { VirtualList } from "./list.js";
import { begin } from "./stage.js";

const STATUSES = ["queued", "running", "done", "failed", "cancelled"];
// The page asks so often whether there is news, in milliseconds; while jobs run the kernel tells by itself.
const LOOK = 2000;

export default {
  render({ model, el }) {
    const root = begin(el, "Queue");
    const asking = asker(model);
    let status = "";
    const runs = make("select", { "aria-label": "Run", onchange: () => { model.set("run", Number(runs.value)); model.save_changes(); } });
    const bar = make("div", { class: "sk-progress", role: "progressbar", "aria-label": "Jobs that have ended", "aria-valuemin": "0" });
    const told = make("div", { class: "sk-told", "aria-live": "off" });
    const filters = make("div", { class: "sk-bar", role: "toolbar", "aria-label": "Which jobs" });
    const message = make("span", { class: "sk-message", role: "status" });
    const retry = make("button", { type: "button", class: "sk-button", onclick: again }, "Retry failed");
    const buttons = new Map(["", ...STATUSES].map((name) => [name, make("button", { type: "button", class: "sk-button", onclick: () => filter(name) })]));
    filters.append(...buttons.values(), make("span", { class: "sk-gap" }), message, retry);
    root.append(make("div", { class: "sk-bar" }, runs, told), bar, filters);
    root.append(make("div", { class: "sk-line sk-job sk-headline" }, ...["image", "status", "attempt", "seconds", "worker", "reason"].map((name) => make("span", {}, name))));
    const list = new VirtualList(root, {
      height: model.get("height"), row: 26, name: "Jobs",
      fetch: async (start, count) => (await asking.ask("rows", { status, start, count })).content.rows,
      draw: ([number, ...cells]) => row(number, cells),
    });
    asking.listen("rows", (content) => {
      if (content.status !== status) return;
      const block = list.blocks.get(Math.floor(content.start / 100));
      if (block?.rows && content.start % 100 === 0) block.rows = content.rows;
      for (const other of list.blocks.values()) if (other !== block) other.old = true;
      list.show();
    });

    function filter(name) {
      status = name;
      list.clear();
      follow();
    }

    async function again() {
      const { content } = await asking.ask("retry").catch((error) => ({ content: { count: 0, error: error.message } }));
      message.textContent = content.error ?? `${content.count} queued again`;
      list.forget();
    }

    function follow() {
      const counts = model.get("counts");
      const total = counts.total ?? 0;
      const ended = total - (counts.left ?? 0);
      bar.replaceChildren(...["done", "failed", "cancelled", "running"].map((name) => {
        const part = make("div", { class: `sk-part sk-is-${name}`, title: `${counts[name]} ${name}` });
        part.style.width = `${total ? (100 * counts[name]) / total : 0}%`;
        return part;
      }));
      bar.setAttribute("aria-valuemax", String(total));
      bar.setAttribute("aria-valuenow", String(ended));
      const pace = counts.per_second ? ` · ${shown(counts.per_second)} images/s${counts.seconds_left ? `, ${lasting(counts.seconds_left)} left` : ""}` : "";
      told.textContent = total ? `${ended.toLocaleString("en")} of ${total.toLocaleString("en")} images · ${(counts.objects ?? 0).toLocaleString("en")} objects${pace}` : "no jobs";
      for (const [name, button] of buttons) {
        button.textContent = `${name || "all"} ${(name ? counts[name] ?? 0 : total).toLocaleString("en")}`;
        button.setAttribute("aria-pressed", String(name === status));
      }
      retry.hidden = !counts.failed;
      list.setTotal(status ? counts[status] ?? 0 : total);
      root.dataset.ended = ended;
      root.dataset.total = total;
    }

    const choose = () => { runs.value = model.get("run"); list.clear(); };
    const offer = () => { runs.replaceChildren(...model.get("runs").map((each) => make("option", { value: String(each.number) }, each.name))); runs.value = model.get("run"); };
    const watched = [["change:counts", follow], ["change:runs", offer], ["change:run", choose]];
    for (const [name, call] of watched) model.on(name, call);
    const look = () => { if (!document.hidden) asking.ask("look").catch(() => {}); };
    const timer = setInterval(look, LOOK);
    offer();
    follow();
    look();
    return () => {
      clearInterval(timer);
      for (const [name, call] of watched) model.off(name, call);
      list.close();
      asking.close();
    };
  },
};

function row(number, [name, status, attempt, seconds, worker, reason]) {
  const pill = make("span", { class: "sk-state" }, make("i", { class: `sk-dot sk-is-${status}`, "aria-hidden": "true" }), status);
  const cells = [name, pill, attempt, seconds === null ? "" : shown(seconds), worker, reason].map((value, place) => (place === 1 ? value : make("span", { title: String(value) }, String(value))));
  return make("div", { class: "sk-line sk-job", "data-job": String(number) }, ...cells);
}

function lasting(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
