// A notebook: cells one below the other, each a text or queries with their rows. The
// same for one of its own and for that of a collection or a hunt.

import { get, me, post } from "../lib/api.js";
import { btn, dot, empty, fill, h, hostile, icon, log_text, menu, note, replace_text, skeleton } from "../lib/dom.js";
import { plural, time, time_title } from "../lib/format.js";
import { here } from "../lib/keys.js";
import { ask, failed, toast } from "../lib/say.js";
import { blocks } from "./markdown.js";
import { attach, show_files } from "./notebook_files.js";
import { ResultTable } from "./table.js";
import { vql } from "./vql.js";

const FAST = 700, SLOW = 5000;

class Cell {
  constructor(book, brief) {
    Object.assign(this, { book, id: brief.cell_id, at: "", data: null, editing: false, kind: null });
    this.head = h("header");
    this.input = h("div", {});
    this.out = h("div", { class: "out" }, skeleton(2));
    this.element = h("section", { class: "cell nb", "data-id": this.id }, this.head, this.input, this.out);
  }

  get key() { return { notebook_id: this.book.id, cell_id: this.id }; }

  // Draws what changed since `stamp`.
  async load(stamp) {
    const data = await get("/fleet/notebook_cell", this.key, { signal: this.book.signal });
    if (this.book.signal.aborted) return;
    this.at = stamp;
    const same = this.data?.version === data.version && this.data?.calculating === data.calculating;
    this.data = data;
    this.draw_head();
    if (!this.editing) this.draw_input();
    if (!same) this.draw_out();
  }

  draw_head() {
    const { type, calculating, error, seconds, timestamp, version, versions = [] } = this.data;
    const book = this.book, n = versions.indexOf(version);
    const when = new Date(Number(timestamp) / 1e6);
    const state = calculating ? [dot("run"), "Running"] : error ? [dot("err"), "Failed"] : [dot("ok"), `Done${seconds ? ` in ${seconds} s` : ""}`];
    const revert = (to) => this.act("/v1/RevertNotebookCell", { version: to });
    this.element.setAttribute("aria-label", `${type} cell ${book.cells.indexOf(this) + 1}`);
    const old = this.head.querySelector("details[open]");
    if (old) return;
    fill(this.head, h("span", {}, type === "vql" ? "VQL" : "Text"), type === "vql" && h("span", { class: "state" }, state), type === "vql" && h("span", { class: "tn dim", title: time_title(when) }, time(when)),
      h("span", { class: "grow" }),
      book.may && [
        calculating && btn("Stop", { icon: "stop", kind: "danger", onclick: () => this.act("/v1/CancelNotebookCell", { version }) }),
        !calculating && type === "vql" && !this.editing && btn("Run", { icon: "play", kind: "ghost", onclick: () => this.run(this.data.input) }),
        !this.editing && btn("Edit", { icon: "edit", kind: "ghost", onclick: () => this.edit() }),
        menu(h("summary", { class: "btn ghost sq", "aria-label": "More", title: "More" }, icon("more")),
          h("button", { type: "button", disabled: n <= 0, onclick: () => revert(versions[n - 1]) }, icon("up"), "Version before"),
          h("button", { type: "button", disabled: n < 0 || n >= versions.length - 1, onclick: () => revert(versions[n + 1]) }, icon("down"), "Version after"), h("hr"),
          h("button", { type: "button", onclick: () => book.add("vql", this.id) }, icon("plus"), "Query above"),
          h("button", { type: "button", onclick: () => book.add("markdown", this.id) }, icon("plus"), "Text above"),
          h("button", { type: "button", onclick: () => book.move(this, -1) }, icon("asc"), "Move up"),
          h("button", { type: "button", onclick: () => book.move(this, 1) }, icon("desc"), "Move down"), h("hr"),
          h("button", { type: "button", onclick: () => book.remove(this) }, icon("trash"), "Delete cell")),
      ]);
  }

  draw_input() {
    fill(this.input, this.data.type === "vql" && this.data.input.trim() !== "" && h("pre", { class: "code", tabindex: "0" }, vql(this.data.input.trim())));
  }

  draw_out() {
    const { calculating, error, messages = [], parts = [], type } = this.data;
    if (calculating) { fill(this.out, h("p", { class: "pad mid" }, "The query runs on the server. Its rows are shown when it is done; Stop keeps those found until then.")); return; }
    const shown = parts.map((p) => {
      if (p.text) return h("div", { class: "prose pad" }, blocks(p.text, 2));
      return this.rows(p.rows);
    });
    const bad = messages.filter((m) => /^(ERROR|WARN|ALERT)/.test(m));
    fill(this.out, error && h("div", { class: "pad" }, note("err", error.includes("\n") ? h("pre", {}, hostile(error, { lines: true })) : hostile(error))), shown,
      shown.length === 0 && !error && h("p", { class: "pad mid" }, type === "vql" ? "The query has no SELECT, so there is nothing to show." : "Empty. Edit writes a text."),
      messages.length > 0 && h("details", { class: "pad", open: bad.length > 0 && !!error }, h("summary", { class: bad.length ? "t-warn" : "dim" }, `${bad.length ? plural(bad.length, "warning") + " of " : ""}${plural(messages.length, "log line")}${this.data.more ? " and more" : ""}`),
        h("ol", { class: "log", tabindex: "0", "aria-label": "Log" }, messages.map((m) => h("li", {}, log_text(m))))));
  }

  rows(n) {
    const table = new ResultTable({
      set: { ...this.key, cell_version: this.data.version, table_id: n }, signal: this.book.signal, own: true,
      none: () => h("p", { class: "pad mid" }, "The query found no rows."),
    });
    table.load().then(() => { if (table.data?.total) table.element.classList.toggle("short", table.data.total < 10); });
    this.element.addEventListener("focusin", () => this.book.keys(table));
    return h("div", { class: "cell-rows" }, table.element);
  }

  edit() {
    this.editing = true;
    const { type, input } = this.data;
    this.kind = type;
    const area = h("textarea", { class: "in editor", spellcheck: type === "vql" ? "false" : "true", "aria-label": "Input of the cell", rows: Math.min(24, Math.max(6, input.split("\n").length + 2)) });
    area.value = input;
    const choice = (kind, text) => h("label", {}, h("input", { type: "radio", name: `kind-${this.id}`, checked: this.kind === kind, onchange: () => { this.kind = kind; } }), text);
    const said = h("div", { class: "pad", "aria-live": "polite" });
    const lay_out = async () => {
      try {
        const answer = await post("/v1/ReformatVQL", { vql: area.value });
        fill(said);
        if (answer.vql !== area.value) replace_text(area, answer.vql);
      } catch (e) { fill(said, note("err", hostile(e.message, { lines: true }))); }
      area.focus();
    };
    const close = () => { this.editing = false; this.draw_head(); this.draw_input(); };
    // A picture that is pasted is attached, and shown where it was pasted.
    area.addEventListener("paste", async (e) => {
      const [file] = e.clipboardData?.files ?? [];
      if (!file) return;
      e.preventDefault();
      try {
        const { url, filename, mime_type } = await attach(this.book.id, file, true);
        fill(said);
        area.setRangeText(`${mime_type.startsWith("image/") ? "!" : ""}[${filename}](${url})`, area.selectionStart, area.selectionEnd, "end");
      } catch (error) { fill(said, failed(error)); }
    });
    area.addEventListener("keydown", (e) => {
      if ((e.ctrlKey || e.metaKey) && e.key === "Enter") { e.preventDefault(); this.run(area.value); }
      if (e.key === "Tab" && !e.shiftKey && type === "vql" && area.selectionStart !== area.selectionEnd) { e.preventDefault(); }
    });
    fill(this.input, h("div", { class: "nb-edit" }, area, h("div", { class: "row pad" },
      h("span", { class: "seg", role: "radiogroup", "aria-label": "Kind of cell" }, choice("vql", "VQL"), choice("markdown", "Text")), h("span", { class: "grow" }),
      type === "vql" && btn("Lay out", { icon: "asc", kind: "ghost", title: "Break and indent the query", onclick: lay_out }),
      btn("Close", { onclick: close }), btn(type === "vql" ? "Run" : "Save", { icon: "play", kind: "primary", key: "Ctrl ⏎", onclick: () => this.run(area.value) })), said));
    this.draw_head();
    area.focus();
  }

  async run(input) {
    const type = this.kind ?? this.data.type;
    try {
      const brief = { ...this.key, input, type };
      this.editing = false;
      fill(this.out, skeleton(2));
      this.data = { ...this.data, input, type, calculating: true, error: "", parts: [], version: "" };
      this.draw_head();
      this.draw_input();
      await post("/v1/UpdateNotebookCell", brief);
    } catch (e) { this.out.prepend(failed(e)); }
    this.kind = null;
    await this.book.poll();
  }

  async act(call, more) {
    try { await post(call, { ...this.key, ...more }); } catch (e) { this.out.prepend(failed(e)); }
    await this.book.poll();
  }
}

class Book {
  constructor({ id, signal, list, none, changed }) {
    Object.assign(this, { id, signal, list, none, changed, cells: [], record: null, shared: null });
  }

  get may() { return !!me.may.notebook_editor; }

  async poll() {
    clearTimeout(this.timer);
    if (this.signal.aborted) return;
    try {
      const { items = [] } = await get("/v1/GetNotebooks", { notebook_id: this.id }, { signal: this.signal });
      if (this.signal.aborted) return;
      this.record = items[0] ?? null;
      if (!this.record) { fill(this.list, this.none()); this.changed?.(null); return; }
      this.changed?.(this.record);
      await this.draw();
    } catch (e) {
      if (e.name === "AbortError") return;
      if (!this.record) { fill(this.list, failed(e)); return; }
    }
    const busy = this.record?.cell_metadata?.some((c) => c.calculating);
    this.timer = setTimeout(() => this.poll(), busy ? FAST : SLOW);
  }

  async draw() {
    const wanted = this.record.cell_metadata ?? [];
    const old = new Map(this.cells.map((c) => [c.id, c]));
    this.cells = wanted.map((b) => old.get(b.cell_id) ?? new Cell(this, b));
    const elements = this.cells.map((c) => c.element);
    const now = [...this.list.children];
    if (elements.length !== now.length || elements.some((e, i) => e !== now[i])) fill(this.list, elements.length ? elements : empty("No cells", h("p", {}, "Add a text or a query below.")));
    const todo = this.cells.map((c, i) => [c, `${wanted[i].current_version} ${wanted[i].timestamp} ${!!wanted[i].calculating}`]).filter(([c, stamp]) => c.at !== stamp);
    await Promise.all(todo.map(([c, stamp]) => c.load(stamp).catch((e) => { if (e.name !== "AbortError") fill(c.out, failed(e)); })));
  }

  async add(type, before = "") {
    const input = type === "vql" ? "SELECT *\nFROM info()\n" : "";
    try {
      const made = await post("/v1/NewNotebookCell", { notebook_id: this.id, cell_id: before, type, input });
      await this.poll();
      const cell = this.cells.find((c) => c.id === made.latest_cell_id);
      if (!cell) return;
      cell.element.scrollIntoView({ block: "center" });
      if (!cell.data) await cell.load(cell.at);
      cell.edit();
    } catch (e) { this.list.prepend(failed(e)); }
  }

  async store(cells) {
    try { await post("/v1/UpdateNotebook", { ...this.record, cell_metadata: cells.map((c) => ({ cell_id: c.id })) }); } catch (e) { this.list.prepend(failed(e)); }
    await this.poll();
  }

  move(cell, by) {
    const all = [...this.cells], from = all.indexOf(cell), to = from + by;
    if (to < 0 || to >= all.length) return;
    all.splice(to, 0, ...all.splice(from, 1));
    this.store(all);
  }

  async remove(cell) {
    if (!(await ask("Delete this cell?", h("p", {}, "Its versions and the rows of its queries go with it."), "Delete cell"))) return;
    await this.store(this.cells.filter((c) => c !== cell));
    toast("The cell is gone");
  }

  keys(table) {
    here({ c: () => this.may && this.add("vql"), ...(table?.keys() ?? {}) }, this.signal);
  }
}

// Shows the notebook `id` in `body`; one that is not there can be begun, called `name`.
export async function notebook({ id, name, body, signal, changed }) {
  const list = h("div", { class: "stack wide" }, skeleton());
  const begin = async () => {
    try {
      await post("/v1/NewNotebook", { notebook_id: id, name, public: true });
      await book.poll();
    } catch (e) { list.prepend(failed(e)); }
  };
  const none = () => empty("No notebook yet", h("p", {}, "Write down what you found, beside queries over these rows. Everybody who may read results here can read it."),
    me.may.notebook_editor ? btn("Begin a notebook", { icon: "book", kind: "primary", onclick: begin }) : h("p", { class: "mid" }, "Your roles do not let you write one."));
  const foot = h("div", { class: "row nb-add" });
  const book = new Book({ id, signal, list, none, changed: (record) => {
    foot.hidden = !record;
    changed?.(record);
  } });
  fill(foot, book.may && [btn("Query", { icon: "plus", key: "c", onclick: () => book.add("vql") }), btn("Text", { icon: "plus", onclick: () => book.add("markdown") })],
    h("span", { class: "grow" }), btn("Files and exports", { icon: "download", kind: "ghost", onclick: () => show_files(id) }));
  foot.hidden = true;
  fill(body, h("div", { class: "notebook stack wide" }, list, foot));
  signal.addEventListener("abort", () => clearTimeout(book.timer));
  book.keys();
  await book.poll();
  return book;
}
