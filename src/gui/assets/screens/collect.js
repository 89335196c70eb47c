// The collect wizard: artifacts, parameters, limits, review; for a hunt also where. The address holds hosts
// and step; what was typed is kept in this tab under the draft's number.

import { app, get, post } from "../lib/api.js";
import { btn, dot, empty, fill, h, hostile, icon, note, sec } from "../lib/dom.js";
import { count, plural } from "../lib/format.js";
import { here } from "../lib/keys.js";
import * as live from "../lib/live.js";
import { adjust, go, params } from "../lib/route.js";
import { copy, failed, toast } from "../lib/say.js";
import { page } from "../shell.js";
import { show_limits } from "./collect_limits.js";
import { show_parameters } from "./collect_parameters.js";
import { show_picker } from "./collect_picker.js";
import { condition_of, show_where } from "./collect_where.js";
import { host_name } from "./host.js";

const ALL_STEPS = [["where", "Where", "A-w"], ["artifacts", "Artifacts", "A-a"], ["parameters", "Parameters", "A-p"], ["limits", "Limits", "A-r"], ["review", "Review", "A-v"]];

const key = (id) => `draft ${id}`;
function keep(draft) {
  try { sessionStorage.setItem(key(draft.id), JSON.stringify(draft)); } catch { /* storage is off */ }
}
const fresh = () => ({ id: Math.random().toString(36).slice(2, 8), artifacts: [], values: {}, limits: {} });

// A draft from a collection that was made before.
export function draft_from(client, flow) {
  const draft = fresh();
  const r = flow.request ?? {};
  draft.artifacts = [...(r.artifacts ?? [])];
  for (const spec of r.specs ?? []) {
    draft.values[spec.artifact] = Object.fromEntries((spec.parameters?.env ?? []).map((e) => [e.key, e.value ?? ""]));
  }
  for (const k of ["timeout", "max_rows", "max_upload_bytes", "cpu_limit", "iops_limit", "max_logs"]) if (Number(r[k]) > 0) draft.limits[k] = Number(r[k]);
  draft.limits.urgent = !!r.urgent;
  keep(draft);
  return draft.id;
}

export async function show_collect({ signal }) {
  live.watch();
  const q = params();
  const clients = q.getAll("c");
  const hunt = q.get("hunt") === "1";
  const STEPS = hunt ? ALL_STEPS : ALL_STEPS.slice(1);
  let draft = null;
  try { draft = JSON.parse(sessionStorage.getItem(key(q.get("d")))); } catch { /* none */ }
  if (!draft) {
    draft = fresh();
    draft.artifacts = q.getAll("a");
    keep(draft);
    adjust({ d: draft.id, a: [] });
  }
  const step = STEPS.some(([s]) => s === q.get("step")) ? q.get("step") : STEPS[0][0];
  const name = hunt ? "hosts of the hunt" : clients.length === 1 ? await host_name(clients[0], signal) : plural(clients.length, "host");
  if (signal.aborted) return;

  const to = (s) => app("collect", { hunt: hunt ? "1" : "", c: clients, d: draft.id, step: s });
  const steps = h("nav", { class: "steps", "aria-label": "Steps" });
  const { body, acts } = page({
    title: hunt ? "New hunt" : "Collect", crumbs: hunt ? [["Hunts", app("hunts")]] : clients.length === 1 ? [[name, app(`host/${clients[0]}`)]] : [["Clients", app("clients")]], steps, fillbody: true,
  });
  if (clients.length === 0 && !hunt) {
    fill(body, empty("From which host?", h("p", {}, "Mark hosts in the client list and press Collect, or open one."), btn("Clients", { href: app("clients") })));
    return;
  }
  let all;
  const definitions = new Map();
  try {
    all = (await get("/fleet/artifacts", {}, { signal })).items.filter((a) => a.type === "client");
    await Promise.all(draft.artifacts.map((a) => define(a)));
  } catch (e) {
    if (e.name !== "AbortError") fill(body, h("div", { class: "pane" }, failed(e)));
    return;
  }
  if (signal.aborted) return;
  async function define(artifact) {
    if (!definitions.has(artifact)) definitions.set(artifact, await get(`/fleet/artifact/${encodeURIComponent(artifact)}`, {}, { signal }));
    return definitions.get(artifact);
  }

  const side = h("aside", { class: "pane tint stack wide", "aria-label": "What will be sent" });
  const ctx = {
    draft, all, definitions, define, clients, name, signal, body, side, errors: new Map(),
    changed() { keep(draft); draw_head(); draw_side(); },
    split(main, three) { fill(body, h("div", { class: `split${three ? " three" : ""}` }, main, side)); },
  };

  function parameters_of(artifact) {
    const values = draft.values[artifact] ?? {};
    const known = definitions.get(artifact)?.parameters ?? [];
    return known.filter((p) => values[p.name] !== undefined && values[p.name] !== (p.default ?? "")).map((p) => ({ key: p.name, value: values[p.name] }));
  }
  ctx.request = (client) => {
    const limits = Object.fromEntries(Object.entries(draft.limits).filter(([, v]) => v));
    return {
      client_id: client, artifacts: draft.artifacts,
      specs: draft.artifacts.map((artifact) => ({ artifact, parameters: { env: parameters_of(artifact) } })), ...limits,
    };
  };

  ctx.hunt_request = () => {
    const w = draft.where ?? { kind: "all" };
    const { client_id: _, ...start_request } = ctx.request("");
    return {
      hunt_description: w.text ?? "", start_request, condition: condition_of(w), state: "RUNNING",
      expires: Math.round((Date.now() + (w.days || 7) * 86400e3) * 1000), client_limit: w.limit || 0,
    };
  };

  const at = STEPS.findIndex(([s]) => s === step);
  const can_launch = () => draft.artifacts.length > 0 && ctx.errors.size === 0;
  const turn = (n) => { const next = STEPS[at + n]; if (next) go(to(next[0])); };

  function draw_head() {
    fill(steps, STEPS.map(([s, text], i) => h("a", { href: to(s), class: i < at ? "done" : "", "aria-current": s === step ? "step" : undefined }, text)));
    const next = STEPS[at + 1];
    const bad = [...ctx.errors.values()];
    fill(acts, bad.length > 0 && h("span", { class: "t-err" }, `${plural(bad.length, "field")} to fix`),
      draft.artifacts.length === 0 && h("span", { class: "mid" }, "Choose an artifact first"),
      next && btn(`Next: ${next[1].toLowerCase()}`, { href: to(next[0]), key: "Ctrl →" }),
      btn(hunt ? "Start hunt" : "Launch", { icon: "play", kind: "primary", key: "Ctrl L", disabled: !can_launch(), onclick: launch, id: "launch" }));
  }

  function draw_side() {
    const changed = draft.artifacts.reduce((n, a) => n + parameters_of(a).length, 0);
    const check = (ok, ...text) => h("li", { class: `row start ${ok ? "i-ok" : "i-err"}` }, icon(ok ? "check" : "x"), h("span", {}, text));
    const refused = draft.artifacts.map((a) => definitions.get(a)?.refused).filter(Boolean);
    fill(side,
      sec("What will be sent", "", h("dl", { class: "kv" }, h("dt", {}, "To"), h("dd", {}, hostile(name)),
        h("dt", {}, "Artifacts"), h("dd", {}, draft.artifacts.length ? `${draft.artifacts.length} chosen` : "none yet"),
        h("dt", {}, "Parameters"), h("dd", {}, changed ? `${changed} changed from default` : "all at default"),
        h("dt", {}, "Priority"), h("dd", {}, draft.limits.urgent ? "urgent" : "normal"))),
      draft.artifacts.length > 0 && h("div", { class: "rule" }, sec("Artifacts", "", h("ul", { class: "stack tight" }, draft.artifacts.map((a) => h("li", { class: "row" },
        h("code", { class: "grow ell", title: a }, hostile(a)),
        btn("", { icon: "x", kind: "ghost sq", title: `Remove ${a}`, onclick: () => { draft.artifacts = draft.artifacts.filter((b) => b !== a); ctx.errors.clear(); keep(draft); go(location.href, { replace: true }); } })))))),
      draft.artifacts.length > 0 && h("div", { class: "rule" }, sec("Checks", "", h("ul", { class: "stack" },
        refused.length ? refused.map((r) => check(false, hostile(r))) : check(true, "You may collect these"),
        [...ctx.errors].map(([f, e]) => check(false, h("code", {}, hostile(f)), " ", e))))));
  }

  async function launch() {
    if (!can_launch()) return;
    const button = document.getElementById("launch");
    button.disabled = true;
    if (hunt) {
      try {
        const made = await post("/v1/CreateHunt", ctx.hunt_request());
        go(app(`hunt/${made.flow_id}`));
      } catch (e) {
        button.disabled = false;
        body.prepend(failed(e));
      }
      return;
    }
    const started = [], failures = [];
    for (const client of clients) {
      try { started.push([client, (await post("/v1/CollectArtifact", ctx.request(client))).flow_id]); } catch (e) { failures.push([client, e]); }
    }
    if (failures.length === 0) {
      if (started.length === 1) go(app(`flow/${started[0][0]}/${started[0][1]}`));
      else { toast(`Started on ${count(started.length)} hosts`); done(started, failures); }
      return;
    }
    button.disabled = false;
    if (started.length === 0 && clients.length === 1) fill(body, h("div", { class: "pane stack" }, failed(failures[0][1]), h("div", { class: "row" }, btn("Back to the parameters", { onclick: () => go(to("parameters"), { replace: true }) }))));
    else done(started, failures);
  }
  function done(started, failures) {
    fill(acts);
    fill(body, h("div", { class: "pane stack" },
      h("h2", {}, `Started on ${count(started.length)} of ${count(clients.length)} hosts`),
      failures.map(([c, e]) => note("err", h("code", {}, c), " ", e.message)),
      h("ul", { class: "stack tight" }, started.map(([c, f]) => h("li", { class: "row" }, dot("ok", "started"), h("a", { href: app(`host/${c}`) }, h("code", {}, c)), h("a", { href: app(`flow/${c}/${f}`) }, h("code", {}, f)))))));
  }

  here({
    "C-ArrowRight": () => turn(1), "C-ArrowLeft": () => turn(-1), "C-S-ArrowRight": () => turn(1), "C-S-ArrowLeft": () => turn(-1), "C-l": launch,
    ...Object.fromEntries(STEPS.map(([s, , k]) => [k, () => go(to(s))])),
  }, signal);
  draw_head();
  draw_side();
  ({ where: show_where, artifacts: show_picker, parameters: show_parameters, limits: show_limits, review: show_review })[step](ctx);

  function show_review() {
    const text = JSON.stringify(hunt ? ctx.hunt_request() : clients.length === 1 ? ctx.request(clients[0]) : { ...ctx.request("…"), client_id: clients }, null, 2);
    ctx.split(h("div", { class: "pane stack" },
      sec("The request", "as the API takes it", h("pre", { class: "code inline", tabindex: "0" }, hostile(text, { lines: true })),
        h("div", { class: "row" }, btn("Copy as JSON", { icon: "copy", onclick: () => copy(text, "Request") }),
          !hunt && btn("Copy as VQL", { icon: "code", onclick: () => copy(as_vql(ctx.request(clients[0])), "VQL") })))));
  }
}

const quoted = (t) => `'${String(t).replace(/\\/g, "\\\\").replace(/'/g, "\\'")}'`;
function as_vql(r) {
  const spec = r.specs.map((s) => `\`${s.artifact}\`=dict(${s.parameters.env.map((e) => `${e.key}=${quoted(e.value)}`).join(", ")})`).join(", ");
  return `SELECT collect_client(client_id=${quoted(r.client_id)}, artifacts=[${r.artifacts.map(quoted).join(", ")}], spec=dict(${spec})) AS Flow FROM scope()`;
}
