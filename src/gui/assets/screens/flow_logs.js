// The log of a collection: what the queries said while they ran.

import { get } from "../lib/api.js";
import { btn, empty, fill, h, log_text, skeleton } from "../lib/dom.js";
import { count, time, time_title } from "../lib/format.js";
import { failed } from "../lib/say.js";
import { is_over } from "./flows.js";

const ROWS = 500;
const LEVELS = { ERROR: "err", WARN: "warn", WARNING: "warn", ALERT: "err", DEBUG: "", INFO: "" };

export function show_logs(ctx) {
  const list = h("ol", { class: "log", "aria-label": "Log lines" });
  const filter = h("input", { "aria-label": "Filter the log", placeholder: "filter: expression, ! excludes", spellcheck: "false", onchange: () => load(true) });
  const follow = h("input", { type: "checkbox", checked: !is_over(ctx.data) });
  const foot = h("div", { class: "tbl-foot" });
  const scroll = h("div", { class: "tbl-scroll", tabindex: "0", "aria-label": "Log" }, skeleton());
  let got = 0, total = 0, busy = false;
  fill(ctx.content, h("section", { class: "tbl", "aria-label": "Log" },
    h("div", { class: "tbl-bar" }, h("label", { class: "in mid-w" }, filter), h("div", { class: "acts" }, h("label", { class: "check" }, follow, "Follow"))),
    scroll, foot));

  const line = ({ row }) => {
    const level = String(row?.level ?? "INFO").toUpperCase();
    const at = Number(row?._ts ?? row?.client_time ?? 0);
    const date = at ? new Date(at * 1000) : null;
    return h("li", {}, h("time", { title: time_title(date) }, date ? time(date) : "–"),
      level === "DEFAULT" ? h("span") : h("span", { class: `tag ${LEVELS[level] ?? ""}` }, level.toLowerCase()), h("span", {}, log_text(String(row?.message ?? JSON.stringify(row)).trimEnd())));
  };

  async function load(anew) {
    if (busy) return;
    busy = true;
    try {
      if (anew) got = 0;
      const f = filter.value.trim();
      const page = await get("/fleet/table", { client_id: ctx.client, flow_id: ctx.flow, kind: "log", start: got, rows: ROWS, f: f ? `message:${f}` : "" }, { signal: ctx.signal });
      if (ctx.signal.aborted) return;
      if (anew) fill(list);
      list.append(...page.rows.map(line));
      got += page.rows.length;
      total = page.matched;
      if (got === 0) {
        fill(scroll, empty(f ? "No line matches" : is_over(ctx.data) ? "Nothing was logged" : "Nothing was logged yet", h("p", {}, f ? "Change the filter above." : is_over(ctx.data) ? "The collection ended without a line." : "Lines are shown as they come.")));
      } else if (!list.isConnected) fill(scroll, list);
      fill(foot, h("span", { class: "tn" }, h("b", {}, count(got)), ` of ${count(total)} lines`), h("span", { class: "grow" }), got < total && btn("Show more", { onclick: () => load(false) }));
      if (follow.checked) scroll.scrollTop = scroll.scrollHeight;
    } catch (e) {
      if (e.name !== "AbortError") fill(scroll, h("div", { class: "pane" }, failed(e)));
    } finally { busy = false; }
  }
  load(true);
  return { update() { if (Number(ctx.data.total_logs ?? 0) > total && got >= total && !filter.value) load(false); } };
}
