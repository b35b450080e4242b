/** Keeps the model of a batch right: a whole reading first, then events, and small looks at what makes no event. */

import { get } from "../core/api.js";
import { follow } from "../core/feed.js";
import { invalidate } from "../core/render.js";
import { every, now } from "../core/time.js";
import { readStatusSoon } from "../shell/status.js";
import { quotaIn } from "./head.js";
import { BatchModel } from "./model.js";
import { itemPath, pathOf } from "./orders.js";

const FIRST_PAGE = 60; // fills a screen while the rest is on its way
const PAGE = 1000;
const LOOK_MS = 5000;
const SOON_MS = 600; // the gateway itself looks at a quota every half second
const GONE = new Set([404, 410]);
const EVENT_ID = "Pixmill-Event-Id";

export class Source {
  model = new BatchModel();
  /** Why there is nothing to show, as a Problem; null: there is. */
  problem = null;

  #id;
  #on;
  #feed = null;
  #hasEnded = false;
  #stops = [];
  #quotas = new Map(); // by route
  #over = null; // a pause of the fleet, the route or the account
  #firsts = new Map(); // by route, the outlook of the first in line
  #before = new Map();
  #soon = null;
  #readMs = 0;
  #life = new AbortController();

  /** @param {string} id @param {{event: (kind: string, data: any) => void, live: () => void}} on */
  constructor(id, on) {
    this.#id = id;
    this.#on = on;
  }

  start() {
    this.#follow();
    this.#readRoutes();
    this.#stops = [every(LOOK_MS, () => this.#look())];
  }

  stop() {
    this.#life.abort();
    this.#feed?.close();
    clearTimeout(this.#soon);
    for (const stop of this.#stops) stop();
  }

  /** After an order: a stream that had ended begins again. */
  wake() {
    if (this.#hasEnded) this.#follow();
  }

  /** Count anew how many come before each waiting item. Once a second is enough: each claim changes all of them. */
  countLine() {
    const lines = [...this.model.lines(now())];
    const ahead = (route) => this.#firsts.get(route)?.ahead ?? 0;
    this.#before = new Map(lines.flatMap(([route, line]) => line.map(({ id }, k) => [id, k + ahead(route)])));
  }

  /** The pause that holds the batch back: its own, or one over it; null: none. */
  get pause() {
    const { paused: reason, paused_by: by } = this.model.record;
    return reason == null ? this.#over : { reason, by };
  }

  /** @returns {import("./states.js").Outlook} */
  get outlook() {
    const { record } = this.model;
    const isPaused = record !== null && (record.paused !== null || record.bound?.startsWith("paused:"));
    return { nowMs: now(), before: this.#before, quotaOf: this.#quotaOf, slotOf: this.#slotOf, isPaused };
  }

  #quotaOf = (route) => {
    const { record } = this.model;
    const bound = route === record?.route ? record.bound : this.#firsts.get(route)?.bound;
    return quotaIn(bound) || this.#quotas.get(route)?.[0] || "";
  };

  #slotOf = (route) => this.#firsts.get(route)?.slotMs ?? null;

  #follow() {
    if (this.#life.signal.aborted) return;
    this.#feed?.close();
    this.#hasEnded = false;
    this.#feed = follow({
      path: pathOf(this.#id, "events"),
      load: (signal) => this.#load(signal),
      onEvent: (kind, data) => this.#apply(kind, data),
      onState: (state, problem) => {
        this.#hasEnded = state === "ended";
        this.problem = problem?.status ? problem : null;
        if (state !== "offline") this.#on.live();
        invalidate();
      },
    });
  }

  async #load(signal) {
    this.#readMs = Date.now();
    const path = pathOf(this.#id, "items");
    const ids = new Set();
    const take = ({ items, next }) => {
      for (const { id } of items) ids.add(id);
      this.model.takePage(items);
      invalidate();
      return next;
    };
    const [first] = await Promise.all([get(`${path}?limit=${FIRST_PAGE}`, { signal }), this.#readEarly(signal)]);
    let cursor = take(first.body);
    this.countLine();
    // Read after the items, the record is newer than the event that they name: nothing is missed between the two.
    this.model.takeRecord((await get(pathOf(this.#id), { signal })).body);
    while (cursor) cursor = take((await get(`${path}?limit=${PAGE}&cursor=${cursor}`, { signal })).body);
    this.model.endReading(ids);
    this.#lookSoon();
    this.problem = null;
    invalidate();
    return first.headers.get(EVENT_ID);
  }

  /** The record beside the first items: the first tiles need not wait for the one that is read after them. */
  async #readEarly(signal) {
    if (this.model.record === null) this.model.takeRecord((await get(pathOf(this.#id), { signal })).body);
  }

  #apply(kind, data) {
    this.model.apply(kind, data);
    this.#on.event(kind, data);
    readStatusSoon();
    // When does the quota have room; how long did the batch take?
    if (kind === "job.retrying" || kind === "batch.finished") this.#lookSoon();
    invalidate();
  }

  #lookSoon() {
    this.#soon ??= setTimeout(() => this.#look(), SOON_MS);
  }

  async #look() {
    clearTimeout(this.#soon);
    this.#soon = null;
    if (this.problem) return;
    this.model.look(now());
    if (this.model.isStale && Date.now() - this.#readMs > LOOK_MS) this.#follow();
    const firsts = [...this.model.lines(now()).values()].map(([first]) => first);
    try {
      if (this.#hasEnded) await this.#lookAtEnd();
      else await Promise.all(firsts.map((first) => this.#lookAtFirst(first)));
      await this.#lookAtPause();
    } catch (problem) {
      if (this.#hasEnded && GONE.has(problem.status)) this.problem = problem;
      // Else the next look is soon, and the header reports what is away.
    }
  }

  /** The first in line of a route: others that wait elsewhere may come before it. */
  async #lookAtFirst({ id, route }) {
    const { position, next_slot_at: at, bound } = await this.#read(itemPath(this.#id, id));
    if (position === null) return; // it has left the line
    this.#firsts.set(route, { ahead: position, slotMs: at && Date.parse(at), bound });
    const { record } = this.model;
    if (record?.route === route) this.model.takeRecord({ ...record, bound });
    invalidate();
  }

  /** The reason of a pause that is not the batch's own stands with the accounts. */
  async #lookAtPause() {
    const { bound, route } = this.model.record;
    const isPaused = /^paused:(fleet|route)|\.paused$/.test(bound);
    const { quotas, pauses } = isPaused ? (await get("v1/quotas")).body : { quotas: [], pauses: [] };
    const quota = quotas.find((one) => one.quota === quotaIn(bound));
    const pause = pauses.find(({ scope, name }) => bound === `paused:${scope}` && ["", route].includes(name));
    const over = quota ?? pause ?? null;
    this.#over = over && { reason: over.paused_reason ?? over.reason, by: over.paused_by };
    invalidate();
  }

  /** Its time and cost are in the record alone, and somebody may have retried what had ended. */
  async #lookAtEnd() {
    const record = await this.#read(pathOf(this.#id));
    const endedAt = this.model.record.finished_at;
    const isOther = (endedAt && record.finished_at !== endedAt) || this.model.differs(record.counts);
    if (record.state === "running" || isOther) this.#follow();
    this.model.takeRecord(record);
    invalidate();
  }

  async #read(path) {
    return (await get(path, { signal: this.#life.signal })).body;
  }

  async #readRoutes() {
    try {
      const { routes } = await this.#read("v1/routes");
      this.#quotas = new Map(routes.map(({ route, quotas }) => [route, quotas]));
      invalidate();
    } catch {
      // Sentences then name the provider instead of the quota.
    }
  }
}
