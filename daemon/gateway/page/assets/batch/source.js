/** Keeps the model of a batch right: a whole reading first, then events, and small looks at what makes no event. */

import { get } from "../core/api.js";
import { follow } from "../core/feed.js";
import { invalidate } from "../core/render.js";
import { every, now } from "../core/time.js";
import { readStatusSoon } from "../shell/status.js";
import { quotaIn } from "./head.js";
import { BatchModel } from "./model.js";
import { itemPath, pathOf } from "./orders.js";

const FIRST_PAGE = 120; // fills a screen while the rest is on its way
const PAGE = 1000;
const LOOK_MS = 5000;
const SOON_MS = 600; // the gateway itself looks at a quota every half second
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
  #first = { ahead: 0, slotMs: null };
  #before = new Map();
  #soon = null;
  #readMs = 0;

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
    this.#before = new Map(this.model.line(now()).map((id, k) => [id, k + this.#first.ahead]));
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
    return { nowMs: now(), before: this.#before, quotaOf: this.#quotaOf, slotMs: this.#first.slotMs, isPaused };
  }

  #quotaOf = (route) => {
    const { record } = this.model;
    return (route === record?.route && quotaIn(record.bound)) || this.#quotas.get(route)?.[0] || "";
  };

  #follow() {
    this.#feed?.close();
    this.#hasEnded = false;
    this.#feed = follow({
      path: pathOf(this.#id, "events"),
      load: () => this.#load(),
      onEvent: (kind, data) => this.#apply(kind, data),
      onState: (state, problem) => {
        this.#hasEnded = state === "ended";
        this.problem = problem?.status ? problem : null;
        if (state !== "offline") this.#on.live();
        invalidate();
      },
    });
  }

  async #load() {
    this.#readMs = Date.now();
    const path = pathOf(this.#id, "items");
    const ids = new Set();
    const take = ({ items, next }) => {
      for (const { id } of items) ids.add(id);
      this.model.takePage(items);
      invalidate();
      return next;
    };
    const first = await get(`${path}?limit=${FIRST_PAGE}`);
    // Read after the items, the record is newer than the event that they name: nothing is missed between the two.
    this.model.takeRecord((await get(pathOf(this.#id))).body);
    let cursor = take(first.body);
    this.countLine();
    while (cursor) cursor = take((await get(`${path}?limit=${PAGE}&cursor=${cursor}`)).body);
    this.model.endReading(ids);
    this.#lookSoon();
    this.problem = null;
    invalidate();
    return first.headers.get(EVENT_ID);
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
    if (this.model.isStale && Date.now() - this.#readMs > LOOK_MS) this.#follow();
    const [next] = this.model.line(now());
    try {
      if (this.#hasEnded) await this.#lookAtEnd();
      else if (next) await this.#lookAtFirst(next);
      await this.#lookAtPause();
    } catch {
      // The next look is soon, and the header reports what is away.
    }
  }

  /** The first in line: others that wait elsewhere may come before it. */
  async #lookAtFirst(id) {
    const { position, next_slot_at: at, bound } = (await get(itemPath(this.#id, id))).body;
    if (position === null) return; // it has left the line
    this.#first = { ahead: position, slotMs: at && Date.parse(at) };
    if (this.model.record) this.model.takeRecord({ ...this.model.record, bound });
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
    const record = (await get(pathOf(this.#id))).body;
    if (record.state === "running") this.#follow();
    this.model.takeRecord(record);
    invalidate();
  }

  async #readRoutes() {
    try {
      const { routes } = (await get("v1/routes")).body;
      this.#quotas = new Map(routes.map(({ route, quotas }) => [route, quotas]));
      invalidate();
    } catch {
      // Sentences then name the provider instead of the quota.
    }
  }
}
