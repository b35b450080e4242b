/** The place in the page is its query, so a link shows the same view, filter and open tile. */

const FIELDS = ["view", "batch", "state", "kind", "text", "item", "tenant", "language"];
const NAMES = { language: "lang" };
const STAYS = ["tenant", "language"];
const watchers = new Set();
let known = null;

/**
 * @typedef {{view: "overview" | "batch" | "new", batch?: string, state?: string, kind?: string, text?: string,
 *   item?: string, tenant?: string, language?: string}} Place
 * @returns {Place}
 */
export function here() {
  known ??= parse(location.search);
  return known;
}

/** Call `fn(place)` after each move. @param {(place: Place) => void} fn */
export const onMove = (fn) => watchers.add(fn);

/**
 * The link to a place. `changes` go over the present one; with a `view` among them, all but tenant and language is new.
 * Empty, null and undefined leave a field out.
 * @param {Partial<Place>} changes
 */
export function href(changes) {
  const from = here();
  const kept = "view" in changes ? Object.fromEntries(STAYS.map((name) => [name, from[name]])) : from;
  const next = { ...kept, ...changes };
  const query = new URLSearchParams();
  for (const name of FIELDS) {
    const isImplied = name === "view" && next.view !== "new";
    if (next[name] && !isImplied) query.set(NAMES[name] ?? name, next[name]);
  }
  return `?${query}`;
}

/** @param {Partial<Place>} changes @param {{replace?: boolean}} [options] */
export function go(changes, { replace = false } = {}) {
  const next = href(changes);
  if (next === (location.search || "?")) return;
  history[replace ? "replaceState" : "pushState"](null, "", next);
  moved();
}

/** Let links and the browser's own steps move within the page. */
export function begin() {
  addEventListener("popstate", moved);
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey) return;
    const link = event.target.closest?.("a[href^='?']");
    if (!link) return;
    event.preventDefault();
    if (link.getAttribute("href") === location.search) return;
    history.pushState(null, "", link.getAttribute("href"));
    moved();
  });
}

function moved() {
  known = null;
  for (const fn of watchers) fn(here());
}

function parse(search) {
  const query = new URLSearchParams(search);
  const place = {};
  for (const name of FIELDS) {
    const value = query.get(NAMES[name] ?? name);
    if (value) place[name] = value;
  }
  place.view = place.view === "new" ? "new" : place.batch ? "batch" : "overview";
  return place;
}
