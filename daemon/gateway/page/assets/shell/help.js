/** The dialog of the keyboard. */

import { html } from "../vendor/lit-html/lit-html.js";
import { icon } from "../core/icons.js";
import { t } from "../core/words.js";

const KEYS = ["arrows", "ends", "shift", "enter", "sides", "x", "r", "slash", "question", "escape"];

export function openHelp() {
  document.getElementById("help").showModal();
}

const close = () => document.getElementById("help").close();

export const help = () => html`
  <dialog id="help" class="help" aria-labelledby="help-title">
    <header>
      <h2 id="help-title">${t("help.title")}</h2>
      <button class="button quiet" @click=${close} aria-label=${t("shell.close")}>${icon("close")}</button>
    </header>
    <dl class="keys">
      ${KEYS.map((name) => html`<div><dt><kbd>${t(`help.key.${name}`)}</kbd></dt><dd>${t(`help.does.${name}`)}</dd></div>`)}
    </dl>
  </dialog>
`;
