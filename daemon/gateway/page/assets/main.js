/** Starts the page: session, words, router, shell. */

import { html } from "./vendor/lit-html/lit-html.js";
import { get, watch } from "./core/api.js";
import { failed, notices, speak } from "./core/notice.js";
import { invalidate, setRoot } from "./core/render.js";
import { begin, here, onMove } from "./core/router.js";
import { forget, load as loadCaller, me } from "./core/session.js";
import { t } from "./core/words.js";
import { banner } from "./shell/banner.js";
import { header } from "./shell/header.js";
import { help, openHelp } from "./shell/help.js";
import { applyLanguage, applyTheme } from "./shell/looks.js";
import { signIn } from "./shell/sign_in.js";
import { beginStatus, endStatus } from "./shell/status.js";

// The frame preloads the modules of the view that its address names; no other is needed for the first picture.
const VIEWS = ["overview", "batch", "new"];
const OTHERS_MS = 1_000; // until the other views are loaded, so that they open without a wait
const OTHERS_AGAIN_MS = 10_000;
const AGAIN_MS = 3_000;
const views = {};
let failures = 0;
let wanted = null; // the view that a person waits for, until its code is there
let again = null;
let current = null; // stopped while another one is wanted, and kept for a person who goes back
let place = null;
let isRunning = false;
let needsKey = false;
let early = null; // the first reading of the caller, while words and view are on their way

const shown = () => (wanted === null ? current : null);

const page = () => {
  document.title = [shown()?.title(), "Pixmill"].filter(Boolean).join(" · ");
  return html`
    <a class="skip" href="#main">${t("shell.skip")}</a>
    ${header()} ${banner()}
    <main id="main" tabindex="-1">${body()}</main>
    ${help()} ${notices()}
  `;
};

function body() {
  if (needsKey) return signIn(enter);
  return shown()?.render() ?? html`<p class="hint">${t("shell.loading")}</p>`;
}

function show(next) {
  applyLanguage(next.language);
  if (me() === null) return;
  wanted = views[next.view] ? null : next.view;
  if (wanted !== null) {
    halt();
    bring(wanted);
  } else if (isRunning && isAt(next)) {
    place = next;
    current.change(next);
  } else {
    open(next);
  }
  invalidate();
}

const isAt = (next) =>
  current !== null && place.view === next.view && place.batch === next.batch && place.tenant === next.tenant;

function open(next) {
  const isFirst = current === null;
  halt();
  if (!isAt(next)) current = views[next.view]();
  place = next;
  isRunning = true;
  current.start(next);
  if (isFirst) return;
  scrollTo(0, 0);
  document.getElementById("main").focus({ preventScroll: true });
  speak(current.title());
}

function halt() {
  if (isRunning) current.stop();
  isRunning = false;
}

async function load(name) {
  if (views[name]) return;
  // A document keeps the failure of an address, so the next try has another one.
  const query = failures ? `?try=${failures}` : "";
  try {
    views[name] = (await import(`./${name}/view.js${query}`)).view;
  } catch (error) {
    failures += 1;
    throw error;
  }
}

/** Load a view until it is there, or the person who waits for it goes elsewhere. */
async function bring(name, isAgain = false) {
  if (wanted !== name) return;
  clearTimeout(again);
  try {
    await load(name);
  } catch {
    // One of its modules has failed, whose address stays the same: only a new document loads that.
    if (isAgain && (await answers()) && wanted === name) location.reload();
    else again = setTimeout(bring, AGAIN_MS, name, true);
    return;
  }
  if (wanted === name) show(here());
}

async function loadOthers() {
  const loads = await Promise.allSettled(VIEWS.map(load));
  if (loads.some(({ status }) => status === "rejected")) setTimeout(loadOthers, OTHERS_AGAIN_MS);
}

/** Whether the gateway answers: a page that is loaded again without it would give way to the browser's own one. */
const answers = () => get("v1/me").then(() => true, ({ code }) => code !== "unreachable");

async function reloadInTime() {
  if (await answers()) location.reload();
  else setTimeout(reloadInTime, AGAIN_MS);
}

async function enter() {
  try {
    await (early ?? loadCaller());
    needsKey = false;
    beginStatus();
    show(here());
  } catch (problem) {
    // The banner names what is away; the page goes on when it is back.
    if (problem.status !== 401) setTimeout(enter, AGAIN_MS);
  }
  early = null;
  invalidate();
}

function leave() {
  forget();
  endStatus();
  halt();
  current = wanted = null;
  needsKey = true;
  invalidate();
}

function pressed(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest?.("input, textarea, select, dialog[open]")) return;
  const fn = event.key === "?" ? openHelp : shown()?.keys?.[event.key];
  if (fn && fn(event) !== false) event.preventDefault();
}

watch((problem) => {
  if (problem?.status === 401 && !needsKey) leave();
});
addEventListener("keydown", pressed);
addEventListener("unhandledrejection", ({ reason }) => {
  if (reason?.code) failed(reason);
});
for (const type of ["dragover", "drop"]) {
  // A file that misses its place must not take the page away.
  addEventListener(type, (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault());
}
applyTheme();
early = loadCaller();
early.catch(() => {}); // `enter` tries it again
const first = load(here().view).catch(() => {}); // `show` tries it again
try {
  await applyLanguage(here().language);
} catch (error) {
  setTimeout(reloadInTime, AGAIN_MS); // without words there is nothing to show
  throw error;
}
await first;
begin();
onMove(show);
setRoot(page);
enter();
setTimeout(loadOthers, OTHERS_MS);
