// Numbers, sizes and times as people read them.

const number = new Intl.NumberFormat("en");

export const count = (n) => number.format(Number(n ?? 0));

export function size(n) {
  n = Number(n ?? 0);
  if (n < 1024) return `${n} B`;
  const units = ["KB", "MB", "GB", "TB", "PB"];
  let i = -1;
  do { n /= 1024; i++; } while (n >= 1024 && i < units.length - 1);
  return `${n.toFixed(n < 10 ? 1 : 0)} ${units[i]}`;
}

// "" is the browser's own zone.
export let zone = "";
try { zone = localStorage.getItem("zone") ?? ""; } catch { /* storage is off */ }

export function set_zone(name) {
  zone = name;
  try { localStorage.setItem("zone", name); } catch { /* storage is off */ }
}

export const zone_name = () => zone || Intl.DateTimeFormat().resolvedOptions().timeZone;

const formats = new Map();
function parts(date, zone, more) {
  const key = zone + JSON.stringify(more ?? {});
  if (!formats.has(key)) {
    formats.set(key, new Intl.DateTimeFormat("en-GB", {
      timeZone: zone || undefined, hour12: false, year: "numeric", month: "2-digit", day: "2-digit",
      hour: "2-digit", minute: "2-digit", second: "2-digit", ...more,
    }));
  }
  return Object.fromEntries(formats.get(key).formatToParts(date).map((p) => [p.type, p.value]));
}

// Date of microseconds since the epoch; nothing for 0.
export const from_micros = (us) => (Number(us) > 0 ? new Date(Number(us) / 1000) : null);

// "2026-11-22 13:45:02", today without the date.
export function time(date, { full = false } = {}) {
  if (!date || Number.isNaN(date.getTime())) return "–";
  const p = parts(date, zone);
  const day = `${p.year}-${p.month}-${p.day}`;
  const n = parts(new Date(), zone);
  const clock = `${p.hour === "24" ? "00" : p.hour}:${p.minute}:${p.second}`;
  return !full && day === `${n.year}-${n.month}-${n.day}` ? clock : `${day} ${clock}`;
}

export function time_title(date) {
  if (!date || Number.isNaN(date.getTime())) return "";
  return `${time(date, { full: true })} ${zone_name()}\n${date.toISOString()}`;
}

export function span(seconds) {
  seconds = Math.max(0, Math.round(seconds));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min${seconds % 60 && seconds < 600 ? ` ${seconds % 60} s` : ""}`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d`;
}

// How long ago, as seen from the server's clock.
export const ago = (us, now) => (Number(us) > 0 ? span((Number(now) - Number(us)) / 1e6) : "never");

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/;

// A text that is a time of day, or nothing.
export function as_time(text) {
  if (typeof text !== "string" || text.length > 40 || !ISO.test(text)) return null;
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? null : date;
}

// The first paragraph of a description, as one line.
export const first_words = (text) => String(text ?? "").trim().split(/\n\s*\n/)[0].replace(/\s+/g, " ");

export const plural = (n, one, many = `${one}s`) => `${count(n)} ${Number(n) === 1 ? one : many}`;
