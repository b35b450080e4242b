/** A button that gives an order. It waits while the gateway or its queue is away. */

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { icon } from "./icons.js";
import { isAway } from "./link.js";

/**
 * @param {string} sign its icon @param {string} words @param {() => void} act
 * @param {string} [more] classes @param {{label?: string, isOff?: boolean}} [options]
 */
export const order = (sign, words, act, more = "", { label, isOff = false } = {}) =>
  html`<button type="button" class="button ${more}" aria-label=${label ?? nothing} ?disabled=${isOff || isAway()} @click=${act}>${icon(sign)}${words}</button>`;
