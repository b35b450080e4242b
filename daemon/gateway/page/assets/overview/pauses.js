/** Pauses with a reason: of the fleet, an account or a route. */

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { post } from "../core/api.js";
import { icon } from "../core/icons.js";
import { order } from "../core/order.js";
import { failed, notice, sentence } from "../core/notice.js";
import { invalidate } from "../core/render.js";
import { may } from "../core/session.js";
import { passed } from "../core/time.js";
import { duration, t } from "../core/words.js";

const LENGTHS = ["", "10min", "1h", "12h"];
let target = null;
let fault = "";

/** The pause of the whole fleet, for those who may; others see it while it lasts. */
export function fleetPause(known, onChanged) {
  const own = known.pauses.find((pause) => pause.scope === "fleet");
  const name = t("pause.fleet");
  const button = own
    ? order("play", t("pause.resume_fleet"), () => resume("v1", name, onChanged), "small")
    : order("pause", t("pause.pause_fleet"), () => openPause("v1", name, onChanged), "quiet small");
  return html`${may("admin") ? button : nothing} ${own ? pauseLine(own.reason, own.paused_by, own.ends_seconds, passed(known.readMs)) : nothing}`;
}

/** Why something is paused, by whose key, and for how long. */
export function pauseLine(reason, by, endsS, passedS) {
  const rest = endsS === null ? t("pause.endless") : t("pause.rest", { time: duration(endsS - passedS) });
  const more = [by && t("pause.by", { name: by }), rest].filter(Boolean).join(t("shell.comma"));
  return html`<p class="hold">${icon("pause")}<span>${t("pause.now")}${t("shell.colon")}${reason ? html`<bdi>${reason}</bdi>${t("shell.comma")}` : nothing}${more}</span></p>`;
}

/** Let a person give the reason first. @param {string} path of what is paused, such as `v1/routes/default` */
export function openPause(path, name, onChanged) {
  target = { path, name, onChanged };
  fault = "";
  invalidate();
  document.getElementById("pause").showModal();
}

export async function resume(path, name, onChanged) {
  try {
    await post(`${path}/resume`);
    notice(t("pause.resumed", { name }));
  } catch (problem) {
    failed(problem);
  }
  onChanged();
}

export const pauseDialog = () => html`
  <dialog id="pause" class="pause" aria-labelledby="pause-title">
    <form @submit=${send}>
      <h2 id="pause-title">${t("pause.title", { name: target?.name ?? "" })}</h2>
      <p class="hint">${t("pause.hint")}</p>
      <label for="pause-reason">${t("pause.reason")}</label>
      <input id="pause-reason" name="reason" maxlength="200" autocomplete="off" required />
      <label for="pause-for">${t("pause.for")}</label>
      <select id="pause-for" name="for">
        ${LENGTHS.map((length) => html`<option value=${length}>${t(`pause.for.${length || "endless"}`)}</option>`)}
      </select>
      ${fault ? html`<p class="fault">${fault}</p>` : nothing}
      <div class="row">
        <button class="button primary">${icon("pause")}${t("pause.pause")}</button>
        <button type="button" class="button" @click=${close}>${t("shell.no")}</button>
      </div>
    </form>
  </dialog>
`;

const close = () => document.getElementById("pause").close();

async function send(event) {
  event.preventDefault();
  const { elements } = event.target;
  const terms = { reason: elements.reason.value.trim() };
  if (elements.for.value) terms.for = elements.for.value;
  const { path, name, onChanged } = target;
  try {
    await post(`${path}/pause`, terms);
    close();
    event.target.reset();
    notice(t("pause.paused", { name }));
  } catch (problem) {
    fault = sentence(problem);
    invalidate();
  }
  onChanged();
}
