// A dialog for a new password.

import { me, post } from "../lib/api.js";
import { h } from "../lib/dom.js";
import { form, toast } from "../lib/say.js";

// One's own password, or that of somebody one administrates.
export function change_password(name, least, then) {
  const own = name === me.name;
  form(own ? "New password" : `New password for ${name}`, [
    h("label", { class: "field plain" }, h("span", {}, "Password"), h("input", { class: "in", name: "password", type: "password", required: true, minlength: least, autofocus: true, autocomplete: "new-password" })),
    h("label", { class: "field plain" }, h("span", {}, "Once more"), h("input", { class: "in", name: "again", type: "password", required: true, autocomplete: "new-password" })),
    h("p", { class: "dim xs" }, own ? "All your other sessions end." : "All their sessions end."),
  ], "Save", async (f) => {
    if (f.password !== f.again) throw new Error("The two are not the same.");
    await post("/v1/SetPassword", { username: name, password: f.password });
    toast(own ? "Your password was changed" : `Password of ${name} was changed`);
    await then?.();
  });
}
