// One row in full: every value, readable and to be copied, and what to do with it.

import { Long } from "../lib/api.js";
import { btn, h, hostile } from "../lib/dom.js";
import { as_time, count, time, time_title, zone_name } from "../lib/format.js";
import { copy } from "../lib/say.js";

const MAX = 20000;
const escaped = (text) => `^${text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`;

const text_of = (v) => (typeof v === "string" ? v : v instanceof Long ? v.source : JSON.stringify(v, null, 2) ?? "");

function value(v) {
  if (v === null || v === undefined) return h("span", { class: "dim" }, "null");
  if (typeof v === "string" && as_time(v)) {
    const date = as_time(v);
    return [h("span", { class: "tn", title: time_title(date) }, time(date, { full: true })), h("span", { class: "dim" }, ` ${zone_name()}`)];
  }
  const text = text_of(v);
  const cut = text.length > MAX ? `${text.slice(0, MAX)}\n… ${count(text.length - MAX)} more characters: copy or export them` : text;
  if (typeof v === "object" || text.includes("\n") || text.length > 60) return h("pre", { class: "value" }, hostile(cut, { lines: true }));
  return hostile(text);
}

export function row_pane(table, { n, row }) {
  const entries = row && typeof row === "object" ? Object.entries(row).filter(([c]) => !table.off.includes(c)) : [["row", row]];
  const only = (c, v, sign) => {
    const text = typeof v === "string" ? v : JSON.stringify(v) ?? "";
    table.set_filter(c, sign + escaped(text.slice(0, 500)));
  };
  return h("div", { class: "stack wide" },
    h("div", { class: "row" }, h("h2", {}, `Row ${count(n + 1)}`), h("span", { class: "grow" }),
      btn("", { icon: "up", kind: "ghost sq", title: "Row before (k)", onclick: () => table.move(-1) }),
      btn("", { icon: "down", kind: "ghost sq", title: "Next row (j)", onclick: () => table.move(1) }),
      btn("", { icon: "copy", kind: "ghost sq", title: "Copy as JSON", onclick: () => copy(JSON.stringify(row, null, 2), `Row ${n + 1}`) }),
      btn("", { icon: "x", kind: "ghost sq", title: "Close (Esc)", onclick: () => table.close_side() })),
    h("dl", { class: "values" }, entries.map(([c, v]) => h("div", {},
      h("dt", { class: "row" }, h("span", { class: "grow ell" }, hostile(c)),
        h("span", { class: "do" },
          btn("Only", { kind: "ghost", title: `Only rows with this ${c}`, onclick: () => only(c, v, "") }),
          btn("Not", { kind: "ghost", title: `No rows with this ${c}`, onclick: () => only(c, v, "!") }),
          btn("", { icon: "copy", kind: "ghost sq", title: `Copy ${c}`, onclick: () => copy(text_of(v), c) }))),
      h("dd", {}, value(v))))));
}
