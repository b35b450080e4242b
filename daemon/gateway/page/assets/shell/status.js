/** The state of the installation, read every few seconds; it also decides whether the queue is away. */

import { get, watch } from "../core/api.js";
import { setTrouble } from "../core/link.js";
import { invalidate } from "../core/render.js";
import { every } from "../core/time.js";

const EVERY_MS = 5_000;
const SOON_MS = 1_000;
const TROUBLES = new Set(["unreachable", "redis_unavailable"]);
let latest = null;
let isReading = false;
let stop = null;
let soon = null;

/** The newest status, null before the first; it stays while the gateway is away. */
export const status = () => latest;

export function beginStatus() {
  setTrouble(null);
  stop ??= every(EVERY_MS, read);
  read();
}

export function endStatus() {
  stop?.();
  clearTimeout(soon);
  stop = soon = latest = null;
  setTrouble(null);
}

// Any request may be the first to notice; only a status that is read shows whether more than one stream is cut off.
watch((problem) => {
  if (!TROUBLES.has(problem?.code)) return;
  if (problem.status || stop === null) setTrouble(problem.code);
  readStatusSoon();
});

/** Events change the figures: read them again within a second, once for many. */
export function readStatusSoon() {
  if (stop === null) return;
  soon ??= setTimeout(() => {
    soon = null;
    read();
  }, SOON_MS);
}

async function read() {
  if (isReading) return;
  isReading = true;
  try {
    const { body } = await get("v1/status");
    if (stop === null) return;
    latest = body;
    setTrouble(null);
  } catch (problem) {
    if (stop !== null && TROUBLES.has(problem.code)) setTrouble(problem.code);
  } finally {
    isReading = false;
    invalidate();
  }
}
