/**
 * Runs, couplets, bigeminy and trigeminy as the service found them.
 *
 * They are read from the answer and never made from the beats near the view: a group that is longer
 * than the view would change with every scroll.
 */

/** A couplet whose second beat is not at hand is drawn this long. */
const USUAL_COUPLET_S = 0.5;

/**
 * @typedef {object} RhythmGroup
 * @property {"run" | "couplet" | "bigeminy" | "trigeminy"} kind
 * @property {number} startS Time of its first V beat.
 * @property {number} endS Time of its last V beat.
 * @property {number} beats V beats in it.
 * @property {number | null} rateBpm Of a run.
 */

/**
 * Read the groups of an answer.
 *
 * @param {object} found
 * @param {Array<Record<string, any>>} found.runs
 * @param {number[]} found.coupletStartsS
 * @param {Array<Record<string, any>>} found.patterns
 * @returns {RhythmGroup[]} In order of time.
 */
export function readGroups({ runs, coupletStartsS, patterns }) {
  const groups = [
    ...runs.map(readRun),
    ...coupletStartsS.map(readCouplet),
    ...patterns.map(readPattern),
  ];
  return groups.sort((one, other) => one.startS - other.startS);
}

/**
 * Choose the groups that reach into a stretch of time, and end couplets at their second beat.
 *
 * @param {RhythmGroup[]} groups
 * @param {{startS: number, endS: number}} view
 * @param {import("../signal/beats.js").Beat[]} beats Those at hand, in order of time.
 * @returns {RhythmGroup[]}
 */
export function groupsIn(groups, view, beats) {
  return groups
    .filter(({ startS, endS }) => endS >= view.startS && startS <= view.endS)
    .map((group) => {
      if (group.kind !== "couplet") return group;
      const second = beats.find((beat) => beat.timeS > group.startS + 1e-3);
      return second?.type === "V" ? { ...group, endS: second.timeS } : group;
    });
}

/**
 * @param {Record<string, any>} run
 * @returns {RhythmGroup}
 */
function readRun({ start_s: startS, duration_s: durationS, beats, rate_bpm: rateBpm }) {
  return { kind: "run", startS, endS: startS + durationS, beats, rateBpm };
}

/**
 * @param {number} startS
 * @returns {RhythmGroup}
 */
function readCouplet(startS) {
  return { kind: "couplet", startS, endS: startS + USUAL_COUPLET_S, beats: 2, rateBpm: null };
}

/**
 * @param {Record<string, any>} pattern
 * @returns {RhythmGroup}
 */
function readPattern({ kind, start_s: startS, stop_s: endS, v_beats: beats }) {
  return { kind, startS, endS, beats, rateBpm: null };
}
