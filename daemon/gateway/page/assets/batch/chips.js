/** The chips over the grid: each shows one group of states, and those of failures one kind. */

import { icon } from "../core/icons.js";
import { href } from "../core/router.js";
import { number, t } from "../core/words.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";

const CHIPS = [
  ["", "total", null],
  ["waiting", "waiting", "queued"],
  ["running", "running", "running"],
  ["done", "done", "done"],
  ["failed", "failed", "failed"],
  ["held", "held", "held"],
  ["gone", "gone", "cancelled"],
];

/** @param {Record<string, number>} counts @param {string} state of the chip that is on */
export const chips = (counts, state) => html`<nav class="chips" aria-label=${t("batch.chips")}>
  ${CHIPS.filter(([name]) => name !== "gone" || counts.gone || state === name).map(
    ([name, count, sign]) => html`<a class="button chip ${name && counts[count] ? `chip-${name}` : ""}" href=${href({ state: name, kind: "", item: "" })} aria-current=${state === name ? "true" : nothing}>
      ${sign ? icon(sign) : nothing}${t(`batch.chip.${name || "all"}`)} <b>${number(counts[count])}</b>
    </a>`,
  )}
</nav>`;
