// What was asked, how it went, and the request that was sent.

import { get } from "../lib/api.js";
import { btn, dot, fill, h, hostile, sec, skeleton } from "../lib/dom.js";
import { count, from_micros, size, span, time, time_title } from "../lib/format.js";
import { copy, failed } from "../lib/say.js";
import { follow_exports } from "../parts/exports.js";
import { flow_state, is_over } from "./flows.js";

export function show_overview(ctx) {
  const zips = h("div", {});
  const draw = () => {
    const f = ctx.data, r = f.request ?? {};
    const made = from_micros(f.create_time), began = from_micros(f.start_time), last = from_micros(f.active_time);
    const step = (name, date, cls = "") => h("li", { class: date ? cls : "todo" }, h("b", {}, name),
      h("span", { title: time_title(date) }, date ? time(date) : "not yet"));
    const fact = (k, ...v) => [h("dt", {}, k), h("dd", {}, v)];
    const limit = (n, text) => (Number(n) > 0 ? text(Number(n)) : "none");
    const stats = f.query_stats ?? [];
    fill(ctx.content, h("div", { class: "body" }, h("div", { class: "cols" },
      h("div", { class: "w8 stack wide" },
        sec("Course", "", h("ol", { class: "trace" }, step(`Asked by ${r.creator || "server"}`, made), (began || !Number(f.total_collected_rows)) && step("Begun on the host", began),
          is_over(f) ? step(flow_state(f)[1] === "Cancelled" ? "Cancelled" : "Ended", last, `end${f.state === "ERROR" ? " bad" : ""}`) : step("Last heard", last, "now"))),
        f.status && sec("What it said", "", h("pre", { class: "code inline" }, hostile(f.status, { lines: true }))),
        sec("Queries", `${stats.length} reported`, stats.length ? h("table", { class: "grid plain" },
          h("thead", {}, h("tr", {}, ["State", "Artifact"].map((t) => h("th", { scope: "col" }, t)), ["Rows", "Uploads", "Took"].map((t) => h("th", { class: "num", scope: "col" }, t)), h("th", { scope: "col" }, "Error"))),
          h("tbody", {}, stats.map((q) => {
            const kind = { OK: "ok", PROGRESS: "run" }[q.status ?? "OK"] ?? "err";
            return h("tr", {}, h("td", {}, h("span", { class: "state" }, dot(kind), { ok: "Done", run: "Running", err: "Failed" }[kind])),
              h("td", {}, hostile(q.Artifact || (q.names_with_response ?? []).join(", ") || "–")),
              h("td", { class: "num" }, count(q.result_rows)), h("td", { class: "num" }, count(q.uploaded_files)),
              h("td", { class: "num" }, q.duration ? `${(Number(q.duration) / 1e9).toFixed(2)} s` : "–"), h("td", { class: "fluid" }, hostile(q.error_message ?? "")));
          }))) : h("p", { class: "mid" }, "The host has not reported any yet."))),
      h("div", { class: "w4 stack wide" },
        sec("Request", "", h("dl", { class: "kv" }, fact("Artifacts", h("div", { class: "stack tight" }, (r.artifacts ?? []).map((a) => h("code", {}, hostile(a))))),
          fact("By", hostile(r.creator || "server")), fact("Priority", r.urgent ? "urgent" : "normal"),
          fact("Time limit", limit(r.timeout, span)), fact("Rows at most", limit(r.max_rows, count)), fact("Bytes at most", limit(r.max_upload_bytes, size)),
          fact("CPU limit", limit(r.cpu_limit, (n) => `${n} %`)))),
        sec("Sums", "", h("dl", { class: "kv" }, fact("Rows", count(f.total_collected_rows)), fact("Log lines", count(f.total_logs)),
          fact("Files", count(f.total_uploaded_files)), fact("Bytes", `${size(f.total_uploaded_bytes)} of ${size(f.total_expected_uploaded_bytes)} expected`))),
        zips))));
  };
  draw();
  follow_exports(zips, { client_id: ctx.client, flow_id: ctx.flow }, ctx.signal, async () => (await get("/v1/GetFlowDetails", { client_id: ctx.client, flow_id: ctx.flow }, { signal: ctx.signal })).available_downloads);
  return { update: draw };
}

export function show_request(ctx) {
  fill(ctx.content, skeleton());
  (async () => {
    const answer = await get("/v1/GetFlowRequests", { client_id: ctx.client, flow_id: ctx.flow }, { signal: ctx.signal });
    const text = JSON.stringify(answer.items ?? [], null, 2);
    if (ctx.signal.aborted) return;
    fill(ctx.content, h("div", { class: "body stack" },
      h("div", { class: "row" }, h("p", { class: "mid" }, "What was sent to the host, compiled. Secret values are left out."), h("span", { class: "grow" }), btn("Copy", { icon: "copy", onclick: () => copy(text, "Request") })),
      h("pre", { class: "code inline", tabindex: "0" }, hostile(text, { lines: true }))));
  })().catch((e) => e.name !== "AbortError" && fill(ctx.content, failed(e)));
  return { update() {} };
}

