/**
 * The signal of a recording that the service holds, read in tiles of several resolutions.
 */

import { median } from "./local_signal.js";
import { makeTileCache } from "./tiles.js";

/** Points of a tile; at 16 s they are the samples themselves up to 512 Hz. */
const TILE_POINTS = 8192;
const FINEST_TILE_S = 16;
const LEVEL_FACTOR = 4;
const SETTLE_MS = 60;

/**
 * Seconds of a tile.
 *
 * @param {number} level
 */
export function tileSeconds(level) {
  return FINEST_TILE_S * LEVEL_FACTOR ** level;
}

/**
 * The coarsest level with enough points.
 *
 * @param {number} pointsPerS
 * @param {number} durationS
 */
export function chooseLevel(pointsPerS, durationS) {
  let level = 0;
  while (tileSeconds(level) < durationS && TILE_POINTS / tileSeconds(level + 1) >= pointsPerS) {
    level += 1;
  }
  return level;
}

/**
 * Tiles of a level that a stretch of time touches.
 *
 * @param {number} level
 * @param {number} startS
 * @param {number} endS
 * @param {number} durationS
 * @returns {import("./tiles.js").TileKey[]}
 */
export function tilesBetween(level, startS, endS, durationS) {
  const size = tileSeconds(level);
  const first = Math.max(0, Math.floor(startS / size));
  const last = Math.min(Math.ceil(durationS / size) - 1, Math.floor(endS / size));
  return Array.from({ length: Math.max(0, last - first + 1) }, (_, at) => ({
    level,
    index: first + at,
  }));
}

/**
 * Make a source of a recording's signal.
 *
 * @param {object} options
 * @param {number} options.durationS
 * @param {(part: {startS: number, durationS: number, maxPoints: number, signal: AbortSignal}) =>
 *   Promise<import("./local_signal.js").Piece>} options.load
 * @param {(error?: unknown) => void} options.onChange
 * @returns {import("./local_signal.js").SignalSource & {close: () => void}}
 */
export function makeRemoteSignal({ durationS, load, onChange }) {
  const coarsest = chooseLevel(0, durationS);
  /** @type {number | null} */
  let centreMv = null;
  const cache = makeTileCache({
    load: async ({ level, index }, signal) => {
      const startS = index * tileSeconds(level);
      const length = Math.min(tileSeconds(level), durationS - startS);
      const piece = await load({ startS, durationS: length, maxPoints: TILE_POINTS, signal });
      centreMv ??= median(piece.values);
      return piece;
    },
    onChange,
    isPinned: ({ level }) => level === coarsest,
    settleMs: SETTLE_MS,
  });
  /** @type {(keys: import("./tiles.js").TileKey[]) => import("./local_signal.js").Piece[]} */
  const atHand = (keys) => keys.flatMap(({ level, index }) => cache.get(level, index) ?? []);

  return {
    durationS,
    get centreMv() {
      return centreMv;
    },
    read({ startS, endS, pointsPerS }) {
      const level = chooseLevel(pointsPerS, durationS);
      const seen = tilesBetween(level, startS, endS, durationS);
      const around = tilesBetween(
        level,
        startS - (endS - startS),
        endS + (endS - startS),
        durationS,
      );
      const base = tilesBetween(coarsest, 0, durationS, durationS);
      cache.want([...seen, ...base, ...around]);
      const fine = atHand(seen);
      if (fine.length === seen.length) return fine;
      // Missing tiles are replaced by the finest coarser ones that are there.
      for (let coarser = level + 1; coarser <= coarsest; coarser += 1) {
        const keys = tilesBetween(coarser, startS, endS, durationS);
        const coarse = atHand(keys);
        if (coarse.length === keys.length) return [...coarse, ...fine];
      }
      return fine;
    },
    close: cache.close,
  };
}
