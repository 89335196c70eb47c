// Which event artifacts hosts run: for all of them, and for those with a label. And
// which of its own the server runs.

import { app, get, me, post } from "../lib/api.js";
import { btn, empty, fill, h, hostile, note, sec, skeleton } from "../lib/dom.js";
import { first_words, plural } from "../lib/format.js";
import * as live from "../lib/live.js";
import { failed, form, toast } from "../lib/say.js";
import { page } from "../shell.js";

export async function show_monitoring({ client, signal }) {
  live.watch();
  const server = client === "server";
  const { body, acts } = page(server
    ? { title: "What the server watches", crumbs: [["Server events", app("events/server")]] }
    : { title: "What hosts report", crumbs: [["Events", app(`host/${client}/events`)]] });
  // The server has one table, with no labels.
  const load = async () => {
    if (!server) return get("/v1/GetClientMonitoringState", {}, { signal });
    return { artifacts: await get("/v1/GetServerMonitoringState", {}, { signal }) };
  };
  fill(body, skeleton());
  let table, all;
  try {
    [table, all] = await Promise.all([load(), get("/fleet/artifacts", {}, { signal })]);
  } catch (e) {
    if (e.name !== "AbortError") fill(body, failed(e));
    return;
  }
  if (signal.aborted) return;
  const events = all.items.filter((a) => (server ? a.type === "server_event" && a.has_sources : a.type === "client_event" && !/^(Server|System)\./.test(a.name)));
  const known = new Map(events.map((a) => [a.name, a]));
  const may = server ? me.may.collect_server : me.may.collect_client;
  let changed = false;
  table.artifacts ??= {};
  table.label_events ??= [];

  const specs = (args) => {
    const of = new Map((args.specs ?? []).map((s) => [s.artifact, s]));
    return (args.artifacts ?? []).map((a) => of.get(a) ?? { artifact: a });
  };
  const put = (args, list) => { args.artifacts = list.map((s) => s.artifact); args.specs = list; changed = true; draw(); };

  function group(title, sub, args, remove) {
    const list = specs(args);
    const free = events.filter((a) => !list.some((s) => s.artifact === a.name));
    const add = h("select", { class: "in fit-w", "aria-label": `Add to ${title}`, onchange: (e) => e.target.value && put(args, [...list, { artifact: e.target.value }]) },
      h("option", { value: "" }, "Add an event artifact…"), free.map((a) => h("option", { value: a.name }, a.name)));
    return sec(title, sub, list.length ? h("table", { class: "grid plain" }, h("thead", {}, h("tr", {}, ["Artifact", "Does", "Parameters", ""].map((t) => h("th", { scope: "col" }, t || h("span", { class: "vh" }, "Do"))))),
      h("tbody", {}, list.map((s) => {
        const env = s.parameters?.env ?? [];
        return h("tr", {}, h("td", {}, h("a", { href: app("artifacts", { name: s.artifact }) }, h("code", {}, hostile(s.artifact)))),
          h("td", { class: "fluid" }, known.has(s.artifact) ? hostile(first_words(known.get(s.artifact).description)) : h("span", { class: "t-warn" }, "not defined here")),
          h("td", { class: "fluid" }, env.length ? hostile(env.map((e) => `${e.key}=${e.value}`).join(", ")) : h("span", { class: "dim" }, "defaults")),
          h("td", { class: "fit" }, may && [btn("", { icon: "edit", kind: "ghost sq", title: `Parameters of ${s.artifact}`, onclick: () => parameters(s, () => put(args, list)) }),
            btn("", { icon: "x", kind: "ghost sq", title: `Remove ${s.artifact}`, onclick: () => put(args, list.filter((x) => x !== s)) })]));
      }))) : h("p", { class: "mid" }, "None."),
    may && h("div", { class: "row" }, free.length > 0 && add, remove && btn("Remove this label", { icon: "trash", kind: "ghost", onclick: remove })));
  }

  async function parameters(spec, then) {
    const definition = await get(`/fleet/artifact/${encodeURIComponent(spec.artifact)}`, {}, { signal }).catch(() => null);
    const wanted = definition?.parameters ?? [];
    const now = new Map((spec.parameters?.env ?? []).map((e) => [e.key, e.value ?? ""]));
    form(`Parameters of ${spec.artifact}`, wanted.length ? wanted.map((p) => h("label", { class: "field plain" }, h("span", { title: p.description ?? "" }, hostile(p.name)),
      h("input", { class: "in mono", name: p.name, value: now.get(p.name) ?? "", placeholder: p.default || "empty", spellcheck: "false" }))) : [h("p", { class: "mid" }, "It has none.")], "Set", async (f) => {
      const env = Object.entries(f).filter(([, v]) => v !== "").map(([key, value]) => ({ key, value }));
      spec.parameters = { env };
      then();
    });
  }

  async function save() {
    try {
      await (server ? post("/v1/SetServerMonitoringState", table.artifacts) : post("/v1/SetClientMonitoringState", table));
      changed = false;
      toast(server ? "Saved: the server runs these from now on" : "Saved: hosts that are connected are told at once");
      table = await load();
      table.artifacts ??= {};
      table.label_events ??= [];
      draw();
    } catch (e) { body.prepend(failed(e)); }
  }

  function draw() {
    fill(acts, may && btn("Save", { kind: "primary", disabled: !changed, id: "save-monitoring", onclick: save }));
    fill(body, h("div", { class: "stack wide" },
      changed && note("warn", "Not saved yet."),
      events.length === 0 && empty("No event artifacts", h("p", {}, `None of the definitions here is of type ${server ? "SERVER_EVENT" : "CLIENT_EVENT"}.`)),
      group(server ? "This server" : "Every host", plural(specs(table.artifacts).length, "artifact"), table.artifacts),
      table.label_events.map((l) => { l.artifacts ??= {}; return h("div", { class: "rule" }, group(`Hosts labelled ${l.label}`, plural(specs(l.artifacts).length, "artifact"), l.artifacts, () => {
        table.label_events = table.label_events.filter((x) => x !== l);
        changed = true;
        draw();
      })); }),
      may && !server && h("div", { class: "rule" }, btn("For a label", { icon: "tag", onclick: () => form("For hosts with a label", [h("input", { class: "in", name: "label", required: true, autofocus: true, "aria-label": "Label" })], "Add", async ({ label }) => {
        if (!table.label_events.some((l) => l.label === label.trim())) table.label_events.push({ label: label.trim(), artifacts: {} });
        changed = true;
        draw();
      }) }))));
  }
  draw();
}
