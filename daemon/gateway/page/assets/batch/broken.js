/** The small pictures that did not load, and why. */

import { get } from "../core/api.js";
import { invalidate } from "../core/render.js";

const [GONE, AWAY] = ["batch.says.gone", "batch.says.away"];

export class Broken {
  /** @type {Map<string, string>} the key of the words that say why, by item */
  why = new Map();

  /** A picture says only that it did not load; its address says why. @param {string} id @param {string} path */
  async explain(id, path) {
    this.why.set(id, AWAY);
    invalidate();
    try {
      await get(path);
    } catch ({ code }) {
      if (code === "picture_gone") this.why.set(id, GONE);
    }
    invalidate();
  }

  /** Try again what may load now. */
  forgive() {
    for (const [id, why] of this.why) {
      if (why !== AWAY) continue;
      this.why.delete(id);
      invalidate();
    }
  }
}
