/** One line across the page while something stands between it and the queue. */

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { icon } from "../core/icons.js";
import { link } from "../core/link.js";
import { t } from "../core/words.js";

export function banner() {
  const { trouble } = link();
  if (trouble === null) return nothing;
  return html`<div class="banner">${icon("warning")}<span>${t(`banner.${trouble}`)}</span></div>`;
}
