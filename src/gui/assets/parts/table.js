// A result set as a table: pages, order and filters are the server's work, so that
// ten rows and ten million behave alike. Rows are strangers' text.

import { Long, get, url } from "../lib/api.js";
import { btn, empty, fill, h, hostile, icon, menu, note, skeleton } from "../lib/dom.js";
import { as_time, count, time, time_title } from "../lib/format.js";
import { adjust, changed, params } from "../lib/route.js";
import { row_pane } from "./row.js";
import { counted } from "./counted.js";

const ROWS = 50;

const filter_text = ([column, text]) => `${column.replaceAll("%", "%25").replaceAll(":", "%3A")}:${text}`;
const read_filter = (f) => {
  const at = f.indexOf(":");
  return [f.slice(0, at).replaceAll("%3A", ":").replaceAll("%25", "%"), f.slice(at + 1)];
};

// A cell as nodes. What is no text is shown as JSON.
export function cell(value) {
  if (value === null || value === undefined) return h("span", { class: "dim" }, "–");
  if (typeof value === "number") {
    // Sums of fractions have digits that nobody measured; the title has them.
    const text = String(value), short = String(Number(value.toPrecision(12)));
    return Number.isInteger(value) || short === text ? text : h("span", { title: text }, short);
  }
  if (value instanceof Long) return value.source;
  if (typeof value === "boolean") return String(value);
  if (typeof value === "string") {
    const date = as_time(value);
    if (date) return h("span", { class: "tn", title: time_title(date) }, time(date));
    return hostile(value.length > 600 ? `${value.slice(0, 600)}…` : value);
  }
  const text = JSON.stringify(value);
  return h("code", {}, hostile(text.length > 600 ? `${text.slice(0, 600)}…` : text));
}

const numeric = (v) => typeof v === "number" || v instanceof Long;
const pathlike = /path|command|exe|key|hash|sha|md5|cmd|url|line/i;

export class ResultTable {
  // `set`: what `/fleet/table` is asked; `none`: said where there are no rows; `first`:
  // columns that come first; `off`: not shown; `links`: where a column's cell leads,
  // made of names this server gave; `cells`: how a column is drawn; `pane`: what stands
  // at the right of a chosen row; `own`: the view is no part of the address, since
  // there are several tables.
  constructor({ set, signal, none, first = [], off = [], links = {}, cells = {}, pane = row_pane, own = false }) {
    this.own = own ? new URLSearchParams() : null;
    Object.assign(this, { set, signal, none, first, off, links, cells, pane, at: 0, data: null, columns: [], open: false });
    this.grid_head = h("thead");
    this.grid_body = h("tbody");
    this.foot = h("div", { class: "tbl-foot" });
    this.chips = h("span", { class: "row wrap" });
    this.acts = h("div", { class: "acts" });
    this.select = h("span", {});
    this.fresh = h("span", {});
    this.scroll = h("div", { class: "tbl-scroll", tabindex: "0", "aria-label": "Rows" });
    this.grid = h("table", { class: "grid results" }, h("caption", { class: "vh" }, "Rows"), this.grid_head, this.grid_body);
    this.table = h("section", { class: "tbl", "aria-label": "Results" },
      h("div", { class: "tbl-bar" }, this.select, this.chips, this.fresh, this.acts), this.scroll, this.foot);
    this.side = h("aside", { class: "pane tint", "aria-label": "Details", hidden: true });
    this.element = h("div", { class: "split one" }, this.table, this.side);
    this.grid_body.addEventListener("click", (e) => {
      const row = e.target.closest("tr");
      if (row && !e.target.closest("a")) { this.at = [...this.grid_body.children].indexOf(row); this.show_row(); }
    });
    fill(this.scroll, skeleton());
  }

  params() { return this.own ?? params(); }

  adjust(changes, options) { this.own ? changed(this.own, changes) : adjust(changes, options); }

  get filters() { return this.params().getAll("f").map(read_filter); }
  get sort() { return this.params().get("sort") ?? ""; }
  get start() { return Number(this.params().get("start") ?? 0); }
  get hidden() { return new Set(this.params().getAll("hide")); }

  set_filter(column, text) {
    const others = this.filters.filter(([c]) => c !== column);
    this.adjust({ f: [...others, ...(text ? [[column, text]] : [])].map(filter_text), start: "" });
    this.load();
  }

  ask() {
    return { ...this.set, start: this.start, rows: ROWS, sort: this.sort, f: this.params().getAll("f") };
  }

  async load() {
    this.abort?.abort();
    this.abort = new AbortController();
    this.signal.addEventListener("abort", () => this.abort.abort(), { once: true });
    const mine = this.abort;
    this.grid.classList.add("stale");
    const slow = setTimeout(() => {
      fill(this.foot, h("span", { class: "mid" }, "Looking at every row…"), btn("Cancel", { onclick: () => mine.abort() }));
    }, 2000);
    try {
      this.data = await get("/fleet/table", this.ask(), { signal: mine.signal });
      this.error = null;
    } catch (e) {
      if (this.abort !== mine) return;
      if (e.name === "AbortError") { if (!this.signal.aborted) this.draw_foot(); return; }
      this.error = e;
    } finally {
      clearTimeout(slow);
      this.grid.classList.remove("stale");
    }
    if (this.signal.aborted) return;
    this.known = this.data?.total ?? 0;
    this.draw();
  }

  // The set has grown: first rows are shown at once, later ones are announced.
  grown(total) {
    if (!this.data || this.error) { this.load(); return; }
    const more = total - this.known;
    if (more <= 0) { fill(this.fresh); return; }
    if (this.data.total === 0 || (this.data.total < ROWS && !this.filters.length && !this.sort)) { this.load(); return; }
    fill(this.fresh, h("button", { class: "pill", type: "button", onclick: () => this.load() }, `${count(more)} new, show`, h("kbd", {}, ".")));
  }

  draw() {
    fill(this.fresh);
    this.draw_bar();
    if (this.error) {
      fill(this.scroll, h("div", { class: "pane stack" }, note("err", this.error.message),
        this.filters.length > 0 && btn("Remove the filters", { onclick: () => { this.adjust({ f: [], start: "" }); this.load(); } })));
      fill(this.foot);
      return;
    }
    const d = this.data;
    for (const c of d.columns) if (!this.columns.includes(c)) this.columns.push(c);
    if (d.total === 0) {
      fill(this.scroll, this.none());
      fill(this.foot);
      return;
    }
    const rank = (c) => (this.first.includes(c) ? 0 : 1);
    const shown = this.columns.filter((c) => !this.hidden.has(c) && !this.off.includes(c)).sort((a, b) => rank(a) - rank(b));
    this.draw_head(shown, d.rows);
    fill(this.grid_body, d.rows.map(({ n, row }) => h("tr", { "data-row": n }, shown.map((c) => {
      const v = row?.[c];
      const kind = this.kinds.get(c);
      if (this.cells[c]) return h("td", { class: kind }, this.cells[c](v, row));
      const link = typeof v === "string" && v && this.links[c];
      return h("td", { class: kind }, link ? h("a", { href: link(v, row) }, cell(v)) : kind === "fluid" ? h("code", {}, cell(v)) : cell(v));
    }))));
    if (d.rows.length === 0) {
      fill(this.scroll, empty(this.start > 0 ? "There are no more rows" : "No row passes the filters",
        h("p", {}, `${count(d.matched)} of ${count(d.total)} pass.`),
        this.start > 0 ? btn("First page", { onclick: () => { this.adjust({ start: "" }); this.load(); } })
          : btn("Remove the filters", { onclick: () => { this.adjust({ f: [], start: "" }); this.load(); } })));
    } else if (!this.grid.isConnected) fill(this.scroll, this.grid);
    this.at = Math.max(0, Math.min(this.at, d.rows.length - 1));
    this.mark();
    this.draw_foot();
    if (this.open) this.show_row();
  }

  draw_bar() {
    const off = this.hidden.size;
    // The row of filters shows them itself.
    fill(this.chips, !this.filter_row && this.filters.map(([c, t]) => h("span", { class: `chip${t.startsWith("!") ? " not" : ""}` },
      hostile(c || "row"), h("i", {}, t.startsWith("!") ? " ≠ " : " ~ "), h("code", {}, hostile(t.replace(/^!/, ""))),
      h("button", { class: "x", type: "button", "aria-label": `Remove filter of ${c || "row"}`, onclick: () => this.set_filter(c, "") }, icon("x")))));
    fill(this.acts,
      btn("Filters", { icon: "filter", kind: `ghost${this.filter_row ? " on" : ""}`, key: "f", onclick: () => this.toggle_filters() }),
      menu(h("summary", { class: "btn ghost" }, icon("stack"), h("span", {}, "Count")), h("p", {}, "Count the values of"),
        this.columns.map((c) => h("button", { type: "button", onclick: (e) => { e.target.closest("details").open = false; this.count(c); } }, hostile(c)))),
      menu(h("summary", { class: "btn ghost" }, icon("columns"), h("span", {}, off ? `${this.columns.length - off} of ${this.columns.length}` : "Columns")),
        h("p", {}, "Columns"),
        this.columns.map((c) => h("label", {}, h("input", { type: "checkbox", checked: !this.hidden.has(c), onchange: (e) => {
          const hide = this.hidden;
          e.target.checked ? hide.delete(c) : hide.add(c);
          this.adjust({ hide: [...hide] });
          this.draw();
        } }), " ", hostile(c))), h("hr"),
        h("button", { type: "button", onclick: () => { this.adjust({ hide: [] }); this.draw(); } }, "Show all")),
      menu(h("summary", { class: "btn ghost" }, icon("download"), h("span", {}, "Export")), h("p", {}, "All rows that pass the filters"),
        ["csv", "jsonl"].map((format) => h("a", { href: this.export_url(format), download: true }, format === "csv" ? "CSV" : "JSON lines"))));
  }

  export_url(format) {
    return url("/fleet/export", { ...this.set, sort: this.sort, f: this.params().getAll("f"), download_format: format });
  }

  draw_head(shown, rows) {
    const down = this.sort.startsWith("-");
    const by = down ? this.sort.slice(1) : this.sort;
    this.kinds = new Map(shown.map((c) => {
      const values = rows.map(({ row }) => row?.[c]).filter((v) => v !== null && v !== undefined);
      if (values.length && values.every(numeric)) return [c, "num"];
      return [c, values.some((v) => typeof v === "string" && (v.length > 40 || pathlike.test(c)) && !as_time(v)) ? "fluid" : ""];
    }));
    const head = h("tr", {}, shown.map((c) => h("th", { class: this.kinds.get(c), scope: "col", "aria-sort": by === c ? (down ? "descending" : "ascending") : undefined },
      h("button", { class: "sort", type: "button", title: `Sort by ${c}`, onclick: () => {
        this.adjust({ sort: by !== c ? c : down ? "" : `-${c}`, start: "" });
        this.load();
      } }, hostile(c), by === c && icon(down ? "desc" : "asc")))));
    const old = this.grid_head.querySelector("tr.filters");
    const typing = old?.contains(document.activeElement) ? document.activeElement.dataset.column : null;
    const values = new Map(this.filters);
    const filters = this.filter_row && h("tr", { class: "filters" }, shown.map((c) => h("th", {}, h("input", {
      class: "in", "data-column": c, "aria-label": `Filter ${c}`, placeholder: "filter", value: values.get(c) ?? "",
      title: "Regular expression, case ignored. A leading ! excludes. Enter applies.", spellcheck: "false",
      onchange: (e) => this.set_filter(c, e.target.value.trim()),
    }))));
    fill(this.grid_head, head, filters);
    if (typing) [...this.grid_head.querySelectorAll("input")].find((i) => i.dataset.column === typing)?.focus();
  }

  toggle_filters() {
    this.filter_row = !this.filter_row;
    this.draw();
    if (this.filter_row) this.grid_head.querySelector("tr.filters input")?.focus();
  }

  draw_foot() {
    const d = this.data;
    if (!d || !d.total) { fill(this.foot); return; }
    const to = this.start + d.rows.length;
    const turn = (start) => { this.adjust({ start }, { replace: false }); this.at = 0; this.scroll.scrollTop = 0; this.load(); };
    const filtered = d.matched !== d.total && [" ", h("span", { class: "dim" }, `(${count(d.total)} before filters)`)];
    this.turn = (n) => {
      const start = Math.max(0, this.start + n * ROWS);
      if (start < d.matched && start !== this.start) turn(start);
    };
    fill(this.foot, h("span", { class: "tn" }, h("b", {}, d.rows.length ? `${count(this.start + 1)}–${count(to)}` : "0"), ` of ${count(d.matched)}`, filtered),
      h("span", { class: "grow" }),
      h("span", { class: "dim tn hide-n" }, `${this.sort ? `sorted by ${this.sort.replace(/^-/, "")} · ` : ""}server ${(d.micros / 1000).toFixed(1)} ms`),
      d.matched > ROWS && [
        h("label", { class: "row hide-n" }, "Go to row ", h("input", { class: "in slim num", inputmode: "numeric", value: this.start + 1, "aria-label": "Go to row", onchange: (e) => {
          const n = Number(e.target.value.replace(/\D/g, ""));
          if (n > 0) turn(Math.min(n, d.matched) - 1);
        } })),
        h("span", { class: "join" }, btn("Previous", { disabled: this.start === 0, onclick: () => this.turn(-1) }),
          btn("Next", { disabled: to >= d.matched, onclick: () => this.turn(1) }))]);
  }

  mark() {
    const rows = [...this.grid_body.children];
    rows.forEach((r, i) => { r.classList.toggle("cur", i === this.at); r.setAttribute("aria-selected", this.open && i === this.at); });
    rows[this.at]?.scrollIntoView({ block: "nearest" });
  }

  show_side(...content) {
    this.side.hidden = false;
    this.element.classList.remove("one");
    fill(this.side, content);
  }

  close_side() {
    this.open = false;
    this.side.hidden = true;
    this.element.classList.add("one");
    this.mark();
  }

  show_row() {
    const found = this.data?.rows[this.at];
    if (!found) return;
    this.open = true;
    this.mark();
    this.show_side(this.pane(this, found));
  }

  async count(column) {
    this.open = false;
    this.show_side(skeleton(5));
    try {
      const counts = await get("/fleet/count", { ...this.set, f: this.params().getAll("f"), column }, { signal: this.signal });
      this.show_side(counted(this, column, counts));
    } catch (e) {
      if (e.name !== "AbortError") this.show_side(note("err", e.message));
    }
  }

  move(n) {
    const most = (this.data?.rows.length ?? 1) - 1;
    this.at = Math.max(0, Math.min(most, this.at + n));
    this.open ? this.show_row() : this.mark();
  }

  keys() {
    return {
      j: () => this.move(1), k: () => this.move(-1), ArrowDown: () => this.move(1), ArrowUp: () => this.move(-1),
      Home: () => this.move(-1e9), End: () => this.move(1e9), n: () => this.turn?.(1), p: () => this.turn?.(-1),
      Enter: () => this.show_row(), Escape: () => this.close_side(), f: () => this.toggle_filters(), ".": () => this.load(),
    };
  }
}
