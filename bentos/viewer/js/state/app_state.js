/**
 * What the page knows; the store holds one of these.
 */

import { USUAL_VIEW } from "../base/geometry.js";

/**
 * Where the signal came from.
 *
 * @typedef {object} Subject
 * @property {"signal" | "recording" | "stored"} kind `stored`: a prediction by its link.
 * @property {string} name
 * @property {string | null} example Kind of the demo strip.
 * @property {File[]} files
 * @property {import("../files/table.js").ReadTable | null} table
 * @property {string[]} leads To choose from.
 * @property {string} lead The one of a recording that is analysed; empty while that is not known.
 * @property {import("../files/request.js").SignalSettings | null} settings
 * @property {boolean} isKnown Whether the file states its lead, sampling rate and unit.
 * @property {Blob | null} body What is sent.
 * @property {boolean} isSent
 * @property {Array<[string, string]>} form What was sent with the files of a recording.
 */

/**
 * @typedef {object} Progress
 * @property {string} text
 * @property {number | null} share From 0 to 1; null when it cannot be told.
 */

/**
 * @typedef {object} FeedbackState
 * @property {"none" | "sending" | "taken" | "failed"} status
 * @property {string} text
 */

/**
 * @typedef {object} State
 * @property {Record<string, any> | null} health
 * @property {string[]} knownLeads
 * @property {boolean} takesRecordings
 * @property {string[]} signalSuffixes Of the files that the service reads for the viewer.
 * @property {boolean} isKeyAsked
 * @property {Subject | null} subject
 * @property {import("../signal/local_signal.js").SignalSource | null} signal
 * @property {import("../answer/prediction.js").Answer | null} answer
 * @property {import("../base/problem.js").ProblemError | null} problem
 * @property {Progress | null} progress
 * @property {import("../base/geometry.js").View} view
 * @property {number} width Of the strip, in CSS px.
 * @property {import("../signal/beats.js").Beat | null} selected
 * @property {import("../signal/beats.js").Beat | null} hovered
 * @property {Map<string, "N" | "V">} labels The reader's classes by the id of beats, sent or not.
 * @property {Map<string, "N" | "V">} sentLabels Those that the service has.
 * @property {FeedbackState} feedback
 * @property {boolean} isAtStart Whether the reader is where nothing is open.
 * @property {string} said The last thing that was said aloud.
 * @property {number} drawn Grows when more of a recording is at hand.
 */

/** @typedef {import("../base/store.js").Store<State>} ViewerStore */

/** @type {FeedbackState} */
export const NO_FEEDBACK = { status: "none", text: "" };

/** What belongs to one subject and goes with it. */
export const NOTHING_OPEN = {
  subject: null,
  signal: null,
  answer: null,
  problem: null,
  progress: null,
  isKeyAsked: false,
  view: USUAL_VIEW,
  selected: null,
  hovered: null,
  labels: new Map(),
  sentLabels: new Map(),
  feedback: NO_FEEDBACK,
};

/** @type {State} */
export const INITIAL_STATE = {
  health: null,
  knownLeads: [],
  takesRecordings: false,
  signalSuffixes: [],
  width: 800,
  isAtStart: false,
  said: "",
  drawn: 0,
  ...NOTHING_OPEN,
};

/**
 * The marks that the service does not have yet.
 *
 * @param {Pick<State, "labels" | "sentLabels">} state
 * @returns {Array<[string, "N" | "V"]>}
 */
export function unsentLabels({ labels, sentLabels }) {
  return [...labels].filter(([id, label]) => sentLabels.get(id) !== label);
}

/**
 * Seconds of the signal that is open, or 0.
 *
 * @param {State} state
 */
export function durationOf({ answer, signal }) {
  return signal?.durationS ?? answer?.durationS ?? 0;
}
