// Results as zip files: making one, and those that were made.

import { get, me, post, url } from "../lib/api.js";
import { btn, dot, fill, h, hostile, icon, sec } from "../lib/dom.js";
import { count, size } from "../lib/format.js";
import { form, toast } from "../lib/say.js";

// Whether this server makes them, and this user may ask.
let served = null;
async function can_export() {
  if (!me.may.prepare_results) return false;
  served ??= get("/fleet/calls", { name: "CreateDownload" });
  return (await served.catch(() => ({}))).CreateDownload === true;
}

// `of`: {client_id, flow_id} or {hunt_id}; `changed` is called when one was asked for.
function ask_export(of, changed) {
  const check = (name, text, checked, help) => h("label", { class: "check" }, h("input", { type: "checkbox", name, checked, value: "1" }), h("span", {}, text, help && h("small", { class: "dim" }, ` ${help}`)));
  form(of.hunt_id ? "Zip of this hunt" : "Zip of this collection", [
    h("div", { class: "stack tight" }, check("json_format", "JSON lines", true), check("csv_format", "CSV", false),
      check("expand_sparse", "Fill holes of sparse files", false, "they can be very large"),
      of.hunt_id && check("only_combined_hunt", "Tables of all hosts alone", false, "no uploads")),
    h("label", { class: "field plain" }, h("span", {}, "Password"), h("input", { class: "in", name: "password", type: "password", autocomplete: "new-password", placeholder: "none" })),
  ], "Make it", async (f) => {
    if (!f.json_format && !f.csv_format) throw new Error("Choose at least one format.");
    await post("/v1/CreateDownload", { ...of, json_format: !!f.json_format, csv_format: !!f.csv_format, expand_sparse: !!f.expand_sparse, only_combined_hunt: !!f.only_combined_hunt, password: f.password || undefined });
    toast("The zip is being made");
    changed();
  });
}

// Those that were made, as `available_downloads` has them.
function exports_part(downloads, of, changed) {
  const files = (downloads?.files ?? []).filter((f) => !f.type || /zip|html/i.test(f.type) || f.name?.endsWith(".zip"));
  const box = h("div", { class: "stack" });
  const link = (f) => url("/v1/DownloadVFSFile", { fs_components: f.stats?.components ?? f.path?.split("/").filter(Boolean), vfs_path: f.path, name: f.name });
  fill(box, sec("Zip files", files.length ? count(files.length) : "", files.length === 0 ? h("p", { class: "mid" }, "None was made. A zip holds rows, logs, uploads and their hashes.")
    : h("ul", { class: "stack" }, files.map((f) => h("li", { class: "stack tight" },
      h("div", { class: "row" }, f.complete ? dot("ok", "complete") : dot("run", "being made"),
        f.complete ? h("a", { href: link(f), download: true, class: "ell grow" }, icon("download"), " ", hostile(f.name)) : h("span", { class: "ell grow" }, hostile(f.name)),
        h("span", { class: "tn dim" }, size(f.size ?? f.stats?.total_compressed_bytes ?? 0))),
      !f.complete && h("span", { class: "dim xs" }, `${count(f.stats?.total_container_files ?? 0)} files, ${size(f.stats?.total_uncompressed_bytes ?? 0)} so far`),
      f.stats?.hash && h("code", { class: "xs wrap" }, `SHA-256 ${f.stats.hash}`),
      f.stats?.error && h("span", { class: "t-err xs" }, hostile(f.stats.error))))),
  me.may.prepare_results && btn("Make a zip", { icon: "download", onclick: () => ask_export(of, changed) })));
  return box;
}

// Draws into `box` and looks again while one is being made. `look` fetches what there is.
export async function follow_exports(box, of, signal, look) {
  if (!(await can_export()) || signal.aborted) return;
  let timer = 0;
  signal.addEventListener("abort", () => clearTimeout(timer));
  const turn = async () => {
    clearTimeout(timer);
    let found;
    try { found = await look(); } catch { /* the next time */ }
    if (signal.aborted) return;
    if (found || !box.firstChild) fill(box, h("div", { class: "rule" }, exports_part(found, of, turn)));
    if ((found?.files ?? []).some((f) => !f.complete)) timer = setTimeout(turn, 1000);
  };
  await turn();
}
