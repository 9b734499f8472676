import { asker, make } from "./asking.js";
import { chartsCard } from "./charts.js";
import { jobsCard } from "./jobscard.js";
import { failuresCard, queueCard, runsCard, workersCard } from "./queuecards.js";
import { exportsCard, galleryCard, linesCard, pickCard, plateCard } from "./resultscards.js";

// One card of a dashboard; the same in Panel, Voila and notebooks.

const KINDS = { queue: queueCard, runs: runsCard, jobs: jobsCard, failures: failuresCard, workers: workersCard, charts: chartsCard, pick: pickCard, lines: linesCard, plate: plateCard, gallery: galleryCard, exports: exportsCard };

export function drawCard({ model, el }) {
  const port = asker(model);
  const fault = make("p", { class: "sk-fault", role: "alert", hidden: true });
  const root = make("section", { class: "sk sk-card", "aria-label": model.get("title"), "data-card": model.get("kind") }, make("h2", {}, model.get("title")), fault);
  const note = make("p", { class: "sk-none", role: "status", hidden: true });
  root.append(note);
  const card = KINDS[model.get("kind")](root, port, () => model.get("may"));
  const update = () => {
    const facts = model.get("facts");
    fault.hidden = !facts.fault;
    fault.textContent = facts.fault ? `This is not the present: ${facts.fault}` : "";
    note.hidden = !facts.none && !facts.loading;
    note.textContent = facts.none ?? (facts.loading ? "reading …" : "");
    if (!facts.loading && !facts.none && !(facts.fault && Object.keys(facts).length < 3)) card.update(facts);
  };
  model.on("change:facts", update);
  el.replaceChildren(root);
  update();
  const stop = dressed(root);
  // A kernel is told that its page is still there; a Panel page has a session, which ends by itself.
  const here = () => port.ask("here").catch(() => {});
  const timer = model.pages ? null : setInterval(here, 10_000);
  if (!model.pages) here();
  return () => { clearInterval(timer); stop(); model.off("change:facts", update); port.close(); card.close?.(); };
}

// Dark where what the card stands on is dark, whoever made it so: the page, JupyterLab, VS Code or the system.
function dressed(root) {
  const look = () => {
    const [red, green, blue] = (getComputedStyle(root).backgroundColor.match(/[\d.]+/g) ?? [255, 255, 255]).map(Number);
    root.classList.toggle("sk-dark", 0.2126 * red + 0.7152 * green + 0.0722 * blue < 110);
  };
  const watcher = new MutationObserver(look);
  for (const node of [document.documentElement, document.body]) watcher.observe(node, { attributes: true, attributeFilter: ["class", "style", "data-theme", "data-jp-theme-light", "data-jp-theme-name"] });
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", look);
  requestAnimationFrame(look);
  look();
  return () => { watcher.disconnect(); system.removeEventListener("change", look); };
}
