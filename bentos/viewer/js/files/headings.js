/**
 * Tell from its heading what a column of a CSV file is: a lead, time, or a count of rows.
 *
 * The service reads headings by the same rule (`ecg_lib/records/files/text/headings.py`), and both
 * are tested with one table, `tests/csv_headings.json`.
 */

/**
 * @typedef {object} Heading
 * @property {"lead" | "time" | "count" | "other"} kind Other signals have a unit of their own.
 * @property {string} name
 * @property {string | null} unit Of a lead, null when it states none: `mV`, `uV`, `V`, `nV`, `counts`.
 * @property {number | null} unitS Of time: seconds of its unit, null when that is not known.
 */

/** Letters of a name that the service keeps. */
const MAX_NAME = 64;

const UNIT_S = new Map([
  ...["s", "sec", "secs", "second", "seconds"].map(paired(1)),
  ...["sek", "sekunde", "sekunden", "seg", "segundo", "segundos"].map(paired(1)),
  ...["ms", "msec", "millis", "millisecond", "milliseconds"].map(paired(1e-3)),
  ...["millisekunden", "milisegundos"].map(paired(1e-3)),
  ...["us", "µs", "μs", "usec", "microsecond", "microseconds"].map(paired(1e-6)),
  ...["mikrosekunden", "microsegundos"].map(paired(1e-6)),
  ...["ns", "nsec", "nanosecond", "nanoseconds", "nanosekunden", "nanosegundos"].map(paired(1e-9)),
]);
const MILLIVOLT = ["mv", "millivolt", "millivolts", "milivolt", "milivolts", "mvolt", "mvolts"];
const MICROVOLT = ["uv", "µv", "μv", "mcv", "microv", "microvolt", "microvolts", "mikrovolt"];
const COUNTS = [
  ...["adu", "count", "counts", "lsb", "lsbs", "digit", "digits", "bit", "bits"],
  ...["adc", "adccount", "adccounts", "adcunit", "adcunits", "rawadc", "adcraw", "cuentas"],
  ...["au", "a.u.", "arb.u.", "arbitraryunits", "adcwerte", "rohwert", "rohwerte", "zählwerte"],
];
const UNITS = new Map([
  ...[...MILLIVOLT, "milivoltio", "milivoltios"].map(paired("mV")),
  ...[...MICROVOLT, "microvoltio", "microvoltios"].map(paired("uV")),
  ...["mikrov", "uvolt", "uvolts", "μvolt", "µvolt"].map(paired("uV")),
  ...["v", "volt", "volts", "voltio", "voltios"].map(paired("V")),
  ...["nv", "nanovolt", "nanovolts", "nvolt"].map(paired("nV")),
  ...COUNTS.map(paired("counts")),
]);
const OTHER_UNITS = new Set(
  (
    "mmhg cmh2o kpa pa bpm /min 1/min min-1 min^-1 % nu °c degc celsius °f g mg m/s2 m/s^2 m/s² " +
    "°/s deg/s dps l/s l/min ml/min ohm kohm ω lux hz db"
  ).split(" "),
);
/** Units that may be all of the heading of a lead; V is a lead too. */
const NAMELESS = new Map([["mv", "mV"], ...["uv", "µv", "μv"].map(paired("uV"))]);

const VOLTS = "(?:m|u|µ|μ|n|milli|micro|mikro|nano)";
const UNIT_IN_NAME = new RegExp(
  "^(.+?)(?:\\s*\\(([^()]+)\\)|\\s*\\[([^[\\]]+)\\]|\\s*\\{([^{}]+)\\}|\\s*<([^<>]+)>" +
    `|_(${VOLTS}v(?:olts?)?|[mnuµμ]?s|counts|adu|adc|lsb|bits)` + // ECG_uV, time_ms, ecg_counts
    `|[.:]\\s*(${VOLTS}v(?:olts?)?)` + // ecg.uV, ECG: uV
    // ECG / V, Zeit in s, Time, ms
    `|\\s*(?:[/,]|\\bin\\b|\\ben\\b)\\s*(${VOLTS}?v(?:olts?)?|[mnuµμ]?s(?:ec|ek|eg)?)` +
    `|\\s+(${VOLTS}v(?:olts?)?))$`, // ECG uV; but not ECG V, which is a lead
  "i",
);
const TIME_NAME = new RegExp(
  "^(?:(?:.*[ _/-])?(?:time|zeit|uhrzeit|zeitpunkt|tiempo|hora|temps|heure|tempo)(?:[ _-]?stamp)?" +
    "|(?:.*[ _-])?(?:zeitstempel|datetime|marca temporal)" +
    "|(?:mess|system|aufnahme)zeit|t|elapsed)$",
  "i",
);
const COUNT_NAME = new RegExp(
  "^(?:|n|nr\\.?|no\\.?|row|index|unnamed: 0|muestra|abtastwert" +
    "|sample(?:[ _]?(?:#|number|index|no\\.?))?)$",
  "i",
);

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
  const inName = bare(found?.slice(2).find((part) => part) ?? "");
  const inRow = bare(unquote(unitCell));
  const name = found ? found[1] : text;
  const alone = UNIT_S.get(text.toLowerCase());
  if (alone) return { kind: "time", name: text, unit: null, unitS: alone };
  if (TIME_NAME.test(name)) {
    return { kind: "time", name, unit: null, unitS: secondsOf(inRow || inName || "s") };
  }
  const shownName = cut(UNITS.has(inName) ? name : text);
  const unit = UNITS.get(inRow) ?? UNITS.get(inName) ?? NAMELESS.get(text.toLowerCase()) ?? null;
  if (!unit && (OTHER_UNITS.has(inRow) || OTHER_UNITS.has(inName))) {
    return { kind: "other", name: cut(name), unit: null, unitS: null };
  }
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

/** @param {string} unit */
function bare(unit) {
  return unit
    .replace(/^[[({<]+|[\])}>]+$/g, "")
    .replaceAll(" ", "")
    .toLowerCase();
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
