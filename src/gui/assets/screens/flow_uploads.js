// Uploaded files: list, preview as text, hex or picture, download.

import { bytes, get, url } from "../lib/api.js";
import { btn, dot, empty, fill, h, hostile, note, skeleton } from "../lib/dom.js";
import { count, size, time, time_title } from "../lib/format.js";
import { failed } from "../lib/say.js";
import { is_over } from "./flows.js";

const PAGE = 4096;
const PICTURES = [[[0x89, 0x50, 0x4e, 0x47], "image/png"], [[0xff, 0xd8, 0xff], "image/jpeg"], [[0x47, 0x49, 0x46, 0x38], "image/gif"]];

export function show_uploads(ctx) {
  const side = h("aside", { class: "pane tint", "aria-label": "Preview", hidden: true });
  const split = h("div", { class: "split half one" }, h("div", { class: "scroll" }, skeleton()), side);
  const scroll = split.firstChild;
  fill(ctx.content, split);
  let shown = -1;

  const address = (row, more) => ({ fs_components: row._Components, name: row.vfs_path, ...more });

  async function load() {
    let t;
    try {
      t = await get("/v1/GetTable", { client_id: ctx.client, flow_id: ctx.flow, type: "uploads", rows: 2000 }, { signal: ctx.signal });
    } catch (e) {
      if (e.name !== "AbortError") fill(scroll, h("div", { class: "pane" }, failed(e)));
      return;
    }
    if (ctx.signal.aborted) return;
    shown = Number(ctx.data.total_uploaded_files ?? 0);
    const columns = t.columns ?? [];
    const rows = (t.rows ?? []).map((r) => Object.fromEntries(JSON.parse(r.json).map((v, i) => [columns[i], v]))).filter((r) => r.Type !== "idx");
    if (rows.length === 0) {
      fill(scroll, is_over(ctx.data)
        ? empty("No files were uploaded", h("p", {}, "Artifacts with an upload parameter bring files here, such as Linux.Search.FileFinder."))
        : empty("No file is complete yet", h("p", {}, "Files are shown as soon as their last byte is stored.")));
      return;
    }
    fill(scroll, h("table", { class: "grid" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "vh" }, "State")), h("th", { scope: "col" }, "File"), h("th", { scope: "col" }, "Complete"),
      h("th", { class: "num", scope: "col" }, "Size"), h("th", { class: "num", scope: "col" }, "Stored"), h("th", { scope: "col" }, h("span", { class: "vh" }, "Do")))),
    h("tbody", {}, rows.map((r) => {
      const date = r.Timestamp ? new Date(Number(r.Timestamp) * 1000) : null;
      const whole = Number(r.uploaded_size) >= Number(r.file_size);
      const tr = h("tr", {}, h("td", {}, dot(whole ? "ok" : "warn", whole ? "whole" : "smaller than on the host")),
        h("td", { class: "fluid" }, h("button", { class: "link", type: "button", title: r.vfs_path, onclick: () => { mark(tr); preview(r, 0); } }, h("code", {}, hostile(r.vfs_path)))),
        h("td", { class: "tn", title: time_title(date) }, time(date)), h("td", { class: "num" }, size(r.file_size)), h("td", { class: "num" }, size(r.uploaded_size)),
        h("td", { class: "fit" }, h("a", { class: "btn ghost sq", download: true, "aria-label": `Download ${r.vfs_path}`, title: "Download", href: url("/v1/DownloadVFSFile", address(r)) }, btn("", { icon: "download" }).firstChild)));
      return tr;
    }))));
  }
  const mark = (tr) => { for (const r of scroll.querySelectorAll("tr")) r.classList.toggle("cur", r === tr); };

  async function preview(row, offset) {
    side.hidden = false;
    split.classList.remove("one");
    fill(side, skeleton(6));
    let got;
    try {
      got = await bytes("/v1/DownloadVFSFile", address(row, { offset, length: PAGE, name: "" }), { signal: ctx.signal });
    } catch (e) {
      if (e.name !== "AbortError") fill(side, failed(e));
      return;
    }
    const { data } = got;
    const total = got.size || data.length;
    const turn = (to) => preview(row, to);
    const picture = offset === 0 && total < 20 << 20 && PICTURES.find(([magic]) => magic.every((b, i) => data[i] === b));
    const text = !data.some((b) => b === 0);
    const body = h("div", {});
    const show = { hex: () => fill(body, hex(data, offset)), text: () => fill(body, h("pre", { class: "value" }, hostile(new TextDecoder().decode(data), { lines: true }))),
      picture: async () => {
        const { data: all } = await bytes("/v1/DownloadVFSFile", address(row, { offset: 0, length: total, name: "" }), { signal: ctx.signal });
        const href = URL.createObjectURL(new Blob([all], { type: picture[1] }));
        ctx.signal.addEventListener("abort", () => URL.revokeObjectURL(href));
        fill(body, h("img", { class: "preview", alt: row.vfs_path, src: href }));
      } };
    const kinds = [picture && "picture", "text", "hex"].filter(Boolean);
    const first = picture ? "picture" : text ? "text" : "hex";
    fill(side, h("div", { class: "stack" },
      h("div", { class: "row" }, h("h2", { class: "grow ell", title: row.vfs_path }, hostile(row.vfs_path.split(/[/\\]/).at(-1))),
        h("a", { class: "btn", download: true, href: url("/v1/DownloadVFSFile", address(row)) }, "Download"),
        btn("", { icon: "x", kind: "ghost sq", title: "Close", onclick: () => { side.hidden = true; split.classList.add("one"); mark(null); } })),
      h("div", { class: "row wrap" }, h("div", { class: "seg", role: "radiogroup", "aria-label": "Show as" }, kinds.map((k) =>
        h("label", {}, h("input", { type: "radio", name: "as", checked: k === first, onchange: show[k] }), k))),
      h("span", { class: "grow" }), h("span", { class: "tn dim xs" }, `${count(offset)}–${count(offset + data.length)} of ${count(total)} B`),
      total > PAGE && h("span", { class: "join" }, btn("", { icon: "up", kind: "sq", title: "Before", disabled: offset === 0, onclick: () => turn(Math.max(0, offset - PAGE)) }),
        btn("", { icon: "down", kind: "sq", title: "After", disabled: offset + PAGE >= total, onclick: () => turn(offset + PAGE) }))),
      row.file_size > row.uploaded_size && note("warn", `Only ${size(row.uploaded_size)} of ${size(row.file_size)} are stored: the file is sparse or was cut.`), body));
    show[first]();
  }

  load();
  return { update() { if (Number(ctx.data.total_uploaded_files ?? 0) !== shown) load(); } };
}

function hex(data, offset) {
  const out = h("div", { class: "hex", tabindex: "0", "aria-label": "Hex" });
  for (let i = 0; i < data.length; i += 16) {
    const line = data.subarray(i, i + 16);
    const code = [...line].map((b) => b.toString(16).padStart(2, "0"));
    const seen = [...line].map((b) => (b > 31 && b < 127 ? String.fromCharCode(b) : ".")).join("");
    out.append(h("span", { class: "o" }, (offset + i).toString(16).padStart(8, "0")), `  ${code.join(" ").padEnd(48)} `, h("span", { class: "a" }, seen), "\n");
  }
  return out;
}
