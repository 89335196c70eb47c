// What keeps people out: text that is too faint, things without a name, structure that is
// not there for those who do not see it. Gives a list of what is wrong on this page.
(() => {
  const wrong = [];
  const say = (rule, e, more = "") => wrong.push(`${rule}: ${more} ${e.outerHTML.slice(0, 160)}`);
  const seen = (e) => e.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && e.getClientRects().length > 0;
  const all = (selector) => [...document.querySelectorAll(selector)].filter(seen);

  // Contrast, WCAG 2.2 AA: 4.5, for large text 3.
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const known = new Map();
  const rgba = (text) => {
    if (!known.has(text)) {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = text;
      pen.fillRect(0, 0, 1, 1);
      const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
      known.set(text, [r, g, b, a / 255]);
    }
    return known.get(text);
  };
  const over = ([r, g, b, a], [R, G, B]) => [r * a + R * (1 - a), g * a + G * (1 - a), b * a + B * (1 - a)];
  const light = (c) => {
    const [r, g, b] = c.map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    const layers = [];
    for (let at = e; at; at = at.parentElement) {
      const c = rgba(getComputedStyle(at).backgroundColor);
      if (c[3] > 0) layers.push(c);
      if (c[3] === 1) break;
    }
    return layers.reverse().reduce((below, c) => over(c, below), [255, 255, 255]);
  };
  const opacity = (e) => (e ? Number(getComputedStyle(e).opacity) * opacity(e.parentElement) : 1);
  const told = new Set();
  for (const e of all("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const placeholder = e.matches("input, textarea") && !e.value && e.placeholder;
    if (!own && !placeholder && !e.value) continue;
    if (e.closest("svg, .vh, option, [aria-hidden=true]") || e.closest(":disabled, [aria-disabled=true]")) continue;
    const style = getComputedStyle(e, placeholder ? "::placeholder" : null);
    const ground = behind(e);
    const [r, g, b, a] = rgba(style.color);
    const ink = over([r, g, b, a * opacity(e)], ground);
    const [x, y] = [light(ink), light(ground)].sort((p, q) => q - p);
    const ratio = (x + 0.05) / (y + 0.05);
    const px = parseFloat(style.fontSize);
    const least = px >= 24 || (px >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    const key = `${e.tagName}.${e.className} ${style.color} ${ground}`;
    if (ratio < least && !told.has(key)) {
      told.add(key);
      say("contrast", e, `${ratio.toFixed(2)} < ${least}`);
    }
  }

  // Names of what can be acted on.
  const name = (e) => {
    const by = (e.getAttribute("aria-labelledby") ?? "").split(/\s+/).filter(Boolean).map((id) => document.getElementById(id)?.textContent ?? "").join(" ");
    const labels = e.labels?.length ? [...e.labels].map((l) => l.textContent).join(" ") : "";
    return (by || e.getAttribute("aria-label") || labels || (e.matches("input, select, textarea") ? "" : e.textContent) || e.title || e.alt || "").trim();
  };
  for (const e of all("a[href], button, input:not([type=hidden]), select, textarea, summary, img, [role=img], [role=radiogroup], dialog, nav, aside, table")) {
    if (e.closest("[aria-hidden=true]")) continue;
    if (e.tagName === "TABLE" ? false : !name(e)) say("no name", e);
  }
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-controls], [aria-describedby], label[for]")) {
    for (const a of ["aria-labelledby", "aria-controls", "aria-describedby", "for"]) {
      for (const id of (e.getAttribute(a) ?? "").split(/\s+/).filter(Boolean)) if (!document.getElementById(id)) say("no such id", e, id);
    }
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of new Set(ids.filter((x, i) => ids.indexOf(x) !== i))) wrong.push(`id twice: ${id}`);

  // Structure.
  if (!document.documentElement.lang) wrong.push("no language");
  if (!document.title.trim()) wrong.push("no title");
  if (all("main").length !== 1) wrong.push(`${all("main").length} main parts`);
  if (all("h1").length !== 1) wrong.push(`${all("h1").length} first headings`);
  let level = 1;
  for (const e of all("main :is(h1, h2, h3, h4)")) {
    const now = Number(e.tagName[1]);
    if (now > level + 1) say("a level of headings is left out", e);
    level = now;
  }
  for (const e of all("th")) if (!e.textContent.trim() && !e.querySelector("input")) say("empty head of a column", e);
  for (const e of all("th:not(tr.filters th)")) if (!e.scope) say("head without scope", e);
  for (const e of all("ul, ol")) for (const c of e.children) if (c.tagName !== "LI") say("no item in a list", c);
  for (const e of all("li")) if (!e.parentElement.matches("ul, ol, menu")) say("item without a list", e);
  for (const e of all("dl > *")) if (!e.matches("dt, dd, div")) say("not of a description list", e);
  const ROLES = new Set(["alert", "status", "img", "search", "radiogroup", "dialog", "log", "tree", "treeitem", "group", "list", "listitem", "navigation", "region", "button", "switch"]);
  for (const e of document.querySelectorAll("[role]")) if (!ROLES.has(e.getAttribute("role"))) say("unknown role", e);
  for (const e of document.querySelectorAll("[aria-hidden=true] :is(a[href], button, input, [tabindex='0'])")) say("hidden, yet reached by keyboard", e);
  for (const e of document.querySelectorAll("[tabindex]")) if (Number(e.getAttribute("tabindex")) > 0) say("its own order of keys", e);
  // What scrolls is reached by keyboard.
  for (const e of all("main *, aside *")) {
    const style = getComputedStyle(e);
    if (!/auto|scroll/.test(style.overflowY + style.overflowX) || e.matches("textarea, select")) continue;
    if (e.scrollHeight <= e.clientHeight + 1 && e.scrollWidth <= e.clientWidth + 1) continue;
    if (e.tabIndex < 0 && !e.querySelector("a[href], button, input, select, textarea, summary, [tabindex='0']")) say("scrolls, and no key reaches it", e);
  }
  return wrong;
})()
