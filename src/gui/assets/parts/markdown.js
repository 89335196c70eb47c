// Texts that the server has taken apart, as elements. Words are text nodes; addresses
// were looked at by the server.

import { h, hostile } from "../lib/dom.js";
import { vql } from "./vql.js";

function inline(parts) {
  return parts.map((p) => {
    const [kind, v] = Object.entries(p)[0];
    switch (kind) {
      case "text": return hostile(v, { lines: true });
      case "code": return h("code", {}, hostile(v));
      case "strong": return h("strong", {}, inline(v));
      case "em": return h("em", {}, inline(v));
      case "link": return h("a", { href: v[0], target: v[0].startsWith("#") ? undefined : "_blank", rel: "noopener noreferrer", title: v[0] }, inline(v[1]));
      case "image": return h("img", { class: "shown", src: v[0], alt: v[1], loading: "lazy" });
      default: return null;
    }
  });
}

function list(numbered, items) {
  const tag = numbered ? "ol" : "ul";
  const root = h(tag);
  const open = [[0, root]];
  for (const [depth, words] of items) {
    while (open.length > 1 && open.at(-1)[0] > depth) open.pop();
    if (depth > open.at(-1)[0] && open.at(-1)[1].lastChild) {
      const inner = h(tag);
      open.at(-1)[1].lastChild.append(inner);
      open.push([depth, inner]);
    }
    open.at(-1)[1].append(h("li", {}, inline(words)));
  }
  return root;
}

// `level`: what the first heading becomes, whatever its writer chose; none is left out
// after it, so that those who go from heading to heading lose none.
export function blocks(all, level = 2) {
  let last = level - 1;
  return all.map((b) => {
    if (b === "rule") return h("hr");
    const [kind, v] = Object.entries(b)[0];
    switch (kind) {
      case "heading":
        last = Math.min(6, last + 1, Math.max(level, v[0] + level - 1));
        return h(`h${last}`, {}, inline(v[1]));
      case "para": return h("p", {}, inline(v));
      case "code": return h("pre", { class: "code", tabindex: "0" }, v[0] === "vql" ? vql(v[1]) : hostile(v[1], { lines: true }));
      case "list": return list(v[0], v[1]);
      case "quote": return h("blockquote", {}, inline(v));
      case "table": return h("div", { class: "over" }, h("table", { class: "grid plain" },
        h("thead", {}, h("tr", {}, v[0].map((c) => h("th", { scope: "col" }, inline(c))))),
        h("tbody", {}, v[1].map((r) => h("tr", {}, r.map((c) => h("td", {}, inline(c))))))));
      default: return null;
    }
  });
}
