/** The caller, and what it may do. A key goes to the gateway once and stays in a cookie that no script can read. */

import { get, post, remove } from "./api.js";

const GIVES = { read: ["read", "submit", "admin"], submit: ["submit", "admin"], admin: ["admin"] };
let caller = null;

/** @returns {{name: string, tenant: string | null, scopes: Set<string>, keys: boolean} | null} null: nobody yet */
export const me = () => caller;

/** @param {"read" | "submit" | "admin"} scope */
export const may = (scope) => GIVES[scope].some((one) => caller?.scopes.has(one));

/** Read who the caller is. Throws Problem, 401 where a key is needed. */
export async function load() {
  const { body } = await get("v1/me");
  caller = { ...body, scopes: new Set(body.scopes), keys: body.tenant !== null };
}

/** Throws Problem 401 for a wrong key. @param {string} key */
export const signIn = (key) => post("v1/session", { key });

export const signOut = () => remove("v1/session");

/** The gateway knows this caller no more: the key was revoked, or 12 hours have passed. */
export function forget() {
  caller = null;
}
