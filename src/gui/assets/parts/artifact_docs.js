// What an artifact does: its description, parameters and queries.

import { h, hostile, sec } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { vql } from "./vql.js";

export function artifact_docs(a, action) {
  const paragraphs = (a.description ?? "").trim().split(/\n\s*\n/);
  const shown = (a.parameters ?? []).filter((p) => p.type !== "hidden");
  return [
    h("div", { class: "row wrap" }, h("h2", { class: "mono" }, hostile(a.name)), h("span", { class: "tag" }, a.type || "client"),
      a.built_in ? h("span", { class: "tag" }, "built in") : h("span", { class: "tag acc" }, "custom"),
      (a.required_permissions ?? []).map((p) => h("span", { class: "tag warn" }, `needs ${p}`)), h("span", { class: "grow" }), action),
    h("div", { class: "prose" }, paragraphs.map((p) => h("p", {}, hostile(p.replace(/\s*\n\s*/g, " "))))),
    shown.length > 0 && sec("Parameters", plural(shown.length, "parameter"), h("table", { class: "grid plain" },
      h("thead", {}, h("tr", {}, ["Name", "Type", "Default", "What it does"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, shown.map((p) => h("tr", {}, h("td", {}, h("code", {}, hostile(p.name))), h("td", {}, p.type || "string"),
        h("td", {}, h("code", {}, hostile((p.default ?? "").slice(0, 60)))), h("td", { class: "wrap" }, hostile(p.description ?? ""))))))),
    (a.sources ?? []).map((s) => sec(s.name || "Query", s.description ?? "", (s.precondition || a.precondition) && h("p", { class: "dim xs" }, "only where ", h("code", {}, hostile(s.precondition || a.precondition))),
      h("pre", { class: "code", tabindex: "0" }, vql((s.query || (s.queries ?? []).join("\n")).trimEnd())))),
  ];
}
