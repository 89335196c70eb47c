// What is run on a host by hand. A shell that is kept takes one command after the other,
// as a terminal does: they are further runs of one collection. Others run by themselves,
// one collection each, with a status of their own.

import { app, get, me, post } from "../lib/api.js";
import { btn, dot, empty, fill, h, hostile, note, skeleton } from "../lib/dom.js";
import { count, from_micros, time, time_title } from "../lib/format.js";
import { here } from "../lib/keys.js";
import * as live from "../lib/live.js";
import { copy, failed } from "../lib/say.js";
import { page } from "../shell.js";
import { flow_state, flows_of, is_over } from "./flows.js";
import { host_name, host_tabs } from "./host.js";

// Artifact, and the parameter that is the command.
const SHELLS = {
  "Linux.Sys.BashShell": ["Bash", "Command"],
  "Windows.System.PowerShell": ["PowerShell", "Command"],
  "Windows.System.CmdShell": ["Cmd", "Command"],
  "Generic.Client.VQL": ["VQL", "Command"],
  "Generic.Client.Query": ["VQL", "Query"],
};
const OF = { windows: ["Windows.System.PowerShell", "Windows.System.CmdShell"], linux: ["Linux.Sys.BashShell"], darwin: ["Linux.Sys.BashShell"] };
// Those that can be kept: folder, variables and jobs stay.
const KEEPS = new Set(["Linux.Sys.BashShell"]);
const LOOKED_AT = 100;
const LINES = 2000;

export async function show_shells({ client, signal }) {
  live.watch(client);
  const name = await host_name(client, signal);
  if (signal.aborted) return;
  const { body, status } = page({ title: "Shell", crumbs: [["Clients", app("clients")], [name, app(`host/${client}`)]], tabs: host_tabs(client, "shell"), fillbody: true });
  fill(body, skeleton());
  let info, artifacts;
  try {
    [info, artifacts] = await Promise.all([get(`/v1/GetClient/${encodeURIComponent(client)}`, {}, { signal }), get("/fleet/artifacts", {}, { signal })]);
  } catch (e) {
    if (e.name !== "AbortError") fill(body, h("div", { class: "pane" }, failed(e)));
    return;
  }
  if (signal.aborted) return;
  const there = new Map(artifacts.items.map((a) => [a.name, a]));
  const usable = [...(OF[info.os_info?.system] ?? []), "Generic.Client.VQL", "Generic.Client.Query"].filter((a) => there.has(a) && !there.get(a).refused && SHELLS[a]).filter((a, i, all) => all.findIndex((b) => SHELLS[b][0] === SHELLS[a][0]) === i);
  const list = h("ol", { class: "shell", "aria-label": "Commands" });
  const scroll = h("div", { class: "scroll pane", tabindex: "0", "aria-label": "Session" }, skeleton());
  const input = h("textarea", { class: "in mono", name: "command", rows: 1, "aria-label": "Command", placeholder: "id; uptime", spellcheck: "false", autocapitalize: "none" });
  const kind = h("select", { class: "in fit-w", "aria-label": "Shell" }, usable.map((a) => h("option", { value: a }, SHELLS[a][0])));
  const run = btn("Run", { icon: "play", kind: "primary", type: "submit", key: "Enter" });
  const said = h("div", {});
  let keep = true;
  try { keep = localStorage.getItem("shell") !== "single"; } catch { /* storage is off */ }
  const keeps = h("label", { class: "check", title: "Folder, variables and jobs stay from one command to the next, as in a terminal. Without it each command runs by itself and shows how it ended." },
    h("input", { type: "checkbox", name: "keep", checked: keep, onchange: (e) => {
      keep = e.target.checked;
      try { localStorage.setItem("shell", keep ? "kept" : "single"); } catch { /* storage is off */ }
    } }), "Keep the shell");
  const draw_keeps = () => { keeps.hidden = !KEEPS.has(kind.value); };
  kind.addEventListener("change", draw_keeps);
  draw_keeps();
  let at = -1;
  const prompt = h("form", { class: "prompt", onsubmit: (e) => { e.preventDefault(); send(); } }, kind, input, keeps, run);
  const may = me.may.collect_client && usable.length > 0;
  fill(body, h("div", { class: "shell-page" }, scroll,
    h("div", { class: "stack tight" }, said, may ? prompt : h("p", { class: "mid pad" }, me.may.collect_client ? "No shell artifact can run on this host, or you may not run one (EXECVE)." : "You may read what was run here; running needs COLLECT_CLIENT."))));

  const blocks = new Map();

  // Commands, the last first.
  const past = () => [...blocks.values()].flatMap((b) => b.commands).reverse();

  // The shell of this user that takes further commands.
  const open = (artifact) => [...blocks.values()].findLast((b) => b.session && !b.over && b.artifact === artifact && b.by === me.name);

  async function send(text = input.value, artifact = kind.value, session = keep && KEEPS.has(artifact)) {
    if (!text.trim()) return;
    input.value = "";
    grow();
    fill(said);
    at = -1;
    try {
      const now = Date.now();
      const env = [{ key: SHELLS[artifact][1], value: text }];
      if (session) env.push({ key: "CommandId", value: String(now) }, { key: "Stateful", value: "Y" });
      const there = session && open(artifact);
      await post("/v1/CollectArtifact", { client_id: client, flow_id: there ? `${there.id}/${now}` : undefined, artifacts: [artifact], urgent: true, specs: [{ artifact, parameters: { env }, max_batch_wait: 1, max_batch_rows: 1 }] });
      await load();
      scroll.scrollTop = scroll.scrollHeight;
    } catch (e) {
      input.value = text;
      fill(said, failed(e));
    }
  }

  function grow() { input.rows = Math.min(8, input.value.split("\n").length); }
  input.addEventListener("input", grow);
  input.addEventListener("keydown", (e) => {
    if (e.key === "Enter" && !e.shiftKey) { e.preventDefault(); send(); }
    if ((e.key === "ArrowUp" || e.key === "ArrowDown") && !input.value.includes("\n") && past().length) {
      e.preventDefault();
      at = Math.max(-1, Math.min(past().length - 1, at + (e.key === "ArrowUp" ? 1 : -1)));
      input.value = at < 0 ? "" : past()[at];
      grow();
    }
  });

  function block(f) {
    const artifact = f.request?.artifacts?.[0];
    const parameter = SHELLS[artifact][1];
    const env = (f.request?.specs ?? []).flatMap((s) => s.parameters?.env ?? []);
    const command = env.find((e) => e.key === parameter)?.value ?? "";
    const made = from_micros(f.create_time);
    const session = KEEPS.has(artifact) && env.some((e) => e.key === "Stateful" && e.value === "Y");
    const b = { id: f.session_id, rows: -1, over: false, command, commands: [command], session, by: f.request?.creator, artifact, state: h("span", { class: "state" }), out: h("div", { class: "out" }), acts: h("span", { class: "row" }) };
    b.element = h("li", { class: "cell", "data-id": f.session_id },
      h("header", {}, h("span", { class: "tag" }, SHELLS[artifact][0]), h("span", { class: "tn", title: time_title(made) }, time(made)), h("span", {}, hostile(f.request?.creator || "server")), b.state, h("span", { class: "grow" }), b.acts,
        h("a", { href: app(`flow/${client}/${f.session_id}`), class: "btn ghost" }, "Collection")),
      !session && h("pre", { class: "code inline" }, hostile(command, { lines: true })), b.out);
    return b;
  }

  // What one has written so far.
  async function output(b, f) {
    const set = f.artifacts_with_results?.[0] ?? b.artifact;
    const start = b.session ? Math.max(0, Number(f.total_collected_rows ?? 0) - LINES) : 0;
    const t = await get("/fleet/table", { client_id: client, flow_id: b.id, name: set, start, rows: LINES }, { signal });
    const lines = t.rows.map(({ row }) => row ?? {});
    if (b.session) b.commands = lines.filter((r) => r.Command).map((r) => r.Command.trim());
    const shell = lines.every((r) => "Stdout" in r || "Stderr" in r);
    fill(b.out, lines.length === 0 ? null : shell ? h("pre", { class: "value term", tabindex: "0", "aria-label": `Output of ${b.command}` }, lines.map((r) => [
      b.session && r.Command ? h("b", {}, "$ ", hostile(r.Command, { lines: true })) : null,
      r.Stdout ? hostile(strip(r.Stdout), { lines: true }) : null, r.Stderr ? h("span", { class: "t-err" }, hostile(strip(r.Stderr), { lines: true })) : null,
      r.ReturnCode !== undefined && r.ReturnCode !== null && Number(r.ReturnCode) > 0 ? h("span", { class: "dim" }, `exit ${r.ReturnCode}\n`) : null]))
      : h("pre", { class: "value term", tabindex: "0", "aria-label": `Rows of ${b.command}` }, lines.map((r) => [hostile(JSON.stringify(r)), "\n"])),
    t.total > lines.length && h("p", { class: "mid pad" }, h("a", { href: app(`flow/${client}/${b.id}`) }, `All ${count(t.total)} rows`)));
  }

  async function load() {
    const { items } = await flows_of(client, 0, LOOKED_AT, signal);
    if (signal.aborted) return;
    const mine = items.filter((f) => f.request?.artifacts?.length === 1 && SHELLS[f.request.artifacts[0]]).reverse();
    if (mine.length === 0) {
      fill(scroll, empty("Nothing was run here yet", h("p", {}, "Each command is a collection: who ran it, when, and what it wrote is kept and can be searched.")));
      return;
    }
    for (const f of mine) {
      let b = blocks.get(f.session_id);
      if (!b) {
        b = block(f);
        blocks.set(f.session_id, b);
        list.append(b.element);
      }
      if (b.over) continue;
      const [k, text] = flow_state(f);
      const over = is_over(f);
      fill(b.state, dot(k), b.session && !over ? "Open" : b.session && k === "off" ? "Ended" : text);
      fill(b.acts, over ? may && !b.session && btn("", { icon: "refresh", kind: "ghost sq", title: `Run again: ${b.command}`, onclick: () => send(b.command, b.artifact, false) })
        : me.may.collect_client && btn(b.session ? "End" : "Stop", { icon: "stop", kind: "ghost", onclick: () => post("/v1/CancelFlow", { client_id: client, flow_id: b.id }).then(load, (e) => fill(said, failed(e))) }),
      btn("", { icon: "copy", kind: "ghost sq", title: "Copy the output", onclick: () => copy(b.out.innerText, "Output") }));
      const rows = Number(f.total_collected_rows ?? 0);
      if (rows !== b.rows) {
        await output(b, f);
        b.rows = rows;
      }
      if (over && f.status && f.state === "ERROR") b.out.append(k === "off" ? h("p", { class: "dim pad" }, hostile(f.status.split("\n")[0])) : note("err", hostile(f.status.split("\n")[0])));
      if (over && rows === 0 && f.state !== "ERROR") fill(b.out, h("p", { class: "dim pad" }, "It wrote nothing."));
      b.over = over;
    }
    if (!list.isConnected) { fill(scroll, list); scroll.scrollTop = scroll.scrollHeight; }
  }

  let connected = null;
  live.on("client", (c) => {
    if (c.client_id !== client || connected === c.connected) return;
    connected = c.connected;
    fill(status, dot(connected ? "ok" : "off"), connected ? "Connected" : "Not connected: commands wait");
  }, signal);
  try { await load(); } catch (e) {
    if (e.name !== "AbortError") fill(scroll, failed(e));
    return;
  }
  if (may) input.focus();
  here({ s: () => may && input.focus(), c: () => may && input.focus() }, signal);
  const timer = setInterval(() => load().catch(() => {}), 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
}

// Terminal colours say nothing here.
const strip = (text) => String(text).replace(/\u001b\[[0-9;]*m/g, "");
