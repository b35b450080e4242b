/** The server's time, and timers that stop while nobody looks. */

const SECOND_MS = 1000;
let lowMs = -Infinity;
let highMs = Infinity;
let offsetMs = 0;

/**
 * Learn the server's clock from a reply. Its Date has whole seconds, so each reply gives bounds, which narrow.
 * @param {string | null} date the header
 * @param {number} sentMs @param {number} receivedMs on this machine's clock
 */
export function learn(date, sentMs, receivedMs) {
  const server = Date.parse(date ?? "");
  if (Number.isNaN(server)) return;
  const [low, high] = [server - receivedMs, server + SECOND_MS - sentMs];
  const fits = low <= highMs && high >= lowMs;
  [lowMs, highMs] = fits ? [Math.max(low, lowMs), Math.min(high, highMs)] : [low, high];
  offsetMs = (lowMs + highMs) / 2;
}

/** The server's time in milliseconds. */
export const now = () => Date.now() + offsetMs;

/**
 * Call `fn` again and again while the page is seen, and at once when it is seen again.
 * @param {number} ms @param {() => void} fn @returns {() => void} stops it
 */
export function every(ms, fn) {
  let timer;
  const stop = () => {
    clearInterval(timer);
    timer = undefined;
  };
  const start = () => {
    timer ??= setInterval(fn, ms);
  };
  const turn = () => {
    stop();
    if (document.hidden) return;
    fn();
    start();
  };
  document.addEventListener("visibilitychange", turn);
  if (!document.hidden) start();
  return () => {
    stop();
    document.removeEventListener("visibilitychange", turn);
  };
}
