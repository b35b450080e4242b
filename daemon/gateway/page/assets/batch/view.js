/** The view of one batch: its head, chips, grid and dialogs. Each change is one render a frame. */

import { address } from "../core/api.js";
import { confirmation } from "../core/confirm.js";
import { icon } from "../core/icons.js";
import { isAway } from "../core/link.js";
import { sentence, speak } from "../core/notice.js";
import { order } from "../core/order.js";
import { invalidate } from "../core/render.js";
import { go, href } from "../core/router.js";
import { may } from "../core/session.js";
import { every } from "../core/time.js";
import { language, t } from "../core/words.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { Broken } from "./broken.js";
import { chips } from "./chips.js";
import { Commands } from "./commands.js";
import { ItemDialog } from "./dialog.js";
import { failuresByKind } from "./failures.js";
import { Grid } from "./grid.js";
import { head } from "./head.js";
import { itemPath } from "./orders.js";
import { Selection } from "./selection.js";
import { Source } from "./source.js";
import { kindWords } from "./states.js";
import { tiles } from "./tiles.js";

const SECOND_MS = 1000;
const WINDOW = 1000; // tiles at most, until a person requests more
// New tiles a frame, so that no frame takes long. The first ones come with the whole view, and what is seen is laid out.
const [FIRST_STEP, STEP] = [20, 24];
const TYPING_MS = 250; // until a filter goes to the address
const AGAIN_S = 10; // until a picture that did not load is tried again

export const view = () => new BatchView();

class BatchView {
  #here = {};
  #text = "";
  #typing = 0;
  #limit = WINDOW;
  #drawn = 0;
  #second = 0;
  #broken = new Broken();
  #at = 0; // the place of the open item
  #selection = new Selection();
  #grid = new Grid();
  #source;
  #commands;
  #dialog;
  #stopClock;

  start(here) {
    const id = here.batch;
    this.#source = new Source(id, { event: this.#noted, live: () => this.#broken.forgive() });
    this.#commands = new Commands(id, this.#source.model, () => this.#source.wake());
    this.#dialog = new ItemDialog(id, { close: this.#closed, step: this.#step, order: this.#order });
    this.change(here);
    this.#source.start();
    this.#grid.start();
    this.#stopClock = every(SECOND_MS, this.#tick);
  }

  change(here) {
    if (here.state !== this.#here.state || here.kind !== this.#here.kind) this.#limit = WINDOW;
    this.#here = here;
    if (this.#typing) this.#write();
    else this.#text = here.text ?? "";
  }

  stop() {
    this.#source.stop();
    this.#grid.stop();
    this.#dialog.stop();
    this.#stopClock();
    clearTimeout(this.#typing);
    this.#typing = 0;
  }

  title = () => t("batch.title", { id: this.#here.batch });

  keys = {
    "/": () => document.getElementById("filter")?.focus(),
    x: () => this.#choose(this.#grid.active),
    r: (event) => this.#canRetry(event) && void this.#order("retry"),
    Escape: () => this.#clear(),
  };

  render() {
    const { problem, model } = this.#source;
    if (problem) return missing(problem);
    if (!model.record) return html`<p class="hint">${t("shell.loading")}</p>`;
    const shown = this.#shown();
    const seen = shown.slice(0, Math.min(this.#limit, this.#drawn + (this.#drawn ? STEP : FIRST_STEP)));
    const item = this.#here.item ? model.items.get(this.#here.item) : undefined;
    this.#selection.keepKnown(model.items);
    // A microtask runs right after the render that this is a part of.
    queueMicrotask(() => this.#settle(shown, seen, item));
    return html`
      ${head(this.#here.batch, model, this.#source.pause, this.#commands)}
      ${model.counts.failed && isAbout(this.#here.state, "failed") ? failuresByKind(model.failures, this.#here.kind, this.#commands.retryKind) : nothing}
      <div class="batch-bar">
        ${chips(model.counts, this.#here.state ?? "")}
        <div class="batch-filter">${icon("search")}<input id="filter" type="search" .value=${this.#text} @input=${this.#typed}
          placeholder=${t("batch.filter")} aria-label=${t("batch.filter")} autocomplete="off" spellcheck="false"></div>
      </div>
      ${shown.length ? nothing : this.#empty()}
      <ul class="tiles" @click=${this.#clicked} @keydown=${this.#pressed} @focusin=${this.#entered} @focusout=${(event) => this.#grid.leave(event)} @error=${this.#lost}>
        ${tiles(seen, this.#looks())}
      </ul>
      ${shown.length > this.#limit ? html`<p class="batch-more"><button type="button" class="button" @click=${this.#more}>${t("batch.more", { n: Math.min(WINDOW, shown.length - this.#limit) })}</button></p>` : nothing}
      ${this.#selection.ids.size ? this.#chosen(shown) : nothing}
      ${this.#dialog.template(item, this.#source.outlook, [item === shown[0], item === shown.at(-1)])} ${confirmation()}
    `;
  }

  #shown() {
    const { state, kind } = this.#here;
    return this.#source.model.shown({ state, kind, text: this.#text });
  }

  #looks() {
    const outlook = this.#source.outlook;
    return {
      chosen: this.#selection.ids,
      broken: this.#broken.why,
      active: this.#grid.active,
      isSeen: this.#grid.isSeen,
      second: this.#second,
      language: language(),
      isPaused: outlook.isPaused,
      outlook,
      thumb: this.#thumb,
    };
  }

  // A batch that is deleted and sent again has other pictures at the same addresses.
  #thumbPath = ({ id, acceptedMs }) => `${itemPath(this.#here.batch, id, "images", "0")}?thumb=1&v=${acceptedMs}`;

  #thumb = (item) => address(this.#thumbPath(item));

  #chosen(shown) {
    const { ids } = this.#selection;
    return html`<div class="batch-chosen row">
      <b class="number">${t("batch.chosen", { n: ids.size })}</b>
      ${may("submit")
        ? ["retry", "cancel"].map((name) => order(name === "retry" ? name : "cancelled", t(name === "retry" ? "batch.do.retry" : "shell.cancel"), () => this.#order(name), "small", { isOff: !this.#commands.open(name, ids).length }))
        : nothing}
      <button type="button" class="button small quiet" @click=${() => this.#chooseAll(shown)}>${t("batch.do.select_all")}</button>
      <button type="button" class="button small quiet" @click=${() => this.#clear()}>${t("batch.do.clear")}</button>
    </div>`;
  }

  #empty() {
    const isFiltered = this.#here.state || this.#here.kind || this.#text;
    if (!isFiltered) return html`<p class="batch-empty hint">${t("batch.empty.all")}</p>`;
    return html`<p class="batch-empty hint">${t("batch.empty")} <button type="button" class="button small" @click=${this.#showAll}>${t("batch.clear")}</button></p>`;
  }

  #settle(shown, seen, item) {
    this.#drawn = seen.length;
    if (this.#drawn < Math.min(this.#limit, shown.length)) invalidate();
    this.#grid.settle(seen);
    this.#dialog.settle(item);
    const at = shown.indexOf(item);
    if (at >= 0) this.#at = at;
    if (this.#here.item && !item && this.#source.model.isWhole) go({ item: "" }, { replace: true });
  }

  #tick = () => {
    const { model } = this.#source;
    if (isAway()) return;
    this.#second++;
    if (this.#second % 5 === 0) this.#dialog.look();
    if (this.#second % AGAIN_S === 0) this.#broken.forgive();
    if (model.record?.state !== "running") return;
    this.#source.countLine();
    this.#grid.look();
    invalidate();
  };

  #noted = (kind, data) => {
    if (kind === "job.failed") speak(t("batch.speaks.failed", { id: data.item, kind: kindWords(data.error.kind) }));
    if (kind !== "batch.finished") return;
    const { done, total } = this.#source.model.counts;
    speak(t(`batches.state.${data.state}`) + t("shell.colon") + t("batches.done", { done, n: total }));
  };

  #clicked = (event) => {
    const id = idOf(event);
    if (!id) return;
    const order = event.target.closest("[data-do]")?.dataset.do;
    if (order === "retry" || order === "cancel") this.#order(order, id);
    else if (event.shiftKey) this.#extend(id);
    else if (order === "choose" || event.ctrlKey || event.metaKey) this.#choose(id);
    else go({ item: id });
  };

  #pressed = (event) => {
    if (event.altKey || event.metaKey || event.ctrlKey || !event.target.closest(".tile-open")) return;
    const from = this.#grid.active;
    const to = this.#grid.move(event.key, this.#shown().slice(0, this.#limit));
    if (to === undefined) return;
    event.preventDefault();
    if (event.shiftKey) this.#extend(to, from);
  };

  #entered = (event) => {
    const id = idOf(event);
    if (id) this.#grid.enter(id);
  };

  // The error of a picture does not bubble.
  #lost = {
    capture: true,
    handleEvent: (event) => {
      const id = idOf(event);
      if (id) this.#broken.explain(id, this.#thumbPath(this.#source.model.items.get(id)));
    },
  };

  #choose(id) {
    if (!id) return false;
    this.#selection.toggle(id);
    invalidate();
  }

  #extend(id, from) {
    this.#selection.extendTo(id, this.#shown().map((item) => item.id), from);
    invalidate();
  }

  #chooseAll(shown) {
    this.#selection.chooseAll(shown.map((item) => item.id));
    invalidate();
  }

  #clear() {
    if (!this.#selection.ids.size) return false;
    this.#selection.clear();
    invalidate();
  }

  /** Only for those who see what they retry, once for each press. */
  #canRetry({ repeat, target }) {
    return !repeat && (this.#selection.ids.size > 0 || Boolean(target.closest?.(".tiles")));
  }

  /** Order something about one item, or about what is chosen, or about the tile that the keyboard is at. */
  #order = (name, id) => {
    const { ids } = this.#selection;
    const chosen = id ? [id] : ids.size ? ids : [this.#grid.active];
    return this.#commands.items(name, chosen);
  };

  #step = (by) => {
    const shown = this.#shown();
    const at = shown.findIndex(({ id }) => id === this.#here.item);
    // An item that has left the list since it was opened has its neighbours where it was.
    const next = shown[at < 0 ? this.#at + Math.min(by, 0) : at + by];
    if (next) go({ item: next.id }, { replace: true });
  };

  #closed = () => {
    const { item } = this.#here;
    if (!item) return;
    go({ item: "" }, { replace: true });
    // The browser gives the focus to the tile that opened the dialog, and a person may have gone on from there.
    this.#grid.active = item;
    this.#grid.focus();
  };

  #typed = (event) => {
    this.#text = event.target.value;
    clearTimeout(this.#typing);
    this.#typing = setTimeout(() => this.#write(), TYPING_MS);
    invalidate();
  };

  #write() {
    clearTimeout(this.#typing);
    this.#typing = 0;
    go({ text: this.#text }, { replace: true });
  }

  #showAll = () => {
    clearTimeout(this.#typing);
    this.#typing = 0;
    this.#text = "";
    go({ state: "", kind: "", text: "" }, { replace: true });
    invalidate();
  };

  #more = () => {
    this.#limit += WINDOW;
    invalidate();
  };
}

const isAbout = (chip, state) => !chip || chip === state;

const idOf = (event) => event.target.closest?.("[data-id]")?.dataset.id;

const missing = (problem) => html`<div class="batch-missing">
  <h1>${t(problem.status === 404 ? "batch.missing" : "batch.closed")}</h1>
  <p class="hint">${problem.status === 404 ? t("batch.missing.text") : sentence(problem)}</p>
  <a class="button" href=${href({ view: "overview" })}>${icon("back")}${t("batch.back")}</a>
</div>`;
