// Keys: single letters where nobody types, stock shortcuts with Alt and Ctrl.

const global = new Map();
let local = new Map();

const name = (e) =>
  (e.ctrlKey || e.metaKey ? "C-" : "") + (e.altKey ? "A-" : "") + (e.shiftKey && e.key.length > 1 ? "S-" : "") +
  (e.ctrlKey && e.shiftKey && e.key.length === 1 ? "S-" : "") + (e.key.length === 1 ? e.key.toLowerCase() : e.key);

const typing = (el) => el?.closest?.("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable]");

export const everywhere = (key, f) => global.set(key, f);

// Keys of one screen; the next one brings its own.
export function here(keys, signal) {
  local = new Map(Object.entries(keys));
  const mine = local;
  signal?.addEventListener("abort", () => { if (local === mine) local = new Map(); });
}

export function start() {
  addEventListener("keydown", (e) => {
    const key = name(e);
    if (key === "Escape") {
      const open = document.querySelector("details.menu[open]");
      if (open) { open.open = false; open.querySelector("summary").focus(); return; }
      if (typing(e.target)) { e.target.blur(); return; }
    }
    if (document.querySelector("dialog[open]")) return;
    const plain = !e.ctrlKey && !e.metaKey && !e.altKey;
    if (plain && typing(e.target)) return;
    if (plain && key === "Enter" && e.target.closest?.("a, button, summary")) return;
    const f = local.get(key) ?? global.get(key);
    if (f) { e.preventDefault(); f(e); }
  });
  document.addEventListener("click", (e) => {
    for (const open of document.querySelectorAll("details.menu[open]")) {
      // A click elsewhere ends a menu, and so does a choice.
      if (!open.contains(e.target) || e.target.closest(".pop button, .pop a")) open.open = false;
    }
  });
}
