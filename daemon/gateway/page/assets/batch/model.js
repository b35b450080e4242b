/** The items of one batch. Records and events become items, counts and failures; no DOM and no network. */

import { mark } from "../core/time.js";

/** The states behind each chip; "gone" ended without a picture and without a fault. */
export const GROUPS = {
  waiting: ["queued", "throttled", "retry_wait"],
  running: ["running"],
  done: ["succeeded"],
  failed: ["failed"],
  held: ["held"],
  gone: ["cancelled", "expired"],
};
const STATES = Object.values(GROUPS).flat();
export const WAITING = new Set(GROUPS.waiting);
const ENDED = new Set(["succeeded", "failed", "cancelled", "expired", "held"]); // until a person retries it
const DRIFT_MS = 4000; // counts of an event may be a moment older than the events before it

/**
 * One item. It is never changed in place, so an object is a version: a tile compares nothing else.
 * @typedef {{id: string, state: string, prompt: string, metadata: Record<string, string>, route: string, attempts: number,
 *   maxAttempts: number, submitted: boolean, width: number?, height: number?,
 *   error: {kind: string, message: string, charged: string}?, acceptedMs: number, startedMs: number?, finishedMs: number?,
 *   dueMs: number?, search: string, front: number}} Item
 */

export class BatchModel {
  /** The record of the batch, with what events add to it. */
  record = null;
  /** @type {Map<string, Item>} in the order of acceptance */
  items = new Map();
  version = 0;
  /** Whether every page was read. */
  isWhole = false;
  /** Whether events alone cannot make it right, so that it must be read again. */
  isStale = false;

  #driftsSinceMs = null;
  #requeued = 0;
  #cache = new Map();

  takeRecord(record) {
    this.record = { readMs: mark(), ...record };
    this.version++;
  }

  /** Take a page of items; those that did not change keep their version. */
  takePage(rows) {
    for (const row of rows) {
      const known = this.items.get(row.id);
      const item = itemOf(row, known);
      if (!known || changes(known, item)) this.items.set(row.id, item);
    }
    this.version++;
  }

  /** End a reading: items that it did not have are gone. */
  endReading(ids) {
    for (const id of this.items.keys()) if (!ids.has(id)) this.items.delete(id);
    this.isWhole = true;
    this.isStale = false;
    this.#driftsSinceMs = null;
    this.version++;
  }

  /** Apply one event of the batch's stream. */
  apply(kind, data) {
    const [what, name] = kind.split(".");
    if (what === "job") this.#applyToItem(name, data);
    else if (this.record && kind in ofBatch) {
      this.record = { ...this.record, ...ofBatch[kind](data), readMs: mark() };
      if (kind === "batch.progress") this.#compare(data.counts, Date.parse(data.time));
      if (kind === "batch.finished" && this.differs(data.counts)) this.isStale = true;
    }
    this.version++;
  }

  /** Some moves make no event, such as a release before the call: counts that differ for long tell. */
  look(nowMs) {
    if (this.#driftsSinceMs !== null) this.#compare(this.record.counts, nowMs);
  }

  /** Whether these counts are of other states than the items have. */
  differs(counts) {
    const own = this.#byState();
    return this.isWhole && STATES.some((state) => own[state] !== (counts?.[state] ?? 0));
  }

  /** The number of items by chip, and `total`. */
  get counts() {
    return this.#once("counts", () => {
      const by = this.isWhole ? this.#byState() : (this.record?.counts ?? {});
      const sums = Object.entries(GROUPS).map(([name, states]) => [name, states.reduce((sum, s) => sum + (by[s] ?? 0), 0)]);
      return { ...Object.fromEntries(sums), total: sums.reduce((sum, [, count]) => sum + count, 0) };
    });
  }

  /** The kinds of failures, the most frequent first, each with an example. */
  get failures() {
    return this.#once("failures", () => {
      const kinds = new Map();
      for (const item of this.items.values()) {
        if (item.state !== "failed") continue;
        const kind = kindOf(item);
        const found = kinds.get(kind) ?? { kind, count: 0, example: item };
        found.count++;
        kinds.set(kind, found);
      }
      return [...kinds.values()].sort((a, b) => b.count - a.count);
    });
  }

  /** The items in a chip's states, of a kind of failure, that contain a text. */
  shown({ state = "", kind = "", text = "" }) {
    const wanted = text.trim().toLowerCase();
    return this.#once(`shown ${state} ${kind} ${wanted}`, () => {
      const states = GROUPS[state] && new Set(GROUPS[state]);
      return [...this.items.values()].filter(
        (item) =>
          (!states || states.has(item.state)) &&
          (!kind || kindOf(item) === kind) &&
          (!wanted || item.search.includes(wanted)),
      );
    });
  }

  /**
   * The items in line by route, the next one first: each route has a line of its own. One that comes back goes first.
   * @returns {Map<string, Item[]>}
   */
  lines(nowMs) {
    const queued = [...this.items.values()].filter(({ state, dueMs }) => WAITING.has(state) && !(dueMs > nowMs));
    queued.sort((a, b) => b.front - a.front); // stable: else in the order of acceptance
    return Map.groupBy(queued, ({ route }) => route);
  }

  #applyToItem(name, data) {
    const known = this.items.get(data.item);
    const timeMs = Date.parse(data.time);
    const change = changeOf(name, data, timeMs, known);
    if (!change) return;
    // A snapshot may be newer than the events that follow it.
    if (known && timeMs < (known.finishedMs ?? known.startedMs ?? known.acceptedMs)) return;
    if (!known) this.isStale = this.isWhole; // its prompt is in the record alone
    if (name === "retrying" || ENDED.has(known?.state)) change.front = ++this.#requeued;
    if (name === "queued" && this.record) this.record = { ...this.record, state: "running", finished_at: null };
    this.items.set(data.item, { ...(known ?? newcomer(data, timeMs)), ...change });
  }

  #byState() {
    const by = Object.fromEntries(STATES.map((state) => [state, 0]));
    for (const item of this.items.values()) by[item.state]++;
    return by;
  }

  #compare(counts, timeMs) {
    if (!this.differs(counts)) this.#driftsSinceMs = null;
    else if (this.#driftsSinceMs === null) this.#driftsSinceMs = timeMs;
    else if (timeMs - this.#driftsSinceMs >= DRIFT_MS) this.isStale = true;
  }

  #once(key, make) {
    if (this.#cache.version !== this.version) {
      this.#cache.clear();
      this.#cache.version = this.version;
    }
    if (!this.#cache.has(key)) this.#cache.set(key, make());
    return this.#cache.get(key);
  }
}

export const kindOf = (item) => item.error?.kind ?? "unknown";

const ofBatch = {
  "batch.progress": ({ counts, progress, eta_seconds, bound }) => ({ counts, progress, eta_seconds, bound }),
  "batch.finished": ({ counts, state }) => ({ counts, state, eta_seconds: 0, bound: null }),
  "work.paused"({ reason }) {
    const [, why, by = null] = /^(.*?) ?\(by ([^()]+)\)$/s.exec(reason) ?? [null, reason];
    return { paused: why, paused_by: by, bound: "paused:batch", eta_seconds: null };
  },
  "work.resumed": () => ({ paused: null, paused_by: null, bound: null }),
};

const ANEW = { attempts: 0, error: null, startedMs: null, finishedMs: null };

/** The change that an event makes to an item; null: none. */
function changeOf(name, data, timeMs, known) {
  if (name === "submitted") return known?.state === "running" ? { submitted: true } : null;
  const change = { state: name, dueMs: null, submitted: false, ...(data.error && { error: data.error }) };
  if (name !== "held" && ENDED.has(name)) change.finishedMs = timeMs;
  switch (name) {
    case "queued":
      return { ...change, ...ANEW };
    case "started":
      return { ...change, state: "running", startedMs: timeMs, finishedMs: null };
    case "retrying":
      return { ...change, ...waitOf(data, timeMs) };
    case "succeeded":
      return { ...change, error: null, attempts: data.attempts, width: data.images[0]?.width, height: data.images[0]?.height };
    default:
      return ENDED.has(name) ? change : null;
  }
}

function waitOf({ state = "retry_wait", attempts, delay_seconds: delayS }, timeMs) {
  return { state, attempts: Number(attempts), dueMs: delayS > 0 ? timeMs + delayS * 1000 : null };
}

function newcomer(data, timeMs) {
  const row = { id: data.item, metadata: data.metadata ?? {}, attempts: 0, max_attempts: 0, prompt: "", route: "" };
  return { ...itemOf(row), acceptedMs: timeMs };
}

/** @returns {Item} */
function itemOf(row, known) {
  return {
    ...row,
    maxAttempts: row.max_attempts,
    acceptedMs: ms(row.accepted_at),
    startedMs: ms(row.started_at),
    finishedMs: ms(row.finished_at),
    dueMs: ms(row.due_at),
    search: [row.id, row.prompt, ...Object.values(row.metadata)].join("\n").toLowerCase(),
    front: known?.front ?? 0,
  };
}

const ms = (text) => (text ? Date.parse(text) : null);

const changes = (a, b) =>
  ["state", "attempts", "submitted", "startedMs", "finishedMs", "dueMs", "prompt"].some((name) => a[name] !== b[name]) ||
  a.error?.kind !== b.error?.kind;
