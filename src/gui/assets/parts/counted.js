// Values of a column with how often each occurs; a click filters by it.

import { bar, btn, h, hostile } from "../lib/dom.js";
import { count } from "../lib/format.js";

const escaped = (text) => `^${text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}$`;

export function counted(table, column, counts) {
  const most = counts.values[0]?.rows ?? 1;
  return h("div", { class: "stack wide" },
    h("div", { class: "row" }, h("h2", { class: "grow ell" }, hostile(column)),
      btn("", { icon: "x", kind: "ghost sq", title: "Close (Esc)", onclick: () => table.close_side() })),
    h("p", { class: "dim xs" }, `${count(counts.distinct)} different in ${count(counts.rows)} rows${
      counts.values.length < counts.distinct ? `, the ${counts.values.length} most frequent shown` : ""}${
      counts.uncounted ? `; ${count(counts.uncounted)} rows came after the limit and are not counted` : ""}`),
    h("div", { class: "facet" }, counts.values.map(({ value, rows }) =>
      h("button", { type: "button", class: "count", title: value.slice(0, 200), onclick: () => table.set_filter(column, escaped(value.slice(0, 500))) },
        h("b", { class: "ell" }, value === "" ? h("span", { class: "dim" }, "nothing") : hostile(value.slice(0, 200))), h("span", {}, count(rows)),
        bar([["f-idle", (rows / most) * 100]], `${count(rows)} rows`)))));
}
