// Addresses and screens. Every view is an address; back and forward work.

import { base } from "./api.js";

const screens = [];
let current = null;
let leave = null;

export function screen(pattern, load) {
  const names = [];
  const text = pattern.replace(/\{(\w+)\}/g, (_, n) => (names.push(n), "([^/]+)"));
  screens.push({ re: new RegExp(`^${text}$`), names, load });
}

export function go(href, { replace = false } = {}) {
  history[replace ? "replaceState" : "pushState"](null, "", href);
  show();
}

// Parameters with some of them changed.
export function changed(q, changes) {
  for (const [k, v] of Object.entries(changes)) {
    q.delete(k);
    for (const one of Array.isArray(v) ? v : [v]) {
      if (one !== undefined && one !== null && one !== "" && one !== 0) q.append(k, one);
    }
  }
  return q;
}

// Changes parameters of this address without leaving the screen.
export function adjust(changes, { replace = true } = {}) {
  const text = changed(new URLSearchParams(location.search), changes).toString();
  const href = location.pathname + (text ? `?${text}` : "");
  if (href === location.pathname + location.search) return;
  history[replace ? "replaceState" : "pushState"](null, "", href);
}

export const params = () => new URLSearchParams(location.search);

export async function show() {
  const path = location.pathname.slice(`${base}/app/`.length).replace(/\/$/, "");
  for (const { re, names, load } of screens) {
    const found = re.exec(path);
    if (!found) continue;
    const args = Object.fromEntries(names.map((n, i) => [n, decodeURIComponent(found[i + 1])]));
    const mine = {};
    current = mine;
    leave?.abort();
    leave = new AbortController();
    const context = { ...args, query: params(), signal: leave.signal, is_current: () => current === mine };
    document.dispatchEvent(new CustomEvent("screen", { detail: path.split("/")[0] }));
    await load(context);
    return;
  }
  go(`${base}/app/clients`, { replace: true });
}

export function start() {
  addEventListener("popstate", show);
  document.addEventListener("click", (e) => {
    const a = e.target.closest("a[href]");
    if (!a || e.defaultPrevented || e.button || e.metaKey || e.ctrlKey || e.shiftKey || e.altKey) return;
    if (a.target || a.hasAttribute("download")) return;
    const to = new URL(a.href);
    if (to.origin !== location.origin || !to.pathname.startsWith(`${base}/app/`) || to.pathname.startsWith(`${base}/app/log`)) return;
    e.preventDefault();
    for (const open of document.querySelectorAll("details.menu[open]")) open.open = false;
    go(to.pathname + to.search);
  });
  return show();
}
