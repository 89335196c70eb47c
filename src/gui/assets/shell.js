// What never moves: rail, top bar, title line. Screens draw into `body`.

import { app, log_off, me, set_org } from "./lib/api.js";
import { btn, dot, fill, h, icon, menu, skeleton } from "./lib/dom.js";
import { count, set_zone, size, time, zone, zone_name } from "./lib/format.js";
import { everywhere } from "./lib/keys.js";
import * as live from "./lib/live.js";
import { go, show } from "./lib/route.js";
import { change_password } from "./parts/password.js";

const NAV = [
  ["clients", "Clients", "host", ["clients", "host", "flow", "collect"]],
  ["hunts", "Hunts", "hunt", ["hunts", "hunt"]],
  ["notebooks", "Notebooks", "book", ["notebooks", "notebook"]],
  ["artifacts", "Artifacts", "artifact", ["artifacts"]],
  ["events/server", "Server events", "list", ["events"]],
  ["cluster", "Cluster", "cluster", ["cluster"]],
  ["users", "Users", "users", ["users"], () => me.may.server_admin || me.may.org_admin],
];

const main = h("main", { id: "main", class: "main" });
const vitals = h("a", { class: "vitals", href: app("cluster"), title: "Cluster" });
const nav = h("ul", { class: "nav" });
const recent = h("ul", { class: "nav" });
const state = h("span", { class: "live" }, dot("off"), h("span", {}, "…"));
const find = h("input", {
  name: "q", "aria-label": "Search clients", autocomplete: "off", spellcheck: "false",
  placeholder: "host: label: ip: C. or any text",
});
let section = "";
let clients = 0;

function draw_nav() {
  fill(nav, NAV.filter(([, , , , may]) => !may || may()).map(([path, text, name, inside]) =>
    h("li", {}, h("a", { href: app(path), title: text, "aria-current": inside.includes(section) ? "page" : undefined },
      icon(name), h("span", {}, text), path === "clients" && clients > 0 && h("small", {}, count(clients))))));
}

// Hosts that were looked at in this browser.
export function remember_host(id, name) {
  let all = [];
  try { all = JSON.parse(localStorage.getItem("hosts") ?? "[]"); } catch { /* storage is off */ }
  all = [[id, name], ...all.filter(([i]) => i !== id)].slice(0, 5);
  try { localStorage.setItem("hosts", JSON.stringify(all)); } catch { /* storage is off */ }
  draw_recent();
}

function draw_recent() {
  let all = [];
  try { all = JSON.parse(localStorage.getItem("hosts") ?? "[]"); } catch { /* storage is off */ }
  fill(recent, all.map(([id, name]) =>
    h("li", {}, h("a", { href: app(`host/${id}`), title: `${name} ${id}` }, icon("host"), h("span", { class: "ell" }, name || id)))));
  recent.closest(".recent").hidden = all.length === 0;
}

function user_menu() {
  const initials = me.name.slice(0, 2).toUpperCase();
  const zones = [...new Set(["", "UTC", zone, Intl.DateTimeFormat().resolvedOptions().timeZone])];
  const choose = h("select", { class: "in", "aria-label": "Time zone", onchange: (e) => { set_zone(e.target.value); show(); } },
    zones.map((z) => h("option", { value: z, selected: z === zone }, z || `Browser (${Intl.DateTimeFormat().resolvedOptions().timeZone})`)));
  const density = h("select", { class: "in", "aria-label": "Row height", onchange: (e) => {
    document.documentElement.dataset.density = e.target.value;
    try { localStorage.setItem("density", e.target.value); } catch { /* storage is off */ }
  } }, ["dense", "compact", "relaxed"].map((d) =>
    h("option", { value: d, selected: d === document.documentElement.dataset.density }, `${d} rows`)));
  return menu(h("summary", { class: "me" }, h("span", { "aria-hidden": "true" }, initials), h("span", { class: "vh" }, `User ${me.name}`)),
    h("p", {}, `${me.name} · ${me.org}`), h("div", { class: "stack tight pad" }, choose, density), h("hr"),
    !me.password_less && h("button", { type: "button", onclick: () => change_password(me.name, 4) }, "Change password"),
    h("button", { type: "button", onclick: log_off }, "Sign out"));
}

function org_menu() {
  if (me.orgs.length < 2) return null;
  const name = (o) => o.name || o.id;
  return menu(h("summary", { class: "btn ghost" }, name(me.orgs.find((o) => o.id === me.org) ?? { id: me.org }), icon("down")),
    h("p", {}, "Organisation"), me.orgs.map((o) => h("button", { type: "button", onclick: () => set_org(o.id) }, o.id === me.org && icon("check"), name(o))));
}

function turn_theme(e) {
  const order = ["auto", "light", "dark"];
  const root = document.documentElement;
  const next = order[(order.indexOf(root.dataset.theme) + 1) % 3];
  root.dataset.theme = next;
  try { localStorage.setItem("theme", next); } catch { /* storage is off */ }
  e.currentTarget.title = `Theme: ${next}`;
  e.currentTarget.setAttribute("aria-label", `Theme: ${next}`);
}

export function start() {
  const search = h("form", { class: "find", role: "search", onsubmit: (e) => {
    e.preventDefault();
    const q = find.value.trim();
    find.blur();
    if (/^C\.[0-9a-f]{16}(-O\w+)?$/.test(q)) go(app(`host/${q}`));
    else go(app("clients", { q }));
  } }, icon("search"), find, h("kbd", {}, "/"));
  const theme = document.documentElement.dataset.theme;
  document.body.append(
    h("a", { class: "skip", href: "#main" }, "Skip to content"),
    h("nav", { class: "rail", "aria-label": "Main" },
      h("a", { class: "brand", href: app("clients") }, icon("logo"), h("span", {}, "velociraptor")), nav,
      h("div", { class: "recent" }, h("h2", {}, "Recent hosts"), recent), vitals),
    h("header", { class: "top" }, search, h("span", { class: "grow" }), state, org_menu(),
      btn("", { icon: "theme", kind: "ghost sq", title: `Theme: ${theme}`, onclick: turn_theme }),
      btn("", { icon: "help", kind: "ghost sq", title: "Keyboard and help", href: app("help") }), user_menu()),
    main);
  document.addEventListener("screen", (e) => {
    section = e.detail === "collect" && new URLSearchParams(location.search).get("hunt") === "1" ? "hunts" : e.detail;
    draw_nav();
  });
  draw_nav();
  draw_recent();
  live.on("vitals", (v) => {
    if (v.clients !== clients) { clients = v.clients; draw_nav(); }
    const line = (name, value, warn) => h("div", {}, h("span", {}, name), h("b", { class: warn ? "t-warn" : "" }, warn && dot("warn"), value));
    fill(vitals, h("span", { class: "vh" }, "Cluster: "),
      line("Nodes", `${v.nodes_up} of ${v.nodes}`, v.nodes_up < v.nodes), line("Connected", count(v.held)),
      line("Task p99", v.delivery_p99 ? `${(v.delivery_p99 / 1000).toFixed(1)} ms` : "–"),
      line("Worst lag", v.lag_bytes ? size(v.lag_bytes) : "none", v.lag_bytes > 1 << 20));
  });
  live.on("connection", (c) => {
    fill(state, dot(c.live ? "ok" : "warn"), h("span", {}, c.live ? "Live" : "Not live"));
    state.title = c.live ? "Changes are shown as they happen" : `No news since ${time(new Date(c.since))}`;
    strip(c);
  });
  everywhere("/", () => { find.focus(); find.select(); });
  everywhere("C-S-/", () => { find.focus(); find.select(); });
  everywhere("C-?", () => { find.focus(); find.select(); });
  everywhere("C-/", () => go(app("help")));
  everywhere("A-d", () => go(app("cluster")));
  everywhere("A-n", () => go(app("notebooks")));
  everywhere("A-a", () => go(app("artifacts")));
}

function strip(c) {
  main.querySelector(".strip")?.remove();
  if (c.live) return;
  main.querySelector(".head")?.append(h("div", { class: "strip", role: "status" }, icon("alert"),
    `The stream of news was lost at ${time(new Date(c.since))}. What you see is from then; it is tried again every few seconds.`));
}

// Draws a screen: `crumbs` are [text, href], `tabs` [text, href, small, current].
export function page({ title, crumbs = [], state: status, acts, tabs, steps, fillbody = false, two = false }) {
  document.title = `${typeof title === "string" ? title : title.textContent} · velociraptor`;
  const body = h("div", { class: `body${fillbody ? " fill" : ""}${two ? " two" : ""}` }, skeleton());
  const status_slot = h("span", { class: "state" }, status);
  const acts_slot = h("div", { class: "acts" }, acts);
  const tabs_slot = tabs && h("nav", { class: "tabs", "aria-label": "Views" });
  const heading = h("h1", {}, title);
  fill(main, h("div", { class: "head" },
    h("div", { class: "head-1" },
      crumbs.length > 0 && h("span", { class: "crumb" }, crumbs.map(([text, href, mono]) =>
        [h("a", { href, class: mono ? "mono" : "" }, text), " / "])),
      heading, steps, status_slot, acts_slot),
    tabs_slot), body);
  const set_tabs = (all) => fill(tabs_slot, all.map(([text, href, small, current]) =>
    h("a", { href, "aria-current": current ? "page" : undefined }, text, small !== undefined && h("small", {}, small))));
  if (tabs) set_tabs(tabs);
  return { body, main, heading, status: status_slot, acts: acts_slot, set_tabs };
}

export { zone_name };
