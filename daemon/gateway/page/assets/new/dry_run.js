/** The plan of a draft: pictures, time, its bound, cost, and the lines that are refused. */

import { bound } from "../core/bound.js";
import { icon } from "../core/icons.js";
import { order } from "../core/order.js";
import { duration, money, t } from "../core/words.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";

const MOST_LINES = 100;

/**
 * @typedef {{pictures: number, seconds: number | null, bound: string | null, cost: Record<string, string> | null, notes: string[],
 *   refused: {line: number | null, field: string | null, message: string}[]}} Plan
 */

/** In a sentence, such as "40 pictures, about 2 min, bound by images of openai-main". @param {Plan} plan */
export const sentenceOf = (plan) =>
  [
    t("new.pictures", { n: plan.pictures }),
    plan.seconds !== null && t("new.time", { time: duration(Math.max(1, plan.seconds)) }),
    plan.bound && t("batches.bound", { bound: bound(plan.bound) }),
  ]
    .filter(Boolean)
    .join(t("shell.comma"));

/** @param {Plan} plan @param {boolean} isStarting @param {() => void} start */
export const planView = (plan, isStarting, start) =>
  plan.refused.length
    ? faults(plan.refused)
    : html`<p class="new-sentence">${sentenceOf(plan)}</p>
        <p class="hint">${t(plan.cost === null ? "new.no_cost" : "new.cost", { cost: money(plan.cost) })}</p>
        ${plan.notes.map((note) => html`<p class="hint" dir="auto">${note}</p>`)}
        ${order("play", t("new.start", { n: plan.pictures }), start, "primary", { isOff: isStarting })}`;

const faults = (refused) => html`
  <h3 class="fault">${icon("warning")} ${t("new.faults", { n: refused.length })}</h3>
  <p>${t("new.remedy")}</p>
  <div class="new-lines" tabindex="0" role="region" aria-label=${t("new.lines")}>
    <table>
      <tr>${["line", "field", "reason"].map((name) => html`<th scope="col">${t(`new.${name}`)}</th>`)}</tr>
      ${refused.slice(0, MOST_LINES).map(
        ({ line, field, message }) =>
          html`<tr><td>${line ?? nothing}</td><td><bdi>${field ?? nothing}</bdi></td><td dir="auto">${message}</td></tr>`,
      )}
    </table>
    ${refused.length > MOST_LINES ? html`<p class="hint">${t("dead.more", { n: refused.length - MOST_LINES })}</p>` : nothing}
  </div>
`;
