// The nodes: who is up, who holds how many clients, who is behind, and the store.

import { get } from "../lib/api.js";
import { bar, dot, fill, h, hostile, note, s, sec } from "../lib/dom.js";
import { count, plural, size, span, time } from "../lib/format.js";
import * as live from "../lib/live.js";
import { failed } from "../lib/say.js";
import { page } from "../shell.js";

const KEEP = 150;

function spark(values, label) {
  if (values.length < 2) return h("span", { class: "dim" }, "…");
  const most = Math.max(...values, 1);
  const points = values.map((v, i) => `${((i / (KEEP - 1)) * 100).toFixed(1)},${(19 - (v / most) * 17).toFixed(1)}`).join(" ");
  return s("svg", { class: "spark", viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img", "aria-label": label }, s("polyline", { class: "ln", points }));
}

export async function show_cluster({ signal }) {
  live.watch();
  const { body, status } = page({ title: "Cluster" });
  const history = new Map();
  let before = null;

  const rate = (n, key) => {
    const old = before?.nodes.find((o) => o.node === n.node && o.epoch === n.epoch);
    const seconds = before ? (now.now - before.now) / 1e6 : 0;
    return old && seconds > 0 ? Math.max(0, (n.stats[key] - old.stats[key]) / seconds) : null;
  };
  let now = null;

  async function load() {
    let got;
    try { got = await get("/fleet/cluster", {}, { signal }); } catch (e) {
      if (e.name !== "AbortError" && !now) fill(body, failed(e));
      return;
    }
    if (signal.aborted) return;
    now = got;
    for (const n of now.nodes) {
      const r = rate(n, "rows");
      if (r === null) continue;
      const h = history.get(n.node) ?? [];
      history.set(n.node, [...h, r].slice(-KEEP));
    }
    draw();
    before = now;
  }

  function draw() {
    const down = now.nodes.filter((n) => !n.connected);
    const sick = now.nodes.filter((n) => n.stats.store_error);
    const behind = now.nodes.filter((n) => n.lag_bytes > 1 << 20 || n.lag_files > 0);
    const bad = down.length + sick.length, kind = bad || now.store.healthy ? "err" : behind.length ? "warn" : "ok";
    fill(status, dot(kind), bad ? `${plural(bad, "node")} not well` : now.store.healthy ? "the store is not well" : behind.length ? `${plural(behind.length, "node")} behind` : "All well");
    const held = now.nodes.reduce((n, x) => n + x.clients, 0);
    const rest = now.held - held;
    const cell = (t, cls = "num") => h("td", { class: cls }, t);
    const days = (t) => { const d = (t - now.now / 1e6) / 86400; return t > 0 ? h("span", { class: d < 30 ? "t-warn" : "" }, `${Math.floor(d)} d`) : "–"; };
    fill(body, h("div", { class: "stack wide" },
      now.store.healthy && note("err", h("b", {}, "The datastore is not healthy. "), hostile(now.store.healthy)),
      down.map((n) => note("err", h("b", {}, `${n.node} is not connected. `), `Since ${span(n.since)}. If it lives, it still serves its clients: what it takes is in its journal on the datastore, which this master reads.`)),
      now.nodes.filter((n) => n.drained).map((n) => note("warn", h("b", {}, `${n.node} is drained. `), n.clients ? `${plural(n.clients, "client")} still to be sent to other nodes.` : "Its clients are with other nodes.", " Back into service: ", h("code", {}, `velociraptor frontend drain --node ${n.node} --undo`))),
      sick.map((n) => note("err", h("b", {}, `The store of ${n.node} fails. `), hostile(n.stats.store_error))),
      behind.map((n) => note("warn", h("b", {}, `${n.node} is ${size(n.lag_bytes)} behind. `), "Nothing is lost: its records wait in its journal and its clients are served.")),
      sec("Clients", "connected now", h("div", { class: "ledger" }, h("div", {}, h("b", {}, count(now.held)), h("span", {}, "connected")), h("i", {}, "="),
        now.nodes.map((n, i) => [i > 0 && h("i", {}, "+"), h("div", {}, h("b", {}, count(n.clients)), h("span", {}, n.node))]), rest !== 0 && [h("i", {}, "+"), h("div", {}, h("b", {}, count(rest)), h("span", {}, "not counted yet"))]),
      h("p", { class: "mid" }, `${count(now.enrolled)} enrolled in all, ${count(Math.max(0, now.enrolled - now.held))} of them not connected.`)),
      h("div", { class: "rule" }, sec("Nodes", plural(now.nodes.length, "node"), h("div", { class: "over" }, h("table", { class: "grid plain nodes" },
        h("thead", {}, h("tr", {}, ["Node", "State", "Clients"].map((t) => h("th", { scope: "col" }, t)), ["Behind", "Rows/s", "Last 5 min", "Store call", "Task p99", "Journal", "Certificate"].map((t, i) =>
          h("th", { class: i === 2 ? "" : `num${i === 5 || i === 6 ? " hide-n" : ""}`, scope: "col" }, t)), h("th", { class: "hide-m", scope: "col" }, "Started"))),
        h("tbody", {}, now.nodes.map((n) => {
          const st = n.stats, r = rate(n, "rows");
          return h("tr", {}, h("td", {}, h("b", {}, hostile(n.node)), h("small", { class: "dim block" }, `${n.role} · ${(n.product || st.product).split(" (")[0]}`)),
            h("td", {}, h("span", { class: "state" }, dot(!n.connected || st.store_error ? "err" : n.lag_bytes > 1 << 20 || n.drained || st.leaving ? "warn" : "ok"), !n.connected ? "Away" : n.drained ? "Drained" : st.leaving ? "Ending" : n.role === "master" ? "Leading" : "Serving"),
              h("small", { class: "dim block" }, `${span(n.since)}${n.role === "minion" && n.connected ? `, beat ${n.beat_age_ms} ms ago` : ""}`)),
            h("td", {}, h("span", { class: "tn" }, count(n.clients)), bar([["f-run", now.held ? (n.clients / now.held) * 100 : 0]], `${n.clients} of ${now.held}`, "slim")),
            cell(n.role === "master" ? "–" : n.lag_files ? `${n.lag_files} files` : size(n.lag_bytes)), cell(r === null ? "…" : count(Math.round(r))), h("td", { class: "spark-cell" }, spark(history.get(n.node) ?? [], "rows a second")),
            cell(st.store_micros ? `${(st.store_micros / 1000).toFixed(1)} ms` : "–"), cell(st.delivery_p99 ? `${(st.delivery_p99 / 1000).toFixed(1)} ms` : "–"),
            cell(`${size(st.journal_bytes)}, ${st.journal_files} ${Number(st.journal_files) === 1 ? "file" : "files"}`, "num hide-n"), cell(days(st.certificate_expires), "num hide-n"), cell(time(new Date(st.started * 1000)), "tn hide-m"));
        })))))),
      h("div", { class: "cols rule" },
        h("div", { class: "w6" }, sec("Store of the master", "", h("dl", { class: "kv" }, h("dt", {}, "Health"), h("dd", {}, now.store.healthy ? hostile(now.store.healthy) : h("span", { class: "state" }, dot("ok"), "takes everything")),
          h("dt", {}, "Free"), h("dd", {}, now.store.free_bytes === null ? "not known" : size(now.store.free_bytes)), h("dt", {}, "Kept for decisions"), h("dd", {}, size(now.store.reserve_bytes)),
          h("dt", {}, "Waiting for commit"), h("dd", {}, size(now.store.waiting_bytes)), h("dt", {}, "Journal files"), h("dd", {}, count(now.store.journal_files)), h("dt", {}, "Flows to settle"), h("dd", {}, count(now.unsettled_flows))))),
        h("div", { class: "w6" }, sec("Since the start", `of each node, ${span(now.now / 1e6 - now.started)} for the master`, h("dl", { class: "kv" },
          [["Rows stored", "rows", count], ["Upload bytes", "upload_bytes", size], ["Messages", "jobs", count], ["POSTs refused", "refused", count]].map(([t, k, f]) => [h("dt", {}, t), h("dd", {}, f(now.nodes.reduce((n, x) => n + Number(x.stats[k] ?? 0), 0)))])))))));
  }
  await load();
  const timer = setInterval(load, 2000);
  signal.addEventListener("abort", () => clearInterval(timer));
}
