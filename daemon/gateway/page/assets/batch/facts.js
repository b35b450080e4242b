/** The facts of an item's record, for its dialog: texts, a bar of its time, and a list. */

import { clock, number, t, took } from "../core/words.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";

/** The prompts of an item, and the provider's own. Each text is whole, and scrolls where it is long. */
export const texts = (record) => [
  text("prompt", record.prompt),
  text("negative", record.negative_prompt),
  text("revised", record.revised_prompt),
];

const LONG = 500; // characters from which a text may scroll, so that a keyboard must reach it

const text = (name, value) =>
  value
    ? html`<section><h3>${t(`batch.item.${name}`)}</h3><p class="item-text" tabindex=${value.length > LONG ? 0 : nothing}><bdi>${value}</bdi></p></section>`
    : nothing;

/** Where its time went, once that is known. */
export function times({ queue_seconds: queue, throttled_seconds: quota, provider_seconds: provider }) {
  const parts = Object.entries({ queue, quota, provider }).filter(([, seconds]) => seconds > 0);
  if (provider == null || !parts.length) return nothing;
  return html`<section>
    <h3>${t("batch.item.time")}</h3>
    <div class="item-times" aria-hidden="true">${parts.map(([name, seconds]) => html`<span class="is-${name}" .style=${`flex-grow:${seconds * 1000}`}></span>`)}</div>
    <p class="item-legend">${parts.map(([name, seconds]) => html`<span class="is-${name}">${t(`batch.item.${name}`)} ${took(seconds)}</span>`)}</p>
  </section>`;
}

/** Everything short. */
export function facts(record) {
  const { attempts, max_attempts: most, images, cost, metadata } = record;
  const rows = [
    [t("batch.item.attempts"), most ? t("batch.item.attempts_of", { tried: attempts, most }) : number(attempts)],
    [t("batch.item.seed"), images[0]?.seed ?? record.seed],
    [t("batch.item.size"), images[0] ? `${images[0].width} × ${images[0].height}` : record.size],
    [t("batch.item.cost"), cost && `${cost.amount} ${cost.currency}`],
    [t("batch.item.route"), record.route],
    [t("batch.item.task"), record.provider_task_id],
    [t("batch.item.cached"), record.cached_from],
    [t("batch.item.accepted"), record.accepted_at && clock(record.accepted_at)],
    [t("batch.item.finished"), record.finished_at && clock(record.finished_at)],
    ...Object.entries(metadata),
  ];
  return html`<dl class="item-facts">
    ${rows.filter(([, value]) => value != null && value !== "").map(([name, value]) => html`<div><dt><bdi>${name}</bdi></dt><dd><bdi>${value}</bdi></dd></div>`)}
  </dl>`;
}
