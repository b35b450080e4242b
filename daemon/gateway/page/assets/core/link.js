/** How the page is connected: what its feed does, and what stands between it and the queue. */

import { invalidate } from "./render.js";

let feed = null;
let trouble = null;

/** @returns {{feed: "connecting" | "live" | "polling" | "offline" | "ended" | "refused" | null, trouble: string | null}} `trouble` is a code */
export const link = () => ({ feed, trouble });

export function setFeed(state) {
  feed = state;
  invalidate();
}

export function setTrouble(code) {
  if (code === trouble) return;
  trouble = code;
  invalidate();
}
