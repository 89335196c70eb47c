// What all hosts of a hunt have found, as one table.

import { app, get, me } from "../lib/api.js";
import { btn, dot, empty, fill, h, hostile, skeleton } from "../lib/dom.js";
import { count } from "../lib/format.js";
import { here } from "../lib/keys.js";
import { adjust, params } from "../lib/route.js";
import { copy, failed } from "../lib/say.js";
import { ResultTable } from "../parts/table.js";
import { page } from "../shell.js";
import { every, hunt_tabs, state_of } from "./hunts.js";

export async function show_hunt_results({ hunt, signal }) {
  const { body, heading, status, acts, set_tabs } = page({ title: hunt, crumbs: [["Hunts", app("hunts")]], tabs: [], fillbody: true });
  const content = h("div", { class: "fitbox" }, skeleton());
  fill(body, content);
  let x = null, sets = [], table = null;

  const name = () => params().get("set") || sets.find((s) => s.rows > 0)?.name || sets[0]?.name || "";
  const load = async () => {
    [x, { items: sets }] = await Promise.all([get("/v1/GetHunt", { hunt_id: hunt }, { signal }), get("/fleet/hunt_sets", { hunt_id: hunt }, { signal })]);
    if (signal.aborted) return;
    const [kind, text] = state_of(x);
    fill(heading, hostile(x.hunt_description || hunt));
    document.title = `${x.hunt_description || hunt} · velociraptor`;
    fill(status, dot(kind), text);
    set_tabs(hunt_tabs(hunt, "results", x));
    draw();
  };
  const none = () => empty("No rows yet", h("p", {}, "Rows of every host are shown here as soon as they are stored."),
    btn("Hosts of this hunt", { href: app(`hunt/${hunt}`) }));
  function draw() {
    const set = name();
    if (table?.set.name !== set) {
      table = new ResultTable({ set: { hunt_id: hunt, name: set }, signal, none, first: ["Fqdn"], links: {
        Fqdn: (v, row) => app(`host/${row.ClientId}`),
        FlowId: (v, row) => app(`flow/${row.ClientId}/${v}`),
        ClientId: (v) => app(`host/${v}`),
      }, off: ["_OrgId"] });
      fill(content, table.element);
      table.load();
      here(table.keys(), signal);
    } else table.grown(sets.find((s) => s.name === set)?.rows ?? 0);
    const key = JSON.stringify(sets);
    if (table.options === key) return;
    table.options = key;
    fill(table.select, h("select", { class: "in fit-w", "aria-label": "Result set", onchange: (e) => {
      adjust({ set: e.target.value, start: "", sort: "", f: [], hide: [] });
      draw();
    } }, sets.map((s) => h("option", { value: s.name, selected: s.name === set }, `${s.name} (${count(s.rows)})`))));
    const vql = `SELECT * FROM hunt_results(hunt_id='${hunt}', artifact='${set}')`;
    fill(acts, btn("Copy as VQL", { icon: "code", kind: "ghost", onclick: () => copy(vql, "VQL") }),
      btn("Copy as API call", { icon: "copy", kind: "ghost", onclick: () => copy(`curl -u ${me.name} '${location.origin}${table.export_url("jsonl")}'`, "API call") }));
  }
  try { await load(); } catch (e) {
    if (e.name !== "AbortError") fill(body, e.status === 404 ? empty("No such hunt", h("p", {}, h("code", {}, hunt)), btn("Hunts", { href: app("hunts") })) : failed(e));
    return;
  }
  every(4000, signal, () => load().catch(() => {}));
}
