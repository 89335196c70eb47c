// Definitions: search, read, and for those who may: write, with what is wrong shown
// beside the line.

import { app, get, me, post } from "../lib/api.js";
import { btn, empty, fill, h, hostile, icon, note, replace_text, skeleton } from "../lib/dom.js";
import { count, first_words } from "../lib/format.js";
import { here } from "../lib/keys.js";
import * as live from "../lib/live.js";
import { adjust, go, params } from "../lib/route.js";
import { ask, failed, toast } from "../lib/say.js";
import { artifact_docs } from "../parts/artifact_docs.js";
import { show_tools } from "../parts/tools.js";
import { yaml } from "../parts/vql.js";
import { page } from "../shell.js";

export async function show_artifacts({ signal }) {
  live.watch();
  const may_write = me.may.artifact_writer || me.may.server_artifact_writer;
  const { body, acts, heading, set_tabs } = page({ title: "Artifacts", tabs: [], fillbody: true });
  let items;
  try { items = (await get("/fleet/artifacts", {}, { signal })).items; } catch (e) {
    if (e.name !== "AbortError") fill(body, h("div", { class: "pane" }, failed(e)));
    return;
  }
  if (signal.aborted) return;
  const search = h("input", { "aria-label": "Search artifacts", placeholder: "name or what it does", spellcheck: "false", value: params().get("q") ?? "", oninput: () => { adjust({ q: search.value }); draw_list(); } });
  const number = h("span", { class: "unit" });
  const list = h("div", { class: "list" });
  const content = h("div", { class: "fitbox" });
  fill(body, h("div", { class: "split left" }, h("div", {}, h("div", { class: "band stack" }, h("label", { class: "in" }, icon("search"), search, number),
    may_write && h("div", { class: "row" }, btn("New", { icon: "plus", onclick: () => go(app("artifacts", { view: "edit" })) }))), list), content));

  function draw_list() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = items.filter((a) => words.every((w) => `${a.name} ${a.type} ${a.built_in ? "built in" : "custom"} ${a.description ?? ""}`.toLowerCase().includes(w)));
    number.textContent = count(found.length);
    const name = params().get("name");
    fill(list, found.slice(0, 500).map((a) => h("a", { href: app("artifacts", { name: a.name, q: search.value }), "aria-current": a.name === name ? "true" : undefined },
      h("code", { class: "ell" }, hostile(a.name)), !a.built_in && h("small", { class: "tag acc" }, "custom"), h("span", { class: "ell" }, hostile(first_words(a.description))))),
      found.length === 0 && h("p", { class: "pane mid" }, "No artifact matches."));
    list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  }
  draw_list();

  const name = params().get("name");
  const view = params().get("view") ?? "read";
  if (name) {
    fill(heading, hostile(name));
    document.title = `${name} · velociraptor`;
    const to = (v) => app("artifacts", { name, q: search.value, view: v === "read" ? "" : v });
    set_tabs([["Read", to("read"), undefined, view === "read"], ["Source", to("source"), undefined, view === "source"], may_write && ["Edit", to("edit"), undefined, view === "edit"]].filter(Boolean));
  }
  if (!name && view !== "edit") {
    fill(content, empty("Artifacts", h("p", {}, `${count(items.length)} definitions say what can be collected. Choose one at the left to read what it does and which queries it runs.`)));
    return;
  }
  fill(content, skeleton());
  try {
    if (view === "edit" && may_write) await show_editor();
    else {
      const a = await get(`/fleet/artifact/${encodeURIComponent(name)}`, {}, { signal });
      const raw = view === "source" ? (await get("/v1/GetArtifactFile", { name }, { signal })).artifact : null;
      if (signal.aborted) return;
      fill(content, raw !== null ? h("pre", { class: "code flat", tabindex: "0", "aria-label": "Source" }, yaml(raw)) : h("div", { class: "pane stack wide" }, artifact_docs(a), show_tools(a, signal)));
    }
  } catch (e) {
    if (e.name !== "AbortError") fill(content, h("div", { class: "pane" }, e.status === 404 ? empty("No such artifact", h("p", {}, hostile(name))) : failed(e)));
  }

  async function show_editor() {
    const a = name ? items.find((i) => i.name === name) : null;
    let text = (await get("/v1/GetArtifactFile", { name: name ?? "" }, { signal })).artifact ?? "";
    // What is built in is not written over: a copy of another name stands beside it.
    if (a?.built_in) text = text.replace(/^name:\s*(\S+)/m, "name: Custom.$1");
    if (signal.aborted) return;
    const area = h("textarea", { class: "in mono editor", "aria-label": "Definition", spellcheck: "false", value: text });
    const said = h("div", { class: "stack", "aria-live": "polite" });
    let timer = 0, errors = [];
    const check = async () => {
      let answer;
      try { answer = await post("/v1/SetArtifactFile", { artifact: area.value, op: "CHECK" }); } catch (e) { answer = { error: true, errors: [e.message] }; }
      if (signal.aborted) return;
      errors = answer.error ? answer.errors ?? [answer.error_message] : [];
      fill(said, errors.length ? errors.map((e) => note("err", hostile(e, { lines: true }))) : note("ok", "The definition is valid."));
      save_button.disabled = errors.length > 0;
    };
    const save = async () => {
      const answer = await post("/v1/SetArtifactFile", { artifact: area.value, op: "SET" }).catch((e) => ({ error: true, error_message: e.message }));
      if (answer.error) { fill(said, note("err", hostile(answer.error_message ?? "", { lines: true }))); return; }
      const saved = /^name:\s*(\S+)/m.exec(area.value)?.[1] ?? name;
      toast(`${saved} saved`);
      go(app("artifacts", { name: saved }));
    };
    const remove = async () => {
      if (!(await ask(`Delete ${name}?`, h("p", {}, "Collections that were made with it keep their rows."), "Delete"))) return;
      const answer = await post("/v1/SetArtifactFile", { artifact: text, op: "DELETE" }).catch((e) => ({ error: true, error_message: e.message }));
      if (answer.error) fill(said, note("err", hostile(answer.error_message ?? "")));
      else { toast(`${name} deleted`); go(app("artifacts")); }
    };
    const lay_out = async () => {
      try {
        const { artifact } = await post("/v1/ReformatVQL", { artifact: area.value });
        if (signal.aborted || artifact === area.value) return;
        replace_text(area, artifact);
        check();
      } catch (e) { fill(said, note("err", hostile(e.message, { lines: true }))); }
    };
    const save_button = btn("Save", { icon: "check", kind: "primary", key: "Ctrl ↵", onclick: save });
    fill(acts, a && !a.built_in && btn("Delete", { icon: "trash", kind: "danger", onclick: remove }), btn("Lay out", { icon: "asc", kind: "ghost", title: "Break and indent the queries", onclick: lay_out }), save_button);
    area.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(check, 400); });
    area.addEventListener("keydown", (e) => {
      if (e.key === "Tab" && !e.shiftKey) { e.preventDefault(); area.setRangeText("  ", area.selectionStart, area.selectionEnd, "end"); }
    });
    here({ "C-Enter": () => !save_button.disabled && save() }, signal);
    fill(content, h("div", { class: "editor-split" }, area, h("div", { class: "pane tint" }, a?.built_in && note("", "This one is built in: your copy gets a name of its own."), said)));
    check();
  }
}
