/** The state behind the overview: batches in their order, quotas with the routes over them, pauses, dead letters. */

import { get } from "../core/api.js";
import { may } from "../core/session.js";
import { mark } from "../core/time.js";

const PAGE = 50;
const MOST = 1000; // batches in a reply
const ESTIMATED = 8; // running batches whose outlook is read one by one; the others get theirs with their next event
const LETTERS = 1000;

export const WAITING = ["queued", "throttled", "retry_wait"];

export class Overview {
  batches = new Map();
  next = null;
  #pages = 1;
  quotas = null;
  routes = [];
  pauses = [];
  readMs = 0; // when the quotas were read
  dead = [];

  /** Read as many batches as are shown, in `state` if given. Returns the event id it is at least as new as. */
  async loadBatches(state, signal) {
    const most = Math.min(PAGE * this.#pages, MOST);
    const { body, headers } = await get(listed(state, most), { signal });
    this.batches = new Map(body.batches.map((batch) => [batch.id, dated(batch)]));
    this.next = body.next;
    const running = body.batches.filter((batch) => batch.state === "running");
    await Promise.allSettled(running.slice(0, ESTIMATED).map((batch) => this.estimate(batch.id, signal)));
    return headers.get("Pixmill-Event-Id");
  }

  async loadMore(state, signal) {
    const { body } = await get(`${listed(state)}&cursor=${encodeURIComponent(this.next)}`, { signal });
    for (const batch of body.batches) this.batches.set(batch.id, dated(batch));
    this.next = body.next;
    this.#pages += 1;
  }

  /** Begin another list. */
  forget() {
    this.batches.clear();
    this.next = null;
    this.#pages = 1;
  }

  async estimate(id, signal) {
    const { body } = await get(`v1/batches/${encodeURIComponent(id)}`, { signal });
    if (this.batches.has(id)) this.batches.set(id, dated(body));
  }

  async loadQuotas() {
    const [quotas, routes] = await Promise.all([get("v1/quotas"), get("v1/routes")]);
    this.quotas = quotas.body.quotas;
    this.pauses = quotas.body.pauses;
    this.routes = routes.body.routes;
    this.readMs = mark();
  }

  async loadDead() {
    if (may("admin")) this.dead = (await get(`v1/dead?limit=${LETTERS}`)).body.dead;
  }

  /** Take the figures of an event, if its batch is shown. */
  take({ batch: id, counts, eta_seconds, bound, state, time }) {
    const known = this.batches.get(id);
    if (known === undefined) return;
    const news = Object.entries({ counts, eta_seconds, bound, state }).filter(([, value]) => value !== undefined);
    const end = state && state !== "running" && { finished_at: time, summary: null }; // the old one is of less time
    this.batches.set(id, dated({ ...known, ...Object.fromEntries(news), ...end }));
  }

  /** Dead letters by reason, the most first. */
  get reasons() {
    const found = new Map();
    for (const letter of this.dead) found.set(letter.reason, [...(found.get(letter.reason) ?? []), letter]);
    return [...found].sort(([, one], [, other]) => other.length - one.length);
  }
}

/** With the time of its figures, from which its end is counted down. */
const dated = (batch) => ({ ...batch, readMs: mark() });

const listed = (state, limit = PAGE) => `v1/batches?limit=${limit}${state ? `&state=${state}` : ""}`;
