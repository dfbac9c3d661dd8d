/**
 * Beats that belong together: runs, couplets and bigeminy, for the brackets over the strip.
 *
 * The rules are those of the service (`ecg_lib.rhythm`), whose counts are shown; a test compares.
 */

const MIN_RUN = 3;
const MIN_CYCLES = 3;
const LONGEST_RR_S = 3;

/**
 * @typedef {object} RhythmGroup
 * @property {"run" | "couplet" | "bigeminy"} kind
 * @property {number} startS Time of its first beat.
 * @property {number} endS Time of its last beat.
 * @property {number} beats V beats in it.
 * @property {number | null} rateBpm Of a run.
 */

/**
 * Find the groups in beats that follow each other.
 *
 * @param {import("./beats.js").Beat[]} beats
 * @param {{startS: number, endS: number}[]} unreadable In order of time, each after the one before.
 * @returns {RhythmGroup[]} In order of time.
 */
export function findGroups(beats, unreadable) {
  const groups = stretchesOf(beats, unreadable).flatMap((stretch) => [
    ...rowsOfV(stretch),
    ...bigeminyIn(stretch),
  ]);
  return groups.sort((one, other) => one.startS - other.startS);
}

/**
 * Readable beats that follow each other without a gap.
 *
 * @param {import("./beats.js").Beat[]} beats
 * @param {{startS: number, endS: number}[]} unreadable
 * @returns {import("./beats.js").Beat[][]}
 */
function stretchesOf(beats, unreadable) {
  /** @type {import("./beats.js").Beat[][]} */
  const stretches = [[]];
  let next = 0;
  for (const beat of beats) {
    const current = stretches[stretches.length - 1];
    const before = current[current.length - 1];
    const beforeS = before?.timeS ?? beat.timeS;
    while (next < unreadable.length && unreadable[next].endS <= beforeS) next += 1;
    const isParted = next < unreadable.length && unreadable[next].startS < beat.timeS;
    if (beat.type === null) stretches.push([]);
    else if (before && (isParted || beat.timeS - beforeS > LONGEST_RR_S)) stretches.push([beat]);
    else current.push(beat);
  }
  return stretches.filter((stretch) => stretch.length);
}

/**
 * Couplets and runs.
 *
 * @param {import("./beats.js").Beat[]} stretch
 * @returns {RhythmGroup[]}
 */
function rowsOfV(stretch) {
  /** @type {RhythmGroup[]} */
  const groups = [];
  for (let first = 0; first < stretch.length; first += 1) {
    if (stretch[first].type !== "V") continue;
    let last = first;
    while (stretch[last + 1]?.type === "V") last += 1;
    const beats = last - first + 1;
    const [startS, endS] = [stretch[first].timeS, stretch[last].timeS];
    if (beats >= MIN_RUN) {
      groups.push({
        kind: "run",
        startS,
        endS,
        beats,
        rateBpm: (60 * (beats - 1)) / (endS - startS),
      });
    } else if (beats === 2) {
      groups.push({ kind: "couplet", startS, endS, beats, rateBpm: null });
    }
    first = last;
  }
  return groups;
}

/**
 * N and V in turn, three times or more.
 *
 * @param {import("./beats.js").Beat[]} stretch
 * @returns {RhythmGroup[]}
 */
function bigeminyIn(stretch) {
  /** @type {RhythmGroup[]} */
  const groups = [];
  const isPair = (/** @type {number} */ at) =>
    stretch[at]?.type === "N" && stretch[at + 1]?.type === "V";
  for (let first = 0; first < stretch.length; first += 1) {
    let cycles = 0;
    while (isPair(first + 2 * cycles)) cycles += 1;
    if (cycles < MIN_CYCLES) continue;
    const last = first + 2 * cycles - 1;
    const [startS, endS] = [stretch[first].timeS, stretch[last].timeS];
    groups.push({ kind: "bigeminy", startS, endS, beats: cycles, rateBpm: null });
    first = last;
  }
  return groups;
}
