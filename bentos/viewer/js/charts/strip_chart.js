/**
 * Draw the strip: paper, trace, and what was found in it.
 */

import { groupsIn } from "../answer/rhythm_groups.js";
import { prepareCanvas } from "./canvas.js";
import { GUTTER_PX, PX_PER_MM, SLOWEST_PAPER_MM_PER_S, makeFrame, xAt } from "../base/geometry.js";
import {
  BRACKET_LANE_PX,
  LABEL_LANE_PX,
  drawBrackets,
  drawClasses,
  drawEvents,
  drawFocus,
  drawUnreadable,
  extentOf,
} from "./marks.js";
import { drawCalibration, drawGrid, drawTimes } from "./paper.js";
import { drawTrace } from "./trace.js";

const TOP_PX = LABEL_LANE_PX + BRACKET_LANE_PX;
const TIME_LANE_PX = 18;
/** On paper the samples themselves are drawn, not their extremes, which look like stairs. */
const PAPER_POINTS_PER_S = 300;
/** Below this speed bands behind V beats would be stripes. */
const SLOWEST_BANDS_MM_PER_S = 3;
/** Below this speed the trace is a band, which is drawn lighter. */
const SLOWEST_LINE_MM_PER_S = 1.5;

/**
 * @typedef {object} StripContent
 * @property {import("../signal/local_signal.js").SignalSource | null} signal
 * @property {import("../signal/beats.js").Beat[]} beats Those in view and a little around it.
 * @property {Array<{timeS: number, kind: string}>} events Marked in place of the beats.
 * @property {number} durationS
 * @property {import("../answer/rhythm_groups.js").RhythmGroup[]} groups Of the whole signal.
 * @property {import("../answer/prediction.js").UnreadableStretch[]} unreadable
 * @property {Map<string, "N" | "V">} labels The reader's classes.
 * @property {import("../signal/beats.js").Beat | null} selected
 * @property {import("../signal/beats.js").Beat | null} hovered
 */

/**
 * Draw the strip.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{width: number, height: number, dpr: number}} size
 * @param {import("../base/geometry.js").View} view
 * @param {StripContent} content
 * @param {import("./canvas.js").Palette} palette
 * @returns {{leavesPaper: boolean}} Whether the trace is cut at the edges.
 */
export function drawStrip(canvas, size, view, content, palette) {
  const context = prepareCanvas(canvas, size);
  const frame = makeFrame(view, size);
  const middleY = TOP_PX + (size.height - TOP_PX - TIME_LANE_PX) / 2;
  drawGrid(context, frame, { speed: view.speed, middleY, palette });
  drawEnd(context, frame, content.durationS, palette);
  const { selected, hovered, beats } = content;
  if (view.speed >= SLOWEST_BANDS_MM_PER_S) drawBands(context, frame, beats, palette);
  if (hovered && hovered !== selected) {
    drawFocus(context, frame, hovered, { palette, isSelected: false });
  }
  if (selected) drawFocus(context, frame, selected, { palette, isSelected: true });
  drawUnreadable(context, frame, content.unreadable, { top: TOP_PX, palette });
  const leavesPaper = drawSignal(context, frame, { view, content, middleY, palette });
  drawTimes(context, frame, { durationS: content.durationS, palette });
  drawClasses(context, frame, beats, { palette, labels: content.labels });
  drawEvents(context, frame, content.events, palette);
  drawBrackets(context, frame, groupsIn(content.groups, frame, beats), palette);
  drawCalibration(context, frame, { gain: view.gain, middleY, top: TOP_PX, palette });
  return { leavesPaper };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {import("../base/geometry.js").Frame} frame
 * @param {{view: import("../base/geometry.js").View, content: StripContent, middleY: number,
 *   palette: import("./canvas.js").Palette}} options
 */
function drawSignal(context, frame, { view, content, middleY, palette }) {
  const { signal, beats } = content;
  if (!signal) return false;
  const isPaper = view.speed >= SLOWEST_PAPER_MM_PER_S;
  const pointsPerS = Math.max(frame.pxPerS * frame.dpr, isPaper ? PAPER_POINTS_PER_S : 0);
  const pieces = signal.read({ startS: frame.startS, endS: frame.endS, pointsPerS });
  const centreMv = signal.centreMv ?? 0;
  const pxPerMv = view.gain * PX_PER_MM;
  context.save();
  context.beginPath();
  context.rect(GUTTER_PX, 0, frame.width - GUTTER_PX, frame.height);
  context.clip();
  context.globalAlpha = view.speed < SLOWEST_LINE_MM_PER_S ? 0.65 : 1;
  drawTrace(context, frame, pieces, (mv) => middleY - (mv - centreMv) * pxPerMv, {
    colour: palette.trace,
    spanColour: palette.v,
    spans: beats.filter((beat) => beat.type === "V").map(extentOf),
  });
  context.restore();
  const limitMv = (frame.height - TIME_LANE_PX - middleY) / pxPerMv;
  return pieces.some((piece) => goesBeyond(piece, frame, centreMv, limitMv));
}

/**
 * @param {import("../signal/local_signal.js").Piece} piece
 * @param {import("../base/geometry.js").Frame} frame
 * @param {number} centreMv
 * @param {number} limitMv
 */
function goesBeyond({ kind, startS, stepS, values }, frame, centreMv, limitMv) {
  const width = kind === "envelope" ? 2 : 1;
  const first = Math.max(0, width * Math.floor((frame.startS - startS) / stepS));
  const last = Math.min(values.length, width * Math.ceil((frame.endS - startS) / stepS));
  for (let at = first; at < last; at += 1) {
    if (Math.abs(values[at] - centreMv) > limitMv) return true;
  }
  return false;
}

/**
 * Tint the paper behind V beats.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {import("../base/geometry.js").Frame} frame
 * @param {import("../signal/beats.js").Beat[]} beats
 * @param {import("./canvas.js").Palette} palette
 */
function drawBands(context, frame, beats, palette) {
  context.fillStyle = palette.vSoft;
  for (const beat of beats) {
    if (beat.type !== "V") continue;
    const [left, right] = extentOf(beat).map((timeS) => xAt(frame, timeS));
    context.fillRect(left, 0, Math.max(1, right - left), frame.height);
  }
}

/**
 * Where the signal ends the paper goes on, greyed.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {import("../base/geometry.js").Frame} frame
 * @param {number} durationS
 * @param {import("./canvas.js").Palette} palette
 */
function drawEnd(context, frame, durationS, palette) {
  const x = xAt(frame, durationS);
  if (x >= frame.width) return;
  context.fillStyle = palette.unreadable;
  context.fillRect(x, 0, frame.width - x, frame.height);
}
