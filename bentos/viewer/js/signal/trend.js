/**
 * Heart rate and burden over time, for the overview of long signals.
 */

/**
 * @typedef {object} Trend
 * @property {number} stepS
 * @property {Array<number | null>} heartRateBpm One for each step.
 * @property {Array<number | null>} burden Share of V beats, 0 to 1.
 */

/** Bins of a trend; fewer than beats, or a bin is a beat. */
const MAX_BINS = 180;
const SHORTEST_BIN_S = 20;

/**
 * Measure the trend of beats that are all at hand.
 *
 * @param {import("./beats.js").Beat[]} beats
 * @param {number} durationS
 * @returns {Trend}
 */
export function measureTrend(beats, durationS) {
  const stepS = Math.max(SHORTEST_BIN_S, durationS / MAX_BINS);
  const bins = Array.from({ length: Math.ceil(durationS / stepS) }, () => ({
    beats: 0,
    v: 0,
    /** @type {number[]} */
    rr: [],
  }));
  for (const beat of beats) {
    const bin = bins[Math.min(bins.length - 1, Math.floor(beat.timeS / stepS))];
    if (beat.type === null) continue;
    bin.beats += 1;
    bin.v += Number(beat.type === "V");
    if (beat.rrPreviousS !== null) bin.rr.push(beat.rrPreviousS);
  }
  return {
    stepS,
    heartRateBpm: bins.map(({ rr }) => (rr.length > 2 ? 60 / middle(rr) : null)),
    burden: bins.map(({ beats: n, v }) => (n ? v / n : null)),
  };
}

/** @param {number[]} values */
function middle(values) {
  const sorted = values.toSorted((one, other) => one - other);
  return sorted[sorted.length >> 1];
}
