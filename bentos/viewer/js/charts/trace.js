/**
 * Draw the curve of a signal from its pieces: samples joined by lines, envelopes as bands.
 */

import { xAt } from "./geometry.js";

/**
 * Trace the curve; the caller strokes it, more than once where it changes its colour.
 *
 * @param {import("./geometry.js").Frame} frame
 * @param {import("../signal/local_signal.js").Piece[]} pieces
 * @param {(mv: number) => number} yAt
 * @returns {Path2D}
 */
export function traceCurve(frame, pieces, yAt) {
  const path = new Path2D();
  for (const { kind, startS, stepS, values } of pieces) {
    const width = kind === "envelope" ? 2 : 1;
    const first = Math.max(0, Math.floor((frame.startS - startS) / stepS) - 1);
    const last = Math.min(values.length / width, Math.ceil((frame.endS - startS) / stepS) + 2);
    const draw = kind === "envelope" ? traceEnvelope : traceSamples;
    draw(path, values, { first, last, yAt, xOf: (at) => xAt(frame, startS + at * stepS) });
  }
  return path;
}

/**
 * @typedef {object} Range
 * @property {number} first
 * @property {number} last
 * @property {(mv: number) => number} yAt
 * @property {(at: number) => number} xOf
 */

/**
 * @param {Path2D} path
 * @param {Float32Array} values
 * @param {Range} range
 */
function traceSamples(path, values, { first, last, yAt, xOf }) {
  let isDown = false;
  for (let at = first; at < last; at += 1) {
    const value = values[at];
    if (!Number.isFinite(value)) {
      isDown = false;
      continue;
    }
    if (isDown) path.lineTo(xOf(at), yAt(value));
    else path.moveTo(xOf(at), yAt(value));
    isDown = true;
  }
}

/**
 * Points that share a pixel become one stroke from their least to their greatest value.
 *
 * @param {Path2D} path
 * @param {Float32Array} values
 * @param {Range} range
 */
function traceEnvelope(path, values, { first, last, yAt, xOf }) {
  let isDown = false;
  let at = first;
  while (at < last) {
    const x = xOf(at);
    let least = Infinity;
    let greatest = -Infinity;
    do {
      least = Math.min(least, values[2 * at]);
      greatest = Math.max(greatest, values[2 * at + 1]);
      at += 1;
    } while (at < last && xOf(at) < x + 0.5);
    if (!Number.isFinite(least + greatest)) {
      isDown = false;
      continue;
    }
    if (isDown) path.lineTo(x, yAt(greatest));
    else path.moveTo(x, yAt(greatest));
    path.lineTo(x, yAt(least));
    isDown = true;
  }
}
