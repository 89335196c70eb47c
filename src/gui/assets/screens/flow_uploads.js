// Uploaded files: list, preview as text, hex or picture, download.

import { get, url } from "../lib/api.js";
import { btn, dot, empty, fill, h, hostile, skeleton } from "../lib/dom.js";
import { size, time, time_title } from "../lib/format.js";
import { failed } from "../lib/say.js";
import { show_preview } from "../parts/preview.js";
import { is_over } from "./flows.js";

// Of a long path the end is what tells files apart.
function cut_path(path) {
  const at = path.slice(0, -1).search(/[^/\\]*$/);
  return h("code", { class: "cut" }, h("span", { class: "ell" }, hostile(path.slice(0, at))), h("span", { class: "ell" }, hostile(path.slice(at))));
}

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
        h("td", { class: "fluid" }, h("button", { class: "link", type: "button", title: r.vfs_path, onclick: () => { mark(tr); preview(r); } }, cut_path(r.vfs_path))),
        h("td", { class: "tn", title: time_title(date) }, time(date)), h("td", { class: "num" }, size(r.file_size)), h("td", { class: "num" }, size(r.uploaded_size)),
        h("td", { class: "fit" }, h("a", { class: "btn ghost sq", download: true, "aria-label": `Download ${r.vfs_path}`, title: "Download", href: url("/v1/DownloadVFSFile", address(r)) }, btn("", { icon: "download" }).firstChild)));
      return tr;
    }))));
  }
  const mark = (tr) => { for (const r of scroll.querySelectorAll("tr")) r.classList.toggle("cur", r === tr); };

  const preview = (row) => show_preview({
    side, signal: ctx.signal, name: row.vfs_path, components: row._Components, size: row.file_size, stored: row.uploaded_size,
    open: () => { side.hidden = false; split.classList.remove("one"); },
    close: () => { side.hidden = true; split.classList.add("one"); mark(null); },
  });

  load();
  return { update() { if (Number(ctx.data.total_uploaded_files ?? 0) !== shown) load(); } };
}
