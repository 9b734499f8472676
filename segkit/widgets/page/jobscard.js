import { labelled, later, make } from "./asking.js";
import { STATES, clock, confirmed, count, duration, hearing, many, say, stateChip } from "./cards.js";

// The jobs of a run, of any number: only the rows that are seen exist, and only they are asked for.

const ROW = 32, SPARE = 6, BLOCK = 60, QUIET = 40, AGAIN = 400;
const COLUMNS = ["job", "image", "state", "attempt", "worker", "ended", "reason"];

class JobsTable {
  constructor(port, choose) {
    this.port = port;
    this.choose = choose;
    this.run = null;
    this.status = "";
    this.total = 0;
    this.active = 0;
    this.rows = new Map();
    this.pool = [];
    this.space = make("div", { class: "sk-jobs-space", role: "rowgroup" });
    const head = make("div", { class: "sk-jobs-row sk-jobs-head", role: "row", "aria-rowindex": "1" }, ...COLUMNS.map((each) => make("div", { role: "columnheader", class: `sk-c-${each}` }, each)));
    this.root = make("div", { class: "sk-jobs-view", tabindex: "0", role: "grid", "aria-label": "Jobs of the run", onscroll: () => this.scrolled(), onkeydown: (event) => this.pressed(event) }, make("div", { role: "rowgroup", class: "sk-jobs-top" }, head), this.space);
    this.askSoon = later(QUIET, () => this.ask());
    this.watcher = new ResizeObserver(() => this.draw());
    this.watcher.observe(this.root);
  }

  close() { this.watcher.disconnect(); }

  show(run, status) {
    if (run === this.run && status === this.status) return;
    [this.run, this.status, this.active] = [run, status, 0];
    this.rows.clear();
    this.root.scrollTop = 0;
    this.ask();
  }

  // Something changed: what is seen is asked for again, and stays until the answer is there.
  stale() {
    const now = performance.now();
    if (this.again) return;
    this.again = setTimeout(() => { this.again = null; this.asked = performance.now(); this.ask(true); }, Math.max(0, AGAIN - (now - (this.asked ?? 0))));
  }

  seen() {
    const first = Math.max(0, Math.floor(this.root.scrollTop / ROW) - SPARE);
    const last = Math.min(this.total, Math.ceil((this.root.scrollTop + this.root.clientHeight) / ROW) + SPARE);
    return [first, last];
  }

  scrolled() {
    this.draw();
    this.askSoon();
  }

  async ask(all = false) {
    if (this.run === null) return;
    if (this.asking) { this.askAgain = all || this.askAgain || "missing"; return; }
    let [first, last] = this.seen();
    if (!all) {
      while (first < last && this.rows.has(first)) first++;
      while (last > first && this.rows.has(last - 1)) last--;
      if (first >= last && this.total) return;
    }
    this.asking = true;
    const [run, status] = [this.run, this.status];
    try {
      const { content } = await this.port.ask("rows", { run, status, first, count: Math.max(BLOCK, Math.min(200, last - first)) });
      if (run === this.run && status === this.status) this.take(content, all);
    } catch (error) {
      this.fault?.(error.message);
    }
    this.asking = false;
    if (this.askAgain) { const again = this.askAgain === true; this.askAgain = null; this.ask(again); }
  }

  take(content, all) {
    if (all) this.rows.clear();
    content.rows.forEach((row, n) => this.rows.set(content.first + n, row));
    if (this.rows.size > 5000) { const [first, last] = this.seen(); for (const place of this.rows.keys()) if (place < first - 500 || place > last + 500) this.rows.delete(place); }
    if (content.total !== this.total) {
      this.total = content.total;
      this.space.style.height = `${this.total * ROW}px`;
      this.root.setAttribute("aria-rowcount", String(this.total + 1));
      this.counted?.(this.total);
    }
    this.draw();
    this.ask();
  }

  draw() {
    const [first, last] = this.seen();
    const wanted = Math.max(0, last - first);
    while (this.pool.length < wanted) { const node = this.row(); this.pool.push(node); this.space.append(node); }
    this.pool.forEach((node) => { if (node.skPlace < first || node.skPlace >= last || node.skPlace >= this.total) { node.skPlace = -1; } });
    const held = new Map(this.pool.filter((node) => node.skPlace >= 0).map((node) => [node.skPlace, node]));
    const free = this.pool.filter((node) => node.skPlace < 0);
    for (let place = first; place < last; place++) this.fill(held.get(place) ?? free.pop(), place);
    for (const node of free) if (!node.hidden) node.hidden = true;
  }

  row() {
    const node = make("div", { class: "sk-jobs-row", role: "row" }, ...COLUMNS.map((each) => make("div", { role: "gridcell", class: `sk-c-${each}` })));
    node.addEventListener("click", () => { this.active = node.skPlace; this.draw(); this.choose(node.skRow); });
    node.skPlace = -1;
    return node;
  }

  fill(node, place) {
    const row = this.rows.get(place);
    if (node.skPlace !== place) {
      node.skPlace = place;
      node.hidden = false;
      node.style.transform = `translateY(${place * ROW}px)`;
      node.id = `${this.name()}-${place}`;
      node.setAttribute("aria-rowindex", String(place + 2));
      node.classList.toggle("sk-odd", place % 2 === 1);
    }
    const active = place === this.active;
    if (node.skActive !== active) { node.skActive = active; node.classList.toggle("sk-active", active); node.setAttribute("aria-selected", String(active)); }
    if (active) this.root.setAttribute("aria-activedescendant", node.id);
    if (node.skRow === row) return;
    node.skRow = row;
    const cells = node.children;
    if (!row) { for (const cell of cells) cell.textContent = ""; cells[1].textContent = "…"; return; }
    const [job, , name, status, attempt, worker, , ended, reason] = row;
    [String(job), name, null, String(attempt), worker ?? "", clock(ended), reason ?? ""].forEach((text, n) => { if (text !== null) say(cells[n], text); });
    if (cells[2].skState !== status || !cells[2].firstChild) { cells[2].skState = status; cells[2].replaceChildren(stateChip(status)); }
    cells[1].title = name;
    cells[6].title = reason ?? "";
  }

  name() { return (this.mine ??= `sk-jobs-${Math.random().toString(36).slice(2, 8)}`); }

  go(place) {
    this.active = Math.max(0, Math.min(this.total - 1, place));
    const top = this.active * ROW, room = this.root.clientHeight - ROW;
    if (top < this.root.scrollTop) this.root.scrollTop = top;
    else if (top + ROW > this.root.scrollTop + room) this.root.scrollTop = top + ROW - room;
    this.draw();
    this.askSoon();
  }

  pressed(event) {
    const page = Math.max(1, Math.floor(this.root.clientHeight / ROW) - 2);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -this.total, End: this.total };
    if (event.key in moves) { event.preventDefault(); this.go(this.active + moves[event.key]); }
    else if (event.key === "Enter" && this.rows.has(this.active)) { event.preventDefault(); this.choose(this.rows.get(this.active)); }
  }
}

export function jobsCard(root, port, may) {
  const title = make("p", { class: "sk-caption" });
  const status = make("select", {}, make("option", { value: "" }, "all"), ...Object.entries(STATES).map(([name, { mark, word }]) => make("option", { value: name }, `${mark} ${word}`)));
  const find = make("input", { type: "number", min: "1", class: "sk-narrow" });
  const said = make("p", { role: "status", class: "sk-said" });
  const size = make("span", { class: "sk-soft" });
  const none = make("p", { class: "sk-none" }, "No jobs yet.");
  const detail = make("div", { class: "sk-detail", role: "region", "aria-label": "The chosen job", hidden: true });
  let run = null, chosen = null;

  const table = new JobsTable(port, (row) => row && choose(row[0]));
  table.counted = (total) => say(size, `${many(total, "job")}${status.value ? ` ${status.value}` : ""}`);
  table.fault = (text) => say(said, text);
  status.addEventListener("change", () => { table.counted(table.total); table.show(run, status.value); });
  find.addEventListener("change", async () => {
    if (!find.value || run === null) return;
    const { content } = await port.ask("find", { run, image: Number(find.value) });
    if (content.row === null) { say(said, `Run ${run} has no image ${find.value}.`); return; }
    say(said, "");
    status.value = "";
    table.show(run, "");
    await table.ask();
    table.go(content.row);
    table.root.focus();
  });

  async function choose(job) {
    chosen = job;
    try {
      const { content } = await port.ask("job", { job });
      if (chosen === job) drawDetail(content);
    } catch (error) {
      say(said, error.message);
    }
  }

  function drawDetail(job) {
    const act = async (what, question, text, yes) => {
      if (!(await confirmed(root, question, text, yes))) return;
      try { say(said, (await port.ask(what, { job: job.job })).content.said); } catch (error) { say(said, error.message); }
      choose(job.job);
    };
    const facts = [["Image", `${job.image_name} (number ${job.image_id})`], ["Attempts", `${job.attempt} of ${job.max_attempts}`], ["Worker", job.worker ?? "–"], ["Queued", clock(job.created_at)], ["Started", clock(job.started_at)], ["Ended", job.finished_at ? `${clock(job.finished_at)}${job.started_at ? `, after ${duration(job.finished_at - job.started_at)}` : ""}` : "–"], ["Priority", String(job.priority)]];
    const list = make("dl", { class: "sk-lines" }, ...facts.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
    const buttons = make("div", { class: "sk-bar" });
    const ended = job.status === "failed" || job.status === "cancelled";
    if (may() && ended) buttons.append(make("button", { class: "sk-button", type: "button", "data-do": "retry", onclick: () => act("retry", `Retry job ${job.job}?`, `${job.image_name} will be queued again.`, "Retry") }, "Retry this job"));
    if (may() && (job.status === "queued" || job.status === "running")) buttons.append(make("button", { class: "sk-button", type: "button", "data-do": "cancel", onclick: () => act("cancel", `Cancel job ${job.job}?`, `${job.image_name} will be withdrawn.`, "Cancel the job") }, "Cancel this job"));
    const shut = make("button", { class: "sk-button sk-icon", type: "button", "aria-label": "Close", onclick: () => { detail.hidden = true; chosen = null; table.root.focus(); } }, "✕");
    const head = make("div", { class: "sk-bar" }, make("h3", {}, `Job ${job.job}`), stateChip(job.status), make("span", { class: "sk-gap" }), shut);
    const picture = job.picture ? make("img", { src: job.picture, alt: `${job.image_name}${job.status === "done" ? " with the outlines of its objects" : ""}` }) : null;
    const reason = job.reason ? make("p", { class: "sk-reason" }, job.reason) : null;
    const log = make("div", { class: "sk-log" }, make("h4", {}, "Log"), job.log.length ? make("pre", { tabindex: "0", "aria-label": "The last lines that its worker logged of it" }, job.log.join("\n")) : make("p", { class: "sk-soft" }, "Its worker logged nothing of it in this home folder."));
    const note = job.note ? make("p", { class: "sk-soft" }, job.note) : null;
    detail.replaceChildren(head, ...[reason, list, buttons, picture, note, log].filter(Boolean));
    detail.hidden = false;
  }

  detail.addEventListener("keydown", (event) => { if (event.key === "Escape") { detail.hidden = true; table.root.focus(); } });
  root.append(title, make("div", { class: "sk-bar" }, labelled("State", status), labelled("Go to image number", find), make("span", { class: "sk-gap" }), size), none, make("div", { class: "sk-jobs" }, table.root, detail),
    said, make("p", { class: "sk-caption" }, "Names of images are not indexed, so jobs are found by state and by image number. Arrow keys move, Enter opens a job."));

  const open = async (number) => {
    const { content } = await port.ask("open", { run: number });
    take(content);
  };
  const stop = [
    hearing("run", ({ run: number }) => { open(number); root.scrollIntoView({ behavior: "smooth", block: "start" }); }),
    hearing("job", async ({ run: number, job }) => { await open(number); status.value = "failed"; table.show(number, "failed"); choose(job); root.scrollIntoView({ behavior: "smooth", block: "start" }); }),
  ];

  function take(facts) {
    const changed = facts.run !== run;
    run = facts.run;
    none.hidden = run !== null;
    table.root.parentElement.hidden = run === null;
    if (run === null) return;
    say(title, `Run ${run}: ${facts.segmenter} on ${facts.project}`);
    if (changed) { detail.hidden = true; chosen = null; table.show(run, status.value); }
    else table.stale();
  }

  return { update: take, close() { stop.forEach((each) => each()); table.close(); } };
}
