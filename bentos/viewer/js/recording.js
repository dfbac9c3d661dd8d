/**
 * Read the summary of a recording, and make the sources of its signal and beats.
 */

import { describeGroup, describeUnreadable, limitFindings, readCommon } from "./answer.js";
import { makeRecordedBeats } from "./signal/beats.js";
import { makeRemoteSignal } from "./signal/remote_signal.js";

/**
 * @typedef {object} Recording
 * @property {import("./answer.js").Answer} answer
 * @property {ReturnType<typeof makeRemoteSignal>} signal
 * @property {() => number} pending Requests that run or wait.
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
    pending: () => signal.pending() + beats.pending(),
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
      [...readGroups(summary), ...unreadable.map(describeUnreadable)].sort(
        (one, other) => one.startS - other.startS,
      ),
    ),
    morphologies: readMorphologies(summary.morphologies ?? summary.rhythm?.morphologies ?? []),
    unreadable,
    beats,
    trend: readHourly(summary.hourly ?? []),
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
 * Runs and couplets.
 *
 * @param {Record<string, any>} summary
 */
function readGroups(summary) {
  const rhythm = summary.rhythm ?? {};
  const listOf = (/** @type {string} */ name) =>
    [rhythm[name], summary[name]].find((value) => Array.isArray(value)) ?? [];
  const runs = listOf("runs").map((/** @type {Record<string, any>} */ run) => ({
    kind: /** @type {const} */ ("run"),
    startS: run.start_s,
    endS: run.end_s ?? run.start_s + (60 * (run.beats - 1)) / run.rate_bpm,
    beats: run.beats,
    rateBpm: run.rate_bpm,
  }));
  const couplets = listOf("couplets").map((/** @type {any} */ couplet) => {
    const startS = typeof couplet === "number" ? couplet : couplet.start_s;
    return {
      kind: /** @type {const} */ ("couplet"),
      startS,
      endS: couplet.end_s ?? startS + 0.5,
      beats: 2,
      rateBpm: null,
    };
  });
  return [...runs, ...couplets].map((group) => ({ ...group, text: describeGroup(group) }));
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
    stepS: hourly.length > 1 ? hourly[1].start_s - hourly[0].start_s : 3600,
    heartRateBpm: hourly.map((hour) => hour.heart_rate_bpm ?? null),
    burden: hourly.map((hour) => hour.pvc_burden ?? null),
  };
}
