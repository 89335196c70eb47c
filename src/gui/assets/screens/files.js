// The file browser: folders of a host as they were last listed, and files that were
// fetched from it. Listing and fetching are collections.

import { app, get, me, post } from "../lib/api.js";
import { btn, dot, empty, fill, h, hostile, icon, menu, note, sec, skeleton } from "../lib/dom.js";
import { count, from_micros, plural, size, time, time_title } from "../lib/format.js";
import { here } from "../lib/keys.js";
import * as live from "../lib/live.js";
import { adjust, params } from "../lib/route.js";
import { failed } from "../lib/say.js";
import { show_preview } from "../parts/preview.js";
import { row_pane } from "../parts/row.js";
import { ResultTable, cell } from "../parts/table.js";
import { page } from "../shell.js";
import { host_name, host_tabs } from "./host.js";

const ROOTS = { auto: "Files", ntfs: "Raw NTFS", registry: "Registry", file: "Files (plain)" };
const DEPTH = 5;

export async function show_files({ client, signal }) {
  live.watch(client);
  const name = await host_name(client, signal);
  if (signal.aborted) return;
  const { body, status } = page({ title: "Files", crumbs: [["Clients", app("clients")], [name, app(`host/${client}`)]], tabs: host_tabs(client, "files"), fillbody: true });
  const tree = h("nav", { class: "tree", "aria-label": "Folders" });
  const bar = h("div", { class: "band line" });
  const content = h("div", { class: "fitbox" }, skeleton());
  const right = h("div", { class: "two-r" }, bar, content);
  fill(body, h("div", { class: "split files" }, tree, right));
  const system = (await get(`/v1/GetClient/${encodeURIComponent(client)}`, {}, { signal }).catch(() => null))?.os_info?.system;
  if (signal.aborted) return;
  const roots = system === "windows" ? ["auto", "ntfs", "registry"] : ["auto"];
  const below = new Map();
  let connected = null, busy = null, table = null, at = [], stat = null, fetched = new Map();

  const key = (folder) => JSON.stringify(folder);
  const here_now = () => { const all = params().getAll("at"); return Object.hasOwn(ROOTS, all[0] ?? "") ? all : [roots[0]]; };
  const open = (folder) => { adjust({ at: folder, start: "", sort: "", f: [], row: "" }, { replace: false }); show(); };
  const label = (folder) => (folder.length === 1 ? ROOTS[folder[0]] ?? folder[0] : folder.at(-1));
  const path = (folder) => (folder[0] === "auto" || folder[0] === "file" ? (system === "windows" ? folder.slice(1).join("\\") || "This computer" : `/${folder.slice(1).join("/")}`) : folder.slice(1).join("\\") || ROOTS[folder[0]]);

  async function folders(folder) {
    if (!below.has(key(folder))) {
      const found = await get(`/v1/VFSListDirectory/${encodeURIComponent(client)}`, { vfs_components: folder }, { signal });
      below.set(key(folder), { listed: !!found.flow_id, names: JSON.parse(found.Response || "[]").map((r) => r.Name).filter(Boolean).sort((a, b) => a.localeCompare(b)) });
    }
    return below.get(key(folder));
  }

  function draw_tree() {
    const node = (folder) => {
      const on = folder.length <= at.length && folder.every((c, i) => c === at[i]);
      const known = below.get(key(folder));
      return h("li", {}, h("a", { href: "#", class: "ell", title: path(folder), "aria-current": on && folder.length === at.length ? "true" : undefined,
        onclick: (e) => { e.preventDefault(); open(folder); } }, icon(on && known?.names.length ? "down" : "right"), icon("folder"), h("span", { class: "ell" }, hostile(label(folder)))),
      on && known?.names.length > 0 && h("ul", {}, known.names.map((n) => node([...folder, n]))));
    };
    fill(tree, h("ul", {}, roots.map((r) => node([r]))));
    tree.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  }

  function draw_bar() {
    const listed = stat?.flow_id;
    const when = from_micros(Number(stat?.timestamp ?? 0) * 1e6);
    const may = me.may.collect_client;
    fill(status, dot(connected ? "ok" : "off"), connected ? "Connected" : "Not connected");
    const up = at.length > 1 && btn("", { icon: "up", kind: "ghost sq", title: "Folder above (u)", onclick: () => open(at.slice(0, -1)) });
    fill(bar, up, h("code", { class: "ell grow", title: path(at) }, hostile(path(at))),
      busy ? h("span", { class: "mid", role: "status" }, dot("run"), ` ${busy.said}`)
        : listed && h("span", { class: "mid hide-n", title: time_title(when) }, "Listed ", h("a", { href: app(`flow/${client}/${stat.flow_id}`) }, time(when))),
      busy && btn("Stop", { icon: "stop", kind: "ghost", onclick: () => post("/v1/CancelFlow", { client_id: client, flow_id: busy.flow }).catch((e) => content.prepend(failed(e))) }),
      may && btn(listed ? "List again" : "List", { icon: "refresh", disabled: !!busy, id: "list", onclick: () => refresh(0) }),
      may && menu(h("summary", { class: "btn ghost sq", "aria-label": "More" }, icon("more")),
        h("button", { type: "button", disabled: !!busy, onclick: () => refresh(DEPTH) }, `List with ${DEPTH} levels below`),
        h("button", { type: "button", disabled: !!busy, onclick: fetch_all }, "Fetch every file below")));
  }

  // Follows a collection until it is over; `then` is told its end. `keep`: the table
  // stays as it is, only what was fetched is new.
  async function follow(flow, said, then, keep = false) {
    busy = { flow, said };
    draw_bar();
    const mine = busy;
    const turn = async () => {
      if (signal.aborted || busy !== mine) return;
      let over = null;
      try {
        const { context: f } = await get("/v1/GetFlowDetails", { client_id: client, flow_id: flow }, { signal });
        if (f.state === "FINISHED" || f.state === "ERROR") over = f;
        else if (!Number(f.start_time) && connected === false) { mine.said = "Waits: the host is not connected"; draw_bar(); }
      } catch (e) { if (e.name === "AbortError") return; }
      if (!over || !(await then(over))) { setTimeout(turn, 500); return; }
      if (busy === mine) {
        busy = null;
        if (keep && table) { await learn(); draw_bar(); table.draw(); } else await show(true);
        if (over.state === "ERROR") content.prepend(note("err", h("b", {}, "The host could not do it. "), hostile(over.status ?? "")));
      }
    };
    turn();
  }

  async function refresh(depth) {
    const folder = at;
    try {
      const { flow_id } = await post("/v1/VFSRefreshDirectory", { client_id: client, vfs_components: folder, depth });
      let tries = 0;
      follow(flow_id, depth ? "Lists folders…" : "Lists the folder…", async (over) => {
        const now = await get("/v1/VFSStatDirectory", { client_id: client, vfs_components: folder }, { signal });
        return now.flow_id === flow_id || over.state === "ERROR" || ++tries > 20;
      });
    } catch (e) { content.prepend(failed(e)); }
  }

  async function fetch_all() {
    try {
      const env = [["Components", JSON.stringify(at.slice(1))], ["Path", path(at)], ["Accessor", at[0]], ["Recursively", "Y"]].map(([k, value]) => ({ key: k, value }));
      const { flow_id } = await post("/v1/CollectArtifact", { client_id: client, urgent: true, artifacts: ["System.VFS.DownloadFile"], specs: [{ artifact: "System.VFS.DownloadFile", parameters: { env } }] });
      follow(flow_id, "Fetches files…", async () => true);
    } catch (e) { content.prepend(failed(e)); }
  }

  async function fetch_file(file) {
    try {
      const { flow_id } = await post("/v1/VFSDownloadFile", { client_id: client, accessor: at[0], components: [...at.slice(1), file] });
      let tries = 0;
      await learn();
      table?.show_row();
      follow(flow_id, `Fetches ${file}…`, async () => {
        await learn();
        const now = fetched.get(file);
        return (now?.flow_id === flow_id && !now.in_flight) || ++tries > 20;
      }, true);
    } catch (e) { content.prepend(failed(e)); }
  }

  async function learn() {
    const { items } = await get("/fleet/fetched", { client_id: client, vfs_components: at }, { signal });
    fetched = new Map(items.map((f) => [f.name, f]));
  }

  function pane(t, found) {
    const { row } = found;
    const file = String(row.Name ?? "");
    const is_folder = String(row.Mode ?? "").startsWith("d");
    const got = fetched.get(file);
    const own = h("div", { class: "stack" });
    if (is_folder) fill(own, btn("Open folder", { icon: "folder", kind: "primary", onclick: () => open([...at, file]) }));
    else {
      const usable = got && !got.in_flight && !got.error && got.components?.length;
      const when = from_micros(got?.mtime);
      const shown = h("div", { class: "stack" });
      fill(own, !usable && h("h2", {}, hostile(file)),
        got?.in_flight && h("p", { class: "mid" }, dot("run"), " Being fetched."),
        got?.error && note("err", hostile(got.error)),
        me.may.collect_client && btn(usable ? "Fetch again" : "Fetch from the host", { icon: "download", kind: usable ? "" : "primary", disabled: !!busy, onclick: () => fetch_file(file) }),
        usable && h("dl", { class: "kv" }, h("dt", {}, "Fetched"), h("dd", { title: time_title(when) }, h("a", { href: app(`flow/${client}/${got.flow_id}`) }, time(when))),
          h("dt", {}, "SHA-256"), h("dd", { class: "mono xs wrap" }, got.SHA256 || "–"), h("dt", {}, "MD5"), h("dd", { class: "mono xs wrap" }, got.MD5 || "–"),
          got.sparse && [h("dt", {}, "Sparse"), h("dd", {}, "holes are zeros in downloads")]),
        shown);
      if (usable) show_preview({ side: shown, signal, name: file, components: got.components, size: row.Size, stored: got.size, close: () => t.close_side() });
    }
    return h("div", { class: "stack wide" }, own, h("div", { class: "rule" }, row_pane(t, found)));
  }

  const draw_name = (v, row) => {
    const file = String(v ?? ""), is_folder = String(row.Mode ?? "").startsWith("d"), got = fetched.get(file);
    const text = is_folder ? h("a", { href: "#", onclick: (e) => { e.preventDefault(); e.stopPropagation(); open([...at, file]); } }, hostile(file)) : h("span", {}, hostile(file));
    return h("span", { class: "row" }, icon(is_folder ? "folder" : "artifact"), text,
      got && !is_folder && (got.in_flight ? dot("run", "being fetched") : got.error ? dot("err", "fetching failed") : h("span", { class: "tag ok" }, "fetched")));
  };

  function show_table() {
    const total = Number(stat.total_rows ?? 0);
    if (!stat.flow_id || total === 0) {
      table = null;
      fill(content, stat.flow_id ? empty("This folder is empty", h("p", {}, "So it was when it was last listed."))
        : empty("Not listed yet", h("p", {}, "Folders are shown as the host listed them last; this one was never asked for."),
          me.may.collect_client ? btn("List this folder", { icon: "refresh", kind: "primary", disabled: !!busy, onclick: () => refresh(0) }) : h("p", { class: "mid" }, "An investigator can list it.")));
      return;
    }
    table = new ResultTable({
      set: { client_id: client, flow_id: stat.flow_id, name: stat.artifact || "System.VFS.ListDirectory", section: `${stat.start_idx ?? 0}-${stat.end_idx}` },
      signal, none: () => empty("Nothing here", h("p", {}, "The collection that listed this folder was deleted. List it again.")), first: ["Name", "Size", "Mode", "mtime"],
      off: ["_OSPath", "_Components", "_Accessor", "_Data", "_Idx"], cells: { Name: draw_name, btime: (v) => (String(v ?? "").startsWith("1970-01-01T00:00:00") ? h("span", { class: "dim" }, "–") : cell(v)), Size: (v, row) => (String(row.Mode ?? "").startsWith("d") ? "" : count(v)) }, pane,
    });
    fill(content, table.element);
    fill(table.select, h("span", { class: "tn mid" }, plural(total, "entry", "entries")));
    table.load();
    here({ ...table.keys(), u: () => at.length > 1 && open(at.slice(0, -1)), r: () => me.may.collect_client && !busy && refresh(0),
      o: () => { const row = table.data?.rows[table.at]?.row; if (String(row?.Mode ?? "").startsWith("d")) open([...at, row.Name]); } }, signal);
  }

  async function show(again) {
    at = here_now();
    if (again) below.clear();
    try {
      const up = at.map((_, i) => at.slice(0, i + 1));
      [stat] = await Promise.all([get("/v1/VFSStatDirectory", { client_id: client, vfs_components: at }, { signal }), learn(), ...up.map(folders)]);
    } catch (e) {
      if (e.name !== "AbortError") fill(content, h("div", { class: "pane" }, failed(e)));
      return;
    }
    if (signal.aborted) return;
    document.title = `${path(at)} · ${name} · velociraptor`;
    draw_tree();
    draw_bar();
    show_table();
  }

  live.on("client", (c) => {
    if (c.client_id !== client || connected === c.connected) return;
    connected = c.connected;
    draw_bar();
  }, signal);
  await show();
}
