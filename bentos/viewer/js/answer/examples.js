/**
 * The demo strips of the service, in words.
 */

/**
 * @typedef {object} Example
 * @property {string} kind
 * @property {string} name
 * @property {string} text
 */

/** @type {Example[]} */
export const EXAMPLES = [
  { kind: "normal", name: "Normal", text: "Sinus rhythm" },
  { kind: "isolated_pvc", name: "Isolated PVC", text: "Single V beats" },
  { kind: "couplet", name: "Couplet", text: "Two V beats in a row" },
  { kind: "bigeminy", name: "Bigeminy", text: "A V after each N" },
  { kind: "run", name: "Run", text: "Five V beats in a row" },
  { kind: "noisy", name: "Noisy", text: "Wander, muscle, hum; readable" },
  { kind: "flat", name: "Flat line", text: "Lead off: refused" },
  { kind: "noise_only", name: "Noise only", text: "No ECG in it: refused" },
  { kind: "saturated", name: "Saturated", text: "Amplifier at its rail: refused" },
];

/** @param {string} kind */
export function nameExample(kind) {
  return EXAMPLES.find((example) => example.kind === kind)?.name ?? kind;
}
