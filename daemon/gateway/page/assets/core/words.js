/** Words in two languages, numbers, lengths of time and clocks. Keys are flat and begin with their room. */

const ROOMS = ["", "_batch", "_new"];
const LOCALES = { en: "en", zh: "zh-CN" };
let code = "en";
let texts = new Map();
let tools = made();

export const language = () => code;

/** Load the words of a language. @param {string | null | undefined} wanted its tag; anything but Chinese is English */
export async function setLanguage(wanted) {
  const next = /^zh\b/i.test(wanted ?? "") ? "zh" : "en";
  if (next === code && texts.size > 0) return;
  const rooms = await Promise.all(ROOMS.map((room) => import(`./words/${next}${room}.js`)));
  texts = new Map(rooms.flatMap((room) => room.default));
  code = next;
  tools = made();
  document.documentElement.lang = LOCALES[code];
}

/**
 * The text of a key, with `{name}` replaced by a value. A count `n` chooses `key.one` or `key.other` where these exist.
 * @param {string} key @param {Record<string, string | number>} [values]
 */
export function t(key, values = {}) {
  const plural = "n" in values ? texts.get(`${key}.${tools.plural.select(Number(values.n))}`) : undefined;
  const text = plural ?? texts.get(key) ?? key;
  return text.replace(/\{(\w+)\}/g, (whole, name) => shown(values[name], whole));
}

/** Whether a key has a text: codes and kinds that are newer than this page have none. @param {string} key */
export const has = (key) => texts.has(key);

/** @param {number} n */
export const number = (n) => tools.number.format(n);

/** A time to come in at most two units, such as "9 s", "2 min" or "1 h 5 min"; never too short. @param {number} seconds */
export const duration = (seconds) => spelled(seconds, Math.ceil);

/** A time that has passed, to the tenth of a second where it is short. @param {number} seconds */
export const took = (seconds) => (seconds < 9.95 ? t("time.s", { n: Math.max(0, seconds) }) : spelled(seconds, Math.round));

/** @param {Record<string, string>} cost amounts by currency */
export const money = (cost) =>
  Object.entries(cost ?? {})
    .map(([currency, amount]) => `${amount < 0.1 ? amount : Number(amount).toFixed(2)} ${currency}`)
    .join(" + ");

function spelled(seconds, whole) {
  const s = Math.max(0, whole(seconds));
  if (s < 100) return t("time.s", { n: s });
  const min = whole(s / 60);
  if (min < 60) return t("time.min", { n: min });
  if (min < 48 * 60) return t(min % 60 ? "time.h" : "time.hours", { h: Math.floor(min / 60), n: min % 60 });
  return t("time.d", { n: whole(min / 1440) });
}

/** A time of day, with its date where that is not today. @param {string} iso */
export function clock(iso) {
  const moment = new Date(iso);
  const isToday = moment.toDateString() === new Date().toDateString();
  return (isToday ? tools.time : tools.day).format(moment);
}

function shown(value, whole) {
  if (value === undefined) return whole;
  return typeof value === "number" ? number(value) : String(value);
}

function made() {
  const locale = LOCALES[code];
  const time = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return {
    plural: new Intl.PluralRules(locale),
    number: new Intl.NumberFormat(locale, { maximumFractionDigits: 1 }),
    time: new Intl.DateTimeFormat(locale, { ...time, second: "2-digit" }),
    day: new Intl.DateTimeFormat(locale, { ...time, month: "short", day: "numeric" }),
  };
}
