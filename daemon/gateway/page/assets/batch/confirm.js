/** The short question before something that loses work or money, and the reason of a pause. */

import { invalidate } from "../core/render.js";
import { t } from "../core/words.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";

const NONE = { title: "", text: "", act: "" };
let question = NONE;
let answer = () => {};

/**
 * @param {{title: string, text: string, act: string, hasReason?: boolean, isLoss?: boolean}} wanted `act` is the button's word
 * @returns {Promise<string | null>} null: no; else the reason, perhaps empty
 */
export function confirm(wanted) {
  question = wanted;
  invalidate();
  return new Promise((resolve) => {
    answer = resolve;
    requestAnimationFrame(() => document.getElementById("sure").showModal()); // right after the render
  });
}

export const confirmation = () => html`<dialog id="sure" class="sure" aria-labelledby="sure-title" @close=${closed}>
  <form method="dialog" @submit=${submitted}>
    <h2 id="sure-title">${question.title}</h2>
    <p class="hint">${question.text}</p>
    ${question.hasReason ? html`<label for="reason">${t("pause.reason")}</label><input id="reason" maxlength="200" autocomplete="off">` : nothing}
    <div class="row">
      <button class="button ${question.isLoss ? "warn" : "primary"}" value="yes">${question.act}</button>
      <button class="button quiet" value="" ?autofocus=${question.isLoss}>${t("batch.sure.keep")}</button>
    </div>
  </form>
</dialog>`;

function submitted(event) {
  if (event.submitter?.value !== "yes") return;
  answer(event.target.querySelector("#reason")?.value.trim() ?? "");
}

function closed(event) {
  answer(null); // after a yes this changes nothing
  event.target.querySelector("form").reset();
}
