/**
 * Orders about a batch and its items. Each returns how many items it is about; each throws Problem,
 * which has the number of those before it as `affected` where an order goes in parts.
 */

import { post } from "../core/api.js";

const RETRIED = ["failed", "held", "cancelled", "expired"];
const PART = 400; // ids a request: a body has 256 KiB at most

/** The path of a batch, or of an item or something else below it. */
export const pathOf = (batch, ...below) => ["v1/batches", ...[batch, ...below].map(encodeURIComponent)].join("/");

/** The path of an item, or of something below it. */
export const itemPath = (batch, item, ...below) => pathOf(batch, "items", item, ...below);

export const retryFailed = (batch) => affected(post(pathOf(batch, "retry"), {}));
export const retryKind = (batch, kind) => affected(post(pathOf(batch, "retry"), { kinds: [kind] }));
export const retryItems = (batch, items) => inParts(pathOf(batch, "retry"), items, { states: RETRIED });
export const cancelAll = (batch) => affected(post(pathOf(batch, "cancel"), {}));
export const cancelItems = (batch, items) => inParts(pathOf(batch, "cancel"), items, {});
export const pause = (batch, reason) => affected(post(pathOf(batch, "pause"), { reason }));
export const resume = (batch) => affected(post(pathOf(batch, "resume"), {}));

async function inParts(path, items, more) {
  let sum = 0;
  try {
    for (let k = 0; k < items.length; k += PART) {
      sum += await affected(post(path, { ...more, items: items.slice(k, k + PART) }));
    }
  } catch (problem) {
    throw Object.assign(problem, { affected: sum });
  }
  return sum;
}

const affected = async (reply) => (await reply).body.affected;
