/**
 * A signal that the browser holds, with envelopes of it so that any zoom is drawn at once.
 */

/** How much coarser each envelope is than the one before. */
const FACTOR = 8;

/**
 * A part of a signal as it is drawn.
 *
 * @typedef {object} Piece
 * @property {"samples" | "envelope"} kind
 * @property {number} startS Time of the first point.
 * @property {number} stepS
 * @property {Float32Array} values In mV; pairs of least and greatest for an envelope.
 */

/**
 * What charts draw from.
 *
 * @typedef {object} SignalSource
 * @property {number} durationS
 * @property {number | null} centreMv What is drawn in the middle; null while it is not known.
 * @property {(part: {startS: number, endS: number, pointsPerS: number}) => Piece[]} read The
 *   pieces that are at hand, coarse ones first.
 */

/**
 * Make a source of samples.
 *
 * @param {ArrayLike<number>} samples In mV.
 * @param {number} fs
 * @returns {SignalSource}
 */
export function makeLocalSignal(samples, fs) {
  /** @type {Float32Array[]} */
  const levels = [Float32Array.from(samples)];
  while (levels.length < 2 || levels[levels.length - 1].length > 2 * FACTOR * FACTOR) {
    levels.push(coarsen(levels[levels.length - 1], levels.length > 1));
  }
  return {
    durationS: samples.length / fs,
    centreMv: median(levels[0]),
    read({ startS, endS, pointsPerS }) {
      let level = 0;
      while (level + 1 < levels.length && fs / FACTOR ** (level + 1) >= pointsPerS) level += 1;
      const width = level ? 2 : 1;
      const stepS = FACTOR ** level / fs;
      const first = Math.max(0, Math.floor(startS / stepS) - 1);
      const last = Math.min(levels[level].length / width, Math.ceil(endS / stepS) + 2);
      if (last <= first) return [];
      return [
        {
          kind: level ? "envelope" : "samples",
          startS: first * stepS,
          stepS,
          values: levels[level].subarray(width * first, width * last),
        },
      ];
    },
  };
}

/**
 * Least and greatest of each FACTOR points.
 *
 * @param {Float32Array} values
 * @param {boolean} areEnvelope
 * @returns {Float32Array}
 */
function coarsen(values, areEnvelope) {
  const width = areEnvelope ? 2 * FACTOR : FACTOR;
  const nPoints = Math.ceil(values.length / width);
  const coarse = new Float32Array(2 * nPoints);
  for (let point = 0; point < nPoints; point += 1) {
    let least = Infinity;
    let greatest = -Infinity;
    const end = Math.min(values.length, (point + 1) * width);
    for (let at = point * width; at < end; at += 1) {
      if (values[at] < least) least = values[at];
      if (values[at] > greatest) greatest = values[at];
    }
    coarse[2 * point] = least;
    coarse[2 * point + 1] = greatest;
  }
  return coarse;
}

/**
 * The middle value; of a long signal, of every so many samples.
 *
 * @param {Float32Array} values
 */
export function median(values) {
  const stride = Math.max(1, Math.floor(values.length / 20_000));
  const some = values.filter((value, at) => at % stride === 0 && Number.isFinite(value)).sort();
  return some.length ? some[some.length >> 1] : 0;
}
