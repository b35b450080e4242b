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
    const focused = document.activeElement;
    render(template(), document.getElementById("page"));
    queueMicrotask(() => keepFocus(focused)); // a view has gone first
  });
}

/** A button that leaves once it is pressed would send a keyboard back to the top of the page. */
function keepFocus(focused) {
  if (focused.isConnected || document.activeElement !== document.body) return;
  document.getElementById("main").focus({ preventScroll: true });
}
