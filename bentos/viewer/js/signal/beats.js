/**
 * Beats as charts and tables want them, from predictions and from recordings.
 */

import { makeTileCache } from "./tiles.js";

/** Seconds of beats that are asked for at once. */
const BEAT_TILE_S = 600;

const SETTLE_MS = 60;

/** Beats of a recording are not asked for when more than this is seen. */
export const MAX_BEATS_SEEN_S = 3700;

/**
 * @typedef {object} Beat
 * @property {string} id
 * @property {number | null} index `beat_index` of a prediction; null in recordings.
 * @property {number} timeS
 * @property {"N" | "V" | null} type Null where the signal cannot be read.
 * @property {number | null} confidence Of the class.
 * @property {number | null} probabilityV
 * @property {number | null} rrPreviousS
 * @property {number | null} rrNextS
 * @property {number | null} qrsWidthMs
 * @property {string | null} rule The rule that changed the class.
 * @property {string} quality
 * @property {string | null} form Letter of the beats of one shape, of a prediction.
 */

/**
 * @typedef {object} BeatSource
 * @property {(startS: number, endS: number) => Beat[]} between Those at hand, in order of time.
 * @property {Beat[] | null} all Null when there are too many to hold.
 * @property {(afterS: number, step: 1 | -1, isWanted: (beat: Beat) => boolean) =>
 *   Promise<Beat | null>} find The next beat forwards or backwards.
 */

/**
 * Make a source of a prediction's beats.
 *
 * @param {Record<string, any>} prediction
 * @returns {BeatSource & {all: Beat[]}}
 */
export function makePredictedBeats(prediction) {
  /** @type {Beat[]} */
  const all = prediction.beat_predictions.map((/** @type {Record<string, any>} */ beat) => ({
    id: String(beat.beat_index),
    index: beat.beat_index,
    timeS: beat.position_sample / prediction.sampling_rate,
    type: beat.arrhythmia_type,
    confidence: beat.confidence,
    probabilityV: beat.probability_v,
    rrPreviousS: beat.rr_previous,
    rrNextS: beat.rr_next,
    qrsWidthMs: beat.qrs_width_ms,
    rule: beat.rule,
    quality: beat.quality,
    form: beat.form ?? null, // answers of earlier code have none
  }));
  return {
    all,
    between: (startS, endS) => all.slice(firstFrom(all, startS), firstFrom(all, endS)),
    find: async (afterS, step, isWanted) => nextIn(all, afterS, step, isWanted),
  };
}

/**
 * Make a source of a recording's beats, read in tiles.
 *
 * @param {object} options
 * @param {number} options.durationS
 * @param {(part: {startS: number, durationS: number, signal: AbortSignal}) =>
 *   Promise<Record<string, any[]>>} options.load
 * @param {(error?: unknown) => void} options.onChange
 * @returns {BeatSource & {close: () => void}}
 */
export function makeRecordedBeats({ durationS, load, onChange }) {
  const nTiles = Math.ceil(durationS / BEAT_TILE_S);
  /** @param {number} index */
  const part = (index) => ({
    startS: index * BEAT_TILE_S,
    durationS: Math.min(BEAT_TILE_S, durationS - index * BEAT_TILE_S),
  });
  const cache = makeTileCache({
    load: async ({ index }, signal) => readColumns(await load({ ...part(index), signal })),
    onChange,
    capacity: 48,
    settleMs: SETTLE_MS,
    maxRequests: 2,
  });
  /** @param {number} timeS */
  const tileAt = (timeS) => Math.min(nTiles - 1, Math.max(0, Math.floor(timeS / BEAT_TILE_S)));

  return {
    all: null,
    between(startS, endS) {
      if (endS - startS > MAX_BEATS_SEEN_S) {
        cache.want([]);
        return [];
      }
      const indices = range(tileAt(startS), tileAt(endS));
      cache.want(indices.map((index) => ({ level: 0, index })));
      return indices.flatMap((index) => {
        const tile = cache.get(0, index) ?? [];
        return tile.slice(firstFrom(tile, startS), firstFrom(tile, endS));
      });
    },
    async find(afterS, step, isWanted) {
      const { signal } = new AbortController();
      for (let index = tileAt(afterS); index >= 0 && index < nTiles; index += step) {
        const tile = cache.get(0, index) ?? readColumns(await load({ ...part(index), signal }));
        const found = nextIn(tile, afterS, step, isWanted);
        if (found) return found;
      }
      return null;
    },
    close: cache.close,
  };
}

/**
 * Read beats of a recording.
 *
 * @param {Record<string, any[]>} columns Parallel arrays.
 * @returns {Beat[]}
 */
export function readColumns(columns) {
  return columns.time_s.map((timeS, at) => {
    const probabilityV = columns.probability_v?.[at] ?? null;
    const type = columns.type?.[at] ?? null;
    return {
      id: timeS.toFixed(3),
      index: null,
      timeS,
      type,
      confidence: probabilityV === null || type === null ? null : confidenceOf(type, probabilityV),
      probabilityV,
      rrPreviousS: columns.rr_s?.[at] ?? null,
      rrNextS: columns.rr_s?.[at + 1] ?? null,
      qrsWidthMs: columns.qrs_width_ms?.[at] ?? null,
      rule: columns.rule?.[at] || null,
      quality: columns.quality?.[at] ?? "ok",
      form: null,
    };
  });
}

/**
 * @param {string} type
 * @param {number} probabilityV
 */
function confidenceOf(type, probabilityV) {
  return type === "V" ? probabilityV : 1 - probabilityV;
}

/**
 * Place of the first beat at or after a time.
 *
 * @param {Beat[]} beats
 * @param {number} timeS
 */
function firstFrom(beats, timeS) {
  let low = 0;
  let high = beats.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (beats[middle].timeS < timeS) low = middle + 1;
    else high = middle;
  }
  return low;
}

/**
 * @param {Beat[]} beats
 * @param {number} afterS
 * @param {1 | -1} step
 * @param {(beat: Beat) => boolean} isWanted
 */
function nextIn(beats, afterS, step, isWanted) {
  const margin = 1e-6;
  let at = step > 0 ? firstFrom(beats, afterS + margin) : firstFrom(beats, afterS - margin) - 1;
  while (at >= 0 && at < beats.length && !isWanted(beats[at])) at += step;
  return beats[at] ?? null;
}

/**
 * @param {number} first
 * @param {number} last
 */
function range(first, last) {
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, at) => first + at);
}
