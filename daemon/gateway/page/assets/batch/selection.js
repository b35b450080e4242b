/** The items that a person has chosen, by click, with shift, or by key. */

export class Selection {
  /** @type {Set<string>} */
  ids = new Set();
  #anchor = null;

  toggle(id) {
    if (!this.ids.delete(id)) this.ids.add(id);
    this.#anchor = id;
  }

  /**
   * Choose everything between the last choice and `id`.
   * @param {string[]} order the ids as they are shown
   * @param {string} [start] where it begins if the last choice is not shown
   */
  extendTo(id, order, start = id) {
    if (!order.includes(this.#anchor)) this.#anchor = start;
    const [from, to] = [order.indexOf(this.#anchor), order.indexOf(id)].sort((a, b) => a - b);
    for (const between of order.slice(Math.max(from, 0), to + 1)) this.ids.add(between);
  }

  chooseAll(ids) {
    this.ids = new Set(ids);
  }

  clear() {
    this.ids.clear();
    this.#anchor = null;
  }

  /** Forget items that are gone. @param {Map<string, unknown>} items */
  keepKnown(items) {
    for (const id of this.ids) if (!items.has(id)) this.ids.delete(id);
  }
}
