// VQL and YAML with colours, line by line. Only nodes are made, never markup.

import { h, hostile } from "../lib/dom.js";

const VQL = /('''[\s\S]*?'''|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|`[^`\n]*`)|(\/\*[\s\S]*?\*\/|--[^\n]*|\/\/[^\n]*|#[^\n]*)|\b(SELECT|FROM|WHERE|LET|AS|AND|OR|NOT|IN|LIMIT|ORDER|GROUP|BY|DESC|NULL|TRUE|FALSE|EXPLAIN)\b|\b(\d+(?:\.\d+)?)\b|\b(\w+)(?=\()/gi;
const CLASSES = ["s", "cm", "k", "n", "fn"];

export function vql(text) {
  const lines = [[]];
  const put = (piece, cls) => {
    piece.split("\n").forEach((t, i) => {
      if (i) lines.push([]);
      if (t) lines.at(-1).push(cls ? h("span", { class: cls }, hostile(t)) : hostile(t));
    });
  };
  let at = 0;
  for (const m of text.matchAll(VQL)) {
    put(text.slice(at, m.index));
    put(m[0], CLASSES[m.slice(1).findIndex((g) => g !== undefined)]);
    at = m.index + m[0].length;
  }
  put(text.slice(at));
  return lines.map((l) => h("span", { class: "l" }, l.length ? l : " "));
}

// Lines of a definition; keys are coloured, `marks` are numbers of lines with an error.
export function yaml(text, marks = new Map()) {
  return text.split("\n").flatMap((line, i) => {
    const m = /^(\s*(?:- )?)([\w.]+)(:)(.*)$/.exec(line);
    const shown = m ? [m[1], h("span", { class: "k" }, hostile(m[2])), m[3], hostile(m[4])] : [hostile(line) || " "];
    const bad = marks.get(i + 1);
    return [h("span", { class: `l${bad ? " bad" : ""}` }, line ? shown : " "), bad && h("span", { class: "hint" }, hostile(bad))];
  });
}
