/** Stands in until this view is there. */

import { html } from "../vendor/lit-html/lit-html.js";

export function view() {
  return {
    start() {},
    change() {},
    stop() {},
    render: () => html`<h1>new</h1>`,
    title: () => "new",
    keys: {},
  };
}
