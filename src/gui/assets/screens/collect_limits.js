// Third step: what the host may spend on it.

import { h, sec } from "../lib/dom.js";
import { count, size, span } from "../lib/format.js";

const FIELDS = [
  ["timeout", "Time", "s", "It is stopped after this time. An artifact may name a shorter one.", 600, span],
  ["max_rows", "Rows", "rows", "It is stopped when it has sent more.", 1_000_000, count],
  ["max_upload_bytes", "Uploads", "MB", "Of all files together.", 1024, (n) => size(n * 1048576), 1048576],
  ["cpu_limit", "CPU", "% of a core", "Queries are slowed down to stay below.", 0, (n) => `${n} %`],
  ["iops_limit", "Disk", "operations/s", "Queries are slowed down to stay below.", 0, count],
  ["max_logs", "Log", "lines", "Later lines are dropped.", 0, count],
];

export function show_limits(ctx) {
  const { limits } = ctx.draft;
  const field = ([key, label, unit, help, normal, show, factor = 1]) => {
    const el = h("div", { class: "field plain" });
    const said = h("span", { class: "dim" });
    const error = h("p", { class: "help err", hidden: true }, "A whole number, or nothing for the default.");
    const input = h("input", { id: `l-${key}`, inputmode: "numeric", value: limits[key] ? limits[key] / factor : "", placeholder: normal ? String(normal) : "none", oninput: () => {
      const text = input.value.trim();
      const good = text === "" || /^\d+$/.test(text);
      error.hidden = good;
      if (good) { ctx.errors.delete(label); if (text) limits[key] = Number(text) * factor; else delete limits[key]; } else ctx.errors.set(label, "is no whole number");
      say();
      ctx.changed();
    } });
    const say = () => { el.classList.toggle("changed", !!limits[key]); said.textContent = limits[key] ? show(limits[key] / factor) : normal ? `default: ${show(normal)}` : "no limit"; };
    el.append(h("label", { for: `l-${key}` }, label), h("div", { class: "ctl" }, h("span", { class: "in mid-w" }, input, h("span", { class: "unit" }, unit)), said), error, h("p", { class: "help" }, help));
    say();
    return el;
  };
  ctx.split(h("div", { class: "pane stack wide" }, sec("Limits", "on each host", FIELDS.map(field),
    h("div", { class: "field plain" }, h("label", { for: "urgent" }, "Priority"), h("div", { class: "ctl" }, h("label", { class: "check" },
      h("input", { type: "checkbox", id: "urgent", checked: !!limits.urgent, onchange: (e) => { limits.urgent = e.target.checked; ctx.changed(); } }), "Urgent")),
    h("p", { class: "help" }, "It does not wait for other collections of the host.")))));
}
