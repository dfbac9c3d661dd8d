/**
 * Which files go where: short signals are read in the browser, recordings by the service.
 */

import { fileProblem } from "../problem.js";

const SIGNAL = new Set(["csv", "txt", "tsv", "npy", "json"]);
const RECORDING = new Set(["hea", "dat", "zip", "edf"]);

/**
 * @typedef {object} ChosenFiles
 * @property {"signal" | "recording"} kind
 * @property {File[]} files
 * @property {string} name What the reader calls it.
 */

/**
 * Sort what was dropped or chosen.
 *
 * @param {File[]} files
 * @returns {ChosenFiles}
 */
export function sortFiles(files) {
  const unknown = files.find((file) => !SIGNAL.has(suffix(file)) && !RECORDING.has(suffix(file)));
  if (unknown) {
    throw fileProblem(
      `${unknown.name} is of no kind that can be read`,
      "Signals come as CSV, NPY or JSON; recordings as WFDB (.hea and .dat, or a zip) or EDF.",
    );
  }
  const recording = files.filter((file) => RECORDING.has(suffix(file)));
  if (!recording.length && files.length > 1) {
    throw fileProblem("One signal at a time", `${files.length} files were chosen.`);
  }
  if (!recording.length) {
    return { kind: "signal", files, name: files[0].name };
  }
  if (recording.length < files.length) {
    throw fileProblem("One recording at a time", "A signal was chosen with it.");
  }
  requirePair(recording);
  const named = recording.find((file) => suffix(file) === "hea") ?? recording[0];
  return { kind: "recording", files: recording, name: named.name };
}

/**
 * The last part of a file's name, in small letters.
 *
 * @param {File} file
 */
export function suffix(file) {
  return file.name.toLowerCase().split(".").pop() ?? "";
}

/** @param {File[]} files */
function requirePair(files) {
  const headers = files.filter((file) => suffix(file) === "hea");
  const signals = files.filter((file) => suffix(file) === "dat");
  if (headers.length && !signals.length) {
    throw fileProblem(
      "The signal file is missing",
      `Choose ${headers[0].name} and its .dat together.`,
    );
  }
  if (signals.length && !headers.length) {
    throw fileProblem("The header is missing", `Choose ${signals[0].name} and its .hea together.`);
  }
  const whole = files.length - headers.length - signals.length;
  if (headers.length + whole > 1) {
    throw fileProblem(
      "One recording at a time",
      `${headers.length + whole} recordings were chosen.`,
    );
  }
}

/**
 * Names of the leads in a WFDB header or an EDF file; empty when they cannot be told.
 *
 * @param {File[]} files
 * @returns {Promise<string[]>}
 */
export async function readLeads(files) {
  const header = files.find((file) => suffix(file) === "hea");
  if (header) return leadsOfHeader(await header.text(), header.name);
  const edf = files.find((file) => suffix(file) === "edf");
  return edf ? leadsOfEdf(edf) : [];
}

/**
 * @param {string} text
 * @param {string} fileName
 * @returns {string[]}
 */
function leadsOfHeader(text, fileName) {
  const lines = text.split(/\r?\n/).filter((line) => line.trim() && !line.startsWith("#"));
  const nLeads = Number(lines[0]?.trim().split(/\s+/)[1]);
  if (!Number.isInteger(nLeads) || nLeads < 1 || lines.length < nLeads + 1) {
    throw fileProblem(`${fileName} is no WFDB header`, "Its first line must state the leads.");
  }
  // file format gain bits zero first checksum block description
  return lines.slice(1, nLeads + 1).map((line, at) => {
    const description = line.trim().split(/\s+/).slice(8).join(" ");
    return description || `lead ${at + 1}`;
  });
}

/**
 * @param {File} file
 * @returns {Promise<string[]>}
 */
async function leadsOfEdf(file) {
  const text = new TextDecoder("latin1").decode(await file.slice(0, 256 + 256 * 64).arrayBuffer());
  const nLeads = Number(text.slice(252, 256));
  if (!Number.isInteger(nLeads) || nLeads < 1) return [];
  const labels = Array.from({ length: Math.min(nLeads, 64) }, (_, at) =>
    text.slice(256 + 16 * at, 272 + 16 * at).trim(),
  );
  return labels.filter((label) => label && !/annotations/i.test(label));
}
