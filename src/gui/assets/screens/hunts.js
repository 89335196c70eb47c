// Hunts: what runs on many hosts at once, and how far it is.

import { app, get, me, post } from "../lib/api.js";
import { bar, btn, dot, empty, fill, h, hostile, sec, skeleton } from "../lib/dom.js";
import { count, from_micros, plural, size, time, time_title } from "../lib/format.js";
import { here } from "../lib/keys.js";
import * as live from "../lib/live.js";
import { adjust, go, params } from "../lib/route.js";
import { ask, failed, toast } from "../lib/say.js";
import { follow_exports } from "../parts/exports.js";
import { page } from "../shell.js";

export const STATES = { RUNNING: ["run", "Running"], PAUSED: ["idle", "Not started"], STOPPED: ["off", "Stopped"], ARCHIVED: ["off", "Archived"] };
// A state of a collection, as it is written elsewhere.
const said = (state) => { const t = String(state ?? "").toLowerCase().replace("_", " "); return t.charAt(0).toUpperCase() + t.slice(1); };

export const state_of = (x) => {
  const [kind, text] = STATES[x.state] ?? ["off", "Unknown"];
  return x.stats?.stopped && x.state === "RUNNING" ? ["off", "Ended"] : [kind, text];
};
const n = (x, key) => Number(x.stats?.[key] ?? 0);
export const every = (ms, signal, f) => {
  const timer = setInterval(f, ms);
  signal.addEventListener("abort", () => clearInterval(timer));
};

export async function show_hunts({ signal }) {
  live.watch();
  const may = me.may.start_hunt || me.may.collect_client;
  const { body } = page({ title: "Hunts", acts: may && btn("New hunt", { icon: "plus", kind: "primary", key: "c", href: app("collect", { hunt: "1" }) }) });
  fill(body, skeleton());
  const load = async () => {
    const { items = [] } = await get("/v1/ListHunts", { count: 500, summary: true }, { signal });
    if (signal.aborted) return;
    if (items.length === 0) {
      fill(body, empty("No hunt yet", h("p", {}, "A hunt collects the same artifacts from every host that matches, those that come later too, until it ends."),
        may && btn("New hunt", { icon: "plus", kind: "primary", href: app("collect", { hunt: "1" }) })));
      return;
    }
    fill(body, h("table", { class: "grid plain" },
      h("thead", {}, h("tr", {}, ["State", "Hunt", "Description", "Created", "By"].map((t) => h("th", { scope: "col" }, t)),
        ["Hosts", "Finished", "Errors", "Rows"].map((t) => h("th", { class: "num", scope: "col" }, t)))),
      h("tbody", {}, items.map((x) => {
        const [kind, text] = state_of(x);
        const made = from_micros(x.create_time);
        return h("tr", {}, h("td", {}, h("span", { class: "state" }, dot(kind), text)),
          h("td", {}, h("a", { href: app(`hunt/${x.hunt_id}`) }, h("code", {}, x.hunt_id))),
          h("td", { class: "fluid" }, hostile(x.hunt_description || "–")), h("td", { class: "tn", title: time_title(made) }, time(made)), h("td", {}, hostile(x.creator)),
          h("td", { class: "num" }, count(n(x, "total_clients_scheduled"))), h("td", { class: "num" }, count(n(x, "total_finished_clients"))),
          h("td", { class: "num" }, count(n(x, "total_clients_with_errors"))), h("td", { class: "num" }, count(n(x, "total_collected_rows"))));
      }))));
  };
  try { await load(); } catch (e) { if (e.name !== "AbortError") fill(body, failed(e)); return; }
  here({ c: () => may && go(app("collect", { hunt: "1" })) }, signal);
  every(5000, signal, () => load().catch(() => {}));
}

const ROWS = 50;

export const hunt_tabs = (hunt, now, x) => [["Overview", app(`hunt/${hunt}`), undefined, now === "overview"],
  ["Results", app(`hunt/${hunt}`, { tab: "results" }), count(n(x, "total_collected_rows")), now === "results"],
  ["Notebook", app(`hunt/${hunt}`, { tab: "notebook" }), undefined, now === "notebook"]];

async function show_hunt_notebook({ hunt, signal }) {
  const { body, heading, acts, set_tabs } = page({ title: hunt, crumbs: [["Hunts", app("hunts")]], tabs: [] });
  try {
    const [x, { notebook }] = await Promise.all([get("/v1/GetHunt", { hunt_id: hunt }, { signal }), import("../parts/notebook.js")]);
    if (signal.aborted) return;
    fill(heading, hostile(x.hunt_description || hunt));
    set_tabs(hunt_tabs(hunt, "notebook", x));
    await notebook({ id: `N.${hunt}`, name: `Hunt ${x.hunt_description || hunt}`, body, acts, signal });
  } catch (e) { if (e.name !== "AbortError") fill(body, failed(e)); }
}

export async function show_hunt({ hunt, signal }) {
  live.watch();
  if (params().get("tab") === "results") { await (await import("./hunt_results.js")).show_hunt_results({ hunt, signal }); return; }
  if (params().get("tab") === "notebook") { await show_hunt_notebook({ hunt, signal }); return; }
  const { body, heading, status, acts, set_tabs } = page({ title: hunt, crumbs: [["Hunts", app("hunts")]], tabs: [] });
  fill(body, skeleton());
  let x = null;
  const zips = h("div", {});
  const change = async (state, said) => {
    try {
      await post("/v1/ModifyHunt", { hunt_id: hunt, state });
      toast(said);
      await load();
    } catch (e) { body.prepend(failed(e)); }
  };
  async function remove() {
    if (!(await ask(`Delete hunt ${hunt}?`, h("p", {}, "Its collections stay with their hosts."), "Delete"))) return;
    try {
      await post("/v1/ModifyHunt", { hunt_id: hunt, state: "DELETED" });
      go(app("hunts"));
    } catch (e) { body.prepend(failed(e)); }
  }
  const load = async () => {
    x = await get("/v1/GetHunt", { hunt_id: hunt }, { signal });
    const start = Number(params().get("start") ?? 0);
    const t = await get("/v1/GetHuntFlows", { hunt_id: hunt, start_row: start, rows: ROWS }, { signal });
    if (signal.aborted) return;
    const rows = (t.rows ?? []).map((r) => Object.fromEntries(JSON.parse(r.json).map((v, i) => [t.columns[i], v])));
    set_tabs(hunt_tabs(hunt, "overview", x));
    draw(rows, Number(t.total_rows ?? 0), start);
  };
  function draw(rows, total, start) {
    const [kind, text] = state_of(x);
    fill(heading, hostile(x.hunt_description || hunt));
    document.title = `${x.hunt_description || hunt} · velociraptor`;
    fill(status, dot(kind), text);
    const running = x.state === "RUNNING" && !x.stats?.stopped;
    fill(acts,
      !running && x.state !== "ARCHIVED" && me.may.start_hunt && btn("Start", { icon: "play", kind: "primary", onclick: () => change("RUNNING", "Started") }),
      running && me.may.collect_client && btn("Stop", { icon: "stop", kind: "danger", onclick: () => change("STOPPED", "Stopped: no further host gets it") }),
      !running && me.may.delete_results && btn("Delete", { icon: "trash", kind: "danger", onclick: remove }));
    const scheduled = n(x, "total_clients_scheduled"), done = n(x, "total_finished_clients"), errors = n(x, "total_clients_with_errors");
    const open = Math.max(0, scheduled - done);
    const sum = (v, t, k) => h("div", {}, h("b", {}, count(v)), h("span", {}, k && dot(k), t));
    const fact = (k, ...v) => [h("dt", {}, k), h("dd", {}, v)];
    const where = x.condition?.os ? `hosts that run ${(x.condition.os.os ?? "ALL").toLowerCase()}` : x.condition?.labels ? `hosts labelled ${x.condition.labels.label?.join(", ")}` : "every host";
    const ends = from_micros(x.expires);
    const turn = (to) => { adjust({ start: to }, { replace: false }); load(); };
    fill(body, h("div", { class: "cols" },
      h("div", { class: "w8 stack wide" },
        sec("Hosts", "scheduled so far", h("div", { class: "ledger" }, sum(scheduled, "scheduled"), h("i", {}, "="), sum(Math.max(0, done - errors), "finished", "ok"), h("i", {}, "+"), sum(errors, "with an error", errors ? "err" : ""), h("i", {}, "+"), sum(open, "not done", "run")),
          scheduled > 0 && bar([["f-ok", (Math.max(0, done - errors) / scheduled) * 100], ["f-err", (errors / scheduled) * 100]], `${done} of ${scheduled} finished`, "thick")),
        h("div", { class: "rule" }, sec("Collections", plural(total, "host"), rows.length === 0
          ? h("p", { class: "mid" }, running ? "No host has taken it yet. Hosts take it when they are next connected." : "It was not started.")
          : h("div", { class: "over" }, h("table", { class: "grid plain" }, h("thead", {}, h("tr", {}, ["State", "Host", "Flow", "Begun"].map((c) => h("th", { scope: "col" }, c)), ["Rows", "Uploaded"].map((c) => h("th", { class: "num", scope: "col" }, c)))),
            h("tbody", {}, rows.map((r) => {
              // Milliseconds, as stock has it.
              const began = from_micros(Number(r.StartedTime) * 1000);
              const kinds = { FINISHED: "ok", ERROR: "err", RUNNING: "run", IN_PROGRESS: "run" };
              return h("tr", {}, h("td", {}, h("span", { class: "state" }, dot(kinds[r.State] ?? "idle"), said(r.State))),
                h("td", {}, h("a", { href: app(`host/${r.ClientId}`) }, hostile(r.Hostname || r.ClientId))),
                h("td", {}, r.FlowId ? h("a", { href: app(`flow/${r.ClientId}/${r.FlowId}`) }, h("code", {}, r.FlowId)) : "–"),
                h("td", { class: "tn", title: time_title(began) }, time(began)), h("td", { class: "num" }, count(r.TotalRows)), h("td", { class: "num" }, size(r.TotalBytes)));
            })))), total > ROWS && h("div", { class: "row foot-pad" }, h("span", { class: "tn mid grow" }, `${count(start + 1)}–${count(start + rows.length)} of ${count(total)}`),
          h("span", { class: "join" }, btn("Previous", { disabled: start === 0, onclick: () => turn(Math.max(0, start - ROWS)) }), btn("Next", { disabled: start + ROWS >= total, onclick: () => turn(start + ROWS) })))))),
      h("div", { class: "w4 stack wide" }, sec("What and where", "", h("dl", { class: "kv" },
        fact("Artifacts", h("div", { class: "stack tight" }, (x.artifacts ?? x.start_request?.artifacts ?? []).map((a) => h("code", {}, hostile(a))))),
        fact("Where", hostile(where), x.condition?.excluded_labels?.label?.length ? `, not labelled ${x.condition.excluded_labels.label.join(", ")}` : ""),
        fact("Hosts at most", Number(x.client_limit) ? count(x.client_limit) : "no limit"), h("dt", {}, "Ends"), h("dd", { title: time_title(ends) }, time(ends)),
        fact("By", hostile(x.creator ?? "")), fact("Hunt id", h("code", {}, hunt)), fact("Rows", count(n(x, "total_collected_rows"))), fact("Uploads", size(n(x, "total_uploaded_bytes"))),
        (x.tags ?? []).length > 0 && fact("Tags", x.tags.map((t) => [h("span", { class: "tag" }, hostile(t)), " "])))), zips)));
  }
  try { await load(); } catch (e) {
    if (e.name !== "AbortError") fill(body, e.status === 404 ? empty("No such hunt", h("p", {}, h("code", {}, hunt)), btn("Hunts", { href: app("hunts") })) : failed(e));
    return;
  }
  follow_exports(zips, { hunt_id: hunt }, signal, async () => (await get("/v1/GetHunt", { hunt_id: hunt }, { signal })).stats?.available_downloads);
  every(3000, signal, () => load().catch(() => {}));
}
