/** The dialog of one item: its picture and prompt, where its time went, what it cost, and why it waits. */

import { address, get } from "../core/api.js";
import { icon } from "../core/icons.js";
import { failed, notice } from "../core/notice.js";
import { order } from "../core/order.js";
import { invalidate } from "../core/render.js";
import { may } from "../core/session.js";
import { t } from "../core/words.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { facts, texts, times } from "./facts.js";
import { itemPath } from "./orders.js";
import { chargeOf, kindFirst, look, orders, reason, sentence, ticks } from "./states.js";
import { titleOf } from "./tiles.js";

export class ItemDialog {
  #batch;
  #on;
  #version = null; // the item that the record was read for
  #record = null;
  #why = "";
  #reading = null;

  /** @param {string} batch @param {{close: () => void, step: (by: number) => void, order: (name: string, id: string) => void}} on */
  constructor(batch, on) {
    this.#batch = batch;
    this.#on = on;
  }

  /** @param {import("./model.js").Item | undefined} item */
  template(item, outlook, ends) {
    return html`<dialog id="item" class="item" aria-labelledby="item-title" @close=${this.#on.close} @click=${beside} @keydown=${this.#pressed}>
      ${item ? this.#content(item, outlook, ends) : nothing}
    </dialog>`;
  }

  /** After a render: open or close it, and read the record of a new version. */
  settle(item) {
    const element = document.getElementById("item");
    if (!element) return;
    if (item && !element.open) element.showModal();
    if (document.activeElement?.disabled) element.querySelector("[autofocus]")?.focus();
    if (!item && element.open) element.close();
    if (item === this.#version) return;
    if (item?.id !== this.#version?.id) [this.#record, this.#why] = [null, ""];
    this.#version = item;
    if (item) this.#read(item);
  }

  /** Read again why an item waits: that changes while the item does not. */
  look() {
    if (this.#version && ticks(this.#version)) this.#read(this.#version);
  }

  stop() {
    this.#reading?.abort();
  }

  async #read(item) {
    this.#reading?.abort();
    const { signal } = (this.#reading = new AbortController());
    try {
      const path = itemPath(this.#batch, item.id);
      const [record, why] = await Promise.all([get(path, { signal }), ticks(item) ? get(`${path}/explain`, { signal }) : null]);
      this.#record = record.body;
      this.#why = why?.body.why ?? "";
      invalidate();
    } catch (problem) {
      if (problem.name !== "AbortError" && problem.code !== "unreachable") failed(problem);
    }
  }

  #content(item, outlook, [isFirst, isLast]) {
    const record = this.#record;
    return html`
      <header class="item-head">
        <div>
          <h2 id="item-title"><bdi>${titleOf(item)}</bdi></h2>
          <p class="hint"><bdi>${item.id}</bdi></p>
        </div>
        ${tool("back", t("batch.item.previous"), () => this.#on.step(-1), { isOff: isFirst })}
        ${tool("back", t("batch.item.next"), () => this.#on.step(1), { more: "is-flipped", isOff: isLast })}
        ${tool("close", t("shell.close"), () => document.getElementById("item").close(), { isFirst: true })}
      </header>
      <div class="item-body" tabindex="0">
        ${item.state === "succeeded" ? this.#picture(item) : nothing}
        ${this.#state(item, outlook)}
        ${record ? html`${texts(record)} ${times(record)} ${facts(record)}` : html`<p class="hint">${t("shell.loading")}</p>`}
      </div>
      <footer class="row">
        ${may("submit") ? orders(item).map((name) => this.#order(name, item)) : nothing}
        ${record && navigator.clipboard ? html`<button type="button" class="button quiet" @click=${this.#copy}>${icon("copy")}${t("batch.item.copy")}</button>` : nothing}
      </footer>`;
  }

  #picture({ id, width, height, acceptedMs }) {
    const path = address(`${itemPath(this.#batch, id, "images", "0")}?inline=1&v=${acceptedMs}`);
    return html`<a class="item-picture" href=${path} target="_blank" rel="noopener">
      <img src=${path} alt=${t("batch.item.picture", { id })} width=${width ?? nothing} height=${height ?? nothing} decoding="async">
    </a>`;
  }

  #state(item, outlook) {
    const { sign, word } = look(item);
    const isHeld = item.state === "held";
    const why = isHeld ? t("batch.sure.again.text") : this.#why;
    // Its own sentence may be cut for a tile; here it is whole.
    const says = reason(item);
    return html`<div class="item-state">
      <p class="state-${sign}">${icon(sign)}<b>${word}</b> <span class="item-charged">${chargeOf(item)}</span></p>
      ${kindFirst(item) ? html`<p>${kindFirst(item)}</p>` : nothing}
      <p class="item-text"><bdi lang=${says ? "en" : nothing}>${says || sentence(item, outlook)}</bdi></p>
      ${why ? html`<p class="item-text hint"><bdi lang=${isHeld ? nothing : "en"}>${why}</bdi></p>` : nothing}
    </div>`;
  }

  #order(name, item) {
    const words = item.state === "held" ? { retry: "batch.do.again", cancel: "batch.do.end" } : { retry: "batch.do.retry", cancel: "shell.cancel" };
    return order(name === "retry" ? "retry" : "cancelled", t(words[name]), () => this.#on.order(name, item.id));
  }

  #pressed = (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.#on.step(by);
  };

  #copy = async () => {
    try {
      await navigator.clipboard.writeText(JSON.stringify(this.#record, null, 2));
      notice(t("batch.item.copied"));
    } catch (error) {
      notice(error.message, { isFault: true });
    }
  };
}

const tool = (sign, words, act, { more = "", isOff = false, isFirst = false } = {}) =>
  html`<button type="button" class="button quiet ${more}" aria-label=${words} title=${words} ?disabled=${isOff} ?autofocus=${isFirst} @click=${act}>${icon(sign)}</button>`;

// The dialog's content covers it, so a click on the element itself is beside it.
function beside(event) {
  if (event.target === event.currentTarget) event.currentTarget.close();
}
