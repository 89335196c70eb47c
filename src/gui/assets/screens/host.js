// One host: facts, labels, metadata, where it is connected, what was collected, and
// quick ways to the common questions.

import { app, get, me, post } from "../lib/api.js";
import { btn, dot, empty, fill, h, hostile, icon, sec, skeleton } from "../lib/dom.js";
import { ago, from_micros, plural, time, time_title } from "../lib/format.js";
import { here } from "../lib/keys.js";
import * as live from "../lib/live.js";
import { go } from "../lib/route.js";
import { failed, form, toast } from "../lib/say.js";
import { page, remember_host } from "../shell.js";
import { flow_table, flows_of } from "./flows.js";

const names = new Map();

export async function host_name(client, signal) {
  if (!names.has(client)) {
    const c = await get(`/v1/GetClient/${encodeURIComponent(client)}`, {}, { signal }).catch(() => null);
    names.set(client, c?.os_info?.hostname || client);
  }
  return names.get(client);
}

export const host_tabs = (client, current) => [
  ["Overview", app(`host/${client}`), undefined, current === "overview"],
  ["Collections", app(`host/${client}/collections`), undefined, current === "collections"],
  ["Files", app(`host/${client}/files`), undefined, current === "files"],
  ["Shell", app(`host/${client}/shell`), undefined, current === "shell"],
  ["Events", app(`host/${client}/events`), undefined, current === "events"],
];

// Artifacts of quick buttons, by what the host runs.
const QUICK = {
  linux: { processes: "Linux.Sys.Pslist", sockets: "Linux.Network.Netstat", shell: "Linux.Sys.BashShell", files: "Linux.Search.FileFinder" },
  darwin: { processes: "Linux.Sys.Pslist", shell: "Linux.Sys.BashShell" },
  windows: { processes: "Windows.System.Pslist", sockets: "Windows.Network.Netstat", shell: "Windows.System.PowerShell", files: "Windows.Search.FileFinder" },
};

// Rows are sent every second, so that the first are seen at once.
export async function launch(client, artifact, env = {}, more = {}) {
  const parameters = { env: Object.entries(env).map(([key, value]) => ({ key, value })) };
  const started = await post("/v1/CollectArtifact", { client_id: client, artifacts: [artifact], specs: [{ artifact, parameters, max_batch_wait: 1 }], ...more });
  go(app(`flow/${client}/${started.flow_id}`));
}

export async function show_host({ client, signal }) {
  live.watch(client);
  const status = h("span", { class: "row" });
  const { body, acts, heading } = page({
    title: client, crumbs: [["Clients", app("clients")]], state: status, tabs: host_tabs(client, "overview"),
  });
  let info, metadata, flows, artifacts;
  try {
    [info, metadata, flows, artifacts] = await Promise.all([
      get(`/v1/GetClient/${encodeURIComponent(client)}`, {}, { signal }),
      get(`/v1/GetClientMetadata/${encodeURIComponent(client)}`, {}, { signal }),
      flows_of(client, 0, 10, signal),
      get("/fleet/artifacts", {}, { signal }),
    ]);
  } catch (e) {
    if (e.name === "AbortError") return;
    fill(body, e.status === 404
      ? empty("No such client", h("p", {}, h("code", {}, client), " never enrolled here, or it was deleted."), btn("All clients", { href: app("clients") }))
      : failed(e));
    return;
  }
  if (signal.aborted) return;
  const os = info.os_info ?? {};
  const name = os.hostname || client;
  names.set(client, name);
  document.title = `${name} · velociraptor`;
  fill(heading, hostile(name));
  remember_host(client, name);

  const usable = new Set(artifacts.items.filter((a) => !a.refused).map((a) => a.name));
  const quick = Object.fromEntries(Object.entries(QUICK[os.system] ?? {}).filter(([, a]) => usable.has(a)));
  const can_label = me.may.label_clients;
  const start = async (artifact, env, more) => {
    try { await launch(client, artifact, env, more); } catch (e) { body.prepend(failed(e)); }
  };
  const do_ = {
    processes: () => start(quick.processes),
    sockets: () => start(quick.sockets),
    files: () => go(app("collect", { c: client, a: quick.files, step: "parameters" })),
    collect: () => go(app("collect", { c: client })),
  };
  fill(acts,
    quick.processes && btn("Processes", { icon: "list", key: "p", onclick: do_.processes, id: "quick-processes" }),
    quick.sockets && btn("Sockets", { icon: "cluster", onclick: do_.sockets }),
    quick.files && btn("Find files", { icon: "search", onclick: do_.files }),
    btn("Files", { icon: "folder", key: "v", href: app(`host/${client}/files`) }),
    quick.shell && btn("Shell", { icon: "terminal", key: "s", href: app(`host/${client}/shell`) }),
    me.may.collect_client && btn("Collect", { icon: "plus", kind: "primary", key: "c", onclick: do_.collect }));
  here({
    p: () => quick.processes && do_.processes(), v: () => go(app(`host/${client}/files`)), s: () => go(app(`host/${client}/shell`)),
    c: () => me.may.collect_client && do_.collect(), l: () => add_label(), "A-c": () => go(app(`host/${client}/collections`)),
  }, signal);

  const node = h("dd", {}, "–");
  const labels = h("span", { class: "row wrap" });
  draw_labels();
  fill(status, labels);
  live.on("client", (c) => {
    if (c.client_id !== client) return;
    fill(status, dot(c.connected ? "ok" : "off"), c.connected ? "Connected" : "Not connected", labels);
    fill(node, c.connected ? ["to ", h("b", {}, c.node), c.remote && h("span", { class: "dim" }, ` from ${c.remote}`)]
      : "not now; what you start waits until it is back");
  }, signal);

  async function relabel(label, operation) {
    await post("/v1/LabelClients", { client_ids: [client], labels: [label], operation });
    info = await get(`/v1/GetClient/${encodeURIComponent(client)}`);
    draw_labels();
  }
  function draw_labels() {
    fill(labels, (info.labels ?? []).map((l) => h("span", { class: "tag" }, h("a", { href: app("clients", { q: `label:${l}` }) }, hostile(l)),
      can_label && h("button", { class: "tag-x", type: "button", "aria-label": `Remove label ${l}`, title: `Remove label ${l}`, onclick: async () => {
        await relabel(l, "remove");
        toast(`Label ${l} removed`, { undo: () => relabel(l, "set") });
      } }, icon("x")))),
      can_label && btn("", { icon: "tag", kind: "ghost sq", title: "Add label (l)", onclick: () => add_label() }));
  }
  function add_label() {
    if (!can_label) return;
    form(`Label ${name}`, [h("input", { class: "in", name: "label", required: true, autofocus: true, "aria-label": "Label", placeholder: "IR-2291" })],
      "Add", ({ label }) => relabel(label.trim(), "set"));
  }
  const first = from_micros(Number(info.first_seen_at) * 1e6), seen = from_micros(info.last_seen_at);
  const agent = info.agent_information ?? {};
  const now = Date.now() * 1000;
  const fact = (k, ...v) => [h("dt", {}, k), h("dd", {}, v)];
  const facts = h("dl", { class: "kv" },
    fact("Client id", h("code", {}, client)),
    h("dt", {}, "Connection"), node,
    fact("Host name", hostile(os.fqdn || os.hostname || "–")),
    fact("System", hostile([os.system, os.release, os.machine].filter(Boolean).join(" · ") || "–")),
    fact("Address", hostile(info.last_ip || "–")),
    fact("MAC", hostile((os.mac_addresses ?? []).join(", ") || "–")),
    fact("Agent", hostile([agent.name, agent.version].filter(Boolean).join(" ") || "–")),
    h("dt", {}, "Last seen"), h("dd", { title: time_title(seen) }, seen ? `${time(seen)}, ${ago(info.last_seen_at, now)} ago` : "–"),
    h("dt", {}, "First seen"), h("dd", { title: time_title(first) }, time(first)));

  fill(body, h("div", { class: "cols" },
    h("div", { class: "w8 stack wide" },
      sec("Recent collections", plural(flows.total, "collection"),
        flows.total ? flow_table(client, flows.items) : h("p", { class: "mid" }, "Nothing was collected here yet. Processes is a good start."),
        flows.total > 10 && h("a", { href: app(`host/${client}/collections`) }, "All collections"))),
    h("div", { class: "w4 stack wide" },
      sec("Facts", "", facts,
        usable.has("Generic.Client.Info") && btn("Ask again", { icon: "refresh", title: "Collects Generic.Client.Info", onclick: () => start("Generic.Client.Info") })),
      h("div", { class: "rule" }, metadata_part(client, metadata.items ?? [])))));
}

function metadata_part(client, items) {
  const box = h("div", { class: "stack" });
  const change = async (body) => {
    await post("/v1/SetClientMetadata", { client_id: client, ...body });
    items = (await get(`/v1/GetClientMetadata/${encodeURIComponent(client)}`)).items ?? [];
    draw();
  };
  const add = (key = "", value = "") => form(key ? `Change ${key}` : "Add metadata", [
    h("input", { class: "in mono", name: "key", value: key, required: true, "aria-label": "Name", placeholder: "department", autofocus: true }),
    h("input", { class: "in", name: "value", value, "aria-label": "Value", placeholder: "value" }),
  ], "Save", (f) => change({ add: [{ key: f.key.trim(), value: f.value }] }));
  const draw = () => fill(box, sec("Metadata", "written by people",
    items.length ? h("dl", { class: "kv" }, items.map((i) => [h("dt", {}, hostile(i.key)), h("dd", { class: "row" }, h("span", { class: "grow" }, hostile(i.value ?? "")),
      me.may.label_clients && btn("", { icon: "edit", kind: "ghost sq", title: `Change ${i.key}`, onclick: () => add(i.key, i.value) }),
      me.may.label_clients && btn("", { icon: "x", kind: "ghost sq", title: `Remove ${i.key}`, onclick: async () => {
        await change({ remove: [i.key] });
        toast(`${i.key} removed`, { undo: () => change({ add: [i] }) });
      } }))]))
      : h("p", { class: "mid" }, "None."),
    me.may.label_clients && btn("Add", { icon: "plus", onclick: () => add() })));
  draw();
  return box;
}
