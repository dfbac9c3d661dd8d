/**
 * Read the summary of a recording, and make the sources of its signal and beats.
 */

import {
  describeGroup,
  describeUnreadable,
  limitFindings,
  readCommon,
  readPauses,
} from "./answer.js";
import { makeRecordedBeats } from "./signal/beats.js";
import { makeRemoteSignal } from "./signal/remote_signal.js";

const HOUR_S = 3600;

/** Where a summary tells only where a couplet begins. */
const USUAL_COUPLET_S = 0.5;

/**
 * @typedef {object} Recording
 * @property {import("./answer.js").Answer} answer
 * @property {ReturnType<typeof makeRemoteSignal>} signal
 * @property {() => void} close Give up what is still asked for.
 */

/**
 * Make what the charts and panels show of a recording that is done.
 *
 * @param {object} options
 * @param {string} options.jobId
 * @param {Record<string, any>} options.summary The result as JSON.
 * @param {import("./service.js").Service} options.service
 * @param {(error?: unknown) => void} options.onChange Something more is at hand.
 * @returns {Recording}
 */
export function makeRecording({ jobId, summary, service, onChange }) {
  const durationS = summary.duration_s;
  const signal = makeRemoteSignal({
    durationS,
    load: (part) => service.readSignal(jobId, part),
    onChange,
  });
  const beats = makeRecordedBeats({
    durationS,
    load: (part) => service.readBeats(jobId, part),
    onChange,
  });
  return {
    answer: readSummary(jobId, summary, beats),
    signal,
    close() {
      signal.close();
      beats.close();
    },
  };
}

/**
 * @param {string} jobId
 * @param {Record<string, any>} summary
 * @param {import("./signal/beats.js").BeatSource} beats
 * @returns {import("./answer.js").Answer}
 */
function readSummary(jobId, summary, beats) {
  const unreadable = (summary.signal_quality?.unreadable ?? []).map(
    (/** @type {Record<string, any>} */ stretch) => readStretch(stretch, summary.sampling_rate),
  );
  return {
    kind: "recording",
    id: jobId,
    durationS: summary.duration_s,
    fs: summary.sampling_rate ?? null,
    lead: summary.derivation ?? summary.lead ?? "",
    ...readCommon(summary),
    findings: limitFindings(
      [...readGroups(summary), ...readPauses(summary), ...unreadable.map(describeUnreadable)].sort(
        (one, other) => one.startS - other.startS,
      ),
    ),
    morphologies: readMorphologies(summary.morphologies ?? summary.rhythm?.morphologies ?? []),
    unreadable,
    beats,
    trend: readHourly(summary.hourly ?? summary.hours ?? []),
  };
}

/**
 * @param {Record<string, any>} stretch
 * @param {number} fs
 */
function readStretch(stretch, fs) {
  return {
    startS: stretch.start_s ?? stretch.start_sample / fs,
    endS: stretch.end_s ?? stretch.end_sample / fs,
    reason: stretch.reason,
  };
}

/**
 * Runs, couplets and bigeminy; what a summary does not list is not there.
 *
 * @param {Record<string, any>} summary
 */
function readGroups(summary) {
  /** @param {string} name */
  const listOf = (name) =>
    [summary.rhythm?.[name], summary[name]].find((value) => Array.isArray(value)) ?? [];
  const starts = [...listOf("couplet_starts_s"), ...listOf("couplets")];
  const bigeminy = listOf("patterns").filter(
    (/** @type {Record<string, any>} */ pattern) => pattern.kind === "bigeminy",
  );
  return [
    ...listOf("runs").map(readRun),
    ...starts.map((couplet) => readCouplet(Object(couplet).start_s ?? couplet)),
    ...bigeminy.map(readBigeminy),
  ].map((group) => ({ ...group, text: describeGroup(group) }));
}

/**
 * @param {Record<string, any>} run
 * @returns {import("./signal/rhythm_groups.js").RhythmGroup}
 */
function readRun({ start_s: startS, beats, rate_bpm: rateBpm, duration_s: durationS }) {
  const endS = startS + (durationS ?? (60 * (beats - 1)) / rateBpm);
  return { kind: "run", startS, endS, beats, rateBpm };
}

/**
 * @param {number} startS
 * @returns {import("./signal/rhythm_groups.js").RhythmGroup}
 */
function readCouplet(startS) {
  return { kind: "couplet", startS, endS: startS + USUAL_COUPLET_S, beats: 2, rateBpm: null };
}

/**
 * @param {Record<string, any>} pattern
 * @returns {import("./signal/rhythm_groups.js").RhythmGroup}
 */
function readBigeminy({ start_s: startS, stop_s: endS, v_beats: beats }) {
  return { kind: "bigeminy", startS, endS, beats, rateBpm: null };
}

/**
 * @param {Array<Record<string, any>>} morphologies
 * @returns {import("./answer.js").Morphology[]}
 */
function readMorphologies(morphologies) {
  return morphologies.map((morphology, at) => ({
    name: String(morphology.name ?? `Shape ${at + 1}`),
    beats: morphology.beats ?? morphology.count ?? 0,
    timesS: morphology.times_s ?? morphology.examples_s ?? [],
  }));
}

/**
 * @param {Array<Record<string, any>>} hourly
 * @returns {import("./signal/trend.js").Trend | null}
 */
function readHourly(hourly) {
  if (!hourly.length) return null;
  return {
    stepS: HOUR_S,
    heartRateBpm: hourly.map((hour) => hour.heart_rate_mean_bpm ?? hour.heart_rate_bpm ?? null),
    burden: hourly.map((hour) => hour.burden ?? hour.pvc_burden ?? null),
  };
}
