/**
 * Tell from its heading what a column of a CSV file is: a lead, time, or a count of rows.
 *
 * The service reads headings by the same rule (`ecg_lib/records/files/csv_file.py`), and both are tested with
 * one table, `tests/csv_headings.json`.
 */

/**
 * @typedef {object} Heading
 * @property {"lead" | "time" | "count"} kind
 * @property {string} name
 * @property {string | null} unit Of a lead, null when it states none: `mV`, `uV`, `V`, `counts`.
 * @property {number | null} unitS Of time: seconds of its unit, null when that is not known.
 */

/** Letters of a name that the service keeps. */
const MAX_NAME = 64;

const UNIT_S = new Map([
  ...["s", "sec", "second", "seconds"].map(paired(1)),
  ...["ms", "msec", "millisecond", "milliseconds"].map(paired(1e-3)),
  ...["us", "µs", "μs", "microsecond", "microseconds"].map(paired(1e-6)),
  ...["ns", "nanosecond", "nanoseconds"].map(paired(1e-9)),
]);
const UNITS = new Map([
  ...["mv", "millivolt", "millivolts"].map(paired("mV")),
  ...["uv", "µv", "μv", "microvolt", "microvolts"].map(paired("uV")),
  ...["v", "volt", "volts"].map(paired("V")),
  ...["adu", "count", "counts"].map(paired("counts")),
]);
/** Units that may be all of the heading of a lead; V is a lead too. */
const NAMELESS = new Map([["mv", "mV"], ...["uv", "µv", "μv"].map(paired("uV"))]);

const UNIT_IN_NAME =
  /^(.+?)(?:\s*\(([^()]+)\)|\s*\[([^[\]]+)\]|_(mv|uv|µv|μv|s|ms|us|µs|μs|ns))$/i;
const TIME_NAME = /^(?:.*[ _-])?time(?:[ _-]?stamp)?$|^t$/i;
const COUNT_NAME = /^$|^n$|^row$|^index$|^unnamed: 0$|^sample(?:[ _]?(?:#|number|index|no\.?))?$/i;

/** Characters of a heading that is looked into; a longer one is the name of a lead. */
const LONGEST = 200;

/**
 * Read the heading of a column.
 *
 * @param {string} cell
 * @param {string} [unitCell] What a row of units has there, which the service does not read.
 * @returns {Heading}
 */
export function readHeading(cell, unitCell = "") {
  const text = unquote(cell).replace(/^#+/, "").trim();
  if (text.length > LONGEST) return { kind: "lead", name: cut(text), unit: null, unitS: null };
  const found = UNIT_IN_NAME.exec(text);
  const inName = (found?.[2] ?? found?.[3] ?? found?.[4] ?? "").trim().toLowerCase();
  const inRow = unquote(unitCell).toLowerCase();
  const name = found ? found[1] : text;
  const alone = UNIT_S.get(text.toLowerCase());
  if (alone) return { kind: "time", name: text, unit: null, unitS: alone };
  if (TIME_NAME.test(name)) {
    return { kind: "time", name, unit: null, unitS: secondsOf(inRow || inName || "s") };
  }
  const shownName = cut(UNITS.has(inName) ? name : text);
  const unit = UNITS.get(inRow) ?? UNITS.get(inName) ?? NAMELESS.get(text.toLowerCase()) ?? null;
  const kind = COUNT_NAME.test(text) && !unit ? "count" : "lead";
  return { kind, name: shownName, unit, unitS: null };
}

/**
 * Name the columns of a file without headings.
 *
 * @param {number} width
 * @returns {Heading[]}
 */
export function numberHeadings(width) {
  return Array.from({ length: width }, (_, at) => ({
    kind: "lead",
    name: width === 1 ? "MLII" : `lead${at + 1}`,
    unit: null,
    unitS: null,
  }));
}

/** @param {string} cell */
export function unquote(cell) {
  return cell
    .trim()
    .replace(/^(['"])(.*)\1$/, "$2")
    .trim();
}

/**
 * @param {string} unit In small letters; `m:ss.mmm` is how cells are written that are read as s.
 * @returns {number | null}
 */
function secondsOf(unit) {
  return unit.includes(":") ? 1 : (UNIT_S.get(unit) ?? null);
}

/** @param {string} name */
function cut(name) {
  return [...name].slice(0, MAX_NAME).join("");
}

/**
 * @template T
 * @param {T} value
 * @returns {(name: string) => [string, T]}
 */
function paired(value) {
  return (name) => [name, value];
}
