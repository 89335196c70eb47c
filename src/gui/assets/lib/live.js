// One stream of events for the page. Says when it is lost, and since when what is
// shown is old.

import { url } from "./api.js";

let source = null;
let watched = "";
const listeners = new Map();
let lost_at = 0;

// The newest of each: who comes late is told at once.
const last = { vitals: null, flow: null, client: null };

function tell(name, data) {
  if (name in last) last[name] = data;
  for (const f of listeners.get(name) ?? []) f(data);
}

// `f` is called with each event of this name until `signal` says stop.
export function on(name, f, signal) {
  if (!listeners.has(name)) listeners.set(name, new Set());
  listeners.get(name).add(f);
  signal?.addEventListener("abort", () => listeners.get(name).delete(f));
  if (last[name]) f(last[name]);
}

// What this page shows: a client, a flow, or neither.
export function watch(client_id = "", flow_id = "") {
  const wanted = url("/fleet/live", { client_id, flow_id });
  if (wanted === watched && source && source.readyState !== EventSource.CLOSED) return;
  watched = wanted;
  last.flow = last.client = null;
  source?.close();
  source = new EventSource(wanted);
  for (const name of ["vitals", "flow", "client"]) {
    source.addEventListener(name, (e) => {
      lost_at = 0;
      tell("connection", { live: true });
      tell(name, JSON.parse(e.data));
    });
  }
  const mine = source;
  source.onerror = () => {
    if (mine !== source) return;
    lost_at ||= Date.now();
    const since = lost_at;
    setTimeout(() => {
      if (lost_at === since && mine === source) tell("connection", { live: false, since });
    }, 3000);
    if (source.readyState === EventSource.CLOSED) {
      setTimeout(() => { if (mine === source) { source = null; watch(client_id, flow_id); } }, 5000);
    }
  };
}

addEventListener("pagehide", () => source?.close());
