// Notebooks: those somebody may open, and one of them.

import { app, get, me, post } from "../lib/api.js";
import { btn, empty, fill, h, hostile, skeleton } from "../lib/dom.js";
import { count, time, time_title } from "../lib/format.js";
import { here } from "../lib/keys.js";
import * as live from "../lib/live.js";
import { go } from "../lib/route.js";
import { ask, failed, form, toast } from "../lib/say.js";
import { notebook } from "../parts/notebook.js";
import { page } from "../shell.js";

const names = (text) => text.split(/[,\s]+/).filter(Boolean);

function fields(n = {}) {
  const all = h("input", { type: "checkbox", name: "public", value: "yes", checked: !!n.public });
  return [
    h("label", { class: "field" }, h("span", {}, "Name"), h("input", { class: "in", name: "name", required: true, autofocus: true, maxlength: 200, value: n.name ?? "" })),
    h("label", { class: "field" }, h("span", {}, "What it is about"), h("input", { class: "in", name: "description", value: n.description ?? "" })),
    h("label", { class: "field" }, h("span", {}, "Shared with"), h("input", { class: "in", name: "with", placeholder: "names of users", value: (n.collaborators ?? []).join(", ") })),
    h("label", { class: "check" }, all, "Everybody here may open and change it"),
  ];
}
// What a new notebook begins with.
const template = (all) => h("label", { class: "field" }, h("span", {}, "Begins with"), h("select", { class: "in", name: "template" },
  h("option", { value: "" }, "its name as a title"), all.map((a) => h("option", { value: a.name }, a.name))));
const record = (f) => ({ name: f.name.trim(), description: f.description.trim(), collaborators: names(f.with), public: f.public === "yes" });

export async function show_notebooks({ signal }) {
  live.watch();
  const may = me.may.notebook_editor;
  let templates = [];
  const add = () => form("New notebook", [...fields(), templates.length > 0 && template(templates)], "Create", async (f) => {
    const made = await post("/v1/NewNotebook", { ...record(f), artifacts: f.template ? [f.template] : [] });
    go(app(`notebook/${made.notebook_id}`));
  });
  const { body } = page({ title: "Notebooks", acts: may && btn("New notebook", { icon: "plus", kind: "primary", key: "c", onclick: add }) });
  try {
    const [{ items }, all] = await Promise.all([get("/fleet/notebooks", {}, { signal }), may ? get("/fleet/artifacts", {}, { signal }) : { items: [] }]);
    if (signal.aborted) return;
    templates = all.items.filter((a) => a.type === "notebook");
    here({ c: () => may && add() }, signal);
    if (items.length === 0) {
      fill(body, empty("No notebook yet", h("p", {}, "A notebook keeps what you find: texts beside queries over everything collected, with their rows. Collections and hunts have one of their own in their last tab."),
        may && btn("New notebook", { icon: "plus", kind: "primary", onclick: add })));
      return;
    }
    fill(body, h("div", { class: "over" }, h("table", { class: "grid plain" },
      h("thead", {}, h("tr", {}, ["Notebook", "About"].map((t) => h("th", { scope: "col" }, t)), h("th", { class: "num", scope: "col" }, "Cells"), ["Changed", "By", "Shared with"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", {}, items.map((n) => {
        const at = new Date(Number(n.modified) * 1000);
        return h("tr", {}, h("td", {}, h("a", { href: app(`notebook/${n.id}`) }, hostile(n.name || n.id))), h("td", { class: "fluid" }, hostile(n.description || "–")),
          h("td", { class: "num" }, count(n.cells)), h("td", { class: "tn", title: time_title(at) }, time(at)), h("td", {}, hostile(n.creator)),
          h("td", {}, n.public ? "everybody" : n.collaborators.length ? hostile(n.collaborators.join(", ")) : h("span", { class: "dim" }, "nobody")));
      })))));
  } catch (e) { if (e.name !== "AbortError") fill(body, failed(e)); }
}

export async function show_notebook({ notebook: id, signal }) {
  live.watch();
  const { body, heading, acts, status } = page({ title: id, crumbs: [["Notebooks", app("notebooks")]] });
  fill(body, skeleton());
  let known = "";
  const remove = async (n) => {
    if (!(await ask(`Delete notebook ${n.name || id}?`, h("p", {}, "All its cells, their versions and rows go with it. Nobody gets them back."), "Delete notebook"))) return;
    try {
      await post("/v1/DeleteNotebook", { notebook_id: id });
      toast("The notebook is gone");
      go(app("notebooks"));
    } catch (e) { body.prepend(failed(e)); }
  };
  const change = (n, book) => form("Notebook", fields(n), "Save", async (f) => {
    await post("/v1/UpdateNotebook", { ...book.record, ...record(f) });
    await book.poll();
  });
  let book = null;
  const changed = (n) => {
    if (!n) { fill(body, empty("No such notebook", h("p", {}, h("code", {}, id)), btn("Notebooks", { href: app("notebooks") }))); return; }
    const key = JSON.stringify([n.name, n.description, n.public, n.collaborators]);
    if (key === known) return;
    known = key;
    fill(heading, hostile(n.name || id));
    document.title = `${n.name || id} · velociraptor`;
    fill(status, h("span", { class: "dim ell" }, hostile(n.description ?? "")));
    fill(acts, me.may.notebook_editor && [btn("Settings", { icon: "edit", kind: "ghost", onclick: () => change(n, book) }), btn("Delete", { icon: "trash", kind: "danger", onclick: () => remove(n) })]);
  };
  try { book = await notebook({ id, name: id, body, signal, changed }); } catch (e) { if (e.name !== "AbortError") fill(body, failed(e)); }
}
