// A small table that is kept as CSV text.

import { btn, fill, h } from "../lib/dom.js";

export function parse_csv(text) {
  const rows = [[]];
  let cell = "", quoted = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (quoted) {
      if (c === '"' && text[i + 1] === '"') { cell += '"'; i++; } else if (c === '"') quoted = false; else cell += c;
    } else if (c === '"') quoted = true;
    else if (c === "," || c === "\n") {
      rows.at(-1).push(cell);
      cell = "";
      if (c === "\n") rows.push([]);
    } else if (c !== "\r") cell += c;
  }
  rows.at(-1).push(cell);
  return rows.filter((r) => r.length > 1 || r[0] !== "");
}

const quote = (c) => (/[",\n\r]/.test(c) ? `"${c.replaceAll('"', '""')}"` : c);
export const write_csv = (rows) => rows.map((r) => r.map(quote).join(",")).join("\n") + "\n";

export function csv_field(id, get, set) {
  const box = h("div", { class: "box grow" });
  let as_text = false;
  const draw = () => {
    const [head = ["Value"], ...rows] = parse_csv(get());
    const save = () => set(write_csv([head, ...rows]));
    if (as_text) {
      fill(box, h("textarea", { class: "in mono", id, rows: 6, spellcheck: "false", value: get(), oninput: (e) => set(e.target.value) }),
        h("div", { class: "row foot-pad" }, btn("Edit as table", { kind: "ghost", onclick: () => { as_text = false; draw(); } })));
      return;
    }
    fill(box, h("table", { class: "grid" }, h("thead", {}, h("tr", {}, head.map((c) => h("th", { scope: "col" }, c)), h("th", { class: "fit", scope: "col" }, h("span", { class: "vh" }, "Remove")))),
      h("tbody", {}, rows.map((r, n) => h("tr", {}, head.map((c, i) => h("td", {}, h("input", {
        class: "in", id: n === 0 && i === 0 ? id : undefined, "aria-label": `${c}, row ${n + 1}`, value: r[i] ?? "", spellcheck: "false",
        oninput: (e) => { r[i] = e.target.value; save(); },
        onpaste: (e) => {
          const text = e.clipboardData.getData("text");
          if (!/[\n\t]/.test(text.trim())) return;
          e.preventDefault();
          const lines = text.trim().split(/\r?\n/).map((l) => l.split("\t"));
          rows.splice(n, 1, ...lines);
          save();
          draw();
        },
      }))), h("td", { class: "fit" }, btn("", { icon: "x", kind: "ghost sq", title: "Remove row", onclick: () => { rows.splice(n, 1); save(); draw(); } })))))),
      h("div", { class: "row foot-pad" }, btn("Add row", { icon: "plus", kind: "ghost", onclick: () => { rows.push(head.map(() => "")); save(); draw(); box.querySelector("tbody tr:last-child input")?.focus(); } }),
        btn("Edit as text", { kind: "ghost", onclick: () => { as_text = true; draw(); } }), h("span", { class: "dim xs" }, "Cells of a sheet can be pasted.")));
  };
  draw();
  return box;
}
