/** The first view: what runs, what each account allows, and what was given up. */

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { confirmation } from "../core/confirm.js";
import { follow } from "../core/feed.js";
import { icon } from "../core/icons.js";
import { failed, sentence, speak } from "../core/notice.js";
import { invalidate } from "../core/render.js";
import { every } from "../core/time.js";
import { t } from "../core/words.js";
import { readStatusSoon } from "../shell/status.js";
import { batches } from "./batches.js";
import { dead } from "./dead.js";
import { Overview } from "./model.js";
import { fleetPause, pauseDialog } from "./pauses.js";
import { quotas } from "./quotas.js";

const QUOTAS_MS = 5_000;
const TICK_MS = 1_000;
const RELOAD_MS = 2_000;
const OF_QUOTAS = /^(quota|work|provider)\./;

export function view() {
  const known = new Overview();
  let place = null;
  let feed = null;
  let reload = null;
  let hasEnd = false;
  let stops = [];
  let isLoaded = false;
  let refusal = null;

  async function read(load) {
    try {
      await load();
    } catch (problem) {
      // While the gateway or Redis is away, the banner has it.
      if (problem.status && problem.status < 500) failed(problem);
    }
    invalidate();
  }
  const readQuotas = () => read(() => known.loadQuotas());
  const readDead = () => read(() => known.loadDead());

  async function load(signal) {
    const id = await known.loadBatches(place.state, signal);
    isLoaded = true;
    invalidate();
    return id;
  }

  function onEvent(kind, data) {
    readStatusSoon();
    if (OF_QUOTAS.test(kind)) readQuotas();
    if (data.scope === "batch" && known.batches.has(data.batch)) read(() => known.estimate(data.batch, feed.signal));
    if (!kind.startsWith("batch.")) return;
    known.take(data);
    if (kind === "batch.finished") {
      speak(data.batch + t("shell.colon") + t(`batches.state.${data.state}`));
      hasEnd = true;
    }
    // A batch that is not listed makes progress, too.
    if (kind !== "batch.progress") reloadSoon();
    invalidate();
  }

  /** A new batch changes the pages of the list, and an ended one may leave letters; many at once are read once. */
  function reloadSoon() {
    reload ??= setTimeout(() => {
      reload = null;
      read(() => load(feed.signal));
      if (hasEnd) readDead();
      hasEnd = false;
    }, RELOAD_MS);
  }

  function followAll() {
    feed?.close();
    refusal = null;
    feed = follow({
      path: "v1/events",
      load,
      onEvent,
      onState(state, problem) {
        refusal = problem ?? null;
      },
    });
  }

  return {
    start(here) {
      place = here;
      followAll();
      readQuotas();
      readDead();
      stops = [every(QUOTAS_MS, readQuotas), every(TICK_MS, invalidate)];
    },
    change(here) {
      const isOther = here.state !== place.state;
      place = here;
      if (!isOther) return;
      known.forget();
      isLoaded = false;
      followAll();
    },
    stop() {
      feed?.close();
      clearTimeout(reload);
      reload = null;
      for (const stop of stops) stop();
    },
    render: () => html`
      <div class="overview">
        <section class="batches" aria-labelledby="batches-title">
          ${refusal ? refused(refusal) : batches(known, place, isLoaded, () => read(() => known.loadMore(place.state, feed.signal)))}
        </section>
        <div class="side">
          <section aria-labelledby="quotas-title">
            <header class="row"><h2 id="quotas-title">${t("quotas.title")}</h2>${fleetPause(known, readQuotas)}</header>
            ${quotas(known, readQuotas)}
          </section>
          ${known.dead.length ? dead(known, readDead) : nothing}
        </div>
      </div>
      ${pauseDialog()} ${confirmation()}
    `,
    title: () => t("batches.title"),
    keys: {},
  };
}

const refused = (problem) => html`
  <h1 id="batches-title">${t("batches.title")}</h1>
  <p class="fault">${icon("warning")} ${sentence(problem)}</p>
`;
