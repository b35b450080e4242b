/** Starts the page: session, words, router, shell. */

import { html } from "./vendor/lit-html/lit-html.js";
import { watch } from "./core/api.js";
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
const VIEWS = {
  overview: () => import("./overview/view.js"),
  batch: () => import("./batch/view.js"),
  new: () => import("./new/view.js"),
};
const OTHERS_MS = 1_000; // until the other views are loaded, so that they open without a wait
const AGAIN_MS = 3_000;
const views = {};
let current = null;
let place = null;
let needsKey = false;

const page = () => {
  document.title = [current?.title(), "Pixmill"].filter(Boolean).join(" · ");
  return html`
    <a class="skip" href="#main">${t("shell.skip")}</a>
    ${header()} ${banner()}
    <main id="main" tabindex="-1">${body()}</main>
    ${help()} ${notices()}
  `;
};

function body() {
  if (needsKey) return signIn(enter);
  return current?.render() ?? html`<p class="hint">${t("shell.loading")}</p>`;
}

function show(next) {
  applyLanguage(next.language);
  if (me() === null) return;
  if (!views[next.view]) return void loadInTime(next.view);
  const isSame = current !== null && place.view === next.view && place.batch === next.batch && place.tenant === next.tenant;
  place = next;
  if (isSame) current.change(next);
  else open(next);
  invalidate();
}

function open(next) {
  const isFirst = current === null;
  current?.stop();
  current = views[next.view]();
  current.start(next);
  if (isFirst) return;
  scrollTo(0, 0);
  document.getElementById("main").focus({ preventScroll: true });
  speak(current.title());
}

async function load(name) {
  views[name] = (await VIEWS[name]()).view;
}

/** Load a view that somebody waits for. */
async function loadInTime(name) {
  try {
    await load(name);
  } catch {
    setTimeout(() => location.reload(), AGAIN_MS); // a document does not load a module twice
    return;
  }
  show(here());
}

async function enter() {
  try {
    await loadCaller();
    needsKey = false;
    beginStatus();
    show(here());
  } catch (problem) {
    // The banner names what is away; the page goes on when it is back.
    if (problem.status !== 401) setTimeout(enter, AGAIN_MS);
  }
  invalidate();
}

function leave() {
  forget();
  endStatus();
  current?.stop();
  current = null;
  needsKey = true;
  invalidate();
}

function pressed(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest?.("input, textarea, select, dialog[open]")) return;
  const fn = event.key === "?" ? openHelp : current?.keys?.[event.key];
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
try {
  await Promise.all([applyLanguage(here().language), load(here().view)]);
} catch (error) {
  setTimeout(() => location.reload(), AGAIN_MS); // a document does not load a module twice
  throw error;
}
begin();
onMove(show);
setRoot(page);
enter();
setTimeout(() => Promise.allSettled(Object.keys(VIEWS).map(load)), OTHERS_MS);
