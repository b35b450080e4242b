/** The looks that a person chose, theme and language, kept in this browser. */

import { invalidate } from "../core/render.js";
import { go, here } from "../core/router.js";
import { language, setLanguage } from "../core/words.js";

const THEMES = ["auto", "light", "dark"];
const THEME = "pixmill.theme";
const LANGUAGE = "pixmill.language";

export const theme = () => (THEMES.includes(stored(THEME)) ? stored(THEME) : "auto");

export function nextTheme() {
  store(THEME, THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length]);
  applyTheme();
  invalidate();
}

export function applyTheme() {
  document.documentElement.dataset.theme = theme();
}

/** A link's own language counts before the stored one, and that before the browser's. @param {string} [ofLink] */
export async function applyLanguage(ofLink) {
  await setLanguage(ofLink ?? stored(LANGUAGE) ?? navigator.language);
  invalidate();
}

export function nextLanguage() {
  const next = language() === "en" ? "zh" : "en";
  store(LANGUAGE, next);
  if (here().language) go({ language: next }, { replace: true });
  else applyLanguage();
}

// A browser may forbid storage; then the choice lasts as long as the page.
const memory = {};

function stored(name) {
  try {
    return localStorage.getItem(name) ?? memory[name];
  } catch {
    return memory[name];
  }
}

function store(name, value) {
  memory[name] = value;
  try {
    localStorage.setItem(name, value);
  } catch {
    // kept in memory
  }
}
