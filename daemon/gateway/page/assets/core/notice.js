/** Reports in passing: a line that goes away by itself, and the one live region. */

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { icon } from "./icons.js";
import { invalidate } from "./render.js";
import { has, t } from "./words.js";

const SHOWN_MS = 8_000;
const SPOKEN_EVERY_MS = 5_000;
let shown = null;
let timer;
let spoken = "";
let spokenAtMs = -Infinity;
let next;

/** Show and speak a sentence. @param {string} text @param {{isFault?: boolean}} [options] */
export function notice(text, { isFault = false } = {}) {
  shown = { text, isFault };
  clearTimeout(timer);
  timer = setTimeout(close, SHOWN_MS);
  speak(text);
  invalidate();
}

/** Show why a request failed. @param {Error} problem */
export const failed = (problem) => notice(sentence(problem), { isFault: true });

/** A problem in the language of the page; the gateway's own sentence where a code is new. @param {any} problem */
export function sentence(problem) {
  const key = `problem.${problem.code}`;
  if (!has(key)) return problem.detail || problem.message;
  return t(key, { detail: problem.detail, field: problem.field ?? "" });
}

/** Let a screen reader speak; of what comes within five seconds, the last. @param {string} text */
export function speak(text) {
  clearTimeout(next);
  const waitMs = spokenAtMs + SPOKEN_EVERY_MS - performance.now();
  if (waitMs > 0) {
    next = setTimeout(() => speak(text), waitMs);
    return;
  }
  spoken = text === spoken ? `${text}\u00a0` : text; // a text that stays as it is would not be spoken again
  spokenAtMs = performance.now();
  invalidate();
}

/** Both places, for main.js. */
export const notices = () => html`
  <div class="visually-hidden" role="status" aria-live="polite">${spoken}</div>
  ${shown === null
    ? nothing
    : html`<div class="notice ${shown.isFault ? "is-fault" : ""}">
        ${icon(shown.isFault ? "warning" : "done")}<span>${shown.text}</span>
        <button class="button quiet" @click=${close} aria-label=${t("shell.close")}>${icon("close")}</button>
      </div>`}
`;

function close() {
  shown = null;
  clearTimeout(timer);
  invalidate();
}
