// Files beside a notebook: what is attached to it, what its cells left, its exports.

import { get, me, post, url } from "../lib/api.js";
import { btn, fill, h, hostile, skeleton } from "../lib/dom.js";
import { size, time, time_title } from "../lib/format.js";
import { ask, failed, toast } from "../lib/say.js";

// Files are sent as text inside of a message; the server has a limit of its own.
const MOST = 16 << 20;
const POLL = 1500;

const base64 = (file) => new Promise((done, bad) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(",")[1] ?? "");
  reader.onerror = () => bad(new Error(`${file.name} cannot be read.`));
  reader.readAsDataURL(file);
});

// Attaches a file; `fresh` gives it a name of its own. The answer says where it is.
export async function attach(id, file, fresh) {
  if (file.size > MOST) throw new Error(`${file.name} has more than ${size(MOST)}.`);
  return post("/v1/UploadNotebookAttachment", { notebook_id: id, filename: file.name || "file", data: await base64(file), disable_attachment_id: !fresh });
}

const address = (f) => url("/v1/DownloadVFSFile", { fs_components: f.stats?.components ?? [] });

// What an export is, and of when.
const exported = (f) => {
  const t = /-(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z/.exec(f.name);
  const kind = { html: "Page", zip: "Archive" }[f.type] ?? f.type;
  return t ? `${kind} of ${time(new Date(Date.UTC(t[1], t[2] - 1, t[3], t[4], t[5], t[6])))}` : hostile(f.name);
};

export function show_files(id) {
  const may = { add: me.may.notebook_editor, take: me.may.prepare_results };
  const body = h("div", { class: "stack wide" }, skeleton());
  const said = h("div", { "aria-live": "polite" });
  let timer;
  const close = () => { clearTimeout(timer); dialog.close(); dialog.remove(); };
  const act = async (what) => {
    fill(said);
    try { await what(); } catch (e) { fill(said, failed(e)); }
    await draw();
  };
  const remove = async (f) => {
    if (!(await ask(`Remove ${f.name}?`, h("p", {}, "Cells that show it show it no more."), "Remove"))) return;
    await act(() => post("/v1/RemoveNotebookAttachment", { notebook_id: id, components: f.stats.components }));
  };
  const files = (all) => all.length === 0 ? h("p", { class: "mid" }, "Nothing is attached.") : h("div", { class: "over" }, h("table", { class: "grid plain" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "File"), h("th", { class: "num", scope: "col" }, "Size"), h("th", { scope: "col" }, "Since"), h("th", { scope: "col" }, h("span", { class: "vh" }, "Actions")))),
    h("tbody", {}, all.map((f) => {
      const at = new Date(f.date);
      return h("tr", {}, h("td", { class: "fluid" }, h("a", { href: address(f), download: true }, hostile(f.name))), h("td", { class: "num" }, size(f.size ?? 0)), h("td", { class: "tn", title: time_title(at) }, time(at)),
        h("td", {}, may.take && btn("", { icon: "trash", kind: "ghost sq", title: `Remove ${f.name}`, onclick: () => remove(f) })));
    }))));
  const exports = (all) => all.length === 0 ? h("p", { class: "mid" }, "None was made.") : h("ul", { class: "plain-list" }, all.map((f) => h("li", { class: "row" },
    f.complete ? h("a", { class: "grow ell", href: address(f), download: true, title: f.name }, exported(f)) : h("span", { class: "grow ell" }, exported(f)), h("span", { class: "tn" }, f.complete ? size(f.size ?? 0) : f.stats?.error ? h("span", { class: "t-err" }, hostile(f.stats.error)) : "is being made"))));
  const make = (type) => act(() => post("/v1/CreateNotebookDownloadFile", { notebook_id: id, type }));
  const pick = h("input", { type: "file", class: "in", "aria-label": "A file to attach", onchange: async (e) => {
    const [file] = e.target.files;
    if (!file) return;
    await act(async () => { await attach(id, file, false); toast(`${file.name} is attached`); });
    pick.value = "";
  } });
  const draw = async () => {
    clearTimeout(timer);
    try {
      const { items = [] } = await get("/v1/GetNotebooks", { notebook_id: id, include_uploads: true });
      const n = items[0] ?? {};
      const made = n.available_downloads?.files ?? [];
      fill(body, h("section", { class: "stack" }, h("h3", {}, "Files"), files(n.available_uploads?.files ?? []), may.add && h("label", { class: "field" }, h("span", {}, "Attach a file"), pick)),
        h("section", { class: "stack" }, h("h3", {}, "Exports"), exports(made), may.take && h("div", { class: "row" }, btn("Page", { icon: "plus", title: "One HTML file with texts, the first rows and pictures", onclick: () => make("html") }), btn("Archive", { icon: "plus", title: "A zip with all rows and files", onclick: () => make("zip") }))));
      if (dialog.open && made.some((f) => !f.complete && !f.stats?.error)) timer = setTimeout(draw, POLL);
    } catch (e) { fill(body, failed(e)); }
  };
  const dialog = h("dialog", { class: "dlg wide", "aria-label": "Files of the notebook", oncancel: close },
    h("header", {}, h("h2", {}, "Files and exports")), h("div", { class: "stack" }, said, body),
    h("footer", {}, btn("Close", { onclick: close })));
  document.body.append(dialog);
  dialog.showModal();
  return draw();
}
