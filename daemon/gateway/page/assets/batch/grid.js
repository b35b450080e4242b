/** The grid's geometry and its keyboard: which tiles are seen, and where an arrow leads. */

import { invalidate } from "../core/render.js";

const STEPS = { ArrowLeft: -1, ArrowRight: 1 };
const ROWS = { ArrowUp: -1, ArrowDown: 1 };

export class Grid {
  /** The id that the keyboard is at. */
  active = "";
  #seen = [0, 60];
  #hadFocus = false;
  #at = 0;

  start() {
    addEventListener("scroll", this.look, { passive: true });
    addEventListener("resize", this.look, { passive: true });
  }

  stop() {
    removeEventListener("scroll", this.look);
    removeEventListener("resize", this.look);
  }

  /** Whether the tile at a place is seen; one screen more counts, so that a tile is right before it is seen. */
  isSeen = (k) => k >= this.#seen[0] && k < this.#seen[1];

  /** Learn which tiles are seen now. */
  look = () => {
    const list = element();
    if (!list?.firstElementChild) return;
    const columns = columnsOf(list);
    const row = list.children[columns]?.offsetTop - list.children[0].offsetTop || list.offsetHeight;
    const top = -list.getBoundingClientRect().top;
    const seen = [top - innerHeight / 2, top + innerHeight * 1.5].map((y) => Math.floor(y / row) * columns);
    if (seen[0] === this.#seen[0] && seen[1] === this.#seen[1]) return;
    this.#seen = seen;
    invalidate();
  };

  /** After a render: the active tile stays in the list, and the focus stays in the grid. @param {{id: string}[]} items */
  settle(items) {
    const at = placeOf(this.active, items);
    if (at >= 0) this.#at = at;
    else if (items.length) {
      this.active = items[Math.min(this.#at, items.length - 1)].id;
      invalidate();
      if (this.#hadFocus && document.activeElement === document.body) this.focus({ preventScroll: true });
    }
  }

  /** The keyboard is at a tile now. */
  enter(id) {
    this.#hadFocus = true;
    if (this.active === id) return;
    this.active = id;
    invalidate();
  }

  /** The focus goes elsewhere. A tile that leaves the list takes it along, and then nothing has it. */
  leave({ relatedTarget: to, currentTarget: list }) {
    if (to && !list.contains(to)) this.#hadFocus = false;
  }

  focus(options) {
    element()?.querySelector(`[data-id="${CSS.escape(this.active)}"] .tile-open`)?.focus(options);
  }

  /** Move by a key. Returns the id that it leads to, or undefined for another key. @param {{id: string}[]} items */
  move(key, items) {
    const to = this.#target(key, placeOf(this.active, items), items.length);
    if (to === undefined) return undefined;
    this.active = items[Math.max(0, Math.min(items.length - 1, to))].id;
    this.focus();
    invalidate();
    return this.active;
  }

  #target(key, at, count) {
    if (key in STEPS) return at + STEPS[key];
    if (key === "Home") return 0;
    if (key === "End") return count - 1;
    if (!(key in ROWS)) return undefined;
    const to = at + ROWS[key] * columnsOf(element());
    return to < 0 || to >= count ? at : to;
  }
}

const placeOf = (id, items) => items.findIndex((item) => item.id === id);

const element = () => document.querySelector(".tiles");

const columnsOf = (list) => getComputedStyle(list).gridTemplateColumns.split(" ").length;
