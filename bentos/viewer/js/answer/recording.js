/**
 * Read the summary of a recording, and make the sources of its signal and beats.
 */

import {
  describeGroup,
  describePause,
  describeSuspicion,
  describeUnreadable,
  readCommon,
} from "./prediction.js";
import { makeRecordedBeats, readColumns } from "../signal/beats.js";
import { makeRemoteSignal } from "../signal/remote_signal.js";
import { measureTrend } from "../signal/trend.js";
import { readGroups } from "./rhythm_groups.js";

const HOUR_S = 3600;

/** Its beats come in one answer, which lists 20,000. */
const LONGEST_REFINED_S = 2 * HOUR_S;

/**
 * @typedef {object} Recording
 * @property {import("./prediction.js").Answer} answer
 * @property {ReturnType<typeof makeRemoteSignal>} signal
 * @property {() => void} close Give up what is still asked for.
 */

/**
 * Make what the charts and panels show of a recording that is done.
 *
 * @param {object} options
 * @param {string} options.jobId
 * @param {Record<string, any>} options.summary The result as JSON.
 * @param {import("../actions/service.js").Service} options.service
 * @param {(error?: unknown) => void} options.onChange Something more is at hand.
 * @returns {Recording}
 */
export function makeRecording({ jobId, summary, service, onChange }) {
  const durationS = summary.recording.duration_s;
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
 * Measure the trend of a recording of few hours from its beats; its summary tells only hours.
 *
 * @param {import("./prediction.js").Answer} answer
 * @param {import("../actions/service.js").Service} service
 * @returns {Promise<import("./prediction.js").Answer>}
 */
export async function refineTrend(answer, service) {
  const { durationS, id } = answer;
  if (durationS > LONGEST_REFINED_S) return answer;
  const columns = await service.readBeats(id, { startS: 0, durationS });
  return { ...answer, trend: measureTrend(readColumns(columns), durationS) };
}

/**
 * @param {string} jobId
 * @param {Record<string, any>} summary
 * @param {import("../signal/beats.js").BeatSource} beats
 * @returns {import("./prediction.js").Answer}
 */
function readSummary(jobId, summary, beats) {
  const { recording, runs, couplets, patterns, pauses, hours } = summary;
  /** @type {import("./prediction.js").UnreadableStretch[]} */
  const unreadable = summary.signal_quality.unreadable.map(readStretch);
  const groups = readGroups({ runs, coupletStartsS: couplets, patterns });
  /** @type {import("./prediction.js").Finding[]} */
  const findings = [
    ...groups.map((group) => ({ ...group, text: describeGroup(group) })),
    ...pauses.map(describePause),
    ...unreadable.map(describeUnreadable),
    ...(summary.signal_quality.findings ?? []).map(
      (/** @type {Record<string, any>} */ found) =>
        describeSuspicion(found.start_s, found.end_s, found.text),
    ),
  ];
  return {
    kind: "recording",
    id: jobId,
    durationS: recording.duration_s,
    fs: recording.sampling_rate,
    lead: recording.lead,
    ...readCommon(summary),
    findings: findings.sort((one, other) => one.startS - other.startS),
    groups,
    morphologies: summary.morphologies.forms.map(readForm),
    unreadable,
    beats,
    trend: readHours(hours),
  };
}

/** @param {Record<string, any>} stretch */
function readStretch({ start_s: startS, end_s: endS, reason }) {
  return { startS, endS, reason };
}

/**
 * @param {Record<string, any>} form
 * @returns {import("./prediction.js").Morphology}
 */
function readForm({
  name,
  beats,
  example_s: exampleS,
  coupling_ms: couplingMs,
  qrs_width_ms: qrs,
}) {
  return { name, beats, exampleS, couplingMs, qrsWidthMs: qrs };
}

/**
 * @param {Array<Record<string, any>>} hours
 * @returns {import("../signal/trend.js").Trend}
 */
function readHours(hours) {
  return {
    stepS: HOUR_S,
    heartRateBpm: hours.map((hour) => hour.heart_rate_mean_bpm),
    burden: hours.map((hour) => hour.burden),
  };
}
