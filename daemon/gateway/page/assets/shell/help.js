/** The dialog of the keyboard and of the states. */

import { html } from "../vendor/lit-html/lit-html.js";
import { icon } from "../core/icons.js";
import { t } from "../core/words.js";

const KEYS = ["arrows", "enter", "x", "r", "slash", "question", "escape"];
const STATES = ["queued", "throttled", "retry", "running", "done", "failed", "held", "cancelled", "expired"];

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
    <h3>${t("help.keyboard")}</h3>
    <dl class="keys">
      ${KEYS.map((name) => html`<div><dt><kbd>${t(`help.key.${name}`)}</kbd></dt><dd>${t(`help.does.${name}`)}</dd></div>`)}
    </dl>
    <h3>${t("help.states")}</h3>
    <dl class="states">
      ${STATES.map((name) => html`<div><dt class="state-${name}">${icon(name)} ${t(`state.${name}`)}</dt><dd>${t(`help.state.${name}`)}</dd></div>`)}
    </dl>
  </dialog>
`;
