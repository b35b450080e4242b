/** The head of a batch: what it is, how far, what holds it back, and the orders about the whole. */

import { address } from "../core/api.js";
import { icon } from "../core/icons.js";
import { order } from "../core/order.js";
import { outlook, segments, stateOf } from "../core/progress.js";
import { href } from "../core/router.js";
import { may } from "../core/session.js";
import { money, t } from "../core/words.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { pathOf } from "./orders.js";

/**
 * @param {string} id
 * @param {import("./model.js").BatchModel} model
 * @param {{reason: string, by: string | null} | null} pause its own, or one that is over it
 * @param {{retryFailed: () => void, cancelAll: () => void, pause: () => void, resume: () => void}} on
 */
export const head = (id, { record, counts }, pause, on) => html`<header class="batch-head">
  <a class="batch-back" href=${href({ view: "overview" })}>${icon("back")}${t("batch.back")}</a>
  <div class="batch-name">
    <h1><bdi>${id}</bdi></h1>
    <div class="row">${may("submit") ? orders(record, counts, on) : nothing} ${counts.done ? zip(id) : nothing}</div>
  </div>
  <p class="batch-line number">${facts(record, counts).map((fact) => html`<span>${fact}</span>`)}</p>
  ${segments(counts)}
  ${pause ? paused(pause) : nothing}
  ${record.warnings.map((text) => html`<p class="hint"><bdi>${text}</bdi></p>`)}
</header>`;

const orders = ({ state, paused: reason }, counts, on) => html`
  ${counts.failed ? order("retry", t("batch.do.retry_failed"), on.retryFailed) : nothing}
  ${reason !== null ? order("play", t("pause.resume"), on.resume) : state === "running" ? order("pause", t("pause.pause"), on.pause) : nothing}
  ${counts.waiting + counts.running + counts.held ? order("cancelled", t("shell.cancel"), on.cancelAll) : nothing}
`;

const zip = (id) =>
  html`<a class="button" href=${address(pathOf(id, "archive.zip"))} download>${icon("zip")}${t("batch.do.zip")}</a>`;

function facts(record, counts) {
  const cost = money(record.summary.cost);
  return [
    t(`batches.state.${stateOf(record)}`),
    t("batches.done", { done: counts.done, n: counts.total }),
    outlook(record),
    cost && t("batch.cost", { cost }),
  ].filter(Boolean);
}

const paused = ({ reason, by }) => html`<p class="batch-paused">
  ${icon("pause")}<span>${t("pause.now")}${reason ? html`${t("shell.colon")}<bdi>${reason}</bdi>` : nothing}${by ? t("shell.comma") + t("pause.by", { name: by }) : nothing}</span>
</p>`;

/** The quota that holds a batch back; empty: none does. @param {string | null} bound */
export const quotaIn = (bound) => /^quota:(.*)\.[^.]*$/.exec(bound ?? "")?.[1] ?? "";
