/**
 * Which files go where: signals are shown before they are sent, recordings are sent at once.
 */

import { fileProblem } from "../base/problem.js";

const SIGNAL = new Set([
  ...["csv", "txt", "tsv", "npy", "npz", "json"],
  ...["csv.gz", "txt.gz", "tsv.gz", "npy.gz"],
]);
const RECORDING = new Set([
  ...["hea", "dat", "mat", "zip", "gz", "edf", "bdf"],
  ...["dcm", "dicom", "ecg", "ishne", "scp", "xml", "aecg", "atc"],
]);

/**
 * @typedef {object} ChosenFiles
 * @property {"signal" | "recording"} kind
 * @property {File[]} files
 * @property {string} name What the reader calls it.
 */

/**
 * Sort what was dropped or chosen; the annotations of a record are left out.
 *
 * @param {File[]} chosen
 * @returns {ChosenFiles}
 */
export function sortFiles(chosen) {
  const hasHeader = chosen.some((file) => suffix(file) === "hea");
  const files = hasHeader ? chosen.filter((file) => suffix(file) !== "atr") : chosen;
  const unknown = files.find((file) => !SIGNAL.has(suffix(file)) && !RECORDING.has(suffix(file)));
  if (unknown) {
    throw fileProblem(
      `${unknown.name} is of no kind that can be read`,
      "Signals come as CSV, NPY or JSON; recordings as WFDB (.hea and .dat, or a zip), EDF, DICOM, ISHNE, SCP-ECG, XML or ATC; all of them as zip or .gz too.",
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
 * The last part of a file's name, in small letters; of a signal that is compressed, the last two.
 *
 * @param {File} file
 */
export function suffix(file) {
  const parts = file.name.toLowerCase().split(".");
  const packed = parts.slice(-2).join(".");
  return SIGNAL.has(packed) ? packed : (parts.pop() ?? "");
}

/** @param {File[]} files */
function requirePair(files) {
  const headers = files.filter((file) => suffix(file) === "hea");
  const signals = files.filter((file) => suffix(file) === "dat" || suffix(file) === "mat");
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
