// Events of a host, or of the server: what came on a day, and as it comes; and which
// event artifacts hosts run.

import { app, get, me } from "../lib/api.js";
import { btn, empty, fill, h, hostile, note, skeleton } from "../lib/dom.js";
import { count, from_micros, time, time_title } from "../lib/format.js";
import { here } from "../lib/keys.js";
import * as live from "../lib/live.js";
import { adjust, params } from "../lib/route.js";
import { copy, failed } from "../lib/say.js";
import { ResultTable } from "../parts/table.js";
import { page } from "../shell.js";
import { host_name, host_tabs } from "./host.js";
import { show_monitoring } from "./monitoring.js";

const today = () => new Date().toISOString().slice(0, 10);

export async function show_events({ client, signal }) {
  const server = client === "server";
  const at = server ? "events/server" : `host/${client}/events`;
  live.watch(server ? "" : client);
  if (params().get("view") === "table") { await show_monitoring({ client, signal }); return; }
  const name = server ? "Server" : await host_name(client, signal);
  if (signal.aborted) return;
  const { body, acts } = page({
    title: server ? "Server events" : "Events", crumbs: server ? [] : [["Clients", app("clients")], [name, app(`host/${client}`)]],
    tabs: server ? undefined : host_tabs(client, "events"), fillbody: true,
  });
  fill(acts, server ? me.may.collect_server && btn("What the server watches", { icon: "edit", href: app(at, { view: "table" }) }) : me.may.collect_client && btn("What hosts report", { icon: "edit", href: app(at, { view: "table" }) }));
  const list = h("nav", { class: "tree", "aria-label": "Event artifacts" });
  const content = h("div", { class: "fitbox" }, skeleton());
  fill(body, h("div", { class: "split files" }, list, content));
  let names = [], days = [], table = null, shown = "", follow = true;

  const chosen = () => { const c = chosen_name(); const n = names.find((x) => x.name === c); return { name: c, logs: params().get("kind") === "logs" || (!!n && n.logs && !n.rows) }; };
  const chosen_name = () => (params().get("name") || names.find((n) => !n.name.startsWith("Server.Internal."))?.name || names[0]?.name || "");
  const choose = (more) => { adjust({ start: "", sort: "", f: [], hide: [], day: "", ...more }, { replace: false }); show(); };

  function draw_list() {
    const { name: now } = chosen();
    fill(list, h("ul", {}, names.map((n) => h("li", {}, h("a", { href: app(at, { name: n.name }), class: "ell", title: n.name, "aria-current": n.name === now ? "true" : undefined,
      onclick: (e) => { e.preventDefault(); choose({ name: n.name, kind: n.rows ? "" : "logs" }); } }, h("span", { class: "ell" }, hostile(n.name)))))));
  }

  async function show() {
    const { name: artifact, logs } = chosen();
    draw_list();
    if (!artifact) {
      table = null;
      fill(content, empty("No events yet", h("p", {}, server ? "The server writes its audit log here as soon as somebody does something." : "Event artifacts run all the time on hosts and report what happens. None has reported from this one."),
        !server && me.may.collect_client && btn("Choose event artifacts", { icon: "plus", kind: "primary", href: app(at, { view: "table" }) })));
      return;
    }
    try {
      days = (await get("/fleet/event_days", { client_id: client, name: artifact, kind: logs ? "event_logs" : "" }, { signal })).items;
    } catch (e) {
      if (e.name !== "AbortError") fill(content, h("div", { class: "pane" }, failed(e)));
      return;
    }
    if (signal.aborted) return;
    const day = params().get("day") || days[0] || today();
    const key = JSON.stringify([artifact, logs, day]);
    if (key !== shown || !table) {
      shown = key;
      table = new ResultTable({
        set: { client_id: client, name: artifact, kind: logs ? "event_logs" : "events", day }, signal, first: ["_ts"],
        none: () => empty("Nothing on this day", h("p", {}, "Choose another day above.")), off: server ? [] : ["ClientId"],
        cells: { _ts: when },
      });
      fill(content, table.element);
      here({ ...table.keys(), l: () => { follow = !follow; draw_select(); } }, signal);
      if (!params().get("sort")) adjust({ sort: "-_ts" });
      table.load();
    }
    draw_select();
  }

  function draw_select() {
    const { name: artifact, logs } = chosen();
    const n = names.find((x) => x.name === artifact);
    const day = table.set.day;
    fill(table.select, h("div", { class: "row" },
      h("select", { class: "in fit-w", "aria-label": "Day (UTC)", onchange: (e) => choose({ name: artifact, kind: logs ? "logs" : "", day: e.target.value }) },
        [...new Set([...days, day])].map((d) => h("option", { value: d, selected: d === day }, d === today() ? `${d} (today)` : d))),
      n?.rows && n?.logs && h("div", { class: "seg", role: "radiogroup", "aria-label": "Show" }, [["", "rows"], ["logs", "log"]].map(([k, t]) =>
        h("label", {}, h("input", { type: "radio", name: "kind", checked: (k === "logs") === logs, onchange: () => choose({ name: artifact, kind: k }) }), t))),
      day === today() && h("label", { class: "check" }, h("input", { type: "checkbox", checked: follow, onchange: (e) => { follow = e.target.checked; } }), "Follow"),
      table.data?.cut && note("warn", `Only the first ${count(table.data.total)} rows of the day are here.`),
      btn("", { icon: "code", kind: "ghost sq", title: "Copy as VQL", onclick: () => copy(`SELECT * FROM monitoring(client_id='${client}', artifact='${artifact}', start_time='${day}T00:00:00Z')`, "VQL") })));
  }

  const load = async () => {
    names = (await get("/fleet/events", { client_id: client }, { signal })).items;
    if (!signal.aborted) await show();
  };
  try { await load(); } catch (e) {
    if (e.name !== "AbortError") fill(content, h("div", { class: "pane" }, failed(e)));
    return;
  }
  // New rows of today: shown at once on the first page, else announced.
  const timer = setInterval(async () => {
    try {
      const fresh = (await get("/fleet/events", { client_id: client }, { signal })).items;
      // What had a log alone has rows now, or something new reports.
      if (JSON.stringify(fresh) !== JSON.stringify(names)) { names = fresh; await show(); }
      if (!table || table.set.day !== today()) return;
      const { total } = await get("/fleet/table", { ...table.set, rows: 1 }, { signal });
      if (total <= (table.known ?? 0)) return;
      if (follow && table.start === 0 && !table.open) await table.load();
      else table.grown(total);
    } catch { /* the next time */ }
  }, 2000);
  signal.addEventListener("abort", () => clearInterval(timer));
}

function when(v) {
  const date = from_micros(Number(v) * 1000);
  return h("span", { class: "tn", title: time_title(date) }, time(date));
}
