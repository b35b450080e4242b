/** The form of the view "new". It holds nothing itself: each change goes to `edit`. */

import { icon } from "../core/icons.js";
import { t } from "../core/words.js";
import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { fill } from "./csv.js";
import { isWhole } from "./draft.js";

const SIZES = ["1024x1024", "1536x1024", "1024x1536", "16:9"];

/**
 * @param {{draft: import("./draft.js").Draft, routes: string[], isChecking: boolean, isStarting: boolean,
 *   edit: (changes: Partial<import("./draft.js").Draft>) => void, check: () => void, choose: (file?: File) => void}} given
 */
export function formView({ draft, routes, isChecking, isStarting, edit, check, choose }) {
  const field = (name, control) => html`<label class="new-field">${t(`new.${name}`)}${control}</label>`;
  const text = (name, rows) => html`<textarea rows=${rows} dir="auto" maxlength="32000" .value=${draft[name]} @input=${(event) => edit({ [name]: event.target.value })}></textarea>`;
  const submit = (event) => {
    event.preventDefault();
    check();
  };
  const source = (name) => html`<label><input type="radio" name="source" .checked=${draft.source === name} @change=${() => edit({ source: name })}>${t(`new.from.${name}`)}</label>`;
  const rest = draft.source === "csv" ? "file" : "any"; // what holds where the form leaves a field out
  return html`<form class="new-form card" ?inert=${isStarting} @submit=${submit}>
    <fieldset class="row"><legend>${t("new.from")}</legend>${source("csv")}${source("prompt")}</fieldset>
    ${draft.source === "csv"
      ? html`${drop(draft.table, choose)}${draft.table ? html`${field("template", text("template", 2))}${columns(draft, edit)}
          <label class="row"><input type="checkbox" .checked=${draft.skipEmpty} @change=${(event) => edit({ skipEmpty: event.target.checked })}>${t("new.skip_empty")}</label>` : nothing}`
      : html`${field("prompt", text("prompt", 5))}
          ${field("n", html`<input type="number" min="1" max="10" required .value=${draft.n} @input=${(event) => edit({ n: event.target.valueAsNumber })}>`)}`}
    <div class="new-more">
      ${field("route", html`<select @change=${(event) => edit({ route: event.target.value })}>
        <option value="">${t(`new.route.${rest}`)}</option>
        ${routes.map((route) => html`<option ?selected=${route === draft.route}>${route}</option>`)}
      </select>`)}
      ${field("size", html`<input list="sizes" pattern="\\d+[x:]\\d+" placeholder=${t(`new.size.${rest}`)} .value=${draft.size} @input=${(event) => edit({ size: event.target.value })}>`)}
      ${field("id", html`<input required maxlength="128" pattern="[\\w.:\\-]+" spellcheck="false" .value=${draft.id} @input=${(event) => edit({ id: event.target.value })}>`)}
      <datalist id="sizes">${SIZES.map((size) => html`<option value=${size}></option>`)}</datalist>
    </div>
    <button class="button" ?disabled=${!isWhole(draft)}>${icon("search")}${t(isChecking ? "new.checking" : "new.check")}</button>
  </form>`;
}

function drop(table, choose) {
  const over = (event) => {
    event.preventDefault();
    event.currentTarget.classList.toggle("over", event.type === "dragover");
    choose(event.type === "drop" ? event.dataTransfer.files[0] : undefined);
  };
  const chosen = ({ target }) => {
    choose(target.files[0]);
    target.value = ""; // the same file may be chosen again, once it is mended
  };
  return html`<label class="new-drop" @dragover=${over} @dragleave=${over} @drop=${over}>
    ${icon("upload")}<b dir="auto">${table?.name ?? t("new.drop")}</b>
    <span>${t(table ? "new.drop.other" : "new.drop.hint")}</span>
    <input class="visually-hidden" type="file" accept=".csv,.tsv,.txt" aria-label=${t("new.drop")} @change=${chosen}>
  </label>`;
}

function columns({ template, table }, edit) {
  const add = (column) => edit({ template: `${template} {${column}}`.trim() });
  return html`<p class="hint">${t("new.template.hint")}</p>
    <div class="row">${table.columns.map((column) => html`<button type="button" class="chip" @click=${() => add(column)}><bdi>${column}</bdi></button>`)}</div>
    ${template ? html`<p class="hint new-sample">${t("new.sample")} <q dir="auto">${fill(template, table.row)}</q></p>` : nothing}`;
}
