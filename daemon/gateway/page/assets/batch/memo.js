/** A part of a template that is made again only if one of its values has changed. */

import { directive, Directive } from "../vendor/lit-html/directive.js";
import { noChange } from "../vendor/lit-html/lit-html.js";

class Memo extends Directive {
  #known = [];

  render(values, make) {
    if (values.length === this.#known.length && values.every((value, k) => value === this.#known[k])) return noChange;
    this.#known = values;
    return make();
  }
}

/** @type {(values: unknown[], make: () => unknown) => unknown} */
export const memo = directive(Memo);
