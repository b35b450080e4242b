/** Orders of a person: a question where work or money may be lost, the order itself, and a line about its effect. */

import { failed, notice, sentence } from "../core/notice.js";
import { may } from "../core/session.js";
import { t } from "../core/words.js";
import { confirm } from "./confirm.js";
import * as orders from "./orders.js";
import { orders as possible } from "./states.js";

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

  retryFailed = () => this.#order("retry", () => orders.retryFailed(this.#batch));

  retryKind = (kind) => this.#order("retry", () => orders.retryKind(this.#batch, kind));

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

  /** Retry or cancel those of some items that allow it. @param {"retry" | "cancel"} name @param {Iterable<string>} ids */
  async items(name, ids) {
    if (!may("submit")) return;
    const items = [...ids].map((id) => this.#model.items.get(id)).filter((item) => item && possible(item).includes(name));
    if (!items.length) return;
    const held = items.filter(({ state }) => state === "held").length;
    if (name === "cancel" && !(await sure("cancel", items.length))) return;
    if (name === "retry" && held && !(await sure("again", held))) return;
    const chosen = items.map(({ id }) => id);
    const send = name === "retry" ? orders.retryItems : orders.cancelItems;
    await this.#order(name, () => send(this.#batch, chosen));
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

async function sure(what, n) {
  const key = `batch.sure.${what}`;
  return (await confirm({ title: t(key, { n }), text: t(`${key}.text`), act: t(`${key}.act`), isLoss: true })) !== null;
}
