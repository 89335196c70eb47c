// Users and their rights in each organisation. What may be changed is the server's word.

import { get, me, post } from "../lib/api.js";
import { btn, dot, fill, h, hostile, note, sec, skeleton } from "../lib/dom.js";
import { plural } from "../lib/format.js";
import { here } from "../lib/keys.js";
import * as live from "../lib/live.js";
import { adjust, params } from "../lib/route.js";
import { ask, failed, form, toast } from "../lib/say.js";
import { change_password } from "../parts/password.js";
import { page } from "../shell.js";

const words = (name) => name.toLowerCase().replaceAll("_", " ");
const org_name = (o) => o.name || o.id;

export async function show_users({ signal }) {
  live.watch();
  const { body, acts, status } = page({ title: "Users", fillbody: true });
  fill(body, skeleton());
  let d = null;
  const side = h("aside", { class: "pane tint stack wide", "aria-label": "Rights" });
  const rows = h("tbody");

  const chosen = () => d.items.find((u) => u.name === params().get("name"));
  const choose = (name) => { adjust({ name, org: "" }); draw(); };
  const load = async () => {
    d = await get("/fleet/users", {}, { signal });
    if (!signal.aborted) draw();
  };
  // Says what went wrong where it was tried; else shows what is now.
  async function act(f, said) {
    try {
      await f();
      await load();
      toast(said);
    } catch (e) { side.prepend(failed(e)); }
  }

  function draw() {
    const governs = d.orgs.length > 0;
    fill(status, plural(d.items.length, "user"));
    fill(acts, governs && btn("Add user", { icon: "plus", kind: "primary", key: "c", onclick: add }));
    const now = chosen();
    fill(rows, d.items.map((u) => h("tr", { class: u === now ? "cur" : "", "data-name": u.name },
      h("td", {}, h("button", { class: "link", type: "button", "aria-pressed": u === now ? "true" : "false", onclick: () => choose(u.name) }, hostile(u.name)), u.name === me.name && h("span", { class: "dim" }, " you")),
      h("td", {}, h("span", { class: "state" }, u.locked ? [dot("err"), "Locked"] : u.orgs.length ? [dot("ok"), "Active"] : [dot("off"), "No rights"])),
      h("td", { class: "fluid" }, h("span", { class: "row wrap" }, u.orgs.map((o) => {
        const r = o.rights;
        const extra = r && r.roles.length === 0 ? plural(r.effective.length, "permission") : r?.roles.map(words).join(", ");
        return h("span", { class: "tag" }, d.orgs.length > 1 || !r ? [hostile(org_name(o)), extra ? ": " : ""] : "", extra ?? "");
      }))),
      h("td", {}, u.password === null ? h("span", { class: "dim" }, "–") : u.password ? "set" : h("span", { class: "dim" }, "none")))));
    const scroll = h("div", { class: "tbl-scroll", tabindex: "0", "aria-label": "Users" }, h("table", { class: "grid" },
      h("thead", {}, h("tr", {}, ["User", "State", governs ? "Roles" : "Organisations", "Password"].map((t) => h("th", { scope: "col" }, t)))), rows));
    const old = body.querySelector(".tbl-scroll");
    if (old) { old.replaceWith(scroll); } else fill(body, h("div", { class: "split" }, h("section", { class: "tbl bare", "aria-label": "Users" }, scroll), side));
    draw_side(now);
  }

  function draw_side(u) {
    if (!u) {
      fill(side, d.orgs.length
        ? [sec("Rights", "", h("p", { class: "mid" }, "Choose a user to see and change what they may do in each organisation.")), h("div", { class: "rule" }, roles_part())]
        : h("p", { class: "mid" }, "You see who shares an organisation with you. An administrator of the organisation changes rights."));
      return;
    }
    const places = [...d.orgs.map((o) => ({ ...o, rights: u.orgs.find((x) => x.id === o.id)?.rights ?? null })), ...u.orgs.filter((o) => !d.orgs.some((x) => x.id === o.id))];
    const wanted = params().get("org");
    const at = places.find((o) => o.id === wanted) ?? places.find((o) => u.orgs.some((x) => x.id === o.id)) ?? places[0];
    const governs = at && d.orgs.some((o) => o.id === at.id);
    fill(side,
      h("div", { class: "row" }, h("h2", { class: "grow ell" }, hostile(u.name)), btn("", { icon: "x", kind: "ghost sq", title: "Close (Esc)", onclick: () => choose("") })),
      u.locked && note("warn", "Locked: whatever their rights, they can do nothing."),
      places.length > 1 && h("label", { class: "row" }, "In organisation ", h("select", { class: "in grow", "aria-label": "Organisation", onchange: (e) => { adjust({ org: e.target.value }); draw_side(u); } },
        places.map((o) => h("option", { value: o.id, selected: o === at }, `${org_name(o)}${u.orgs.some((x) => x.id === o.id) ? "" : " (not a member)"}`)))),
      governs ? rights_part(u, at) : h("p", { class: "mid" }, "Their rights here are for administrators to see."),
      u.mine && h("div", { class: "rule" }, sec("Account", "", h("div", { class: "row wrap" },
        btn(u.password ? "New password" : "Set a password", { icon: "key", onclick: () => password(u.name) }),
        u.name !== me.name && btn(u.locked ? "Unlock" : "Lock", { icon: "lock", onclick: () => act(() => post("/fleet/users/lock", { name: u.name, locked: !u.locked }), u.locked ? `${u.name} is let in again` : `${u.name} is locked out`) }),
        u.name !== me.name && btn("Delete", { icon: "trash", kind: "danger", onclick: () => remove(u) })))));
  }

  function rights_part(u, org) {
    const held = new Set(org.rights?.roles ?? []);
    const by_role = () => new Set(d.roles.filter((r) => held.has(r.name)).flatMap((r) => r.permissions));
    const roles_give = by_role();
    const extra = new Set((org.rights?.effective ?? []).filter((p) => !roles_give.has(p)));
    const said = h("div", {});
    const effect = h("div", { class: "row wrap" });
    const save = btn("Save rights", { kind: "primary", disabled: true, id: "save-rights", onclick: () => {
      if (held.size === 0 && extra.size === 0 && org.rights) { leave(u, org); return; }
      act(() => post("/v1/SetUserRoles", { name: u.name, org: org.id, roles: [...held], permissions: [...extra] }), `Rights of ${u.name} saved`);
    } });
    const show_effect = () => {
      const all = new Set([...by_role(), ...extra]);
      fill(effect, all.size ? d.permissions.filter((p) => all.has(p)).map((p) => h("span", { class: "tag" }, words(p))) : h("span", { class: "mid" }, "nothing: they do not belong to this organisation"));
    };
    const changed = () => { save.disabled = false; show_effect(); };
    const check = (set, name, title) => h("label", { class: "check", title }, h("input", { type: "checkbox", name, checked: set.has(name), onchange: (e) => { e.target.checked ? set.add(name) : set.delete(name); changed(); } }), h("span", {}, words(name)));
    show_effect();
    return [
      sec("Roles", "", h("div", { class: "two-up" }, d.roles.map((r) => check(held, r.name, r.permissions.map(words).join(", "))))),
      h("details", { class: "rule", open: extra.size > 0 }, h("summary", {}, "Single permissions", extra.size > 0 && h("span", { class: "dim" }, ` ${extra.size} beside the roles`)),
        h("div", { class: "two-up" }, d.permissions.filter((p) => !roles_give.has(p)).map((p) => check(extra, p)))),
      h("div", { class: "rule" }, sec("May then", "", effect)), said, h("div", { class: "row" }, save),
    ];
  }

  const roles_part = () => sec("What roles give", "", h("dl", { class: "kv" }, d.roles.map((r) => [h("dt", {}, words(r.name)), h("dd", { class: "xs mid" }, r.permissions.map(words).join(", "))])));

  async function leave(u, org) {
    if (!(await ask(`Take ${u.name} out of ${org_name(org)}?`, h("p", {}, "They keep no right there. Their account stays."), "Take out"))) return;
    act(() => post("/v1/SetUserRoles", { name: u.name, org: org.id, roles: [], permissions: [] }), `${u.name} has no rights in ${org_name(org)} now`);
  }

  async function remove(u) {
    if (!(await ask(`Delete ${u.name}?`, h("p", {}, "Their account and their rights in every organisation go. What they collected stays, and so do their names in the audit log."), "Delete user"))) return;
    await act(() => post("/fleet/users/delete", { name: u.name }), `${u.name} was deleted`);
    choose("");
  }

  function password(name) {
    change_password(name, d.min_password, () => load());
  }

  function add() {
    const roles = ["reader", "analyst", "investigator", "administrator", "artifact_writer", "api", "org_admin"];
    form("Add user", [
      h("label", { class: "field plain" }, h("span", {}, "Name"), h("input", { class: "in", name: "name", required: true, autofocus: true, autocomplete: "off", autocapitalize: "none", spellcheck: "false", placeholder: "ann@example.org" })),
      h("label", { class: "field plain" }, h("span", {}, "Password"), h("input", { class: "in", name: "password", type: "password", autocomplete: "new-password", minlength: d.min_password, placeholder: "none: signs in elsewhere, or later" })),
      d.orgs.length > 1 ? h("label", { class: "field plain" }, h("span", {}, "Organisation"), h("select", { class: "in", name: "org" }, d.orgs.map((o) => h("option", { value: o.id, selected: o.id === me.org }, org_name(o))))) : h("input", { type: "hidden", name: "org", value: d.orgs[0].id }),
      h("label", { class: "field plain" }, h("span", {}, "Role"), h("select", { class: "in", name: "role" }, roles.map((r) => h("option", { value: r }, words(r))))),
    ], "Add", async (f) => {
      await post("/v1/CreateUser", { name: f.name.trim(), password: f.password, orgs: [f.org], roles: [f.role], add_new_user: true });
      adjust({ name: f.name.trim(), org: f.org });
      await load();
    });
  }

  try { await load(); } catch (e) {
    if (e.name !== "AbortError") fill(body, h("div", { class: "pane" }, failed(e)));
    return;
  }
  const step = (n) => {
    const i = d.items.findIndex((u) => u.name === params().get("name"));
    const next = d.items[Math.max(0, Math.min(d.items.length - 1, i + n))];
    if (next) choose(next.name);
  };
  here({ c: () => d.orgs.length && add(), j: () => step(1), k: () => step(-1), Escape: () => choose("") }, signal);
}
