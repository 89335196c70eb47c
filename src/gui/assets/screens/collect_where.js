// Of a hunt: which hosts, how many, and until when.

import { post } from "../lib/api.js";
import { fill, h, sec } from "../lib/dom.js";
import { count } from "../lib/format.js";

// The hunt's condition as the API takes it.
export function condition_of(w) {
  const list = (t) => (t ?? "").split(",").map((l) => l.trim()).filter(Boolean);
  const out = {};
  if (w.kind === "os" && w.os) out.os = { os: w.os };
  if (w.kind === "label" && list(w.labels).length) out.labels = { label: list(w.labels) };
  if (list(w.exclude).length) out.excluded_labels = { label: list(w.exclude) };
  return Object.keys(out).length ? out : undefined;
}

export function show_where(ctx) {
  const w = (ctx.draft.where ??= { kind: "all", os: "LINUX" });
  const said = h("p", { class: "mid", "aria-live": "polite" });
  let asked = 0;
  const estimate = async () => {
    const mine = ++asked;
    try {
      const all = await post("/v1/EstimateHunt", { condition: condition_of(w) });
      if (mine === asked) fill(said, h("b", {}, count(all.total_clients_scheduled)), " of the hosts known now match. Those that come later are taken too.");
    } catch (e) { if (mine === asked) fill(said, e.message); }
  };
  const changed = () => { ctx.changed(); estimate(); };
  const field = (id, label, control, help) => h("div", { class: "field plain" }, h("label", { for: id }, label), h("div", { class: "ctl" }, control), help && h("p", { class: "help" }, help));
  const text = (id, key, more) => h("input", { class: "in", id, value: w[key] ?? "", spellcheck: "false", oninput: (e) => { w[key] = e.target.value; changed(); }, ...more });
  const kinds = h("span", { class: "seg", role: "radiogroup", "aria-label": "Where" }, [["all", "Everywhere"], ["os", "By system"], ["label", "By label"]].map(([k, t]) =>
    h("label", {}, h("input", { type: "radio", name: "kind", id: k === "all" ? "w-kind" : undefined, checked: w.kind === k, onchange: () => { w.kind = k; draw(); changed(); } }), t)));
  const more = h("div", {});
  const draw = () => fill(more,
    w.kind === "os" && field("w-os", "System", h("select", { class: "in mid-w", id: "w-os", onchange: (e) => { w.os = e.target.value; changed(); } },
      [["WINDOWS", "Windows"], ["LINUX", "Linux"], ["OSX", "macOS"]].map(([v, t]) => h("option", { value: v, selected: v === w.os }, t)))),
    w.kind === "label" && field("w-labels", "Labels", text("w-labels", "labels", { placeholder: "finance, IR-2291" }), "Hosts with any of them."));
  draw();
  ctx.split(h("div", { class: "pane stack wide" }, sec("The hunt", "",
    field("w-text", "Description", text("w-text", "text", { placeholder: "Who runs wlupd.exe?" }), "So that others know what it is for."),
    field("w-kind", "Where", kinds), more,
    field("w-exclude", "But not", text("w-exclude", "exclude", { placeholder: "labels" }), "Hosts with any of these labels are left out."),
    field("w-days", "Ends after", h("span", { class: "in slim" }, h("input", { id: "w-days", inputmode: "numeric", value: w.days ?? 7, oninput: (e) => { w.days = Number(e.target.value.replace(/\D/g, "")) || 7; changed(); } }), h("span", { class: "unit" }, "days"))),
    field("w-limit", "Hosts at most", h("span", { class: "in slim" }, h("input", { id: "w-limit", inputmode: "numeric", placeholder: "no limit", value: w.limit || "", oninput: (e) => { w.limit = Number(e.target.value.replace(/\D/g, "")) || 0; changed(); } }))), said)));
  estimate();
}
