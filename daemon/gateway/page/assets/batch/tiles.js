/** One tile of the grid. It is made again only when its item, its choice or its shown second changes. */

import { icon } from "../core/icons.js";
import { isAway } from "../core/link.js";
import { may } from "../core/session.js";
import { t } from "../core/words.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { chargeOf, clip, kindFirst, look, reason, sentence, ticks } from "./states.js";
import { memo } from "./memo.js";

const FRESH_MS = 1500; // a picture that came so lately appears with a motion
const TITLE = 120; // characters

/**
 * @typedef {import("./model.js").Item} Item
 * @param {Item[]} items
 * @param {object} show
 * @param {Set<string>} show.chosen
 * @param {Map<string, string>} show.broken why small pictures did not load, by id
 * @param {string} show.active the id that the keyboard is at
 * @param {(k: number) => boolean} show.isSeen
 * @param {(k: number) => number} show.secondOf the second that the tile at a place shows
 * @param {string} show.language
 * @param {boolean} show.isPaused
 * @param {import("./states.js").Outlook} show.outlook
 * @param {(item: Item) => string} show.thumb the address of an item's small picture
 */
export const tiles = (items, show) =>
  repeat(items, (item) => item.id, (item, k) => {
    const now = ticks(item) && show.isSeen(k) ? show.secondOf(k) : -1;
    const { id } = item;
    const is = [show.chosen.has(id), show.broken.get(id), show.active === id, show.isPaused, show.language, isAway()];
    return memo([item, now, ...is], () => tile(item, show));
  });

function tile(item, { chosen, broken, active, outlook, thumb }) {
  const { sign, tone, word } = look(item);
  const isChosen = chosen.has(item.id);
  const hasPicture = item.state === "succeeded" && !broken.has(item.id);
  const index = active === item.id ? 0 : -1;
  return html`<li class="tile tone-${tone} ${isChosen ? "is-chosen" : ""}" data-id=${item.id}>
    <button class="tile-open" type="button" tabindex=${index}>
      <span class="tile-frame">${hasPicture ? picture(item, thumb(item), outlook.nowMs) : panel(item, sign, word, outlook, broken)}</span>
      <bdi class="tile-title">${titleOf(item)}</bdi>
      <span class="tile-foot">
        <bdi class="tile-id">${clip(item.id, TITLE)}</bdi>
        ${hasPicture ? html`<span class="tile-state state-${sign}">${icon(sign)}${word}</span>` : nothing}
      </span>
      ${isChosen ? html`<span class="visually-hidden">, ${t("batch.is_chosen")}</span>` : nothing}
    </button>
    <button class="tile-check" type="button" tabindex="-1" data-do="choose" aria-pressed=${isChosen} aria-label=${t("batch.choose", { id: clip(item.id, TITLE) })}>${icon("done")}</button>
    ${item.state === "held" && may("submit") ? decision(index) : nothing}
  </li>`;
}

const picture = (item, address, nowMs) => html`<img
  class="${item.height > item.width ? "is-tall" : "is-wide"} ${nowMs - item.finishedMs < FRESH_MS ? "is-fresh" : ""}"
  src=${address} width=${item.width ?? 256} height=${item.height ?? 256} alt="" loading="lazy" decoding="async">`;

function panel(item, sign, word, outlook, broken) {
  const isGone = broken.has(item.id) && item.state === "succeeded";
  const says = isGone ? t(broken.get(item.id)) : sentence(item, outlook);
  const [kind, charged] = [kindFirst(item), chargeOf(item)];
  return html`<span class="tile-panel">
    ${icon(isGone ? "warning" : sign)}
    <span class="tile-word">${word}</span>
    ${kind ? html`<span class="tile-charged">${kind}</span>` : nothing}
    ${says ? html`<bdi class="tile-says" lang=${reason(item) ? "en" : nothing}>${says}</bdi>` : nothing}
    ${charged ? html`<span class="tile-charged">${charged}</span>` : nothing}
  </span>`;
}

const decision = (index) => html`<span class="tile-decision">
  <button type="button" class="button small" tabindex=${index} data-do="retry" ?disabled=${isAway()}>${t("batch.do.again")}</button>
  <button type="button" class="button small" tabindex=${index} data-do="cancel" ?disabled=${isAway()}>${t("batch.do.end")}</button>
</span>`;

/** The words below a picture: its title among the metadata, else the beginning of its prompt. @param {Item} item */
export const titleOf = (item) => clip(item.metadata.title || item.metadata.name || item.prompt || item.id, TITLE);
