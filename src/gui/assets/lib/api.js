// Calls of the server. Errors carry the server's own words.

const root = document.documentElement.dataset;
export const base = root.base;
export const user = root.user;
let token = root.token;

export class Failed extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Numbers beyond what a script can hold keep all their digits, as text.
export class Long {
  constructor(source) { this.source = source; }
  toString() { return this.source; }
  toJSON() { return this.source; }
}

const exact = (_key, value, context) =>
  typeof value === "number" && context?.source && Number.isInteger(value) && !Number.isSafeInteger(value)
    ? new Long(context.source) : value;

export const parse = (text) => JSON.parse(text, exact);

export function query(params) {
  const q = new URLSearchParams();
  for (const [k, v] of Object.entries(params ?? {})) {
    for (const one of Array.isArray(v) ? v : [v]) {
      if (one !== undefined && one !== null && one !== "") q.append(k, one);
    }
  }
  const text = q.toString();
  return text ? `?${text}` : "";
}

// The organisation of this tab: "" is the user's own. A link may name another.
export let org = new URLSearchParams(location.search).get("org_id") ?? "";
try {
  if (org) sessionStorage.setItem("org", org);
  else org = sessionStorage.getItem("org") ?? "";
} catch { /* storage is off */ }

export function set_org(id) {
  try { sessionStorage.setItem("org", id); } catch { /* storage is off */ }
  location.assign(`${base}/app/clients?org_id=${encodeURIComponent(id)}`);
}

const in_org = (path) => (org ? `${path}${path.includes("?") ? "&" : "?"}org_id=${encodeURIComponent(org)}` : path);

async function call(path, options) {
  let answer;
  try {
    answer = await fetch(`${base}/api${in_org(path)}`, { credentials: "same-origin", ...options });
  } catch (e) {
    if (e.name === "AbortError") throw e;
    throw new Failed(0, "The server cannot be reached. What you see is from before.");
  }
  if (answer.headers.get("x-csrf-token")) token = answer.headers.get("x-csrf-token");
  if (answer.status === 401) {
    location.assign(`${base}/app/login?to=${encodeURIComponent(location.pathname + location.search)}`);
    throw new Failed(401, "Your session has ended. Sign in again.");
  }
  if (!answer.ok) {
    const text = await answer.text();
    let said = text;
    try { said = JSON.parse(text).message ?? text; } catch { /* plain text */ }
    throw new Failed(answer.status, said || `The server answered ${answer.status}.`);
  }
  return answer;
}

export async function get(path, params, { signal } = {}) {
  const answer = await call(path + query(params), { signal });
  return parse(await answer.text());
}

export async function bytes(path, params, { signal } = {}) {
  const answer = await call(path + query(params), { signal });
  return { data: new Uint8Array(await answer.arrayBuffer()), size: Number(answer.headers.get("x-file-size")) };
}

export async function post(path, body) {
  const answer = await call(path, {
    method: "POST",
    headers: { "content-type": "application/json", "x-csrf-token": token },
    body: JSON.stringify(body),
  });
  return parse(await answer.text());
}

// Sends a file as a form, with what belongs to it.
export async function send_file(path, params, file) {
  const body = new FormData();
  body.append("_params_", JSON.stringify(params));
  body.append("file", file, file.name);
  const answer = await call(path, { method: "POST", headers: { "x-csrf-token": token }, body });
  return parse(await answer.text());
}

export async function log_off() {
  await fetch(`${base}/app/logoff`, { method: "POST", headers: { "x-csrf-token": token } });
  location.assign(`${base}/app/login`);
}

export const url = (path, params) => `${base}/api${in_org(path + query(params))}`;
export const app = (path, params) => `${base}/app/${path}${query(params)}`;

// What this user may do; set once at the start.
export const me = { name: user, may: {}, org: "", orgs: [] };

export async function learn_rights() {
  const traits = await get("/v1/GetUserUITraits").catch((e) => {
    if (!org) throw e;
    // Not theirs any more, or never was: their own one then.
    try { sessionStorage.removeItem("org"); } catch { /* storage is off */ }
    org = "";
    return get("/v1/GetUserUITraits");
  });
  me.may = traits.interface_traits?.Permissions ?? {};
  me.org = traits.interface_traits?.org ?? "root";
  me.orgs = traits.orgs ?? [];
  me.password_less = !!traits.interface_traits?.password_less;
}
