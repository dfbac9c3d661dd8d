/**
 * Which files go where: signals are shown before they are sent, recordings are sent at once.
 */

import { fileProblem } from "../base/problem.js";

/**
 * @typedef {object} ChosenFiles
 * @property {"signal" | "recording"} kind
 * @property {File[]} files
 * @property {string} name What the reader calls it.
 */

/**
 * Sort what was dropped or chosen; the annotations of a record are left out.
 *
 * A file whose suffix is not that of a signal is a recording: the service looks at its content.
 *
 * @param {File[]} files
 * @param {string[]} signalSuffixes Of the files that the service reads for the viewer.
 * @returns {ChosenFiles}
 */
export function sortFiles(files, signalSuffixes) {
  const header = files.find((file) => hasSuffix(file, [".hea"]));
  if (header) {
    const record = files.filter((file) => !hasSuffix(file, [".atr"]));
    if (record.length === 1) {
      throw fileProblem("The signal file is missing", `Choose ${header.name} and its .dat together.`);
    }
    return { kind: "recording", files: record, name: header.name };
  }
  const isSignal = (/** @type {File} */ file) => isRequest(file) || hasSuffix(file, signalSuffixes);
  const kind = files.every(isSignal) ? "signal" : "recording";
  if (files.length > 1) {
    throw fileProblem(`One ${kind} at a time`, `${files.length} files were chosen.`);
  }
  return { kind, files, name: files[0].name };
}

/**
 * Whether a file is a request of the prediction route, which is read here.
 *
 * @param {File} file
 */
export function isRequest(file) {
  return hasSuffix(file, [".json"]);
}

/**
 * @param {File} file
 * @param {string[]} suffixes
 */
function hasSuffix(file, suffixes) {
  const name = file.name.toLowerCase();
  return suffixes.some((suffix) => name.endsWith(suffix));
}
