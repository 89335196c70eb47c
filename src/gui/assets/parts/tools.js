// Programs that an artifact needs on endpoints: where clients get each, and for those who may:
// fetch it, serve it from here, upload another.

import { get, me, post, send_file } from "../lib/api.js";
import { btn, fill, h, hostile, note, sec } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { failed, toast } from "../lib/say.js";

const place = (t) => t.serve_locally && t.filestore_path ? "this server" : t.serve_locally ? "this server, once it was fetched"
  : t.url ? h("code", { class: "xs" }, hostile(t.url)) : t.github_project ? h("code", { class: "xs" }, hostile(`github.com/${t.github_project}`)) : "nowhere yet";

export function show_tools(a, signal) {
  const tools = a.tools ?? [];
  if (tools.length === 0) return false;
  return sec("Tools", plural(tools.length, "program"), tools.map((t) => one(t, signal)));
}

function one(definition, signal) {
  const box = h("div", { class: "stack" });
  const said = h("div", { "aria-live": "polite" });
  const name = definition.name;
  const pick = h("input", { type: "file", class: "in", "aria-label": `A file for the tool ${name}`, onchange: () => {
    const [file] = pick.files;
    if (file) act(`${name} uploaded`, () => send_file("/v1/UploadTool", { name, version: definition.version }, file));
  } });
  const act = async (done, what) => {
    fill(said, note("", "One moment: this takes as long as the file takes."));
    try { await what(); } catch (e) { fill(said, failed(e)); return; }
    if (signal.aborted) return;
    fill(said);
    pick.value = "";
    toast(done);
    await draw();
  };
  async function draw() {
    let t;
    try { t = await get("/v1/GetToolInfo", { name, version: definition.version ?? "" }, { signal }); } catch (e) {
      if (e.name !== "AbortError") fill(box, failed(e));
      return;
    }
    if (signal.aborted) return;
    const source = t.url || t.github_project;
    fill(box, h("dl", { class: "kv" },
      h("dt", {}, "Tool"), h("dd", {}, h("code", {}, hostile(name)), t.admin_override && h("span", { class: "tag acc" }, "set by hand")),
      definition.version && [h("dt", {}, "Version"), h("dd", {}, hostile(definition.version))],
      h("dt", {}, "Clients get it from"), h("dd", {}, place(t)),
      h("dt", {}, "File"), h("dd", {}, t.filename ? h("code", {}, hostile(t.filename)) : "unknown"),
      h("dt", {}, "SHA-256"), h("dd", {}, t.hash ? h("code", { class: "xs" }, hostile(t.hash)) : "not known: it is fetched when it is first needed")),
    me.may.artifact_writer && h("div", { class: "row wrap" },
      source && btn("Fetch now", { icon: "down", onclick: () => act(`${name} fetched`, () => post("/v1/SetToolInfo", { ...t, materialize: true })) }),
      source && btn(t.serve_locally ? "Clients fetch it there" : "Serve it from here", { kind: "ghost", onclick: () => act(`${name} changed`, () => post("/v1/SetToolInfo", { ...t, serve_locally: !t.serve_locally, hash: t.serve_locally ? t.hash : "" })) }),
      pick));
  }
  draw();
  return h("div", { class: "stack wide" }, box, said);
}
