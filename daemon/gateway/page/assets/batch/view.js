/** Stands in until this view is there. */

import { html } from "../vendor/lit-html/lit-html.js";

export function view() {
  return {
    start() {},
    change() {},
    stop() {},
    render: () => html`<h1>batch</h1>`,
    title: () => "batch",
    keys: {},
  };
}
