"use strict";
(function () {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("charts");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const views = new Map();

  // Charts are written in the colours of the light page; on a dark one every colour has its counterpart.
  const coloured = (value) => {
    if (!dark.matches) return value;
    if (typeof value === "string") return data.dark[value] || value;
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v)]));
    return value;
  };

  async function drawAll() {
    for (const box of document.querySelectorAll(".chart[data-chart]")) {
      const name = box.dataset.chart;
      const old = views.get(name);
      if (old) old.finalize();
      // `ast`: expressions are interpreted, so the page needs no eval and its content policy can forbid it.
      const options = { actions: false, renderer: "svg", ast: true, config: coloured(data.config), tooltip: { theme: "custom" } };
      views.set(name, await vegaEmbed(box, coloured(data.specs[name]), options));
    }
    document.documentElement.dataset.drawn = "yes";
  }
  const drawn = drawAll();
  dark.addEventListener("change", drawAll);

  // While runs are still to come, the page loads itself again: in the same place, and never under somebody's hands.
  const again = Number(document.body.dataset.again || 0);
  const store = { get: (k) => { try { return sessionStorage.getItem(k); } catch { return null; } },
                  set: (k, v) => { try { sessionStorage.setItem(k, v); } catch { /* private window: start at the top */ } } };
  const key = "headtohead:" + location.pathname;
  if (again) {
    const before = JSON.parse(store.get(key) || "null");
    if (before) {
      for (const id of before.open) { const box = document.getElementById(id); if (box) box.open = true; }
      drawn.then(() => scrollTo({ top: before.top, behavior: "instant" }));
    }
    let due = Date.now() + 1000 * again;
    const later = () => { due = Math.max(due, Date.now() + 15000); };
    for (const name of ["keydown", "pointerdown", "wheel", "touchmove"]) addEventListener(name, later, { passive: true });
    setInterval(() => {
      if (Date.now() < due || document.hidden || String(getSelection())) return;
      const open = [...document.querySelectorAll("details[open][id]")].map((box) => box.id);
      store.set(key, JSON.stringify({ top: scrollY, open }));
      location.reload();
    }, 2000);
  }
})();
