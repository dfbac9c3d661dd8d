/**
 * Read CSV files of samples: with or without a header, a row of units, and a column of time.
 *
 * It takes what the service's recordings take, and besides what PhysioNet's tools, spreadsheets
 * and data frames write: other delimiters, decimal commas, quotes, `m:ss.mmm`, numbered rows.
 */

import { fileProblem } from "../problem.js";

/**
 * @typedef {object} SignalTable
 * @property {string[]} leads
 * @property {Float64Array[]} columns One for each lead.
 * @property {number | null} fs From the column of time; null when there is none.
 * @property {string | null} unit As the file says; null when it does not.
 */

const TIME_NAME = /^(elapsed[ _]?)?time([ _]?stamp)?$|^t$|^seconds?$|^timestamp$/i;
const INDEX_NAME = /^$|^#$|^index$|^unnamed: 0$|^sample([ _]?(#|number|index|no\.?))?$/i;
const UNIT_IN_NAME = /[[(]\s*([^\])]+?)\s*[\])]\s*$|_(mv|uv|s|ms)$/i;
/** Lines that tell how a file is written. */
const LOOKED_AT = 6;
const UNITS = new Map([
  ["mv", "mV"],
  ["millivolt", "mV"],
  ["uv", "uV"],
  ["µv", "uV"],
  ["μv", "uV"],
  ["v", "V"],
  ["adu", "counts"],
]);

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
  const second = hasHeader && rows.length > 1 ? split(lines[rows[1]]) : [];
  const hasUnits = second.length > 0 && second.every((cell) => Number.isNaN(parseCell(cell)));
  const body = rows.slice(Number(hasHeader) + Number(hasUnits));
  if (!body.length) throw fileProblem(`${fileName} has no samples`, "There are names and no rows.");
  const columns = readColumns(lines, body, { split, width: first.length, fileName });
  const units = hasUnits ? second : [];
  const headings = (hasHeader ? first : []).map((cell, at) => readHeading(cell, units[at]));
  return describe(columns, hasHeader ? headings : numberHeadings(first.length), fileName);
}

/**
 * @typedef {object} Heading
 * @property {string} name
 * @property {string} unit
 */

/**
 * @param {Float64Array[]} columns
 * @param {Heading[]} headings
 * @param {string} fileName
 * @returns {SignalTable}
 */
function describe(columns, headings, fileName) {
  const timeAt = headings.findIndex(({ name }) => TIME_NAME.test(name));
  const kept = headings.flatMap((heading, at) =>
    at === timeAt || (INDEX_NAME.test(heading.name) && isNumbering(columns[at])) ? [] : [at],
  );
  if (!kept.length)
    throw fileProblem(`${fileName} has no lead`, "Every column is time or a number.");
  const unit = kept.map((at) => UNITS.get(headings[at].unit.toLowerCase())).find(Boolean) ?? null;
  return {
    leads: kept.map((at) => headings[at].name),
    columns: kept.map((at) => columns[at]),
    fs: timeAt < 0 ? null : measureRate(columns[timeAt], headings[timeAt].unit, fileName),
    unit,
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
 * Choose how lines are split: a semicolon or tab before a comma, and blanks when there is none.
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
  if (!Number.isNaN(value) || !/^\d+(:\d+){1,2}([.,]\d+)?$/.test(text)) return value;
  return text.split(":").reduce((total, part) => 60 * total + Number(part.replace(",", ".")), 0);
}

/** @param {string} cell */
function unquote(cell) {
  return cell
    .trim()
    .replace(/^(['"])(.*)\1$/, "$2")
    .trim();
}

/**
 * @param {string} cell
 * @param {string} [unitCell] What the row of units has there.
 * @returns {Heading}
 */
function readHeading(cell, unitCell = "") {
  const name = unquote(cell);
  const inName = UNIT_IN_NAME.exec(name);
  const unit = unquote(unitCell) || (inName?.[1] ?? inName?.[2] ?? "");
  return { name: inName ? name.slice(0, inName.index).trim() : name, unit };
}

/**
 * @param {number} width
 * @returns {Heading[]}
 */
function numberHeadings(width) {
  if (width === 1) return [{ name: "MLII", unit: "" }];
  return Array.from({ length: width }, (_, at) => ({ name: `lead ${at + 1}`, unit: "" }));
}

/** @param {Float64Array} column */
function isNumbering(column) {
  return column.length > 1 && column.every((value, at) => value === column[0] + at);
}

/**
 * @param {Float64Array} time
 * @param {string} unit
 * @param {string} fileName
 * @returns {number | null}
 */
function measureRate(time, unit, fileName) {
  if (time.length < 2) return null;
  const lasts = time[time.length - 1] - time[0];
  if (!(lasts > 0)) {
    throw fileProblem(
      `Time does not go forwards in ${fileName}`,
      `It is ${time[0]} in the first row and ${time[time.length - 1]} in the last.`,
    );
  }
  const scale = /^(ms|milliseconds?)$/i.test(unit) ? 1000 : 1;
  return roundRate((scale * (time.length - 1)) / lasts);
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
