/**
 * Read JSON files: a request of the predictions route, or samples alone.
 */

import { fileProblem } from "../base/problem.js";
import { tableOfRequest } from "./table.js";

/**
 * Read the text of a JSON file.
 *
 * @param {string} text
 * @param {string} fileName For messages.
 * @returns {import("./table.js").ReadTable}
 */
export function parseJson(text, fileName) {
  let content;
  try {
    content = JSON.parse(text);
  } catch (error) {
    throw fileProblem(`${fileName} is no JSON`, error instanceof Error ? error.message : "");
  }
  const request = Array.isArray(content) ? { signal_data: content } : Object(content);
  const samples = request.signal_data;
  if (!Array.isArray(samples) || !samples.length) {
    throw fileProblem(
      `${fileName} holds no signal`,
      "It must be a list of samples in mV, or an object with signal_data.",
    );
  }
  const bad = samples.findIndex((sample) => typeof sample !== "number");
  if (bad >= 0) {
    throw fileProblem(
      `Sample ${bad} of ${fileName} is no number`,
      "Samples must be numbers in mV.",
    );
  }
  const rate = request.sampling_rate;
  const lead = request.derivation;
  return {
    ...tableOfRequest({
      signal_data: samples,
      sampling_rate: typeof rate === "number" ? rate : null,
      derivation: typeof lead === "string" ? lead : "MLII",
    }),
    // A request without a lead has the one that the service takes for it.
    hasLeadNames: !Array.isArray(content),
    applyRuleguard: request.apply_ruleguard !== false,
    patientId: typeof request.patient_id === "string" ? request.patient_id : undefined,
  };
}
