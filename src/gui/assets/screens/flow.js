// A collection: live state, and its results, logs, uploads and request.

import { app, get, me, org, post } from "../lib/api.js";
import { btn, dot, empty, fill, h, hostile, icon, menu, skeleton } from "../lib/dom.js";
import { count, plural, size, span } from "../lib/format.js";
import { here } from "../lib/keys.js";
import * as live from "../lib/live.js";
import { adjust, go, params } from "../lib/route.js";
import { ask, copy, failed, toast } from "../lib/say.js";
import { ResultTable } from "../parts/table.js";
import { page } from "../shell.js";
import { draft_from } from "./collect.js";
import { flow_state, is_over } from "./flows.js";
import { host_name } from "./host.js";
import { show_overview, show_request } from "./flow_overview.js";
import { show_logs } from "./flow_logs.js";
import { show_uploads } from "./flow_uploads.js";

const TABS = ["overview", "results", "logs", "uploads", "request", "notebook"];

function show_notebook({ client, flow, name, signal, content }) {
  const body = h("div", { class: "fitbox scrolls", tabindex: "0" }, skeleton());
  fill(content, body);
  import("../parts/notebook.js").then(({ notebook }) => notebook({ id: `N.${flow}-${client}`, name: `Collection ${flow} on ${name}`, body, signal }))
    .catch((e) => { if (e.name !== "AbortError") fill(body, failed(e)); });
  return { update: () => {} };
}

export async function show_flow({ client, flow, signal }) {
  live.watch(client, flow);
  const name = await host_name(client, signal);
  if (signal.aborted) return;
  const view = page({ title: flow, crumbs: [[name, app(`host/${client}`)], ["Collections", app(`host/${client}/collections`)]], tabs: [], fillbody: true, two: true });
  const band = h("div", { class: "band line" });
  const content = h("div", { class: "fitbox" }, skeleton());
  fill(view.body, band, content);
  const ctx = { client, flow, name, signal, data: null, content, connected: null };
  let tab = null;
  let shown = null;

  const tab_of = () => {
    const wanted = params().get("tab");
    return TABS.includes(wanted) ? wanted : "results";
  };

  function draw_head() {
    const f = ctx.data;
    const [kind, text] = flow_state(f);
    const over = is_over(f);
    const artifacts = f.request?.artifacts ?? [];
    fill(view.heading, hostile(artifacts.map((a) => a.split(".").slice(-1)[0]).slice(0, 3).join(", ") || flow));
    view.heading.title = artifacts.join(", ");
    document.title = `${artifacts[0] ?? flow} · ${name} · velociraptor`;
    const began = Number(f.start_time || f.create_time), ended = over ? Number(f.active_time || 0) : Date.now() * 1000;
    fill(view.status, dot(kind), text, ended > began ? ` · ${span((ended - began) / 1e6)}` : "");
    const to = (t) => { const q = new URLSearchParams(); if (t !== "results") q.set("tab", t); return `${location.pathname}${q.size ? `?${q}` : ""}`; };
    const small = { results: count(f.total_collected_rows), logs: count(f.total_logs), uploads: count(f.total_uploaded_files) };
    view.set_tabs(TABS.map((t) => [t[0].toUpperCase() + t.slice(1), to(t), small[t], t === tab]));
    const old = view.acts.querySelector("details[open]");
    if (old) return;
    fill(view.acts, copy_menu(),
      me.may.collect_client && btn("Copy to new", { icon: "copy", kind: "ghost", onclick: () => go(app("collect", { c: client, d: draft_from(client, f), step: "parameters" })) }),
      !over && me.may.collect_client && btn("Cancel", { icon: "stop", kind: "danger", onclick: cancel }));
  }

  function draw_band() {
    const f = ctx.data;
    const rows = Number(f.total_collected_rows ?? 0);
    const parts = [h("span", { class: "tn" }, h("b", { id: "rows" }, count(rows)), ` ${rows === 1 ? "row" : "rows"} stored`)];
    if (Number(f.total_uploaded_files)) parts.push(h("span", { class: "tn" }, h("b", {}, count(f.total_uploaded_files)), ` files, ${size(f.total_uploaded_bytes)}`));
    if (f.state === "ERROR" && f.status) parts.push(h("span", { class: "t-err ell", title: f.status }, hostile(f.status.split("\n")[0])));
    parts.push(h("span", { class: "grow" }));
    const queries = f.query_stats ?? [];
    if (!is_over(f)) {
      const done = queries.filter((q) => q.status !== "PROGRESS").length;
      const waiting = Number(f.start_time ?? 0) === 0 && rows === 0 && queries.length === 0;
      parts.push(h("span", { class: "mid" }, waiting
        ? ctx.connected === false ? "The host is not connected: this starts when it is back." : "Sent to the host, no answer yet."
        : `${done} of ${Math.max(queries.length, Number(f.total_requests ?? 1))} queries done`));
    }
    fill(band, parts);
  }

  const as = {
    vql: () => `SELECT * FROM source(client_id='${client}', flow_id='${flow}', artifact='${(ctx.data.artifacts_with_results ?? ctx.data.request?.artifacts ?? [""])[0]}')`,
    cli: () => `velociraptor --api_config api.config.yaml query "${as.vql()}"`,
    curl: () => `curl -u ${me.name} '${location.origin}${table?.export_url("jsonl") ?? ""}'`,
    link: () => {
      const to = new URL(location.href);
      if (org) to.searchParams.set("org_id", org);
      return to.href;
    },
  };
  const copy_menu = () => menu(h("summary", { class: "btn ghost" }, icon("code"), h("span", {}, "Copy as"), icon("down")),
    h("button", { type: "button", onclick: () => copy(as.vql(), "VQL") }, "VQL", h("kbd", {}, "y v")),
    h("button", { type: "button", onclick: () => copy(as.cli(), "Command line") }, "Command line", h("kbd", {}, "y c")),
    h("button", { type: "button", onclick: () => copy(as.curl(), "API call") }, "API call (curl)", h("kbd", {}, "y a")), h("hr"),
    h("button", { type: "button", onclick: () => copy(as.link(), "Link") }, "Link to this view", h("kbd", {}, "y y")));

  async function cancel() {
    const sure = await ask(`Stop this collection on ${name}?`, h("p", {}, Number(ctx.data.total_collected_rows) ? `${plural(ctx.data.total_collected_rows, "row")} that came so far stay. ` : "No rows came so far. ", "It cannot be gone on with."), "Stop it");
    if (!sure) return;
    try {
      await post("/v1/CancelFlow", { client_id: client, flow_id: flow });
      toast("The host was told to stop");
    } catch (e) { content.prepend(failed(e)); }
  }

  let table = null;
  function show_results() {
    const sets = ctx.data.artifacts_with_results ?? [];
    const wanted = params().get("set");
    const set = wanted || sets[0] || ctx.data.request?.artifacts?.[0] || "";
    if (table?.set.name !== set) {
      table = new ResultTable({ set: { client_id: client, flow_id: flow, name: set }, signal, none: () => none() });
      fill(content, table.element);
      table.load();
      set_keys();
    }
    const options = [...new Set([...sets, set])].filter(Boolean);
    const key = options.join();
    if (table.options === key) return;
    table.options = key;
    const current = options.includes(set) ? set : options[0];
    fill(table.select, h("select", { class: "in fit-w", "aria-label": "Result set", onchange: (e) => {
      adjust({ set: e.target.value, start: "", sort: "", f: [], hide: [] });
      show_results();
    } }, options.map((o) => h("option", { value: o, selected: o === current }, o))));
  }

  function none() {
    const f = ctx.data;
    if (!is_over(f)) {
      return h("div", { class: "empty" }, h("h2", {}, "No rows yet"),
        h("p", {}, ctx.connected === false && !Number(f.start_time) ? `${name} is not connected. The collection starts by itself when it is back.` : "The first row is shown here as soon as it is stored."));
    }
    return empty(f.state === "ERROR" ? "It ended without rows" : "It found nothing",
      h("p", {}, f.state === "ERROR" ? hostile(f.status || "The log says what happened.") : "The collection ran to its end and no row matched."),
      h("div", { class: "row" }, btn("Read the log", { href: `${location.pathname}?tab=logs` })));
  }

  function set_keys() {
    const to = (t) => () => go(`${location.pathname}${t === "results" ? "" : `?tab=${t}`}`);
    let y = 0;
    const second = (key, f, other) => () => { if (Date.now() - y < 1500) { y = 0; f(); } else other?.(); };
    const own = tab === "results" ? table?.keys() ?? {} : {};
    here({
      ...own,
      "A-o": to("overview"), "A-r": to("results"), "A-l": to("logs"), "A-u": to("uploads"), "A-c": () => go(app(`host/${client}/collections`)),
      y: () => { if (Date.now() - y < 1500) { y = 0; copy(as.link(), "Link"); } else y = Date.now(); },
      v: second("v", () => copy(as.vql(), "VQL")), c: second("c", () => copy(as.cli(), "Command line")), a: second("a", () => copy(as.curl(), "API call")),
    }, signal);
  }

  function draw(first) {
    tab = tab_of();
    draw_head();
    draw_band();
    if (tab === "results") {
      show_results();
      if (!first) table.grown(set_rows());
    } else if (first || shown?.update === undefined) {
      shown = { overview: show_overview, logs: show_logs, uploads: show_uploads, request: show_request, notebook: show_notebook }[tab](ctx);
    } else {
      shown.update();
    }
    if (first) set_keys();
  }

  // Rows of the set that is shown, as far as the flow says.
  function set_rows() {
    const sets = ctx.data.artifacts_with_results ?? [];
    const total = Number(ctx.data.total_collected_rows ?? 0);
    if (sets.length <= 1) return total;
    const q = (ctx.data.query_stats ?? []).filter((s) => (s.names_with_response ?? []).includes(table.set.name));
    return q.length ? q.reduce((n, s) => n + Number(s.result_rows ?? 0), 0) : table.known;
  }

  try {
    const details = await get("/v1/GetFlowDetails", { client_id: client, flow_id: flow }, { signal });
    ctx.data = details.context;
  } catch (e) {
    if (e.name === "AbortError") return;
    fill(view.body, e.status === 404 ? empty("No such collection", h("p", {}, h("code", {}, flow), ` is not known on ${name}.`), btn("Collections", { href: app(`host/${client}/collections`) })) : failed(e));
    return;
  }
  if (signal.aborted) return;
  draw(true);
  live.on("client", (c) => {
    if (c.client_id !== client) return;
    const changed = ctx.connected !== c.connected;
    ctx.connected = c.connected;
    if (changed) draw_band();
  }, signal);
  live.on("flow", (f) => {
    if (!f || f.session_id !== flow) return;
    const ended = !is_over(ctx.data) && is_over(f);
    ctx.data = f;
    draw(false);
    if (ended && tab === "results" && table.data && table.data.total < 50) table.load();
  }, signal);
}

