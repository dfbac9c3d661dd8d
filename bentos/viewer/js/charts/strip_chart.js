/**
 * Draw the strip: paper, trace, and what was found in it.
 */

import { findGroups } from "../signal/rhythm_groups.js";
import { font, prepareCanvas } from "./canvas.js";
import { GUTTER_PX, PX_PER_MM, makeFrame, xAt } from "./geometry.js";
import {
  BRACKET_LANE_PX,
  LABEL_LANE_PX,
  drawBrackets,
  drawClasses,
  drawFindings,
  drawFocus,
  drawUnreadable,
  extentOf,
} from "./marks.js";
import { drawCalibration, drawGrid, drawTimes } from "./paper.js";
import { traceCurve } from "./trace.js";

const TOP_PX = LABEL_LANE_PX + BRACKET_LANE_PX;
const TIME_LANE_PX = 18;
/** Below this speed bands behind V beats would be stripes. */
const SLOWEST_BANDS_MM_PER_S = 3;
/** Below this speed the trace is a band, which is drawn lighter. */
const SLOWEST_LINE_MM_PER_S = 1.5;
/** More V beats than this are not coloured one by one. */
const MAX_COLOURED = 400;

/**
 * @typedef {object} StripContent
 * @property {import("../signal/local_signal.js").SignalSource | null} signal
 * @property {import("../signal/beats.js").Beat[]} beats Those in view and a little around it.
 * @property {import("../answer.js").Finding[]} findings Marked in place of the beats.
 * @property {number} durationS
 * @property {import("../answer.js").UnreadableStretch[]} unreadable
 * @property {Map<string, "N" | "V">} labels The reader's classes.
 * @property {import("../signal/beats.js").Beat | null} selected
 * @property {import("../signal/beats.js").Beat | null} hovered
 */

/**
 * Draw the strip.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{width: number, height: number, dpr: number}} size
 * @param {import("./geometry.js").View} view
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
  drawFindings(context, frame, content.findings, palette);
  drawBrackets(context, frame, findGroups(beats), palette);
  drawCalibration(context, frame, { gain: view.gain, middleY, top: TOP_PX, palette });
  if (!content.signal) drawNoTrace(context, frame, palette);
  return { leavesPaper };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {import("./geometry.js").Frame} frame
 * @param {{view: import("./geometry.js").View, content: StripContent, middleY: number,
 *   palette: import("./canvas.js").Palette}} options
 */
function drawSignal(context, frame, { view, content, middleY, palette }) {
  const { signal, beats } = content;
  if (!signal) return false;
  const pointsPerS = frame.pxPerS * frame.dpr;
  const pieces = signal.read({ startS: frame.startS, endS: frame.endS, pointsPerS });
  const centreMv = signal.centreMv ?? 0;
  const pxPerMv = view.gain * PX_PER_MM;
  const path = traceCurve(frame, pieces, (mv) => middleY - (mv - centreMv) * pxPerMv);
  context.save();
  context.beginPath();
  context.rect(GUTTER_PX, 0, frame.width - GUTTER_PX, frame.height);
  context.clip();
  context.lineWidth = 1.4;
  context.lineJoin = "round";
  context.strokeStyle = palette.trace;
  context.globalAlpha = view.speed < SLOWEST_LINE_MM_PER_S ? 0.6 : 1;
  context.stroke(path);
  context.globalAlpha = 1;
  const ventricular = beats.filter((beat) => beat.type === "V");
  if (ventricular.length && ventricular.length <= MAX_COLOURED) {
    context.beginPath();
    for (const beat of ventricular) {
      const [left, right] = extentOf(beat).map((timeS) => xAt(frame, timeS));
      context.rect(left, 0, right - left, frame.height);
    }
    context.clip();
    context.strokeStyle = palette.v;
    context.lineWidth = 1.8;
    context.stroke(path);
  }
  context.restore();
  const limitMv = (frame.height - TIME_LANE_PX - middleY) / pxPerMv;
  return pieces.some((piece) => goesBeyond(piece, frame, centreMv, limitMv));
}

/**
 * @param {import("../signal/local_signal.js").Piece} piece
 * @param {import("./geometry.js").Frame} frame
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
 * @param {import("./geometry.js").Frame} frame
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
 * @param {import("./geometry.js").Frame} frame
 * @param {number} durationS
 * @param {import("./canvas.js").Palette} palette
 */
function drawEnd(context, frame, durationS, palette) {
  const x = xAt(frame, durationS);
  if (x >= frame.width) return;
  context.fillStyle = palette.unreadable;
  context.fillRect(x, 0, frame.width - x, frame.height);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {import("./geometry.js").Frame} frame
 * @param {import("./canvas.js").Palette} palette
 */
function drawNoTrace(context, frame, palette) {
  context.font = font(13);
  context.fillStyle = palette.soft;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const x = (frame.width + GUTTER_PX) / 2;
  const y = TOP_PX + (frame.height - TOP_PX - TIME_LANE_PX) / 2;
  context.fillText("The service keeps beats, not signals: no trace here.", x, y - 10, frame.width - 80);
  context.fillText("Choose its file to see the trace under them.", x, y + 10, frame.width - 80);
}
