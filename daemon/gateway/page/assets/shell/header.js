/** The top line: the connection, the installation at a glance, and what a person may choose. */

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { failed } from "../core/notice.js";
import { icon } from "../core/icons.js";
import { link } from "../core/link.js";
import { here, href } from "../core/router.js";
import { may, me, signOut } from "../core/session.js";
import { language, money, number, t, took } from "../core/words.js";
import { openHelp } from "./help.js";
import { nextLanguage, nextTheme, theme } from "./looks.js";
import { status } from "./status.js";

const THEME_ICONS = { auto: "auto", light: "sun", dark: "moon" };

export const header = () => html`
  <header class="top">
    <a class="brand" href=${href({ view: "overview" })}>pixmill</a>
    ${me() === null ? nothing : html`${connection()} ${facts()} ${tenant()}`}
    <nav class="tools" aria-label=${t("shell.tools")}>
      ${may("submit") ? html`<a class="button primary" href=${href({ view: "new" })}>${icon("plus")}${t("shell.new")}</a>` : nothing}
      ${tool(THEME_ICONS[theme()], t(`shell.theme.${theme()}`), nextTheme)}
      <button class="button quiet" lang=${language() === "en" ? "zh-CN" : "en"} @click=${nextLanguage}>${t("shell.other_language")}</button>
      ${tool("help", t("shell.help"), openHelp)}
      ${me()?.keys ? tool("leave", t("shell.sign_out", { name: me().name }), leave) : nothing}
    </nav>
  </header>
`;

const tool = (name, label, act) =>
  html`<button class="button quiet" title=${label} aria-label=${label} @click=${act}>${icon(name)}</button>`;

function connection() {
  const { feed, trouble } = link();
  if (feed === "refused" && !trouble) return nothing; // the view says why
  const state = trouble ? "offline" : feed === "ended" || feed === null ? "live" : feed; // no view follows events
  return html`<span class="link is-${state}"><span class="dot"></span>${t(`link.${state}`)}</span>`;
}

function facts() {
  const now = status();
  if (now === null) return nothing;
  return html`<dl class="facts">
    ${fact("replicas", now.replicas === 0 ? t("facts.none") : number(now.replicas), now.replicas === 0)}
    ${fact("oldest", now.oldest_wait_seconds > 0 ? took(now.oldest_wait_seconds) : "–")}
    ${fact("pictures", number(now.today.pictures))} ${Object.keys(now.today.cost).length ? fact("cost", money(now.today.cost)) : nothing}
  </dl>`;
}

const fact = (name, value, isWrong = false) =>
  html`<div class=${isWrong ? "is-wrong" : ""}><dt>${t(`facts.${name}`)}</dt><dd>${value}</dd></div>`;

function tenant() {
  const name = here().tenant ?? me().tenant;
  return name === null ? nothing : html`<span class="tenant" title=${t("shell.tenant")}><bdi>${name}</bdi></span>`;
}

async function leave() {
  try {
    await signOut();
    location.assign(location.pathname);
  } catch (problem) {
    failed(problem);
  }
}
