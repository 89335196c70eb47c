// Elements from data. Text becomes text nodes and nothing else: there is no way from
// a string to markup in this program.

const SVG = "http://www.w3.org/2000/svg";
const here = new URL("..", import.meta.url).pathname;

// h("td", { class: "num", title: "…", onclick: f }, "text", other)
export function h(tag, props, ...children) {
  const el = document.createElement(tag);
  set(el, props);
  add(el, children);
  return el;
}

export function s(tag, props, ...children) {
  const el = document.createElementNS(SVG, tag);
  set(el, props);
  add(el, children);
  return el;
}

function set(el, props) {
  for (const [key, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) el.addEventListener(key.slice(2), value);
    else if (key === "value" || key === "checked" || key === "selected" || key === "disabled") el[key] = value;
    else el.setAttribute(key, value === true ? "" : value);
  }
}

function add(el, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false) continue;
    el.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

export function fill(el, ...children) {
  el.replaceChildren();
  add(el, children);
  return el;
}

export const icon = (name) =>
  s("svg", { class: "i", "aria-hidden": "true" }, s("use", { href: `${here}icons.svg#${name}` }));

// A button or, with `href`, a link that looks like one.
export function btn(text, { icon: name, kind = "", key, href, onclick, title, disabled, id, type = "button" } = {}) {
  const inside = [name && icon(name), text && h("span", {}, text), key && h("kbd", {}, key)];
  const common = { class: `btn ${kind}`, title, id, "aria-label": text ? undefined : title };
  return href ? h("a", { ...common, href }, inside) : h("button", { ...common, type, onclick, disabled }, inside);
}

// Puts a text in the place of all that an input has; undo brings that back.
export function replace_text(area, text) {
  area.focus();
  area.select();
  if (!document.execCommand("insertText", false, text)) area.value = text;
}

export const dot = (kind, text) => [h("span", { class: `dot ${kind}` }), text && h("span", { class: "vh" }, text)];

// A share of a whole: widths are attributes, so that no inline style is needed.
export function bar(parts, label, kind = "") {
  let at = 0;
  const rects = parts.map(([cls, share]) => {
    const rect = s("rect", { class: cls, x: `${at}%`, width: `${share}%`, height: "100%" });
    at += share;
    return rect;
  });
  return s("svg", { class: `bar ${kind}`, role: "img", "aria-label": label }, rects);
}

// Characters that act on a screen instead of being seen: C0 and C1 controls, marks of
// direction, invisible ones.
const ODD = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/;
const SHOWN = { "\n": "↵", "\t": "⇥", "\r": "␍" };

// Text of strangers as nodes: odd characters are shown as their codes.
export function hostile(text, { lines = false } = {}) {
  text = String(text);
  if (!ODD.test(text)) return text;
  const out = [];
  let plain = "";
  for (const c of text) {
    if (!ODD.test(c) || (lines && (c === "\n" || c === "\t"))) {
      plain += c;
      continue;
    }
    if (plain) out.push(plain);
    plain = "";
    const code = c.codePointAt(0).toString(16).padStart(c < "\u0100" ? 2 : 4, "0");
    out.push(h("span", { class: "odd" }, SHOWN[c] ?? (c < "\u0100" ? `\\x${code}` : `\\u${code}`)));
  }
  if (plain) out.push(plain);
  return out;
}

// Terminal colours are left out of log lines; what else is odd is shown.
export const log_text = (text) => hostile(String(text).replace(/\u001b\[[0-9;]*m/g, ""), { lines: true });

export function note(kind, ...children) {
  const name = { err: "alert", warn: "alert", ok: "check" }[kind] ?? "info";
  return h("div", { class: `note ${kind}`, role: kind === "err" ? "alert" : "status" }, icon(name), h("div", {}, children));
}

export const empty = (title, ...children) => h("div", { class: "empty" }, h("h2", {}, title), children);

export const skeleton = (n = 8) =>
  h("div", { class: "pane stack", "aria-busy": "true", "aria-label": "Loading" },
    Array.from({ length: n }, (_, i) => h("span", { class: `skel ${["k-l", "k-m", "k-s"][i % 3]}` })));

export function sec(title, sub, ...children) {
  return h("section", { class: "sec" }, h("header", {}, h("h2", {}, title), sub && h("span", { class: "sub" }, sub)), children);
}

export function menu(summary, ...items) {
  return h("details", { class: "menu" }, summary, h("div", { class: "pop" }, items));
}
