/**
 * The samples of a file, as the service or a request gives them.
 */

/**
 * @typedef {object} ReadTable
 * @property {string[]} leads
 * @property {boolean} hasLeadNames Whether the file states them.
 * @property {string | null} lead The one that is an ECG by its name; null when it must be chosen.
 * @property {Float64Array[]} columns One for each lead; NaN where a sample is missing.
 * @property {number | null} fs
 * @property {Array<string | null>} units Of each lead: `mV`, or null when the file states none.
 * @property {string[]} missing What must be asked for.
 * @property {string[]} warnings
 * @property {boolean} [isPart] Only the beginning of a long recording.
 * @property {boolean} [applyRuleguard]
 * @property {string} [patientId]
 */

/**
 * Read the service's answer about a file.
 *
 * @param {Record<string, any>} answer
 * @param {boolean} isPart
 * @returns {ReadTable}
 */
export function tableOfFile(answer, isPart) {
  return {
    leads: answer.leads,
    hasLeadNames: answer.has_lead_names,
    lead: answer.lead,
    columns: answer.columns.map((/** @type {Array<number | null>} */ column) =>
      Float64Array.from(column, (sample) => sample ?? NaN),
    ),
    fs: answer.sampling_rate,
    units: answer.units,
    missing: answer.missing,
    warnings: answer.warnings,
    isPart,
  };
}

/**
 * A request of the predictions route as a table.
 *
 * @param {Record<string, any>} request
 * @returns {ReadTable}
 */
export function tableOfRequest({ signal_data: samples, sampling_rate: fs, derivation }) {
  return {
    leads: [derivation],
    hasLeadNames: true,
    lead: derivation,
    columns: [Float64Array.from(samples)],
    fs,
    units: ["mV"],
    missing: [],
    warnings: [],
  };
}
