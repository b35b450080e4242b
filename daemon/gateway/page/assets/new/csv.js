/** The head of a CSV, for the form and a sample prompt; the gateway reads the whole. */

const SEPARATORS = [",", ";", "\t"];
const TITLE = /title|name|product|标题|名称|商品/i;

/** @param {string} text the beginning of a file @returns {{columns: string[], row: Record<string, string>}} */
export function headOf(text) {
  const lines = text.replace(/^\ufeff+/, "").split(/[\r\n]+/).filter((line) => line.trim());
  const named = /^"?sep=([^"])/i.exec(lines[0] ?? "");
  const [header = "", first = ""] = named ? lines.slice(1) : lines;
  const count = (separator) => header.split(separator).length;
  const separator = named?.[1] ?? SEPARATORS.reduce((best, each) => (count(each) > count(best) ? each : best));
  const [columns, cells] = [header, first].map((line) => cellsOf(line, separator));
  return { columns, row: Object.fromEntries(columns.map((name, at) => [name, cells[at] ?? ""])) };
}

/** A prompt for a table without one. @param {string[]} columns */
export function templateFor(columns) {
  const title = columns.find((column) => TITLE.test(column));
  return columns.some((column) => /^prompt$/i.test(column)) || !title ? "" : `{${title}}`;
}

/** The prompt that a template makes of a row. */
export const fill = (template, row) => template.replace(/\{([^{}]+)\}/g, (whole, name) => row[name.trim()] ?? whole);

// A quoted cell may hold separators, and a quote that is written twice.
function cellsOf(line, separator) {
  const mark = separator.replace(/\W/, "\\$&");
  const cell = new RegExp(`(?:^|${mark})(?:"((?:[^"]|"")*)"|([^${mark}]*))`, "g");
  return [...line.matchAll(cell)].map(([, quoted, plain]) => (quoted?.replaceAll('""', '"') ?? plain).trim());
}
