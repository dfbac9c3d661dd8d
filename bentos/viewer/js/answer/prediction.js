/**
 * What the service found, in one form for predictions and for recordings.
 */

import { clock, count, duration, plural } from "../base/format.js";
import { makePredictedBeats } from "../signal/beats.js";
import { measureTrend } from "../signal/trend.js";
import { readGroups } from "./rhythm_groups.js";

/** Signals longer than this have a trend in place of a picture of themselves. */
const TREND_FROM_S = 120;

/**
 * @typedef {{startS: number, endS: number, reason: string}} UnreadableStretch
 * @typedef {{kind: string, startS: number, endS: number, text: string}} Finding
 */

/**
 * V beats of one shape.
 *
 * @typedef {object} Morphology
 * @property {string} name
 * @property {number} beats
 * @property {number} exampleS Time of the beat that is most like all of them.
 * @property {number | null} couplingMs
 * @property {number} qrsWidthMs
 */

/**
 * @typedef {object} Rhythm
 * @property {number | null} meanRateBpm From the mean RR interval.
 * @property {number | null} slowestBpm Mean rate of eight RR intervals in a row.
 * @property {number | null} fastestBpm
 * @property {number | null} longestRrS
 * @property {number | null} burden Share of readable beats that are V, 0 to 1.
 * @property {number | null} isolated
 * @property {number | null} couplets
 * @property {number | null} runs
 * @property {number | null} bigeminyBeats
 * @property {number | null} trigeminyBeats
 * @property {number | null} rOnT
 * @property {number | null} pauses RR intervals of more than two seconds.
 */

/**
 * @typedef {object} Answer
 * @property {"prediction" | "recording"} kind
 * @property {string} id
 * @property {number} durationS
 * @property {number | null} fs
 * @property {string} lead
 * @property {"N" | "V" | null} overall
 * @property {number | null} confidence
 * @property {string} riskLevel
 * @property {string} riskBasis
 * @property {string[]} riskReasons
 * @property {boolean} isProvisional Whether the level rests on the burden of less than a day.
 * @property {{total: number, normal: number, ventricular: number, unreadable: number}} counts
 * @property {Rhythm} rhythm
 * @property {Finding[]} findings
 * @property {import("./rhythm_groups.js").RhythmGroup[]} groups
 * @property {Morphology[]} morphologies
 * @property {UnreadableStretch[]} unreadable
 * @property {number | null} usableShare
 * @property {string[]} warnings
 * @property {number | null} threshold
 * @property {Record<string, string>} model
 * @property {string} notice
 * @property {string} timestamp
 * @property {number | null} processingMs
 * @property {boolean} isGuarded Whether the rules were applied.
 * @property {import("../signal/beats.js").BeatSource} beats
 * @property {import("../signal/trend.js").Trend | null} trend
 */

/**
 * Read a prediction.
 *
 * @param {Record<string, any>} prediction
 * @returns {Answer}
 */
export function readPrediction(prediction) {
  const beats = makePredictedBeats(prediction);
  const durationS = prediction.duration_s;
  const quality = prediction.signal_quality;
  const unreadable = quality.unreadable.map((/** @type {Record<string, any>} */ stretch) => ({
    startS: stretch.start_sample / prediction.sampling_rate,
    endS: stretch.end_sample / prediction.sampling_rate,
    reason: stretch.reason,
  }));
  const { rhythm } = prediction;
  const groups = readGroups({
    runs: rhythm.runs,
    coupletStartsS: rhythm.couplet_starts_s ?? [],
    patterns: rhythm.patterns ?? [],
  });
  return {
    kind: "prediction",
    id: prediction.prediction_id,
    durationS,
    fs: prediction.sampling_rate,
    lead: prediction.derivation,
    ...readCommon(prediction),
    findings: [
      ...groups.map((group) => ({ ...group, text: describeGroup(group) })),
      ...(rhythm.pauses ?? []).map(describePause),
      ...unreadable.map(describeUnreadable),
      ...(quality.findings ?? []).map((/** @type {Record<string, any>} */ found) =>
        describeSuspicion(
          found.start_sample / prediction.sampling_rate,
          found.end_sample / prediction.sampling_rate,
          found.text,
        ),
      ),
    ].sort((one, other) => one.startS - other.startS),
    groups,
    morphologies: [],
    unreadable,
    beats,
    trend: durationS > TREND_FROM_S ? measureTrend(beats.all, durationS) : null,
  };
}

/**
 * Read the members that predictions and summaries of recordings share.
 *
 * @param {Record<string, any>} found
 */
export function readCommon(found) {
  const rhythm = found.rhythm ?? {};
  return {
    overall: found.overall_arrhythmia_type ?? null,
    confidence: found.confidence ?? null,
    riskLevel: found.risk_level ?? "",
    riskBasis: found.risk_basis ?? "",
    riskReasons: found.risk_reasons ?? [],
    isProvisional: found.risk_is_provisional ?? false,
    counts: {
      total: found.total_beats_detected ?? 0,
      normal: found.normal_beats ?? 0,
      ventricular: found.ventricular_beats ?? 0,
      unreadable: found.unreadable_beats ?? 0,
    },
    rhythm: {
      meanRateBpm: rhythm.heart_rate_mean_bpm ?? null,
      slowestBpm: rhythm.heart_rate_min_bpm ?? null,
      fastestBpm: rhythm.heart_rate_max_bpm ?? null,
      longestRrS: rhythm.longest_rr_s ?? null,
      burden: rhythm.pvc_burden ?? null,
      isolated: rhythm.isolated ?? null,
      couplets: numberOf(rhythm.couplets),
      runs: numberOf(rhythm.runs),
      bigeminyBeats: rhythm.bigeminy_beats ?? null,
      trigeminyBeats: rhythm.trigeminy_beats ?? null,
      rOnT: rhythm.r_on_t ?? null,
      pauses: numberOf(rhythm.pauses),
    },
    usableShare: found.signal_quality?.usable_share ?? null,
    warnings: found.signal_quality?.warnings ?? [],
    threshold: found.threshold ?? null,
    model: found.model ?? {},
    notice: found.notice ?? "",
    timestamp: found.timestamp ?? found.analysed_at ?? "",
    processingMs: found.processing_time_ms ?? null,
    isGuarded: found.ruleguard_applied ?? true,
  };
}

/**
 * A count, or the length of a list of what is counted.
 *
 * @param {unknown} value
 * @returns {number | null}
 */
function numberOf(value) {
  if (Array.isArray(value)) return value.length;
  return typeof value === "number" ? value : null;
}

/** @param {import("./rhythm_groups.js").RhythmGroup} group */
export function describeGroup({ kind, beats, rateBpm, startS, endS }) {
  if (kind === "run") return `Run of ${beats} V beats at ${Math.round(rateBpm ?? 0)}/min`;
  if (kind === "couplet") return "Couplet";
  const name = kind === "bigeminy" ? "Bigeminy" : "Trigeminy";
  return `${name}, ${plural(beats, "V beat")} in ${duration(endS - startS)}`;
}

/**
 * @param {Record<string, any>} pause
 * @returns {Finding}
 */
export function describePause({ start_s: startS, duration_s: durationS, follows_v: followsV }) {
  const text = `Pause of ${durationS.toFixed(1)} s${followsV ? " after a V beat" : ""}`;
  return { kind: "pause", startS, endS: startS + durationS, text };
}

const REASONS = new Map([
  ["flat", "cannot be read: flat line"],
  ["clipped", "cannot be read: clipped"],
  ["noise", "cannot be read: noise"],
  ["missing", "missing in the recording"],
  ["flutter", "no beats: flutter or fibrillation suspected"],
]);

/**
 * Why beats of a stretch have no class.
 *
 * @param {string} reason
 */
export function describeReason(reason) {
  return REASONS.get(reason) ?? `cannot be read: ${reason}`;
}

/**
 * What the service suspects, as it words it.
 *
 * @param {number} startS
 * @param {number} endS
 * @param {string} text
 * @returns {Finding}
 */
export function describeSuspicion(startS, endS, text) {
  return { kind: "suspicion", startS, endS, text: `${text[0].toUpperCase()}${text.slice(1)}` };
}

/** @param {UnreadableStretch} stretch */
export function describeUnreadable({ startS, endS, reason }) {
  const why = describeReason(reason);
  const text = `${why[0].toUpperCase()}${why.slice(1)}, for ${duration(endS - startS)}`;
  return { kind: "unreadable", startS, endS, text };
}

/**
 * A beat in words, for the screen and for those who hear the page.
 *
 * @param {import("../signal/beats.js").Beat} beat
 * @param {Answer} answer
 * @returns {string}
 */
export function describeBeat(beat, answer) {
  const at =
    answer.durationS > 120 ? clock(beat.timeS, { decimals: 1 }) : `${beat.timeS.toFixed(2)} s`;
  const what = beat.type === null ? `not read, ${beat.quality}` : `class ${beat.type}`;
  const order = beat.index === null ? "" : ` ${count(beat.index + 1)}`;
  const p = beat.probabilityV === null ? "" : `, probability of V ${beat.probabilityV.toFixed(3)}`;
  const rr = beat.rrPreviousS === null ? "" : `, RR ${Math.round(1000 * beat.rrPreviousS)} ms`;
  return `Beat${order} at ${at}: ${what}${p}${rr}`;
}

/** The rules of RuleGuard in words. */
const RULES = new Map([
  ["premature_and_wide", "N became V: early, wide, and a pause after it"],
]);

/** @param {string} rule */
export function describeRule(rule) {
  return RULES.get(rule) ?? rule.replaceAll("_", " ");
}
