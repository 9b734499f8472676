// The look that a person chose, what the address says of a page, and what is done when the server is gone.
(() => {
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = "auto";
  try { chosen = localStorage.getItem("segkit-theme") ?? "auto"; } catch { /* a browser that keeps nothing */ }
  const dress = () => { root.dataset.dark = String(chosen === "dark" || (chosen === "auto" && system.matches)); root.dispatchEvent(new Event("segkit:dressed")); };
  system.addEventListener("change", dress);
  dress();
  document.addEventListener("DOMContentLoaded", () => {
    const theme = document.getElementById("theme");
    theme.value = chosen;
    theme.addEventListener("change", () => {
      chosen = theme.value;
      try { localStorage.setItem("segkit-theme", chosen); } catch { /* as above */ }
      dress();
    });
    if (location.search) for (const link of document.querySelectorAll("nav a")) link.href += location.search;
  });

  // The chosen run stays in the address, so that it is there again after a reload, and for whoever is sent the link.
  for (const what of ["run", "job"]) document.addEventListener(`segkit:${what}`, ({ detail }) => {
    const address = new URL(location.href);
    address.searchParams.set("run", detail.run);
    history.replaceState(null, "", address);
    for (const link of document.querySelectorAll("nav a")) link.search = address.search;
  });

  // Bokeh draws its axes on a canvas, where no style sheet reaches.
  const AXES = { axis_label_text_color: "--jp-ui-font-color2", major_label_text_color: "--jp-ui-font-color2", axis_line_color: "--jp-border-color1", major_tick_line_color: "--jp-border-color1", minor_tick_line_color: "--jp-border-color1" };
  function paint() {
    const style = getComputedStyle(root), colour = (name) => style.getPropertyValue(name).trim();
    for (const drawn of window.Bokeh?.documents ?? []) for (const model of drawn.all_models ?? drawn._all_models?.values() ?? []) {
      if (/Axis$/.test(model.type)) model.setv(Object.fromEntries(Object.entries(AXES).map(([name, value]) => [name, colour(value)])));
      else if (model.type === "Grid") model.setv({ grid_line_color: colour("--jp-border-color1"), grid_line_alpha: 0.5 });
    }
  }
  root.addEventListener("segkit:dressed", paint);
  const waiting = setInterval(() => { if (window.Bokeh?.documents?.length) { clearInterval(waiting); setTimeout(paint, 300); } }, 200);

  // Bokeh's socket closes when the server goes, when a machine slept, or when a proxy lost patience.
  const Socket = window.WebSocket;
  let away = false, tries = 0, leaving = false;
  addEventListener("pagehide", () => { leaving = true; });
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
  window.WebSocket = class extends Socket {
    constructor(...given) {
      super(...given);
      this.addEventListener("close", lost);
      this.addEventListener("open", () => say("live"));
    }
  };
  function say(text) {
    const node = document.getElementById("live");
    if (node) node.textContent = text;
  }
  function lost() {
    if (away || leaving) return;
    away = true;
    const since = new Date();
    document.body.classList.add("away");
    const banner = document.getElementById("away");
    banner.textContent = `The server is not reachable since ${since.toLocaleTimeString("en-GB")}. What you see is from then. This page comes back by itself.`;
    banner.hidden = false;
    say("not live");
    look();
  }
  async function look() {
    const script = document.querySelector('script[src*="bokeh"]');
    try {
      await fetch(script ? script.src : location.href, { method: "HEAD", cache: "no-store" });
      location.reload();
    } catch {
      setTimeout(look, Math.min(10_000, 500 * 1.3 ** tries++));
    }
  }
})();
