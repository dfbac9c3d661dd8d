/**
 * Paper and time: where a moment and a voltage are on the screen.
 */

/** CSS defines an inch as 96 px; on a screen this is as near to a millimetre as pages come. */
export const PX_PER_MM = 96 / 25.4;

/** What is set aside at the left for the calibration pulse. */
export const GUTTER_PX = Math.round(11 * PX_PER_MM);

/** Speeds and gains of ECG paper. */
export const SPEEDS_MM_PER_S = [12.5, 25, 50];
export const GAINS_MM_PER_MV = [5, 10, 20];

/** Below this speed a square no longer measures time, and lines across are times. */
export const SLOWEST_PAPER_MM_PER_S = 6;

export const USUAL_VIEW = Object.freeze({ startS: 0, speed: 25, gain: 10 });

const FASTEST_MM_PER_S = 200;

/**
 * What is looked at.
 *
 * @typedef {object} View
 * @property {number} startS
 * @property {number} speed In mm/s.
 * @property {number} gain In mm/mV.
 */

/**
 * A drawing: its size in CSS px and its scales.
 *
 * @typedef {object} Frame
 * @property {number} width
 * @property {number} height
 * @property {number} dpr Device pixels of a CSS px.
 * @property {number} startS
 * @property {number} endS
 * @property {number} pxPerS
 */

/**
 * @param {View} view
 * @param {{width: number, height: number, dpr: number}} size
 * @returns {Frame}
 */
export function makeFrame(view, { width, height, dpr }) {
  const pxPerS = view.speed * PX_PER_MM;
  const endS = view.startS + (width - GUTTER_PX) / pxPerS;
  return { width, height, dpr, startS: view.startS, endS, pxPerS };
}

/**
 * @param {Frame} frame
 * @param {number} timeS
 */
export function xAt(frame, timeS) {
  return GUTTER_PX + (timeS - frame.startS) * frame.pxPerS;
}

/**
 * @param {Frame} frame
 * @param {number} x
 */
export function timeAt(frame, x) {
  return frame.startS + (x - GUTTER_PX) / frame.pxPerS;
}

/**
 * Seconds that fit beside the gutter.
 *
 * @param {number} width
 * @param {number} speed
 */
export function secondsIn(width, speed) {
  return Math.max(1, width - GUTTER_PX) / (speed * PX_PER_MM);
}

/**
 * The speed at which all of a signal fits.
 *
 * @param {number} durationS
 * @param {number} width
 */
export function speedThatFits(durationS, width) {
  return Math.max(1, width - GUTTER_PX) / (durationS * PX_PER_MM);
}

/**
 * Keep a view on the signal.
 *
 * @param {View} view
 * @param {number} durationS
 * @param {number} width
 * @returns {View}
 */
export function clampView(view, durationS, width) {
  const slowest = Math.min(SPEEDS_MM_PER_S[0], speedThatFits(durationS, width));
  const speed = Math.min(FASTEST_MM_PER_S, Math.max(slowest, view.speed));
  const latestS = Math.max(0, durationS - secondsIn(width, speed));
  return { ...view, speed, startS: Math.min(latestS, Math.max(0, view.startS)) };
}

/**
 * Change the speed while a moment stays where it is.
 *
 * @param {View} view
 * @param {number} speed
 * @param {number} anchorS
 * @returns {View}
 */
export function zoomTo(view, speed, anchorS) {
  return { ...view, speed, startS: anchorS - ((anchorS - view.startS) * view.speed) / speed };
}

/** Steps between labels of time that readers can count in. */
const NICE_S = [
  0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200,
];

/**
 * The least step of time that is nice and not less than some seconds.
 *
 * @param {number} leastS
 */
export function niceStep(leastS) {
  return NICE_S.find((step) => step >= leastS) ?? 86400;
}
