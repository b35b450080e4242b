/** How far a batch is, as a bar and in words: the same in the list of batches and over its pictures. */

import { html } from "../vendor/lit-html/lit-html.js";
import { bound } from "./bound.js";
import { passed } from "./time.js";
import { duration, number, t, took } from "./words.js";

const PARTS = ["done", "failed", "held", "gone", "running", "waiting"];

/** @param {Record<string, number>} counts by part */
export const segments = (counts) => html`<div class="segments" aria-hidden="true">
  ${PARTS.map((name) => html`<span class="is-${name}" ?hidden=${!counts[name]} .style=${`flex-grow:${counts[name]}`}></span>`)}
</div>`;

/** The name of a batch's state; a pause is one of its own. */
export const stateOf = ({ state, paused }) => (state === "running" && paused != null ? "paused" : state);

/** When it will be done and what holds it back, or how long it took; empty while its own pause lasts. */
export function outlook(batch) {
  const state = stateOf(batch);
  if (state === "paused") return "";
  if (state !== "running") return ended(batch);
  const why = bound(batch.bound);
  const when = batch.eta_seconds == null ? "" : t("batches.eta", { time: duration(Math.max(1, batch.eta_seconds - passed(batch.readMs))) });
  return [when, why && t(when ? "batches.bound" : "batches.waits", { bound: why })].filter(Boolean).join(t("shell.comma"));
}

function ended({ summary, finished_at, accepted_at }) {
  const seconds = summary?.seconds ?? (Date.parse(finished_at) - Date.parse(accepted_at)) / 1000;
  const pace = summary?.pictures_per_minute;
  if (!(seconds >= 0)) return "";
  return [t("batches.took", { time: took(seconds) }), pace && t("batches.pace", { pace: number(pace < 1 ? pace : Math.round(pace)) })].filter(Boolean).join(t("batches.and"));
}
