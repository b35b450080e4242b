/** The short question before something that loses work or money, and the reason of a pause. */

import { invalidate } from "./render.js";
import { t } from "./words.js";
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

/** Let a person confirm something that may lose work or money. @param {string} what its words begin with `batch.sure.` @param {number} n */
export async function sure(what, n) {
  const key = `batch.sure.${what}`;
  return (await confirm({ title: t(key, { n }), text: t(`${key}.text`), act: t(`${key}.act`), isLoss: true })) !== null;
}

export const confirmation = () => html`<dialog id="sure" class="sure" aria-labelledby="sure-title" @close=${closed}>
  <form method="dialog" @submit=${submitted}>
    <h2 id="sure-title">${question.title}</h2>
    <p class="hint">${question.text}</p>
    ${question.hasReason ? html`<label for="reason">${t("pause.reason")}</label><input id="reason" maxlength="200" autocomplete="off">` : nothing}
    <div class="row">
      <button class="button ${question.isLoss ? "warn" : "primary"}" value="yes">${question.act}</button>
      <button class="button quiet" value="" ?autofocus=${question.isLoss}>${t("shell.no")}</button>
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
