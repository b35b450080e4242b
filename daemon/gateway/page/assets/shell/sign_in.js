/** The door where keys exist: the key goes to the gateway once, which answers with a cookie. */

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { icon } from "../core/icons.js";
import { sentence } from "../core/notice.js";
import { invalidate } from "../core/render.js";
import { signIn as send } from "../core/session.js";
import { t } from "../core/words.js";

let fault = null;
let isSending = false;

/** @param {() => void} onEntered */
export const signIn = (onEntered) => html`
  <form class="card sign-in" @submit=${(event) => submit(event, onEntered)}>
    <h1>${t("sign.title")}</h1>
    <p class="hint">${t("sign.hint")} <code>pixmill key new NAME</code></p>
    <label for="key">${t("sign.key")}</label>
    <input id="key" name="key" type="password" autocomplete="off" spellcheck="false" required maxlength="200"
      aria-describedby="key-fault" placeholder="pxm_…" />
    <p id="key-fault" class="fault">${fault === null ? nothing : fault}</p>
    <button class="button primary" ?disabled=${isSending}>${icon("key")}${t("sign.enter")}</button>
  </form>
`;

async function submit(event, onEntered) {
  event.preventDefault();
  const field = event.target.elements.key;
  isSending = true;
  fault = null;
  invalidate();
  try {
    await send(field.value.trim());
    field.value = "";
    onEntered();
  } catch (problem) {
    fault = problem.status === 401 ? t("sign.wrong") : sentence(problem);
    field.focus();
  }
  isSending = false;
  invalidate();
}
