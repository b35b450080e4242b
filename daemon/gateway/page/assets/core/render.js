/** Collects changes to one render a frame. */

import { render } from "../vendor/lit-html/lit-html.js";

let template = null;
let isDue = false;

/** For main.js alone: what the page shows, made anew for each render. @param {() => unknown} fn */
export function setRoot(fn) {
  template = fn;
  invalidate();
}

/** Something that is shown has changed: render with the next frame, however often this is called. */
export function invalidate() {
  if (isDue || template === null) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    render(template(), document.getElementById("page"));
  });
}
