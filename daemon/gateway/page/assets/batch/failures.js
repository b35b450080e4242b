/** The failures of a batch by their kind: how many, an example, and one button that retries the kind. */

import { icon } from "../core/icons.js";
import { order } from "../core/order.js";
import { href } from "../core/router.js";
import { may } from "../core/session.js";
import { number, t } from "../core/words.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { chargedWords, clip, kindWords } from "./states.js";

/**
 * @param {{kind: string, count: number, example: import("./model.js").Item}[]} failures
 * @param {string} chosen the kind that the grid shows; empty: all
 * @param {(kind: string) => void} onRetry
 */
export const failuresByKind = (failures, chosen, onRetry) => html`<ul class="failures">
  ${failures.map(
    ({ kind, count, example }) => html`<li class="failure">
      <a class="failure-kind" href=${href({ state: "failed", kind: kind === chosen ? "" : kind, item: "" })} aria-current=${kind === chosen ? "true" : nothing}>
        ${icon("failed")}<bdi>${kindWords(kind)}</bdi> <b>${number(count)}</b>
      </a>
      <p class="failure-example"><bdi lang="en">${clip(example.error?.message ?? "")}</bdi> <span class="hint">${chargedWords(example.error)}</span></p>
      ${may("submit") ? order("retry", t("batch.do.retry_kind", { n: count }), () => onRetry(kind), "small") : nothing}
    </li>`,
  )}
</ul>`;
