// First step: find artifacts, read what they do, choose.

import { btn, fill, h, hostile, icon, note } from "../lib/dom.js";
import { first_words, plural } from "../lib/format.js";
import { artifact_docs } from "../parts/artifact_docs.js";

export function show_picker(ctx) {
  const { draft } = ctx;
  const search = h("input", { "aria-label": "Search artifacts", placeholder: "name or what it does", spellcheck: "false", oninput: draw});
  const number = h("span", { class: "unit" });
  const list = h("div", { class: "list" });
  const docs = h("div", { class: "pane stack wide" });
  let current = draft.artifacts.at(-1) ?? null;

  const first_line = (a) => first_words(a.description);
  function found() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    return ctx.all.filter((a) => words.every((w) => a.name.toLowerCase().includes(w) || (a.description ?? "").toLowerCase().includes(w)));
  }
  function draw() {
    const items = found();
    number.textContent = String(items.length);
    if (!items.some((a) => a.name === current)) current = items[0]?.name ?? null;
    fill(list, items.slice(0, 300).map((a) => h("div", { class: "it" },
      h("button", { class: "pick", type: "button", "aria-current": a.name === current ? "true" : undefined, onclick: () => { current = a.name; draw(); } },
        h("code", { class: "ell" }, hostile(a.name)), h("span", { class: "ell" }, a.refused ? hostile(a.refused) : hostile(first_line(a)))),
      h("input", { type: "checkbox", "aria-label": `Choose ${a.name}`, checked: draft.artifacts.includes(a.name), disabled: !!a.refused, title: a.refused ?? "", onchange: () => choose(a.name) }))),
      items.length === 0 && h("p", { class: "pane mid" }, "No artifact matches. Fewer words find more."));
    show_docs();
  }
  async function choose(name) {
    if (draft.artifacts.includes(name)) draft.artifacts = draft.artifacts.filter((a) => a !== name);
    else { await ctx.define(name); draft.artifacts.push(name); }
    current = name;
    ctx.changed();
    draw();
  }
  async function show_docs() {
    const name = current;
    if (!name) { fill(docs, h("p", { class: "mid" }, "Choose an artifact at the left to read what it does.")); return; }
    const brief = ctx.all.find((a) => a.name === name);
    let whole;
    try { whole = await ctx.define(name); } catch (e) { if (e.name !== "AbortError") fill(docs, note("err", e.message)); return; }
    if (name !== current || ctx.signal.aborted) return;
    const on = draft.artifacts.includes(name);
    fill(docs, artifact_docs(whole, brief?.refused ? note("warn", brief.refused)
      : btn(on ? "Remove" : "Choose", { icon: on ? "x" : "plus", kind: on ? "" : "primary", onclick: () => choose(name) })));
  }
  search.addEventListener("keydown", (e) => {
    if (e.key === "Enter" && current) { e.preventDefault(); choose(current); }
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    if (!step) return;
    e.preventDefault();
    const items = found();
    const at = items.findIndex((a) => a.name === current);
    current = items[Math.max(0, Math.min(items.length - 1, at + step))]?.name ?? null;
    draw();
    list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  });
  fill(ctx.body, h("div", { class: "split three" },
    h("div", {}, h("div", { class: "band stack" }, h("label", { class: "in" }, icon("search"), search, number),
      h("p", { class: "dim xs" }, `${plural(ctx.all.length, "client artifact")}. Enter chooses.`)), list), docs, ctx.side));
  draw();
  search.focus();
}
