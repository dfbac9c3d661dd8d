/**
 * From a table of samples to the body of a request: lead, unit, mV, JSON text.
 */

/** Digits after the point of a sample in mV: a hundredth of a microvolt. */
const DECIMALS = 1e5;

/** What one unit is in mV; counts depend on the converter. */
const IN_MV = new Map([
  ["mV", 1],
  ["uV", 1e-3],
  ["V", 1e3],
  ["nV", 1e-6],
]);

/** Peak-to-peak amplitude in mV above which samples must be counts of a converter. */
const LARGEST_MV = 40;

/** What the service calls a lead of which the name is not known. */
export const UNNAMED_LEAD = "ECG";

/**
 * @typedef {object} SignalSettings
 * @property {string} lead Column of the file.
 * @property {number | null} fs Null while nobody has stated it; nothing is drawn or sent then.
 * @property {string} unit `mV`, `uV`, `V`, `nV` or `counts`.
 * @property {number | null} countsPerMv For `counts`; null while nobody has stated it.
 * @property {string} derivation Name of the lead on the wire.
 * @property {boolean} applyRuleguard
 * @property {string} patientId Empty when it is not told.
 */

/**
 * Bring samples to mV; the zero of counts is their median. Missing samples stay NaN.
 *
 * @param {Float64Array} samples
 * @param {Pick<SignalSettings, "unit" | "countsPerMv">} settings
 * @returns {Float64Array}
 */
export function toMillivolt(samples, { unit, countsPerMv }) {
  const factor = IN_MV.get(unit) ?? 1 / (countsPerMv ?? NaN);
  const present = samples.filter((sample) => !Number.isNaN(sample)).sort();
  const zero = unit === "counts" ? present[present.length >> 1] : 0;
  return samples.map((sample) => Math.round((sample - zero) * factor * DECIMALS) / DECIMALS);
}

/**
 * Guess the unit of samples for which the file names none.
 *
 * @param {Float64Array} samples
 * @returns {string}
 */
export function guessUnit(samples) {
  let least = Infinity;
  let greatest = -Infinity;
  const present = samples.filter((sample) => !Number.isNaN(sample));
  for (const sample of present) {
    least = Math.min(least, sample);
    greatest = Math.max(greatest, sample);
  }
  if (greatest - least <= LARGEST_MV) return "mV";
  // Counts are whole numbers around the middle of the converter's range.
  return present.every(Number.isInteger) ? "counts" : "uV";
}

/**
 * The name of a lead on the wire.
 *
 * @param {string} lead
 * @param {string[]} known Names that the service takes.
 * @returns {string}
 */
export function nameOnWire(lead, known) {
  const plain = (/** @type {string} */ name) =>
    name.toLowerCase().replace(/^(lead|ecg)?[ _-]+/, "");
  return known.find((name) => plain(name) === plain(lead)) ?? UNNAMED_LEAD;
}

/**
 * Write the request.
 *
 * @param {Float64Array} signalMv
 * @param {Omit<SignalSettings, "lead" | "unit" | "countsPerMv">} settings
 * @returns {string} JSON text.
 */
export function writeRequest(signalMv, { fs, derivation, applyRuleguard, patientId }) {
  return JSON.stringify({
    signal_data: Array.from(signalMv),
    sampling_rate: fs,
    derivation,
    ...(patientId ? { patient_id: patientId } : {}),
    ...(applyRuleguard ? {} : { apply_ruleguard: false }),
  });
}
