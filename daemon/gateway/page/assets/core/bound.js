/** The bound of work in words: the `bound` of batches, items and dry runs. */

import { has, t } from "./words.js";

/** @param {string | null | undefined} text such as `quota:openai-main.images` or `paused:fleet` */
export function bound(text) {
  if (!text) return "";
  const [, route] = /^route:(\S+)/.exec(text) ?? [];
  if (route) return t("bound.route", { name: route });
  const [, kind, name, cause] = /^(quota|provider):(\S+?)(?:[. ](\w+))?$/.exec(text) ?? [];
  if (kind === "provider") return t("bound.provider", { name });
  if (kind === "quota") return quotaBound(name, cause);
  const key = `bound.${text.replaceAll(/\W/g, "_")}`;
  return has(key) ? t(key) : text;
}

/** The name of what a limit counts. @param {string} name */
export const unit = (name) => (has(`unit.${name}`) ? t(`unit.${name}`) : name);

function quotaBound(quota, cause) {
  const key = `bound.quota.${cause}`;
  return has(key) ? t(key, { quota }) : t("bound.quota", { quota, unit: unit(cause) });
}
