/** The list of batches: a bar in segments by state, counts in words, and when each will be done. */

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { repeat } from "../vendor/lit-html/directives/repeat.js";
import { bound } from "../core/bound.js";
import { icon } from "../core/icons.js";
import { href } from "../core/router.js";
import { may, me } from "../core/session.js";
import { now } from "../core/time.js";
import { clock, duration, number, t } from "../core/words.js";
import { WAITING } from "./model.js";

const STATES = ["running", "completed", "completed_with_errors", "failed", "cancelled", "expired"];
const REST = ["running", "waiting", "held", "failed", "idle"];
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
    <span class="segments">${["done", ...REST].map((name) => segment(name, batch.counts))}</span>
    <span class="what">${state(batch)} <span class="number">${amounts(batch.counts)}</span></span>
    <span class="outlook hint">${outlook(batch)}</span>
  </li>
`;

function segment(name, counts) {
  const amount = parts(counts)[name];
  return amount ? html`<span class="is-${name}" .style=${`flex-grow:${amount}`}></span>` : nothing;
}

function state(batch) {
  const name = batch.state === "running" && batch.paused != null ? "paused" : batch.state;
  return html`<span class="state state-${COLOURS[name] ?? name}">${icon(ICONS[name] ?? name)} ${t(`batches.state.${name}`)}</span>`;
}

/** Counts in words: all that is done, and of the rest what there is any of. */
function amounts(counts) {
  const of = parts(counts);
  return [t("batches.done", { done: of.done, n: counts.total }), ...REST.filter((name) => of[name]).map((name) => t(`batches.${name}`, { n: of[name] }))].join(" · ");
}

function parts(counts) {
  const waiting = WAITING.reduce((sum, name) => sum + counts[name], 0);
  const { succeeded: done, running, held, failed } = counts;
  return { done, running, waiting, held, failed, idle: counts.cancelled + counts.expired };
}

function outlook(batch) {
  if (batch.state !== "running") return ended(batch);
  if (batch.paused != null) return html`<bdi>${batch.paused}</bdi>${batch.paused_by ? html`, ${t("pause.by", { name: batch.paused_by })}` : nothing}`;
  const why = bound(batch.bound);
  const restS = batch.eta_seconds - (now() - batch.readAtMs) / 1000;
  const when = batch.eta_seconds == null ? "" : t("batches.eta", { time: duration(Math.max(1, restS)) });
  return [when, why && t(when ? "batches.bound" : "batches.waits", { bound: why })].filter(Boolean).join(", ");
}

function ended({ summary, finished_at, accepted_at }) {
  const seconds = summary?.seconds ?? (Date.parse(finished_at) - Date.parse(accepted_at)) / 1000;
  const pace = summary?.pictures_per_minute;
  const took = t("batches.took", { time: duration(seconds) });
  return pace ? `${took} · ${t("batches.pace", { pace: number(pace) })}` : took;
}

/** What a newcomer sees: the two ways to begin. */
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
