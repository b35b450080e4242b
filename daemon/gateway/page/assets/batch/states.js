/** How an item looks: its icon, word, colour and sentence, and what a person may do about it. */

import { duration, has, language, t, took } from "../core/words.js";
import { WAITING } from "./model.js";

// Red is for what needs a person. Waiting is never red.
const LOOKS = {
  queued: ["queued", "idle"],
  throttled: ["throttled", "idle"],
  retry_wait: ["retry", "idle"],
  running: ["running", "act"],
  succeeded: ["done", "ok"],
  failed: ["failed", "warn"],
  held: ["held", "warn"],
  cancelled: ["cancelled", "off"],
  expired: ["expired", "off"],
};
const LONGEST = 240; // characters of a sentence in a tile

/**
 * The facts that hold a batch back, for the sentences of its waiting items.
 * @typedef {{nowMs: number, before: Map<string, number>, quotaOf: (route: string) => string,
 *   slotOf: (route: string) => number?, isPaused: boolean}} Outlook
 * @typedef {import("./model.js").Item} Item
 */

/** @param {Item} item @returns {{sign: string, tone: string, word: string}} `sign` is its icon */
export function look(item) {
  const [sign, tone] = LOOKS[item.state] ?? LOOKS.queued;
  return { sign, tone, word: t(`state.${sign}`) };
}

/** The sentence below the word; perhaps empty. @param {Item} item @param {Outlook} outlook */
export function sentence(item, outlook) {
  return (sentences[item.state] ?? (() => ""))(item, outlook);
}

/** Whether the sentence changes while the item does not. @param {Item} item */
export const ticks = (item) => item.state === "running" || WAITING.has(item.state);

/** @param {Item} item @returns {("retry" | "cancel")[]} */
export function orders(item) {
  if (item.state === "held") return ["retry", "cancel"];
  if (ticks(item)) return ["cancel"];
  return item.state === "succeeded" ? [] : ["retry"];
}

/** The words for a kind of failure, also for one that is newer than this page. @param {string} kind */
export const kindWords = (kind) => (has(`batch.kind.${kind}`) ? t(`batch.kind.${kind}`) : kind.replaceAll("_", " "));

/** Whether the provider takes money for what went wrong. @param {Item["error"]} error */
export const chargedWords = (error) => (error?.charged ? t(`batch.charged.${error.charged}`) : "");

const OPEN = ["failed", "held"]; // ended without a picture, and perhaps with a charge

/** The same for an item that failed or is held; else empty. @param {Item} item */
export const chargeOf = ({ state, error }) => (OPEN.includes(state) ? chargedWords(error) : "");

/** Whether another try may be paid twice. @param {Item} item */
export const mayBePaid = ({ state, error }) => (error ? error.charged !== "no" : OPEN.includes(state));

/** The provider's own sentence about an item that has no picture; else undefined. @param {Item} item */
export const reason = ({ state, error }) => (OPEN.includes(state) ? error?.message : undefined);

/** The kind of what went wrong, where the provider's sentence is in another language; else empty. @param {Item} item */
export const kindFirst = (item) => (reason(item) && language() !== "en" ? kindWords(item.error.kind) : "");

/** The beginning of a text, never half a character. */
export function clip(text, most = LONGEST) {
  return text.length > most ? `${text.slice(0, most).replace(/[\ud800-\udbff]$/, "")}…` : text;
}

const sentences = {
  queued(item, { before, quotaOf, slotOf, isPaused, nowMs }) {
    if (isPaused) return t("batch.says.paused");
    if (item.dueMs > nowMs) return t("batch.says.starts", { time: seconds(item.dueMs - nowMs) });
    const n = before.get(item.id);
    if (n > 0) return t("batch.says.before", { n });
    const quota = quotaOf(item.route);
    const slotMs = slotOf(item.route);
    return n === 0 && quota && slotMs > nowMs ? waitsFor(quota, slotMs - nowMs) : t("batch.says.next");
  },
  throttled(item, { quotaOf, slotOf, nowMs }) {
    return waitsFor(quotaOf(item.route) || t("batch.says.provider"), Math.max(item.dueMs, slotOf(item.route)) - nowMs);
  },
  retry_wait(item, { nowMs }) {
    const of = { attempt: item.attempts + 1, most: item.maxAttempts };
    return item.dueMs > nowMs
      ? t("batch.says.again", { time: seconds(item.dueMs - nowMs), ...of })
      : t("batch.says.again_now", of);
  },
  running(item, { nowMs }) {
    const time = duration(Math.floor((nowMs - item.startedMs) / 1000));
    return t(item.submitted ? "batch.says.at_provider" : "batch.says.running", { time });
  },
  succeeded: (item) => (item.startedMs && item.finishedMs ? t("batches.took", { time: took((item.finishedMs - item.startedMs) / 1000) }) : ""),
  failed: (item) => clip(reason(item) || t("batch.says.no_reason")),
  held: (item) => clip(reason(item) || ""),
};

function waitsFor(quota, ms) {
  return ms > 0 ? t("batch.says.waits_time", { quota, time: seconds(ms) }) : t("batch.says.waits", { quota });
}

const seconds = (ms) => duration(ms / 1000);
