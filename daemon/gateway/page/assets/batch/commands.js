/** Orders of a person: a question where work or money may be lost, the order itself, and a line about its effect. */

import { confirm, sure } from "../core/confirm.js";
import { isAway } from "../core/link.js";
import { failed, notice, sentence } from "../core/notice.js";
import { may } from "../core/session.js";
import { t } from "../core/words.js";
import * as orders from "./orders.js";
import { mayBePaid, orders as possible } from "./states.js";

export class Commands {
  #batch;
  #model;
  #onDone;
  #isBusy = false;

  /** @param {string} batch @param {import("./model.js").BatchModel} model @param {() => void} onDone */
  constructor(batch, model, onDone) {
    this.#batch = batch;
    this.#model = model;
    this.#onDone = onDone;
  }

  retryFailed = () => this.#retry(this.#model.shown({ state: "failed" }), () => orders.retryFailed(this.#batch));

  retryKind = (kind) => this.#retry(this.#model.shown({ state: "failed", kind }), () => orders.retryKind(this.#batch, kind));

  cancelAll = async () => {
    const { waiting, running, held } = this.#model.counts;
    if (await sure("cancel", waiting + running + held)) await this.#order("cancel", () => orders.cancelAll(this.#batch));
  };

  pause = async () => {
    const text = t("batch.sure.pause.text");
    const reason = await confirm({ title: t("batch.sure.pause"), text, act: t("pause.pause"), hasReason: true });
    if (reason !== null) await this.#order("pause", () => orders.pause(this.#batch, reason));
  };

  resume = () => this.#order("resume", () => orders.resume(this.#batch));

  /** Those of some items that allow an order. @param {"retry" | "cancel"} name @param {Iterable<string>} ids */
  open(name, ids) {
    return [...ids].map((id) => this.#model.items.get(id)).filter((item) => item && possible(item).includes(name));
  }

  /** Retry or cancel those of some items that allow it. @param {"retry" | "cancel"} name @param {Iterable<string>} ids */
  async items(name, ids) {
    const items = this.open(name, ids);
    if (!items.length || !may("submit") || isAway()) return;
    const chosen = items.map(({ id }) => id);
    if (name === "retry") await this.#retry(items, () => orders.retryItems(this.#batch, chosen));
    else if (await sure("cancel", items.length)) await this.#order("cancel", () => orders.cancelItems(this.#batch, chosen));
  }

  async #retry(items, send) {
    const paid = items.filter(mayBePaid).length;
    if (!paid || (await sure("again", paid))) await this.#order("retry", send);
  }

  async #order(name, send) {
    if (this.#isBusy) return;
    this.#isBusy = true;
    const done = (n) => t(`batch.done.${name}`, { n });
    try {
      notice(done(await send()));
    } catch (problem) {
      if (problem.affected) notice(`${done(problem.affected)} ${sentence(problem)}`, { isFault: true });
      else failed(problem);
    }
    this.#isBusy = false;
    this.#onDone();
  }
}
