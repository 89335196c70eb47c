// Search and client list: who is there, with labels for many at once.

import { app, get, me, post } from "../lib/api.js";
import { btn, dot, empty, fill, h, hostile, icon, skeleton } from "../lib/dom.js";
import { ago, count, from_micros, time_title } from "../lib/format.js";
import { here } from "../lib/keys.js";
import * as live from "../lib/live.js";
import { adjust, go, params } from "../lib/route.js";
import { failed, form, toast } from "../lib/say.js";
import { page } from "../shell.js";
import { first_steps } from "./first.js";

const ROWS = 50;
// A poll and the moment after it, microseconds.
const NEAR = 90e6;
const COLUMNS = [
  ["host", "Host"], ["id", "Client id", "hide-n"], ["os", "System"], ["", "Labels"], ["ip", "Address"],
  ["agent", "Agent", "hide-n"], ["", "Frontend", "hide-n"], ["seen", "Seen"],
];

export async function show_clients({ signal }) {
  live.watch();
  const q = () => params().get("q") ?? "";
  const input = document.querySelector(".find input");
  input.value = q();
  const tab = (text, query, small, current) => [text, app("clients", query), small, current];
  const { body, set_tabs } = page({ title: "Clients", tabs: [], fillbody: true });
  const chosen = new Set();
  let data = null;
  let at = 0;

  const tbody = h("tbody");
  const head = h("tr");
  const foot = h("div", { class: "tbl-foot" });
  const bulk = h("div", { class: "bulk", role: "region", "aria-label": "Selected clients" });
  const bar = h("div", { class: "tbl-bar" });
  const scroll = h("div", { class: "tbl-scroll", tabindex: "0", "aria-label": "Clients" },
    h("table", { class: "grid clients" }, h("caption", { class: "vh" }, "Clients"), h("thead", {}, head), tbody));
  const table = h("section", { class: "tbl", "aria-label": "Clients" }, bar, bulk, scroll, foot);

  async function load() {
    const p = params();
    const asked = { q: q(), start: p.get("start"), rows: ROWS, sort: p.get("sort") ?? "host", online: p.get("online") };
    try {
      data = await get("/fleet/clients", asked, { signal });
    } catch (e) {
      if (e.name !== "AbortError") fill(body, h("div", { class: "pane" }, failed(e)));
      return;
    }
    if (signal.aborted) return;
    draw();
  }

  function draw() {
    const online = params().get("online") === "true";
    const query = q();
    set_tabs([
      tab("All", {}, undefined, !query && !online),
      tab("Online", { online: "true", q: query }, query || !online ? undefined : count(data.online), online),
      query && query !== "label:none" && tab(query, { q: query }, count(data.total), !online),
      tab("No label", { q: "label:none" }, undefined, query === "label:none" && !online),
    ].filter(Boolean));
    if (data.total === 0 && !query) {
      fill(body, first_steps());
      return;
    }
    if (data.items.length === 0) {
      fill(body, empty(online && data.total > 0 ? "None of them is online" : "No client matches",
        h("p", {}, online && data.total > 0
          ? `${count(data.total)} match the search, and none was seen in the last 15 minutes.`
          : "Searched in host names, labels and ids. A search can name its field: host:web*, label:finance, ip:10.20., mac:, C.3f9a."),
        h("div", { class: "row" },
          online && btn("Show them all", { href: app("clients", { q: query }) }),
          btn("All clients", { href: app("clients") }))));
      return;
    }
    draw_head();
    fill(bar, h("span", { class: "mid" }, query ? ["Search ", h("code", {}, query)] : "Every client that ever enrolled"),
      query && h("a", { class: "btn ghost sq", href: app("clients"), "aria-label": "Remove the search", title: "Remove the search" }, icon("x")));
    fill(tbody, data.items.map(row));
    at = Math.min(at, data.items.length - 1);
    mark();
    draw_bulk();
    const start = Number(params().get("start") ?? 0);
    const turn = (to) => { adjust({ start: to }, { replace: false }); load(); };
    fill(foot, h("span", { class: "tn" }, h("b", {}, `${count(start + 1)}–${count(start + data.items.length)}`), ` of ${count(data.shown)}`),
      h("span", { class: "mid hide-n" }, `${count(data.online)} seen in the last 15 min, ${count(data.total - data.online)} not`),
      h("span", { class: "grow" }),
      data.shown > ROWS && h("span", { class: "join" },
        btn("Previous", { disabled: start === 0, onclick: () => turn(Math.max(0, start - ROWS)) }),
        btn("Next", { disabled: start + ROWS >= data.shown, onclick: () => turn(start + ROWS) })));
    if (!table.isConnected) fill(body, table);
  }

  function draw_head() {
    const sort = params().get("sort") ?? "host";
    const all = h("input", { type: "checkbox", "aria-label": "Select all on this page", onchange: (e) => {
      for (const c of data.items) e.target.checked ? chosen.add(c.client_id) : chosen.delete(c.client_id);
      draw();
    }, checked: data.items.every((c) => chosen.has(c.client_id)) });
    fill(head, h("th", { class: "fit", scope: "col" }, all), h("th", { scope: "col" }, h("span", { class: "vh" }, "State")),
      COLUMNS.map(([key, text, hide]) => {
        const is = sort.replace("-", "") === key && key;
        const down = sort.startsWith("-");
        return h("th", { class: hide, scope: "col", "aria-sort": is ? (down ? "descending" : "ascending") : undefined },
          key ? h("button", { class: "sort", type: "button", onclick: () => { adjust({ sort: is && !down ? `-${key}` : key, start: "" }); load(); } },
            text, is && icon(down ? "desc" : "asc")) : text);
      }));
  }

  function row(c) {
    const os = c.os_info ?? {};
    const name = os.hostname || c.client_id;
    const box = h("input", { type: "checkbox", "aria-label": `Select ${name}`, checked: chosen.has(c.client_id), onchange: (e) => {
      e.target.checked ? chosen.add(c.client_id) : chosen.delete(c.client_id);
      draw_bulk();
    } });
    const seen = from_micros(c.last_seen_at);
    // Between two polls a client is nowhere for a moment; what was seen is the start of the last.
    const near = c.connected || data.now - Number(c.last_seen_at) < NEAR;
    return h("tr", { "data-id": c.client_id },
      h("td", { class: "fit" }, box),
      h("td", {}, near ? dot("ok", "connected") : dot("off", "not connected")),
      h("td", {}, h("a", { href: app(`host/${c.client_id}`) }, h("b", {}, hostile(name)))),
      h("td", { class: "hide-n" }, h("code", { class: "mid" }, c.client_id)),
      h("td", { title: os.release }, hostile([os.system, os.release].filter(Boolean).join(" ") || "not known yet")),
      h("td", {}, (c.labels ?? []).map((l) => [h("a", { class: "tag", href: app("clients", { q: `label:${l}` }) }, hostile(l)), " "])),
      h("td", { class: "tn" }, hostile((c.last_ip ?? "").replace(/:\d+$/, ""))),
      h("td", { class: "tn hide-n" }, hostile(c.agent_information?.version ?? "")),
      h("td", { class: "hide-n" }, c.connected ? c.node : "–"),
      h("td", { class: near ? "mid" : "", title: time_title(seen) }, near ? "now" : ago(c.last_seen_at, data.now)));
  }

  function draw_bulk() {
    const n = chosen.size;
    const clear = () => { chosen.clear(); draw(); };
    fill(bulk, h("b", {}, `${count(n)} selected`), h("span", { class: "grow" }),
      me.may.label_clients && btn("Label", { icon: "tag", key: "l", onclick: label }),
      me.may.collect_client && btn(`Collect from ${count(n)}`, { icon: "plus", kind: "primary", key: "c", onclick: collect }),
      btn("", { icon: "x", kind: "ghost sq", title: "Clear selection", onclick: clear }));
    bulk.classList.toggle("shown", n > 0);
  }

  function collect() {
    const ids = chosen.size ? [...chosen] : data?.items[at] ? [data.items[at].client_id] : [];
    if (ids.length) go(app("collect", { c: ids }));
  }

  function label() {
    if (chosen.size === 0 || !me.may.label_clients) return;
    const ids = [...chosen];
    form(`Label ${count(ids.length)} ${ids.length === 1 ? "client" : "clients"}`, [
      h("div", { class: "field plain" }, h("label", { for: "labels" }, "Labels"),
        h("div", { class: "ctl" }, h("input", { class: "in", id: "labels", name: "labels", required: true, autofocus: true, placeholder: "finance, IR-2291" }))),
      h("div", { class: "seg", role: "radiogroup", "aria-label": "What to do" },
        h("label", {}, h("input", { type: "radio", name: "op", value: "set", checked: true }), "Add"),
        h("label", {}, h("input", { type: "radio", name: "op", value: "remove" }), "Remove")),
    ], "Apply", async ({ labels, op }) => {
      const list = labels.split(",").map((l) => l.trim()).filter(Boolean);
      await post("/v1/LabelClients", { client_ids: ids, labels: list, operation: op });
      toast(`${op === "set" ? "Added" : "Removed"} ${list.join(", ")} on ${count(ids.length)}`, { undo: async () => {
        await post("/v1/LabelClients", { client_ids: ids, labels: list, operation: op === "set" ? "remove" : "set" });
        load();
      } });
      load();
    });
  }

  function mark() {
    const rows = [...tbody.children];
    rows.forEach((r, i) => r.classList.toggle("cur", i === at));
    rows[at]?.scrollIntoView({ block: "nearest" });
  }
  const move = (n) => { at = Math.max(0, Math.min((data?.items.length ?? 1) - 1, at + n)); mark(); };
  here({
    j: () => move(1), k: () => move(-1), Home: () => move(-1e9), End: () => move(1e9),
    Enter: () => data?.items[at] && go(app(`host/${data.items[at].client_id}`)),
    x: () => tbody.children[at]?.querySelector("input")?.click(),
    n: () => [...foot.querySelectorAll("button")].at(-1)?.click(), p: () => foot.querySelector("button")?.click(),
    l: label, c: () => me.may.collect_client && collect(),
  }, signal);

  fill(body, skeleton());
  await load();
  // The list is asked again when the number of clients or of connections changes.
  let known = "";
  live.on("vitals", (v) => {
    const now = `${v.clients} ${v.held}`;
    if (known && known !== now && chosen.size === 0 && !signal.aborted) load();
    known = now;
  }, signal);
}
