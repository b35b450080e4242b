/** The head of a batch: what it is, how far, what holds it back, and the orders about the whole. */

import { address } from "../core/api.js";
import { bound } from "../core/bound.js";
import { icon } from "../core/icons.js";
import { href } from "../core/router.js";
import { may } from "../core/session.js";
import { duration, t } from "../core/words.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { pathOf } from "./orders.js";

// The order of the bar's parts, each with its colour.
const PARTS = [["done", "done"], ["failed", "failed"], ["held", "held"], ["gone", "idle"], ["running", "running"], ["waiting", "waiting"]];

/**
 * @param {string} id
 * @param {import("./model.js").BatchModel} model
 * @param {{retryFailed: () => void, cancelAll: () => void, pause: () => void, resume: () => void}} on
 */
export const head = (id, { record, counts }, on) => html`<header class="batch-head">
  <a class="batch-back" href=${href({ view: "overview" })}>${icon("back")}${t("batch.back")}</a>
  <div class="batch-name">
    <h1><bdi>${id}</bdi></h1>
    <div class="row">${may("submit") ? orders(record, counts, on) : nothing} ${counts.done ? zip(id) : nothing}</div>
  </div>
  <p class="batch-line number">${facts(record, counts).map((fact) => html`<span>${fact}</span>`)}</p>
  <div class="segments" aria-hidden="true">
    ${PARTS.map(([name, colour]) => html`<span class="is-${colour}" ?hidden=${!counts[name]} .style=${`flex-grow:${counts[name]}`}></span>`)}
  </div>
  ${record.paused === null ? nothing : paused(record)}
  ${record.warnings.map((text) => html`<p class="hint"><bdi>${text}</bdi></p>`)}
</header>`;

const orders = ({ state, paused: reason }, counts, on) => html`
  ${counts.failed ? order("retry", "batch.do.retry_failed", on.retryFailed) : nothing}
  ${reason !== null ? order("play", "pause.resume", on.resume) : state === "running" ? order("pause", "pause.pause", on.pause) : nothing}
  ${counts.waiting + counts.running + counts.held ? order("cancelled", "shell.cancel", on.cancelAll) : nothing}
`;

const order = (sign, words, act) => html`<button type="button" class="button" @click=${act}>${icon(sign)}${t(words)}</button>`;

const zip = (id) =>
  html`<a class="button" href=${address(pathOf(id, "archive.zip"))} download>${icon("zip")}${t("batch.do.zip")}</a>`;

function facts({ state, bound: why, eta_seconds: etaS, summary }, counts) {
  const isUnderWay = state === "running";
  const cost = Object.entries(summary.cost ?? {}).map(([currency, amount]) => `${amount} ${currency}`).join(" + ");
  return [
    t(`batches.state.${state}`),
    t("batches.done", { done: counts.done, n: counts.total }),
    isUnderWay ? etaS != null && t("batches.eta", { time: duration(etaS) }) : t("batches.took", { time: duration(summary.seconds) }),
    isUnderWay && why && t("batches.bound", { bound: bound(why) }),
    cost && t("batch.cost", { cost }),
  ].filter(Boolean);
}

const paused = ({ paused: reason, paused_by: by }) => html`<p class="batch-paused">
  ${icon("pause")}<span>${t("batches.state.paused")}${reason ? html`: <bdi>${reason}</bdi>` : nothing}${by ? html` (<bdi>${by}</bdi>)` : nothing}</span>
</p>`;

/** The quota that holds a batch back; empty: none does. @param {string | null} bound */
export const quotaIn = (bound) => /^quota:(.*)\.[^.]*$/.exec(bound ?? "")?.[1] ?? "";
