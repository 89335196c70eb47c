// All collections of a client.

import { app, get, me } from "../lib/api.js";
import { btn, dot, empty, fill, h, hostile, skeleton } from "../lib/dom.js";
import { count, from_micros, size, time, time_title } from "../lib/format.js";
import { here } from "../lib/keys.js";
import * as live from "../lib/live.js";
import { adjust, go, params } from "../lib/route.js";
import { failed } from "../lib/say.js";
import { page } from "../shell.js";
import { host_name, host_tabs } from "./host.js";

const ROWS = 50;

export const STATES = {
  RUNNING: ["run", "Running"], WAITING: ["idle", "Waiting"], IN_PROGRESS: ["run", "Running"],
  FINISHED: ["ok", "Finished"], ERROR: ["err", "Error"], UNRESPONSIVE: ["warn", "Unresponsive"], UNSET: ["off", "Unknown"],
};

export function flow_state(flow) {
  const [kind, text] = STATES[flow.state] ?? STATES.UNSET;
  if (flow.state === "ERROR" && /cancel/i.test(flow.status ?? "")) return ["off", "Cancelled"];
  return [kind, text];
}

export const is_over = (flow) => flow.state === "FINISHED" || flow.state === "ERROR";

export async function flows_of(client, start, rows, signal) {
  const t = await get("/v1/GetClientFlows", { client_id: client, start_row: start, rows }, { signal });
  const at = (t.columns ?? []).indexOf("_Flow");
  return { total: Number(t.total_rows ?? 0), items: (t.rows ?? []).map((r) => JSON.parse(r.json)[at]) };
}

export function flow_table(client, items) {
  return h("table", { class: "grid plain flows" },
    h("thead", {}, h("tr", {}, ["State", "Flow", "Artifacts", "Created", "By"].map((t) => h("th", { scope: "col" }, t)),
      h("th", { class: "num", scope: "col" }, "Rows"), h("th", { class: "num", scope: "col" }, "Uploaded"))),
    h("tbody", {}, items.map((f) => {
      const [kind, text] = flow_state(f);
      const made = from_micros(f.create_time);
      return h("tr", { "data-id": f.session_id },
        h("td", {}, h("span", { class: "state" }, dot(kind), text)),
        h("td", {}, h("a", { href: app(`flow/${client}/${f.session_id}`) }, h("code", {}, f.session_id))),
        h("td", { class: "fluid" }, hostile((f.request?.artifacts ?? []).join(", "))),
        h("td", { class: "tn", title: time_title(made) }, time(made)),
        h("td", {}, hostile(f.request?.creator || "server")),
        h("td", { class: "num" }, count(f.total_collected_rows)),
        h("td", { class: "num" }, size(f.total_uploaded_bytes)));
    })));
}

export async function show_flows({ client, signal }) {
  live.watch(client);
  const name = await host_name(client, signal);
  const { body } = page({
    title: "Collections", crumbs: [["Clients", app("clients")], [name, app(`host/${client}`)]], tabs: host_tabs(client, "collections"),
    acts: [me.may.collect_client && btn("Collect", { icon: "plus", kind: "primary", key: "c", href: app("collect", { c: client }) })],
  });
  fill(body, skeleton());
  const load = async () => {
    const start = Number(params().get("start") ?? 0);
    const { items, total } = await flows_of(client, start, ROWS, signal);
    if (signal.aborted) return;
    if (total === 0) {
      fill(body, empty("Nothing was collected here yet", h("p", {}, "A collection runs one or more artifacts on this host and keeps what they find."),
        me.may.collect_client && btn("Collect", { icon: "plus", kind: "primary", href: app("collect", { c: client }) })));
      return;
    }
    const turn = (to) => { adjust({ start: to }, { replace: false }); load(); };
    fill(body, flow_table(client, items), h("div", { class: "row foot-pad" },
      h("span", { class: "tn mid" }, `${count(start + 1)}–${count(start + items.length)} of ${count(total)}`), h("span", { class: "grow" }),
      total > ROWS && h("span", { class: "join" }, btn("Previous", { disabled: start === 0, onclick: () => turn(Math.max(0, start - ROWS)) }),
        btn("Next", { disabled: start + ROWS >= total, onclick: () => turn(start + ROWS) }))));
  };
  try { await load(); } catch (e) { if (e.name !== "AbortError") fill(body, failed(e)); }
  here({ c: () => me.may.collect_client && go(app("collect", { c: client })) }, signal);
}
