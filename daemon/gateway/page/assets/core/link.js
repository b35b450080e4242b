/** How the page is connected: what its feed does, and what stands between it and the queue. */

import { speak } from "./notice.js";
import { invalidate } from "./render.js";
import { freeze } from "./time.js";
import { t } from "./words.js";

let feed = null;
let trouble = null;

/** @returns {{feed: "connecting" | "live" | "polling" | "offline" | "ended" | "refused" | null, trouble: string | null}} `trouble` is a code */
export const link = () => ({ feed, trouble });

/** Whether no order gets through now. */
export const isAway = () => trouble !== null;

export function setFeed(state) {
  feed = state;
  invalidate();
}

export function setTrouble(code) {
  if (code === trouble) return;
  trouble = code;
  freeze(code !== null);
  if (code !== null) speak(t(`banner.${code}`));
  invalidate();
}
