// Short messages, questions, and what to do with an error.

import { btn, fill, h, icon, note } from "./dom.js";

const box = h("div", { class: "toasts", role: "status", "aria-live": "polite" });

export function toast(text, { href, link, undo } = {}) {
  if (!box.isConnected) document.body.append(box);
  const close = () => item.remove();
  const item = h("div", { class: "toast" }, icon("check"), h("span", { class: "grow" }, text),
    href && h("a", { href, onclick: close }, link),
    undo && btn("Undo", { kind: "ghost", onclick: () => { close(); undo(); } }));
  box.append(item);
  // What can be acted on stays longer.
  setTimeout(close, undo || href ? 8000 : 4000);
}

// Asks with a dialog; true when the verb was chosen. The focus is on the harmless side.
export function ask(title, body, verb, { danger = true } = {}) {
  return new Promise((done) => {
    const end = (answer) => { dialog.close(); dialog.remove(); done(answer); };
    const dialog = h("dialog", { class: "dlg", "aria-label": title, oncancel: () => end(false) },
      h("header", {}, h("h2", {}, title)), h("div", {}, body),
      h("footer", {},
        h("button", { class: "btn", type: "button", autofocus: true, onclick: () => end(false) }, "Keep"),
        btn(verb, { kind: danger ? "danger" : "primary", onclick: () => end(true) })));
    document.body.append(dialog);
    dialog.showModal();
  });
}

// A dialog with a form; `send` gets its fields and may fail.
export function form(title, fields, verb, send) {
  const said = h("div", {});
  const close = () => { dialog.close(); dialog.remove(); };
  const submit = async (e) => {
    e.preventDefault();
    try {
      await send(Object.fromEntries(new FormData(e.target)));
      close();
    } catch (error) {
      fill(said, note("err", error.message));
    }
  };
  const dialog = h("dialog", { class: "dlg", "aria-label": title, oncancel: close },
    h("form", { onsubmit: submit },
      h("header", {}, h("h2", {}, title)), h("div", { class: "stack" }, fields, said),
      h("footer", {}, btn("Close", { onclick: close }), btn(verb, { kind: "primary", type: "submit" }))));
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied`);
  } catch {
    // Not allowed, or not over TLS: show it to be copied by hand.
    const area = h("textarea", { class: "in mono", rows: 6, readonly: true });
    area.value = text;
    form(what, [area], "Done", async () => {});
    area.select();
  }
}

export const failed = (e) => note("err", h("b", {}, e.status === 403 ? "Not allowed. " : "That did not work. "), e.message);
