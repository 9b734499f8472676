import { make } from "./asking.js";
import { STATES, announce, clock, confirmed, count, duration, keyed, many, paceText, rate, say, sparkline, timeLeft } from "./cards.js";

const SHARES = ["done", "failed", "cancelled", "running", "queued"];

// The queue as a whole, its runs, its failures and its workers.

export function queueCard(root) {
  const numbers = {};
  const tiles = [...Object.entries(STATES), ["objects", { mark: "◉", word: "objects found" }]].map(([name, { mark, word }]) => {
    numbers[name] = make("span", { class: "sk-number" });
    const label = make("span", { class: "sk-word" }, make("span", { "aria-hidden": "true" }, mark), ` ${word}`);
    return make("li", { class: `sk-tile sk-${name}` }, numbers[name], label);
  });
  const left = make("strong"), pace = make("span"), runs = make("span"), chart = make("div", { class: "sk-trend" });
  const lines = make("dl", { class: "sk-lines" },
    make("div", {}, make("dt", {}, "Time left"), make("dd", {}, left)),
    make("div", {}, make("dt", {}, "Images"), make("dd", {}, pace)),
    make("div", {}, make("dt", {}, "Runs"), make("dd", {}, runs)));
  root.append(make("ul", { class: "sk-tiles" }, ...tiles), make("div", { class: "sk-two" }, lines, chart));
  let drawn = "";
  return {
    update(facts) {
      for (const [name, node] of Object.entries(numbers)) say(node, count(facts.counts[name]));
      say(left, facts.counts.left ? timeLeft(facts.pace, facts.counts.left) : "nothing to do");
      say(pace, facts.counts.left ? paceText(facts.pace) + (facts.pace ? `, over the last ${duration(facts.pace.seconds)}` : "") : "–");
      say(runs, `${count(facts.active)} at work, ${count(facts.runs)} in all`);
      const key = facts.spark.join();
      if (key === drawn) return;
      drawn = key;
      const span = duration(facts.spark.length * facts.spark_seconds);
      const most = Math.max(0, ...facts.spark);
      const caption = `images ended in each ${duration(facts.spark_seconds)}, the last ${span}; at most ${count(most)}`;
      chart.replaceChildren(sparkline(facts.spark, caption), make("div", { class: "sk-caption" }, caption));
    },
  };
}

export function runsCard(root, port, may) {
  const body = make("ul", { class: "sk-runs" });
  const none = make("p", { class: "sk-none" }, "No run yet. Queue one: project.segment(\"nuclei\") in a notebook, or segkit run PROJECT nuclei.");
  const said = make("p", { role: "status", class: "sk-said" });
  root.append(none, body, said);

  const act = async (what, run) => {
    const [question, detail, yes] = questions[what](run);
    if (!(await confirmed(root, question, detail, yes))) return;
    try {
      say(said, (await port.ask(what, { run: run.id })).content.said);
    } catch (error) {
      say(said, error.message);
    }
  };
  const button = (label, what, run) => make("button", { class: "sk-button", type: "button", "data-do": what, "aria-label": `${label}, run ${run.id}`, onclick: (event) => { event.stopPropagation(); act(what, event.currentTarget.skRun); } }, label);

  const build = (run) => {
    const open = make("button", { class: "sk-link", type: "button", onclick: () => announce("run", { run: run.id }) });
    const parts = {
      open, what: make("span", { class: "sk-what" }), bar: make("span", { class: "sk-progress", role: "img" }), counted: make("span", { class: "sk-counted" }),
      pace: make("span", { class: "sk-pace" }), retry: button("Retry failed", "retry", run), raise: button("Raise priority", "raise", run), cancel: button("Cancel", "cancel", run),
    };
    for (const state of SHARES) parts.bar.append(make("span", { class: `sk-part sk-${state}` }));
    const node = make("li", { class: "sk-run", "data-run": String(run.id) },
      make("div", { class: "sk-run-head" }, open, parts.what, make("span", { class: "sk-gap" }), parts.retry, parts.raise, parts.cancel),
      parts.bar, make("div", { class: "sk-run-foot" }, parts.counted, parts.pace));
    node.skParts = parts;
    return node;
  };
  const refresh = (node, run) => {
    const { open, what, bar, counted, pace, retry, raise, cancel } = node.skParts;
    const counts = run.counts;
    say(open, `Run ${run.id}`);
    say(what, `${run.segmenter} on ${run.project}${run.priority ? ` · priority ${run.priority}` : ""} · asked ${clock(run.asked)}`);
    what.title = run.parameters;
    const shares = SHARES.map((state) => counts[state]);
    SHARES.forEach((state, n) => { bar.children[n].style.flexGrow = shares[n]; bar.children[n].hidden = !shares[n]; });
    bar.setAttribute("aria-label", Object.keys(STATES).map((state) => `${count(counts[state])} ${state}`).join(", "));
    const words = [`${count(counts.done)} of ${count(counts.total)} done`];
    for (const state of ["running", "failed", "cancelled"]) if (counts[state]) words.push(`${STATES[state].mark} ${count(counts[state])} ${state}`);
    words.push(many(counts.objects, "object"));
    say(counted, words.join(" · "));
    say(pace, counts.left ? `${run.pace ? `${rate(run.pace.per_minute)} a minute · ` : ""}time left: ${timeLeft(run.pace, counts.left)}` : run.ended ? `ended ${clock(run.ended)}` : "");
    for (const each of [retry, raise, cancel]) each.skRun = run;
    retry.hidden = !may() || !(counts.failed + counts.cancelled);
    raise.hidden = cancel.hidden = !may() || !counts.left;
  };
  return {
    update(facts) {
      none.hidden = facts.runs.length > 0;
      keyed(body, facts.runs, (run) => run.id, build, refresh);
    },
  };
}

const questions = {
  retry: (run) => [`Retry run ${run.id}?`, `${many(run.counts.failed + run.counts.cancelled, "failed or cancelled job")} will be queued again. What is done stays.`, "Retry"],
  cancel: (run) => [`Cancel run ${run.id}?`, `${many(run.counts.left, "job")} that ${run.counts.left === 1 ? "is" : "are"} not done will be withdrawn. What is done stays, and they can be retried.`, "Cancel the run"],
  raise: (run) => [`Raise the priority of run ${run.id}?`, `Its ${many(run.counts.left, "job")} will be worked off before those of runs with less than priority ${run.priority + 10}.`, "Raise priority"],
};

export function failuresCard(root) {
  const list = make("ol", { class: "sk-failures" });
  const none = make("p", { class: "sk-none" }, "Nothing failed.");
  const more = make("p", { class: "sk-caption" });
  root.append(none, list, more);
  const build = (row) => {
    const open = make("button", { class: "sk-link", type: "button", onclick: () => announce("job", { run: row.run, job: row.job, image: row.image }) }, row.image);
    const node = make("li", { "data-job": String(row.job) }, make("div", {}, make("span", { class: "sk-state sk-failed" }, make("span", { "aria-hidden": "true" }, "✕"), " failed"), " ", open, make("span", { class: "sk-soft" }, ` · run ${row.run} · ${clock(row.ended)}`)));
    node.skReason = make("div", { class: "sk-reason" });
    node.append(node.skReason);
    return node;
  };
  return {
    update(facts) {
      none.hidden = facts.failures.length > 0;
      list.hidden = !facts.failures.length;
      keyed(list, facts.failures, (row) => `${row.job} ${row.ended}`, build, (node, row) => say(node.skReason, row.reason ?? ""));
      say(more, facts.total > facts.failures.length ? `${count(facts.failures.length)} of ${count(facts.total)}; all of a run are in its table of jobs.` : "");
    },
  };
}

export function workersCard(root) {
  const table = make("table", { class: "sk-table" }, make("thead", {}, make("tr", {}, ...["worker", "jobs held", "since", "lease until", "state"].map((each) => make("th", { scope: "col" }, each)))));
  const body = make("tbody");
  const none = make("p", { class: "sk-none" });
  table.append(body);
  root.append(none, make("div", { class: "sk-sideways", tabindex: "0", role: "region", "aria-label": "Table of workers" }, table));
  const build = () => make("tr", {}, ...Array.from({ length: 5 }, () => make("td")));
  const refresh = (node, row) => {
    const late = row.late ? `⚠ ${many(row.late, "lease")} ran out` : "✓ in time";
    [row.worker, count(row.jobs), clock(row.since), clock(row.until), late].forEach((text, n) => say(node.children[n], text));
  };
  return {
    update(facts) {
      none.hidden = facts.workers.length > 0;
      table.parentElement.hidden = !facts.workers.length;
      say(none, facts.waiting ? `⚠ Nobody works: ${many(facts.waiting, "job")} waiting. Start one: segkit worker` : "Nobody holds a job, and none waits.");
      keyed(body, facts.workers, (row) => row.worker, build, refresh);
    },
  };
}
