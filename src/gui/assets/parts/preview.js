// A stored file as text, hex or picture, a piece at a time.

import { bytes, url } from "../lib/api.js";
import { btn, fill, h, hostile, note, skeleton } from "../lib/dom.js";
import { count, size } from "../lib/format.js";
import { failed } from "../lib/say.js";

const PAGE = 4096;
const PICTURES = [[[0x89, 0x50, 0x4e, 0x47], "image/png"], [[0xff, 0xd8, 0xff], "image/jpeg"], [[0x47, 0x49, 0x46, 0x38], "image/gif"]];

const address = (f, more) => ({ fs_components: f.components, name: f.name, ...more });

// `f`: where it is (`components`), its name on the host, sizes there and here; `side`
// is drawn into.
export async function show_preview(f, offset = 0) {
  const { side } = f;
  f.open?.();
  fill(side, skeleton(6));
  let got;
  try {
    got = await bytes("/v1/DownloadVFSFile", address(f, { offset, length: PAGE, name: "" }), { signal: f.signal });
  } catch (e) {
    if (e.name !== "AbortError") fill(side, failed(e));
    return;
  }
  const { data } = got;
  const total = got.size || data.length;
  const turn = (to) => show_preview(f, to);
  const picture = offset === 0 && total < 20 << 20 && PICTURES.find(([magic]) => magic.every((b, i) => data[i] === b));
  const text = !data.some((b) => b === 0);
  const body = h("div", {});
  const show = { hex: () => fill(body, hex(data, offset)), text: () => fill(body, h("pre", { class: "value" }, hostile(new TextDecoder().decode(data), { lines: true }))),
    picture: async () => {
      const { data: all } = await bytes("/v1/DownloadVFSFile", address(f, { offset: 0, length: total, name: "" }), { signal: f.signal });
      const href = URL.createObjectURL(new Blob([all], { type: picture[1] }));
      f.signal.addEventListener("abort", () => URL.revokeObjectURL(href));
      fill(body, h("img", { class: "preview", alt: f.name, src: href }));
    } };
  const kinds = [picture && "picture", "text", "hex"].filter(Boolean);
  const first = picture ? "picture" : text ? "text" : "hex";
  fill(side, h("div", { class: "stack" },
    h("div", { class: "row" }, h("h2", { class: "grow ell", title: f.name }, hostile(f.name.split(/[/\\]/).at(-1))),
      h("a", { class: "btn", download: true, href: url("/v1/DownloadVFSFile", address(f)) }, "Download"),
      btn("", { icon: "x", kind: "ghost sq", title: "Close", onclick: f.close })),
    h("div", { class: "row wrap" }, h("div", { class: "seg", role: "radiogroup", "aria-label": "Show as" }, kinds.map((k) =>
      h("label", {}, h("input", { type: "radio", name: "as", checked: k === first, onchange: show[k] }), k))),
    h("span", { class: "grow" }), h("span", { class: "tn dim xs" }, `${count(offset)}–${count(offset + data.length)} of ${count(total)} B`),
    total > PAGE && h("span", { class: "join" }, btn("", { icon: "up", kind: "sq", title: "Before", disabled: offset === 0, onclick: () => turn(Math.max(0, offset - PAGE)) }),
      btn("", { icon: "down", kind: "sq", title: "After", disabled: offset + PAGE >= total, onclick: () => turn(offset + PAGE) }))),
    Number(f.size) > Number(f.stored) && note("warn", `Only ${size(f.stored)} of ${size(f.size)} are stored: the file is sparse or was cut.`), body));
  show[first]();
}

function hex(data, offset) {
  const out = h("div", { class: "hex", tabindex: "0", "aria-label": "Hex" });
  for (let i = 0; i < data.length; i += 16) {
    const line = data.subarray(i, i + 16);
    const code = [...line].map((b) => b.toString(16).padStart(2, "0"));
    const seen = [...line].map((b) => (b > 31 && b < 127 ? String.fromCharCode(b) : ".")).join("");
    out.append(h("span", { class: "o" }, (offset + i).toString(16).padStart(8, "0")), `  ${code.join(" ").padEnd(48)} `, h("span", { class: "a" }, seen), "\n");
  }
  return out;
}
