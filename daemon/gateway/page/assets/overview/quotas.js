/** The accounts: a bar for each limit, the time of the next slot, and the pause. */

import { html, nothing } from "../vendor/lit-html/lit-html.js";
import { unit } from "../core/bound.js";
import { icon } from "../core/icons.js";
import { order } from "../core/order.js";
import { may } from "../core/session.js";
import { passed } from "../core/time.js";
import { duration, has, t } from "../core/words.js";
import { openPause, pauseLine, resume } from "./pauses.js";

export function quotas(known, onChanged) {
  if (known.quotas === null) return html`<p class="hint">${t("shell.loading")}</p>`;
  if (known.quotas.length === 0) return html`<p class="hint">${t("quotas.none")}</p>`;
  return html`<ul>${known.quotas.map((quota) => card(quota, known, onChanged))}</ul>`;
}

function card(quota, known, onChanged) {
  const path = `v1/quotas/${encodeURIComponent(quota.quota)}`;
  const passedS = passed(known.readMs);
  const routes = known.routes.filter((route) => route.quotas.includes(quota.quota));
  return html`<li class="card quota">
    <header class="row">
      <h3><bdi>${quota.quota}</bdi></h3>
      ${turner(quota.paused, path, quota.quota, onChanged)}
    </header>
    ${hold(quota, passedS)} ${quota.units.map((one) => limit(one, quota, passedS))}
    ${quota.rate_scale < 1 ? html`<p class="hint">${t("quotas.learned", { share: Math.round(quota.rate_scale * 100) })}</p>` : nothing}
    ${quota.problem ? html`<p class="fault">${quota.problem}</p>` : nothing}
    ${routes.length ? html`<h4>${t("quotas.routes")}</h4>` : nothing}
    ${routes.map((route) => way(route, known.pauses, passedS, onChanged))}
  </li>`;
}

/** A pause or a cooldown over the whole account, with its rest. */
function hold(quota, passedS) {
  if (quota.paused) return pauseLine(quota.paused_reason, quota.paused_by, quota.pause_ends_seconds, passedS);
  const restS = quota.cooldown_seconds - passedS;
  if (quota.cooldown_seconds <= 0 || restS <= 0) return nothing;
  const { cooldown_reason: reason } = quota;
  return html`<p class="hold">${icon("throttled")}<span>${t("quotas.cooldown", { time: duration(restS) })}${reason ? html`${t("shell.colon")}<bdi>${reason}</bdi>` : nothing}</span></p>`;
}

function limit(one, quota, passedS) {
  const used = one.unit === "in_flight" ? quota.in_flight : one.capacity - one.available;
  const slotS = quota.bound === one.unit ? quota.next_slot_seconds - passedS : 0;
  const text = amount(one, used, quota.limits);
  return html`<div class="limit">
    <span class="number">${text}${slotS > 0 ? t("shell.comma") + t("quotas.slot", { time: duration(slotS) }) : ""}</span>
    <div class="segments" role="meter" aria-label=${`${quota.quota}: ${text}`} aria-valuemin="0" aria-valuemax=${one.capacity} aria-valuenow=${used}>
      <span class="is-running" ?hidden=${used <= 0} .style=${`flex-grow:${used}`}></span>
      <span class="is-free" .style=${`flex-grow:${one.capacity - used}`}></span>
    </div>
  </div>`;
}

/** "14 of 20 images / min"; a limit of another form, such as a burst, stands behind the figures as it is configured. */
function amount({ unit: name, capacity }, used, limits) {
  const values = { used, capacity, unit: unit(name) };
  const [first, ...others] = limits.filter((text) => text.startsWith(`${name} `)).map((text) => text.slice(name.length + 1));
  const per = [first, ...others].map((text) => /^(\d+)\/(\w+)( \(|$)/.exec(text)).find((rate) => Number(rate?.[1]) === capacity)?.[2];
  if (per) return t("quotas.rate", { ...values, per: span(per) });
  return t("quotas.places", values) + (name === "in_flight" || !first ? "" : ` · ${first}`);
}

/** The span of a rate: "min", or "30 s". */
function span(per) {
  const [, count, name] = /^(\d*)(.*)$/.exec(per);
  const key = `per.${name}`;
  return `${count} ${has(key) ? t(key) : name}`.trim();
}

function way(route, pauses, passedS, onChanged) {
  const path = `v1/routes/${encodeURIComponent(route.route)}`;
  const own = pauses.find((pause) => pause.scope === "route" && pause.name === route.route);
  return html`<div class="way row">
    <span><bdi>${route.route}</bdi> <span class="hint"><bdi>${route.model ?? route.provider}</bdi></span></span>
    ${turner(own !== undefined, path, route.route, onChanged)}
    ${own ? pauseLine(own.reason, own.paused_by, own.ends_seconds, passedS) : nothing}
  </div>`;
}

/** The button that pauses or resumes; only for those who may. */
function turner(isPaused, path, name, onChanged) {
  if (!may("admin")) return nothing;
  const act = isPaused ? () => resume(path, name, onChanged) : () => openPause(path, name, onChanged);
  const key = isPaused ? "pause.resume" : "pause.pause";
  return order(isPaused ? "play" : "pause", t(key), act, "quiet small", { label: t(`${key}.of`, { name }) });
}
