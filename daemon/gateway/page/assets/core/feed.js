/**
 * Follows events without a gap: a snapshot first, then every event after it. Where events do not get through, the
 * snapshot is read again every few seconds, until they do.
 *
 * `fetch` reads the stream, since an EventSource shows neither a status nor the pings that tell silence from loss.
 */

import { open } from "./api.js";
import { frames, isLater } from "./frames.js";
import { setFeed } from "./link.js";
import { every } from "./time.js";

const SILENCE_MS = 45_000;
const POLL_MS = 5_000;
const HIDDEN_MS = 60_000;
const LOOK_MS = 1_000;
const ASLEEP_MS = 5_000; // no timer is so late, unless the whole machine slept
const FIRST_WAIT_MS = 500;
const TRIES = 3;
const POLLS_AFTER_SILENCE = 12; // a proxy that keeps events back would cost 45 s at each try

/** @typedef {"live" | "polling" | "offline" | "ended"} State */

/**
 * @param {object} options
 * @param {string} options.path of the stream, such as `v1/batches/spring/events`
 * @param {(signal: AbortSignal) => Promise<string | null>} options.load reads the snapshot; returns the event id it is at
 *   least as new as
 * @param {(kind: string, data: any) => void} options.onEvent
 * @param {(state: State, problem?: Error) => void} [options.onState] "ended" with a problem: the gateway refuses
 * @returns {{close: () => void, signal: AbortSignal}} `signal` is aborted when the feed is closed or has ended
 */
export function follow(options) {
  const feed = new Feed(options);
  feed.run();
  return feed;
}

class Feed {
  #path;
  #load;
  #on;
  #state = null;
  #after = null; // all up to this id is known; null: a snapshot is needed
  #failures = 0;
  #stop = null; // aborts the stream that is open
  #byteMs = 0;
  #lookMs = Date.now();
  #life = new AbortController();
  #isSilent = false;
  #wake = () => {};
  #hiding;
  #endLooks = every(LOOK_MS, () => this.#look());

  constructor({ path, load, onEvent, onState = () => {} }) {
    this.#path = path;
    this.#load = load;
    this.#on = { event: onEvent, state: onState };
    document.addEventListener("visibilitychange", this.#seen);
    setFeed("connecting");
  }

  get signal() {
    return this.#life.signal;
  }

  async run() {
    while (!this.#isClosed) {
      try {
        await this.#recover();
        if (this.#after === null) await this.#snapshot();
        await this.#untilSeen();
        if (await this.#stream()) return this.#end();
        this.#failures += 1;
      } catch (error) {
        if (this.#isClosed) return;
        if (isRefusal(error)) return this.#end(error);
        if (error.name === "AbortError") continue; // the page itself has closed the stream
        this.#failures += 1;
        if (this.#failures < TRIES) this.#turn("offline");
      }
    }
  }

  close() {
    this.#shut();
    setFeed(null);
  }

  #shut() {
    this.#life.abort();
    this.#endLooks();
    clearTimeout(this.#hiding);
    document.removeEventListener("visibilitychange", this.#seen);
    this.#stop?.abort();
    this.#wake();
  }

  get #isClosed() {
    return this.signal.aborted;
  }

  /** Returns true after the last event there will be. */
  async #stream() {
    if (this.#isClosed) return false;
    const stop = (this.#stop = new AbortController());
    this.#byteMs = Date.now();
    try {
      const query = this.#after ? `?after=${encodeURIComponent(this.#after)}` : "";
      const response = await open(this.#path + query, { signal: stop.signal });
      for await (const frame of frames(response.body, () => (this.#byteMs = Date.now()))) {
        if (this.#isClosed) return false;
        if (frame.event === "end") return true;
        await this.#take(frame);
      }
      return false;
    } finally {
      stop.abort();
      this.#stop = null;
    }
  }

  async #take({ event, data, id }) {
    this.#failures = 0;
    this.#turn("live");
    if (event === "resync") {
      await this.#snapshot();
      if (isLater(id, this.#after)) this.#after = id;
    } else if (event && isLater(id, this.#after)) {
      this.#after = id;
      this.#on.event(event, JSON.parse(data));
    }
  }

  async #snapshot() {
    this.#after = (await this.#load(this.signal)) ?? "";
  }

  /** Wait until the next try; meanwhile poll, if the stream fails again and again. */
  async #recover() {
    if (this.#isSilent) {
      for (let n = 0; n < POLLS_AFTER_SILENCE && !this.#isClosed; n += 1) await this.#poll();
      this.#isSilent = false;
    } else if (this.#failures >= TRIES) {
      await this.#poll();
    } else if (this.#failures > 0) {
      await this.#pause(FIRST_WAIT_MS * 2 ** this.#failures * (0.75 + Math.random() / 2));
    }
  }

  async #poll() {
    await this.#untilSeen();
    if (this.#isClosed) return;
    try {
      await this.#snapshot();
      this.#turn("polling");
    } catch (problem) {
      if (isRefusal(problem)) throw problem;
      this.#turn("offline");
    }
    await this.#pause(POLL_MS);
  }

  #look() {
    const now = Date.now();
    const slept = now - this.#lookMs > ASLEEP_MS;
    this.#lookMs = now;
    if (!this.#stop || now - this.#byteMs <= SILENCE_MS) return;
    this.#isSilent = !slept;
    this.#stop.abort();
  }

  #seen = () => {
    clearTimeout(this.#hiding);
    if (document.hidden) this.#hiding = setTimeout(() => this.#stop?.abort(), HIDDEN_MS);
    else this.#wake();
  };

  async #untilSeen() {
    while (document.hidden && !this.#isClosed) await new Promise((resolve) => (this.#wake = resolve));
  }

  #pause(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  #turn(state, problem) {
    if (state === this.#state || this.#isClosed) return;
    this.#state = state;
    setFeed(problem ? "refused" : state);
    this.#on.state(state, problem);
  }

  #end(problem) {
    this.#turn("ended", problem);
    this.#shut();
  }
}

/** Whether another try would get the same reply. */
function isRefusal({ status }) {
  return status >= 400 && status < 500 && status !== 408 && status !== 429;
}
