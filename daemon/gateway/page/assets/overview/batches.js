/** The list of batches: a bar in segments by state, counts in words, and when each will be done. */

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { icon } from "../core/icons.js";
import { outlook, segments, stateOf } from "../core/progress.js";
import { href } from "../core/router.js";
import { may, me } from "../core/session.js";
import { clock, t } from "../core/words.js";
import { WAITING } from "./model.js";

const STATES = ["running", "completed", "completed_with_errors", "failed", "cancelled", "expired"];
const REST = ["running", "waiting", "held", "failed", "gone"];
const ICONS = { completed: "done", completed_with_errors: "warning", paused: "pause" }; // the others are named like their state
const COLOURS = { completed: "done", completed_with_errors: "failed", paused: "queued" };

export const batches = (known, place, isLoaded, more) => html`
  <header>
    <h1 id="batches-title">${t("batches.title")}</h1>
    ${known.batches.size || place.state
      ? html`<nav class="row" aria-label=${t("batches.filter")}>${[null, ...STATES].map((state) => chip(state, place.state ?? null))}</nav>`
      : nothing}
  </header>
  ${list(known, place, isLoaded)}
  ${known.next === null ? nothing : html`<button class="button" @click=${more}>${t("batches.more")}</button>`}
`;

const chip = (state, chosen) => html`<a class="button chip" href=${href({ state })} aria-current=${state === chosen ? "true" : "false"}
  >${t(`batches.state.${state ?? "all"}`)}</a>`;

function list(known, place, isLoaded) {
  if (!isLoaded) return html`<p class="hint">${t("shell.loading")}</p>`;
  if (known.batches.size > 0) return html`<ul>${repeat(known.batches.values(), (batch) => batch.id, row)}</ul>`;
  if (may("submit") && !place.state) return lesson();
  return html`<p class="hint">${t(place.state ? "batches.none" : "batches.empty")}</p>`;
}

const row = (batch) => html`
  <li class="batch">
    <a class="name" href=${href({ view: "batch", batch: batch.id })}><bdi>${batch.id}</bdi></a>
    <span class="when hint number">${clock(batch.accepted_at)}</span>
    ${segments(parts(batch.counts))}
    <span class="what">${state(batch)} <span class="number">${amounts(batch.counts)}</span></span>
    <span class="outlook hint">${stateOf(batch) === "paused" ? because(batch) : outlook(batch)}</span>
  </li>
`;

function state(batch) {
  const name = stateOf(batch);
  return html`<span class="state state-${COLOURS[name] ?? name}">${icon(ICONS[name] ?? name)} ${t(`batches.state.${name}`)}</span>`;
}

/** Counts in words: all that is done, and of the rest what there is any of. */
function amounts(counts) {
  const of = parts(counts);
  const texts = [t("batches.done", { done: of.done, n: counts.total }), ...REST.filter((name) => of[name]).map((name) => t(`batches.${name}`, { n: of[name] }))];
  return texts.map((text) => text.replaceAll(" ", "\u00a0")).join(t("batches.and")); // a number stays with its word
}

function parts(counts) {
  const waiting = WAITING.reduce((sum, name) => sum + counts[name], 0);
  const { succeeded: done, running, held, failed } = counts;
  return { done, running, waiting, held, failed, gone: counts.cancelled + counts.expired };
}

const because = ({ paused, paused_by: by }) => html`<bdi>${paused}</bdi>${by ? t("shell.comma") + t("pause.by", { name: by }) : nothing}`;

/** The first lesson: the two ways to begin. */
function lesson() {
  const address = new URL("v1/batches", document.baseURI);
  return html`<div class="card lesson">
    <h2>${t("lesson.title")}</h2>
    <p>${t("lesson.text")}</p>
    <p><a class="button primary" href=${href({ view: "new" })}>${icon("upload")}${t("lesson.new")}</a></p>
    <p class="hint">${t("lesson.curl")}</p>
    <pre tabindex="0">curl ${address} -H 'Content-Type: application/json' \\${me().keys ? '\n-H "Authorization: Bearer $KEY" \\' : ""}
-d '{"id": "first", "items": [{"id": "kettle", "prompt": "a red kettle"}]}'</pre>
  </div>`;
}
