/** Dead letters by reason; those of one reason are tried again together. */

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { post } from "../core/api.js";
import { sure } from "../core/confirm.js";
import { notice, sentence } from "../core/notice.js";
import { order } from "../core/order.js";
import { invalidate } from "../core/render.js";
import { clock, has, t } from "../core/words.js";

const SHOWN = 5;
const FOR_ALL = new Set([401, 403, 429]); // the next letter would get the same reply
let busy = null;

export const dead = (known, onChanged) => html`
  <section aria-labelledby="dead-title">
    <h2 id="dead-title">${t("dead.title")}</h2>
    <p class="hint">${t("dead.hint")}</p>
    <ul>${known.reasons.map(([reason, letters]) => group(reason, letters, onChanged))}</ul>
  </section>
`;

const group = (reason, letters, onChanged) => html`
  <li class="card dead">
    <details>
      <summary><span>${has(`dead.reason.${reason}`) ? t(`dead.reason.${reason}`) : reason}</span> <span class="number hint">${letters.length}</span></summary>
      <ul>${letters.slice(0, SHOWN).map(one)}</ul>
      ${letters.length > SHOWN ? html`<p class="hint">${t("dead.more", { n: letters.length - SHOWN })}</p>` : nothing}
    </details>
    ${order("retry", busy === reason ? t("dead.retrying") : t("dead.retry_all", { n: letters.length }), () => retry(letters, reason, onChanged), "small", { isOff: busy !== null })}
  </li>
`;

const one = (letter) => html`<li>
  <p><bdi>${[letter.batch, letter.item || letter.job].filter(Boolean).join(" / ") || letter.id}</bdi> <span class="hint number">${clock(letter.at)}</span></p>
  <p class="hint">${letter.error?.message ?? letter.reason}</p>
</li>`;

const mayBePaid = ({ reason, error }) => reason === "unknown_outcome" || ["maybe", "yes"].includes(error?.charged);

/** Try letters again one after another, the oldest first, so that no burst of requests stands behind one click. */
async function retry(letters, name, onChanged) {
  const paid = letters.filter(mayBePaid).length;
  if (paid && !(await sure("again", paid))) return;
  busy = name;
  invalidate();
  let count = 0;
  let fault = null;
  for (const letter of letters.toReversed()) {
    try {
      await post(`v1/dead/${encodeURIComponent(letter.id)}/retry`);
      count += 1;
    } catch (problem) {
      fault = problem;
      if (!problem.status || problem.status >= 500 || FOR_ALL.has(problem.status)) break;
    }
  }
  busy = null;
  const text = t("dead.retried", { n: count });
  notice(fault ? `${text} ${sentence(fault)}` : text, { isFault: fault !== null });
  onChanged();
}
