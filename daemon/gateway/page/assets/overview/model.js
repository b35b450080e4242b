/** What the overview knows: batches in their order, quotas with the routes over them, pauses, dead letters. */

import { get } from "../core/api.js";
import { may } from "../core/session.js";
import { mark } from "../core/time.js";

const PAGE = 50;
const ESTIMATED = 8; // running batches whose outlook is read one by one; the others get theirs with their next event
const LETTERS = 1000;

export const WAITING = ["queued", "throttled", "retry_wait"];

export class Overview {
  batches = new Map();
  next = null;
  quotas = null;
  routes = [];
  pauses = [];
  readMs = 0; // when the quotas were read
  dead = [];

  /** Read the newest batches, in `state` if given; older ones stay. Returns the event id it is at least as new as. */
  async loadBatches(state) {
    const { body, headers } = await get(listed(state));
    const since = body.next === null ? "" : body.batches.at(-1).accepted_at;
    const older = [...this.batches.values()].filter((batch) => batch.accepted_at < since);
    this.batches = new Map([...body.batches.map(dated), ...older].map((batch) => [batch.id, batch]));
    if (older.length === 0) this.next = body.next;
    const running = body.batches.filter((batch) => batch.state === "running");
    await Promise.all(running.slice(0, ESTIMATED).map((batch) => this.estimate(batch.id)));
    return headers.get("Pixmill-Event-Id");
  }

  async loadMore(state) {
    const { body } = await get(`${listed(state)}&cursor=${encodeURIComponent(this.next)}`);
    for (const batch of body.batches) this.batches.set(batch.id, dated(batch));
    this.next = body.next;
  }

  async estimate(id) {
    const { body } = await get(`v1/batches/${encodeURIComponent(id)}`);
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

  /** Take the figures of an event; returns false for a batch that is not known. */
  take({ batch: id, counts, eta_seconds, bound, state }) {
    const known = this.batches.get(id);
    if (known === undefined) return false;
    const news = Object.entries({ counts, eta_seconds, bound, state }).filter(([, value]) => value !== undefined);
    this.batches.set(id, dated({ ...known, ...Object.fromEntries(news) }));
    return true;
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

const listed = (state) => `v1/batches?limit=${PAGE}${state ? `&state=${state}` : ""}`;
