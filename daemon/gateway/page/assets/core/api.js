/** Requests to the gateway. Each path is relative to the page, such as `v1/batches`, so any prefix works. */

import { here } from "./router.js";
import { learn } from "./time.js";

const GET_MS = 15_000;
const SEND_MS = 120_000;

/** A reply that is no success, or no reply at all (`code` is "unreachable"). */
export class Problem extends Error {
  constructor(status, { code = "refused", title = "", detail = "", field = null } = {}) {
    super(detail || title || code);
    Object.assign(this, { status, code, title, detail, field });
  }
}

/** @typedef {{status: number, headers: Headers, body: any}} Reply */

const watchers = new Set();

/** Let `fn(problem)` know how each request ended; null is a success. @returns {() => void} ends that */
export function watch(fn) {
  watchers.add(fn);
  return () => watchers.delete(fn);
}

/** The address of a path, for links and pictures too: it names the tenant that the page shows. @param {string} path */
export function address(path) {
  const { tenant } = here();
  if (!tenant) return path;
  return `${path}${path.includes("?") ? "&" : "?"}tenant=${encodeURIComponent(tenant)}`;
}

/** @param {string} path @param {{signal?: AbortSignal}} [options] @returns {Promise<Reply>} */
export const get = (path, { signal } = {}) => send("GET", path, { signal, ms: GET_MS });

/**
 * @param {string} path
 * @param {any} [body] an object goes as JSON; a text or a file as it is
 * @param {{type?: string}} [options]
 * @returns {Promise<Reply>}
 */
export function post(path, body = {}, { type = "application/json" } = {}) {
  const raw = typeof body === "string" || body instanceof Blob;
  return send("POST", path, {
    body: raw ? body : JSON.stringify(body),
    headers: { "Content-Type": type },
    ms: SEND_MS,
  });
}

/** @param {string} path @returns {Promise<Reply>} */
export const remove = (path) => send("DELETE", path, { ms: SEND_MS });

/** A request whose body is read by its caller. Throws Problem. @returns {Promise<Response>} */
export async function open(path, { method = "GET", signal, ...rest } = {}) {
  const sentMs = Date.now();
  let response;
  try {
    response = await fetch(address(path), { method, signal, cache: "no-store", ...rest });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw noted(new Problem(0, { code: "unreachable", detail: String(error.message) }));
  }
  learn(response.headers.get("Date"), sentMs, Date.now());
  if (!response.ok) throw noted(await problemOf(response));
  noted(null);
  return response;
}

async function send(method, path, { signal, ms, ...rest }) {
  const late = AbortSignal.timeout(ms);
  const response = await open(path, { method, signal: signal ? AbortSignal.any([signal, late]) : late, ...rest });
  const isJson = response.headers.get("Content-Type")?.includes("json");
  try {
    return { status: response.status, headers: response.headers, body: isJson ? await response.json() : null };
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw noted(new Problem(0, { code: "unreachable", detail: String(error.message) }));
  }
}

async function problemOf(response) {
  const body = await response.json().catch(() => ({}));
  // A proxy that has lost its gateway says so in words of its own.
  const code = body.code ?? (response.status >= 502 ? "unreachable" : "refused");
  return new Problem(response.status, { ...body, code });
}

function noted(problem) {
  for (const fn of watchers) fn(problem);
  return problem;
}
