/** The view "new": a prompt or a CSV is tried first, for its pictures, time and faults; then it starts. */

import { get, post } from "../core/api.js";
import { icon } from "../core/icons.js";
import { sentence, speak } from "../core/notice.js";
import { invalidate } from "../core/render.js";
import { go } from "../core/router.js";
import { may } from "../core/session.js";
import { t } from "../core/words.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { headOf, templateFor } from "./csv.js";
import { planView, sentenceOf } from "./dry_run.js";
import { empty, idFor, isWhole, requestOf } from "./draft.js";
import { formView } from "./form.js";

const HEAD_BYTES = 65_536;

export function view() {
  const draft = empty();
  let routes = [];
  let plan = null;
  let problem = null;
  let phase = ""; // or "check", "start"
  let turn = 0; // a reply to an older draft is of no use

  const edit = (changes) => {
    if (phase === "start") return; // what was tried is what starts
    Object.assign(draft, changes);
    turn += 1;
    plan = problem = null;
    phase = "";
    invalidate();
  };

  const send = async (next, then) => {
    if (phase === "start") return;
    const mine = (turn += 1);
    phase = next;
    problem = null;
    invalidate();
    try {
      const { body } = await post(...requestOf(draft, next === "check"));
      if (mine === turn) then(body);
    } catch (error) {
      if (mine === turn) speak(sentence((problem = error)));
    }
    if (mine === turn) phase = "";
    invalidate();
  };

  const check = () => {
    if (!isWhole(draft)) return;
    plan = null;
    send("check", (found) => speak((plan = found).refused.length ? t("new.faults", { n: plan.refused.length }) : sentenceOf(plan)));
  };
  const start = () => send("start", ({ id }) => go({ view: "batch", batch: id }));

  const choose = async (file) => {
    if (!file || phase === "start") return;
    const mine = (turn += 1);
    let body, head;
    try {
      body = new Blob([await file.arrayBuffer()]); // what was tried is what starts, though the file may change
      head = headOf(await body.slice(0, HEAD_BYTES).text());
    } catch (error) {
      if (mine === turn) speak(sentence((problem = error)));
      invalidate();
      return;
    }
    if (mine !== turn) return;
    edit({ table: { name: file.name, body, ...head }, template: templateFor(head.columns), id: idFor(file.name) });
    check();
  };

  const outlook = () => html`
    ${problem ? html`<p class="fault" dir="auto">${icon("warning")} ${sentence(problem)}</p>` : nothing}
    ${plan ? planView(plan, phase === "start", start) : problem ? nothing : html`<p class="hint">${t(phase ? "new.checking" : "new.none")}</p>`}
  `;

  return {
    async start() {
      phase = ""; // a reply to what was sent before a stop is not waited for
      if (!may("submit")) return;
      routes = (await get("v1/routes")).body.routes.map(({ route }) => route);
      invalidate();
    },
    change() {},
    stop() {
      turn += 1;
    },
    title: () => t("new.title"),
    keys: {},
    render: () => html`<section class="new">
      <h1>${t("new.title")}</h1>
      ${may("submit")
        ? html`${formView({ draft, routes, isChecking: phase === "check", isStarting: phase === "start", edit, check, choose })}
            <section class="new-plan card" aria-labelledby="plan"><h2 id="plan">${t("new.plan")}</h2>${outlook()}</section>`
        : html`<p class="hint">${t("new.forbidden")}</p>`}
    </section>`,
  };
}
