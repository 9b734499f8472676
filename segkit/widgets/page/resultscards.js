import { labelled, make, shown } from "./asking.js";
import { count, say } from "./cards.js";

// A run's results: which run, numbers, the plate, the worst images, exports.

export function pickCard(root) {
  const list = make("select");
  list.addEventListener("change", () => { const address = new URL(location.href); address.searchParams.set("run", list.value); location.href = address; });
  root.append(make("div", { class: "sk-bar" }, labelled("Results of", list)));
  return {
    update(facts) {
      list.replaceChildren(...facts.runs.map((each) => make("option", { value: String(each.run) }, `Run ${each.run}: ${each.words}`)));
      if (facts.run !== null) list.value = String(facts.run);
      root.hidden = !facts.runs.length;
    },
  };
}

export function linesCard(root) {
  const list = make("dl", { class: "sk-lines" });
  root.append(list);
  return { update(facts) { list.replaceChildren(...(facts.lines ?? []).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)))); } };
}

// From white to dark blue in even steps of lightness, so that it is read without colour too.
const LOW = [236, 243, 250], HIGH = [8, 58, 110];

export function plateCard(root) {
  const choice = make("select");
  const table = make("table", { class: "sk-plate" });
  const scale = make("p", { class: "sk-caption" });
  const box = make("div", { class: "sk-sideways", tabindex: "0", role: "region", "aria-label": "The plate" }, table);
  const bar = make("div", { class: "sk-bar" }, labelled("Colour shows", choice));
  root.append(bar, box, scale);
  let facts = null;
  choice.addEventListener("change", () => paint());

  function paint() {
    const measure = choice.value, wells = facts.wells;
    const values = Object.values(wells).map((each) => each[measure]).filter((each) => each !== null);
    const [least, most] = [Math.min(...values), Math.max(...values)];
    const head = make("tr", {}, make("td"), ...Array.from({ length: facts.columns }, (_, n) => make("th", { scope: "col" }, String(n + 1))));
    const rows = Array.from({ length: facts.rows }, (_, row) => {
      const letter = `${row >= 26 ? "A" : ""}${String.fromCharCode(65 + (row % 26))}`;
      const cells = Array.from({ length: facts.columns }, (_, column) => {
        const name = `${letter}${String(column + 1).padStart(2, "0")}`, well = wells[name];
        if (!well) return make("td", { class: "sk-well", "aria-label": `${name}: no image` });
        const value = well[measure];
        if (value === null) return make("td", { class: "sk-well", title: `${name}: nothing to measure`, "aria-label": `${name}: nothing to measure` }, "–");
        const share = most > least ? (value - least) / (most - least) : 0.5;
        const cell = make("td", { class: "sk-well", title: `${name}: ${shown(value)} (${count(well.images)} images)`, "aria-label": `${name}: ${shown(value)}` }, facts.columns > 12 ? "" : short(value));
        cell.style.background = `rgb(${LOW.map((low, n) => Math.round(low + share * (HIGH[n] - low))).join()})`;
        cell.style.color = share > 0.45 ? "#fff" : "#10202f";
        return cell;
      });
      return make("tr", {}, make("th", { scope: "row" }, letter), ...cells);
    });
    table.replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
    say(scale, `${facts.measures.find((each) => each[0] === measure)[1]}: from ${shown(least)} (lightest) to ${shown(most)} (darkest), ${count(Object.keys(wells).length)} wells`);
  }

  const short = (value) => (value >= 1000 ? `${Number((value / 1000).toPrecision(2))}k` : String(Number(value.toPrecision(3))));
  return {
    update(given) {
      bar.hidden = box.hidden = scale.hidden = !given.wells;
      if (!given.wells) return;
      facts = given;
      const before = choice.value;
      choice.replaceChildren(...facts.measures.map(([name, words]) => make("option", { value: name }, words)));
      if (before) choice.value = before;
      paint();
    },
  };
}

export function galleryCard(root, port) {
  const list = make("ul", { class: "sk-gallery" });
  const more = make("button", { class: "sk-button", type: "button", hidden: true, onclick: () => ask() }, "More");
  const said = make("p", { class: "sk-caption", role: "status" });
  root.append(list, more, said);
  let held = 0, total = 0, run = null, asking = false;
  const tile = (each) => make("li", {}, each.picture ? make("img", { src: each.picture, alt: `${each.title} with the outlines of its objects`, loading: "lazy" }) : make("div", { class: "sk-blank" }, "✕ no result"), make("b", {}, each.title), make("div", { class: "sk-soft" }, each.note));
  async function ask() {
    if (asking) return;
    asking = true;
    say(said, "drawing …");
    try {
      const { content } = await port.ask("pictures", { first: held });
      list.append(...content.tiles.map(tile));
      held += content.tiles.length;
      say(said, `${count(held)} of ${count(total)} images, those first that differ most from the others in number or size of objects`);
    } catch (error) { say(said, error.message); }
    more.hidden = held >= total;
    asking = false;
  }
  return {
    update(facts) {
      if (!facts.tiles || run === facts.run) return;
      [run, total, held] = [facts.run, facts.total, 0];
      list.replaceChildren(...facts.tiles.map(tile));
      if (total) ask();
    },
  };
}

export function exportsCard(root, port) {
  const list = make("ul", { class: "sk-exports" });
  const said = make("p", { role: "status", class: "sk-said" });
  root.append(list, said);
  return {
    update(facts) {
      list.replaceChildren(...(facts.formats ?? []).map(({ name, summary }) => {
        const state = make("span", { class: "sk-soft" });
        const button = make("button", { class: "sk-button", type: "button", onclick: async () => {
          button.disabled = true;
          say(state, "writing …");
          try {
            const { content } = await port.ask("build", { format: name });
            state.replaceChildren(...(content.link ? [make("a", { href: content.link, class: "sk-link", download: "" }, `Download ${name}`), ` ${content.said}`] : [content.said]));
          } catch (error) { say(state, error.message); }
          button.disabled = false;
        } }, name);
        return make("li", {}, button, make("span", {}, ` ${summary} `), state);
      }));
    },
  };
}
