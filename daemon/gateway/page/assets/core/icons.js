/** Icons as lines on a grid of 16; they take the colour of their text. Words always stand beside them. */

import { svg } from "../vendor/lit-html/lit-html.js";

const PATHS = {
  queued: "M3 4h10M3 8h10M3 12h6",
  throttled: "M4 2h8M4 14h8M5 2c0 4 6 8 6 12M11 2c0 4-6 8-6 12",
  retry: "M13 8a5 5 0 1 1-1.6-3.7M13 2v3h-3",
  running: "M8 2a6 6 0 1 1-6 6",
  done: "M3 8.5l3.5 3.5L13 4.5",
  failed: "M8 2l6.5 11.5h-13zM8 6.5v3M8 11.6v.1",
  held: "M5 7.5v-4a1 1 0 0 1 2 0V7V2.5a1 1 0 0 1 2 0V7V3.5a1 1 0 0 1 2 0v6c0 3-1.5 4.5-4 4.5S4 12 2.5 8.5c-.4-1 1-1.6 1.6-.7L5 9",
  cancelled: "M8 2a6 6 0 1 0 .01 0M3.8 3.8l8.4 8.4",
  expired: "M8 2a6 6 0 1 0 .01 0M8 5v3l-2 2",
  pause: "M5.5 3v10M10.5 3v10",
  play: "M5 3l8 5-8 5z",
  zip: "M8 2v7M5 6.5l3 3 3-3M3 13h10",
  search: "M7 2.5a4.5 4.5 0 1 0 .01 0M10.5 10.5L14 14",
  close: "M4 4l8 8M12 4l-8 8",
  upload: "M8 10V3M5 5.5l3-3 3 3M3 13h10",
  copy: "M6 6h7v8H6zM3 10V2h7",
  key: "M5.5 7.5a3 3 0 1 0 .01 0M7.6 8.4L13.5 2.5M11 5l2 2",
  sun: "M8 5a3 3 0 1 0 .01 0M8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1",
  moon: "M13 9.5A5.5 5.5 0 1 1 6.5 3a4.5 4.5 0 0 0 6.5 6.5z",
  auto: "M8 2a6 6 0 1 0 .01 0M8 2v12M8 5l4.5-1M8 8h6M8 11h4.8",
  help: "M5.5 6a2.5 2.5 0 1 1 3.5 2.3c-.7.3-1 .7-1 1.7M8 12.5v.1",
  warning: "M8 2a6 6 0 1 0 .01 0M8 5v3.5M8 11v.1",
  plus: "M8 3v10M3 8h10",
  back: "M10 3L5 8l5 5",
  leave: "M9 3H3v10h6M6 8h8M11 5l3 3-3 3",
};

/** @param {keyof typeof PATHS} name */
export const icon = (name) =>
  svg`<svg class="icon icon-${name}" viewBox="0 0 16 16" aria-hidden="true" focusable="false"><path d=${PATHS[name]}></path></svg>`;
