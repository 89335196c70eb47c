// Second step: a field for each parameter, by its type.

import { btn, fill, h, hostile, note } from "../lib/dom.js";
import { plural, time, zone_name } from "../lib/format.js";
import { csv_field } from "../parts/csv_field.js";

let next_id = 0;

export function show_parameters(ctx) {
  const { draft } = ctx;
  const sections = draft.artifacts.map((name) => {
    const box = h("div", { class: "stack tight" });
    const known = (ctx.definitions.get(name)?.parameters ?? []).filter((p) => p.type !== "hidden");
    const section = h("section", { class: "sec rule" });
    const draw = () => {
      fill(box, known.map((p) => field(ctx, name, p)));
      fill(section, h("header", {}, h("h2", { class: "mono" }, hostile(name)), h("span", { class: "sub" }, known.length ? plural(known.length, "parameter") : "no parameters"), h("span", { class: "grow" }),
        known.length > 0 && btn("Reset", { kind: "ghost", onclick: () => { delete draft.values[name]; for (const p of known) ctx.errors.delete(`${name}.${p.name}`); ctx.changed(); draw(); } })), box);
    };
    draw();
    return section;
  });
  ctx.split(h("div", { class: "pane stack wide" }, sections.length ? sections : note("", "Choose an artifact first: step 1.")));
}

function field(ctx, artifact, p) {
  const values = (ctx.draft.values[artifact] ??= {});
  const fallback = p.default ?? "";
  const id = `f${next_id++}`;
  const error = h("p", { class: "help err", hidden: true });
  const reset = h("button", { class: "link", type: "button", onclick: () => { delete values[p.name]; el.replaceWith(field(ctx, artifact, p)); ctx.errors.delete(key); ctx.changed(); } }, "reset");
  const key = `${artifact}.${p.name}`;
  const el = h("div", { class: "field" });
  const get = () => values[p.name] ?? fallback;
  const set = (value) => {
    values[p.name] = value;
    check();
    ctx.changed();
  };
  function check() {
    const wrong = problem(p, get());
    error.hidden = !wrong;
    error.textContent = wrong ?? "";
    el.querySelector(".in")?.classList.toggle("bad", !!wrong);
    wrong ? ctx.errors.set(key, wrong) : ctx.errors.delete(key);
    const is_changed = get() !== fallback;
    el.classList.toggle("changed", is_changed);
    reset.hidden = !is_changed;
  }
  const label = p.friendly_name || p.name;
  fill(el, h("label", { for: p.type === "csv" ? undefined : id }, hostile(label), h("small", {}, p.type || "string")),
    h("div", { class: "ctl" }, widget(p, id, get, set), reset), error, p.description && h("p", { class: "help" }, hostile(p.description)));
  check();
  return el;
}

// What is wrong with a value, in words.
function problem(p, value) {
  if (value === "") return null;
  if (p.type === "int" || p.type === "int64") return /^-?\d+$/.test(value.trim()) ? null : "This is no whole number.";
  if (p.type === "float") return Number.isFinite(Number(value)) ? null : "This is no number.";
  if (p.type === "json" || p.type === "json_array") {
    try { JSON.parse(value); } catch (e) { return `No valid JSON: ${e.message}`; }
  }
  if (p.type === "regex") {
    // Expressions run elsewhere; only what no dialect takes is refused here.
    let depth = 0, cls = false;
    for (let i = 0; i < value.length; i++) {
      const c = value[i];
      if (c === "\\") { i++; continue; }
      if (cls) { if (c === "]" && value[i - 1] !== "[") cls = false; continue; }
      if (c === "[") cls = true;
      else if (c === "(") depth++;
      else if (c === ")" && --depth < 0) return `The ) at character ${i + 1} was never opened.`;
    }
    if (cls) return "A [ is never closed.";
    if (depth > 0) return "A ( is never closed.";
  }
  if (p.validating_regex) {
    try { if (!new RegExp(p.validating_regex).test(value)) return `It must match ${p.validating_regex}`; } catch { /* another dialect */ }
  }
  return null;
}

function widget(p, id, get, set) {
  const text = (more) => h("input", { class: "in", id, value: get(), spellcheck: "false", autocomplete: "off", oninput: (e) => set(e.target.value), ...more });
  const area = (rows) => h("textarea", { class: "in mono", id, rows, spellcheck: "false", value: get(), oninput: (e) => set(e.target.value) });
  switch (p.type) {
    case "bool":
      return h("label", { class: "check" }, h("input", { type: "checkbox", id, checked: /^(y|yes|true|1)$/i.test(get()), onchange: (e) => set(e.target.checked ? "Y" : "N") }), "yes");
    case "int": case "int64": case "float":
      return text({ class: "in slim num", inputmode: "numeric" });
    case "regex":
      return text({ class: "in mono" });
    case "choices":
      return (p.choices ?? []).length <= 5
        ? h("span", { class: "seg", role: "radiogroup", "aria-label": p.name }, (p.choices ?? []).map((c, i) => h("label", {}, h("input", { type: "radio", name: id, id: i ? undefined : id, checked: c === get(), onchange: () => set(c) }), hostile(c))))
        : h("select", { class: "in mid-w", id, onchange: (e) => set(e.target.value) }, p.choices.map((c) => h("option", { value: c, selected: c === get() }, c)));
    case "timestamp":
      return timestamp(id, get, set);
    case "csv":
      return csv_field(id, get, set);
    case "yara": case "json": case "json_array": case "yaml": case "xml":
      return area(Math.min(14, Math.max(4, get().split("\n").length + 1)));
    case "redacted":
      return text({ type: "password", class: "in mid-w", autocomplete: "new-password" });
    case "multichoice": {
      const chosen = () => { try { return new Set(JSON.parse(get() || "[]")); } catch { return new Set(); } };
      return h("div", { class: "stack tight" }, (p.choices ?? []).map((c, i) => h("label", { class: "check" }, h("input", { type: "checkbox", id: i ? undefined : id, checked: chosen().has(c), onchange: (e) => {
        const all = chosen();
        e.target.checked ? all.add(c) : all.delete(c);
        set(JSON.stringify([...all]));
      } }), hostile(c))));
    }
    default:
      return get().includes("\n") ? area(6) : text({});
  }
}

// Times are typed in the browser's zone and sent in UTC.
function timestamp(id, get, set) {
  const said = h("span", { class: "dim xs" });
  const local = (d) => new Date(d.getTime() - d.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
  const parsed = () => { const d = new Date(get()); return get() && !Number.isNaN(d.getTime()) ? d : null; };
  const input = h("input", { class: "in mid-w", id, type: "datetime-local", value: parsed() ? local(parsed()) : "", onchange: (e) => put(e.target.value ? new Date(e.target.value) : null) });
  const put = (d) => { set(d ? d.toISOString() : ""); input.value = d ? local(d) : ""; say(); };
  const say = () => { said.textContent = parsed() ? `${parsed().toISOString().slice(0, 19)}Z = ${time(parsed(), { full: true })} ${zone_name()}` : "no limit"; };
  say();
  const preset = (text, hours) => h("button", { class: "tag", type: "button", onclick: () => put(hours ? new Date(Date.now() - hours * 3600e3) : null) }, text);
  return [input, preset("24 h", 24), preset("7 d", 168), preset("30 d", 720), preset("none", 0), said];
}

