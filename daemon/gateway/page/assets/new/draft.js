/** The fields of the form, and the request that it makes. The id is chosen once, so a second click starts the same batch. */

import { here } from "../core/router.js";

/**
 * @typedef {{source: "csv" | "prompt", id: string, route: string, size: string, prompt: string, n: number,
 *   template: string, skipEmpty: boolean, table: {name: string, body: Blob, columns: string[], row: Record<string, string>} | null}} Draft
 */

/** A name that no other batch has: the file's own, and four letters. @param {string} file */
export function idFor(file) {
  const stem = file.replace(/\.\w*$/, "").replace(/[^\w.-]+/g, "-").replace(/^[-.]+|-$/g, "").slice(0, 60);
  const tail = crypto.getRandomValues(new Uint16Array(1))[0].toString(36).padStart(4, "0");
  return `${stem || "pictures"}-${tail}`;
}

/** @returns {Draft} */
export const empty = () => ({ source: "csv", id: idFor(""), route: "", size: "", prompt: "", n: 1, template: "", skipEmpty: false, table: null });

/** Whether there is enough to try. @param {Draft} draft */
export const isWhole = ({ source, table, prompt }) => Boolean(source === "csv" ? table : prompt.trim());

/** The arguments of `post` that send a draft. @param {Draft} draft @param {boolean} isDry whether it is only tried */
export function requestOf({ source, id, route, size, prompt, n, template, skipEmpty, table }, isDry) {
  const isTable = source === "csv";
  const fields = { dry_run: isDry, ...(isTable && { id, route, size, prompt_template: template, skip_empty: skipEmpty }) };
  const query = new URLSearchParams(Object.entries(fields).filter(([, value]) => value));
  const path = `v1/batches?${query}`;
  if (isTable) return [path, table.body, { type: "text/csv" }];
  const common = { route: route || undefined, size: size || undefined };
  return [path, { id, tenant: here().tenant, items: [{ id: "picture", prompt, n, ...common }] }];
}
