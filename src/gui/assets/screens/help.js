// Keys, search and where to find more.

import { fill, h, sec } from "../lib/dom.js";
import { page } from "../shell.js";

const KEYS = [
  ["Anywhere", [["/", "search"], ["Ctrl /", "this page"], ["Alt D", "cluster"], ["Alt A", "artifacts"], ["Alt N", "notebooks"], ["Esc", "close"]]],
  ["Lists and tables", [["j k", "next row, row before"], ["Enter", "open"], ["x", "mark"], ["n p", "next page, page before"], ["f", "filters"], [".", "show new rows"], ["l", "label"], ["c", "collect"]]],
  ["Host", [["p", "processes"], ["v", "files"], ["s", "shell"], ["c", "collect"], ["l", "label"], ["Alt C", "collections"]]],
  ["Collection", [["Alt O", "overview"], ["Alt R", "results"], ["Alt L", "logs"], ["Alt U", "uploads"], ["y y", "copy the link"], ["y v", "copy as VQL"], ["y c", "copy as command line"], ["y a", "copy as API call"]]],
  ["Notebook", [["c", "new notebook or cell"], ["Ctrl Enter", "run the cell"], ["Esc", "leave the input, close it"]]],
  ["Collect", [["Alt A P R V", "steps"], ["Ctrl → ←", "next step, step before"], ["Ctrl L", "launch"]]],
];
const SEARCH = [
  ["web", "text anywhere in a host name, label or id"], ["host:web*", "host name; begins with it, * stands for anything"],
  ["label:finance", "label"], ["label:none", "without a label"], ["ip:10.20.", "last address"], ["mac:00:1a", "network card"],
  ["C.3f9a", "client id"], ["host:web/[0-9]+/", "a regular expression after a beginning"], ["department:sales", "metadata"],
];

export async function show_help() {
  const { body } = page({ title: "Keyboard and help" });
  body.tabIndex = 0;
  const table = (rows) => h("dl", { class: "kv keys" }, rows.map(([k, t]) => [h("dt", {}, h("kbd", {}, k)), h("dd", {}, t)]));
  fill(body, h("div", { class: "cols" },
    KEYS.map(([title, rows]) => h("div", { class: "w4" }, sec(title, "", table(rows)))),
    h("div", { class: "w8" }, sec("Search", "case does not matter", h("dl", { class: "kv" }, SEARCH.map(([q, t]) => [h("dt", {}, h("code", {}, q)), h("dd", {}, t)]))))));
}
