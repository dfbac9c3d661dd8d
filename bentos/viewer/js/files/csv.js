/**
 * Read CSV files of samples: with or without a header, a row of units, and a column of time.
 *
 * It takes what the service's recordings take, and besides what PhysioNet's tools, spreadsheets
 * and data frames write: other delimiters, decimal commas, quotes, `m:ss.mmm`, numbered rows.
 */

import { fileProblem } from "../base/problem.js";
import { kindOf } from "./lead_names.js";
import { numberHeadings, readHeading, unquote } from "./headings.js";

/** @typedef {import("./headings.js").Heading} Heading */

/**
 * @typedef {object} SignalTable
 * @property {string[]} leads
 * @property {boolean} hasLeadNames Whether the file states them.
 * @property {Float64Array[]} columns One for each lead.
 * @property {number | null} fs From the column of time; null when there is none.
 * @property {Array<string | null>} units Of each lead as the file says; null when it does not.
 */

/** Lines that tell how a file is written. */
const LOOKED_AT = 6;
/** Seconds by which stamps may differ from those of a constant rate, as in the service. */
const MAX_STRAY_S = 0.1;
/** Least numbers of 16 and 32 bits, which no converter gives: missing samples. */
const MISSING = new Set([-32_768, -2_147_483_648]);
/** Rows by which a column that is called a count is known to be one. */
const COUNTED_ROWS = 100;

/**
 * Read the text of a CSV file.
 *
 * @param {string} text
 * @param {string} fileName For messages.
 * @returns {SignalTable}
 */
export function parseCsv(text, fileName) {
  const lines = text.replace(/^\ufeff/, "").split(/\r\n|\n|\r/);
  const rows = lines.flatMap((line, at) => (line.trim() && !line.startsWith("#") ? [at] : []));
  if (!rows.length) throw fileProblem(`${fileName} is empty`);
  const split = chooseSplit(rows.slice(0, LOOKED_AT).map((at) => lines[at]));
  const first = split(lines[rows[0]]);
  const hasHeader = first.some((cell) => Number.isNaN(parseCell(cell)));
  const names = hasHeader ? first : readComment(lines[rows[0] - 1], split, first.length);
  const second = hasHeader && rows.length > 1 ? split(lines[rows[1]]) : [];
  const hasUnits = second.length > 0 && second.every((cell) => Number.isNaN(parseCell(cell)));
  const body = rows.slice(Number(hasHeader) + Number(hasUnits));
  if (!body.length) throw fileProblem(`${fileName} has no samples`, "There are names and no rows.");
  const columns = readColumns(lines, body, { split, width: first.length, fileName });
  const units = hasUnits ? second : [];
  const headings = names?.map((cell, at) => readHeading(cell, units[at]));
  const table = describe(columns, headings ?? numberHeadings(first.length), fileName);
  return { ...table, hasLeadNames: headings !== undefined };
}

/**
 * Read headings that NumPy wrote as a comment; null when there are none.
 *
 * @param {string | undefined} line The one before the first row.
 * @param {(line: string) => string[]} split
 * @param {number} width
 * @returns {string[] | null}
 */
function readComment(line, split, width) {
  if (!line?.startsWith("#")) return null;
  const names = split(line.replace(/^#+/, ""));
  return names.length === width ? names : null;
}

/**
 * @param {Float64Array[]} columns
 * @param {Heading[]} headings
 * @param {string} fileName
 * @returns {Omit<SignalTable, "hasLeadNames">}
 */
function describe(columns, headings, fileName) {
  const time = headings.findIndex(({ kind }) => kind === "time");
  const kept = headings.flatMap(({ kind }, at) =>
    kind === "time" || kind === "other" || (kind === "count" && isNumbering(columns[at]))
      ? []
      : [at],
  );
  if (!kept.length)
    throw fileProblem(`${fileName} has no lead`, "Every column is time, a number or another signal.");
  const leads = kept.map((at) => headings[at].name);
  if (leads.every((name) => kindOf(name) === "other")) {
    throw fileProblem(`No column of ${fileName} is an ECG by its name`, `There are: ${leads.join(", ")}.`);
  }
  const twice = leads.find((name, at) => leads.indexOf(name) < at);
  if (twice !== undefined)
    throw fileProblem(`Two columns of ${fileName} are called “${twice}”`, "Which is it to be?");
  return {
    leads,
    columns: kept.map((at) => columns[at]),
    fs: time < 0 ? null : measureRate(columns[time], headings[time].unitS, fileName),
    units: kept.map((at) => headings[at].unit),
  };
}

/**
 * @param {string[]} lines
 * @param {number[]} body Numbers of the lines with samples.
 * @param {{split: (line: string) => string[], width: number, fileName: string}} options
 * @returns {Float64Array[]}
 */
function readColumns(lines, body, { split, width, fileName }) {
  const columns = Array.from({ length: width }, () => new Float64Array(body.length));
  body.forEach((at, row) => {
    const cells = split(lines[at]);
    if (cells.length !== width) {
      throw fileProblem(
        `Row ${at + 1} of ${fileName} has ${cells.length} cells`,
        `The rows before it have ${width}.`,
      );
    }
    for (let column = 0; column < width; column += 1) {
      const value = parseCell(cells[column]);
      if (!Number.isFinite(value)) {
        const found = cells[column].trim() ? `“${cells[column].trim().slice(0, 40)}”` : "nothing";
        throw fileProblem(
          `Row ${at + 1} of ${fileName} has no number`,
          `Column ${column + 1} holds ${found}.`,
        );
      }
      columns[column][row] = value;
    }
  });
  return columns;
}

/**
 * Choose how lines are split: a semicolon or tab before a comma, and blanks between numbers when
 * there is none.
 *
 * @param {string[]} lines The first ones.
 * @returns {(line: string) => string[]}
 */
function chooseSplit(lines) {
  const [first, second = first] = lines;
  const delimiter = [";", "\t", ","].find((sign) => first.includes(sign) && second.includes(sign));
  if (delimiter === ";" && lines.some((line) => /\d,\d/.test(line))) {
    return (line) => line.split(";").map((cell) => cell.replace(",", "."));
  }
  if (delimiter) return (line) => line.split(delimiter);
  if (!/\s/.test(second.trim())) return (line) => [line];
  return (line) => line.trim().split(/\s+/);
}

/**
 * The number in a cell; `1:02.5` is 62.5; NaN when there is none.
 *
 * @param {string} cell
 * @returns {number}
 */
function parseCell(cell) {
  const text = unquote(cell);
  if (!text) return NaN;
  const value = Number(text);
  if (MISSING.has(value)) return NaN;
  if (!Number.isNaN(value) || !/^\d+(:\d+){1,2}([.,]\d+)?$/.test(text)) return value;
  return text.split(":").reduce((total, part) => 60 * total + Number(part.replace(",", ".")), 0);
}

/** @param {Float64Array} column */
function isNumbering(column) {
  const counts = column.subarray(0, COUNTED_ROWS);
  return counts.length > 1 && counts.every((value, at) => value === counts[0] + at);
}

/**
 * @param {Float64Array} time
 * @param {number | null} unitS Seconds of its unit.
 * @param {string} fileName
 * @returns {number | null}
 */
function measureRate(time, unitS, fileName) {
  if (unitS === null) {
    throw fileProblem(`The unit of time in ${fileName} is not known`, "It may be s, ms, us or ns.");
  }
  if (time.length < 2) return null;
  const lasts = time[time.length - 1] - time[0];
  const steps = Array.from(time.subarray(1), (value, at) => value - time[at]);
  if (!(lasts > 0) || steps.some((step) => step < 0)) {
    throw fileProblem(
      `Time does not go forwards in ${fileName}`,
      `It is ${time[0]} in the first row and ${time[time.length - 1]} in the last.`,
    );
  }
  // Of rows with one stamp only the first says when: the others came with it.
  const anchors = steps.flatMap((step, at) => (step > 0 ? [at + 1] : []));
  const isRegular = anchors.length === steps.length;
  if (isRegular) anchors.unshift(0);
  const [first, last] = [anchors[0], anchors[anchors.length - 1]];
  if (last === first) return null;
  const usual = (time[last] - time[first]) / (last - first);
  const late = anchors.map((at) => time[at] - time[first] - (at - first) * usual);
  const [least, greatest] = extremes(late);
  const strayS = unitS * (greatest - least);
  if (strayS > MAX_STRAY_S + 2 * usual * unitS) {
    throw fileProblem(
      `Time does not go on at one rate in ${fileName}`,
      `It strays by ${strayS.toFixed(2)} s: samples are missing, or the rate changes. ` +
        "The command ecg analyze reads files with gaps.",
    );
  }
  // Stamps of packets say little about the rate.
  return isRegular ? roundRate(1 / (usual * unitS)) : null;
}

/**
 * @param {number[]} values
 * @returns {[number, number]} The least and the greatest.
 */
function extremes(values) {
  let [least, greatest] = [Infinity, -Infinity];
  for (const value of values) {
    least = Math.min(least, value);
    greatest = Math.max(greatest, value);
  }
  return [least, greatest];
}

/**
 * Times are printed with few decimals: a rate this close to a whole one is it.
 *
 * @param {number} fs
 */
function roundRate(fs) {
  const whole = Math.round(fs);
  return Math.abs(fs - whole) < 5e-4 * whole ? whole : Math.round(fs * 1000) / 1000;
}
