/**
 * Draw ECG paper: squares of 1 and 5 mm, times, and the calibration pulse.
 */

import { clock } from "../base/format.js";
import { font, sharp } from "./canvas.js";
import { GUTTER_PX, PX_PER_MM, SLOWEST_PAPER_MM_PER_S, niceStep, xAt } from "../base/geometry.js";

const LABEL_GAP_PX = 64;
const PULSE_MV = 1;
const PULSE_MM = 5;

/**
 * @typedef {import("./canvas.js").Palette} Palette
 * @typedef {import("../base/geometry.js").Frame} Frame
 */

/**
 * Draw the squares behind a trace.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {{speed: number, middleY: number, palette: Palette}} options `middleY`: where a line of
 *   squares is to be.
 */
export function drawGrid(context, frame, { speed, middleY, palette }) {
  context.fillStyle = palette.paper;
  context.fillRect(0, 0, frame.width, frame.height);
  const isPaper = speed >= SLOWEST_PAPER_MM_PER_S;
  const stepS = isPaper ? 1 / speed : niceStep(LABEL_GAP_PX / frame.pxPerS) / 5;
  const first = Math.ceil((frame.startS - GUTTER_PX / frame.pxPerS) / stepS);
  const last = Math.floor(frame.endS / stepS);
  const vertical = Array.from({ length: last - first + 1 }, (_, at) => first + at);
  const rows = Math.ceil(frame.height / PX_PER_MM);
  const horizontal = Array.from({ length: 2 * rows + 1 }, (_, at) => at - rows);
  for (const isMajor of [false, true]) {
    context.strokeStyle = isMajor ? palette.gridMajor : palette.grid;
    context.lineWidth = 1 / frame.dpr;
    context.beginPath();
    for (const line of vertical) {
      if ((line % 5 === 0) !== isMajor) continue;
      const x = sharp(xAt(frame, line * stepS), frame.dpr);
      context.moveTo(x, 0);
      context.lineTo(x, frame.height);
    }
    for (const line of horizontal) {
      if ((line % 5 === 0) !== isMajor) continue;
      const y = sharp(middleY + line * PX_PER_MM, frame.dpr);
      context.moveTo(0, y);
      context.lineTo(frame.width, y);
    }
    context.stroke();
  }
}

/**
 * Write the times along the lower edge.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {{durationS: number, palette: Palette}} options
 */
export function drawTimes(context, frame, { durationS, palette }) {
  const stepS = niceStep(LABEL_GAP_PX / frame.pxPerS);
  context.font = font(11);
  context.fillStyle = palette.soft;
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  const end = Math.min(durationS + 1e-9, frame.endS);
  for (let line = Math.ceil(frame.startS / stepS); line * stepS <= end; line += 1) {
    const x = xAt(frame, line * stepS);
    context.fillRect(sharp(x, frame.dpr) - 0.5 / frame.dpr, frame.height - 16, 1 / frame.dpr, 16);
    if (x < frame.width - 30) {
      context.fillText(nameTime(line * stepS, stepS, durationS), x + 4, frame.height - 5);
    }
  }
}

/**
 * @param {number} timeS
 * @param {number} stepS
 * @param {number} durationS
 */
export function nameTime(timeS, stepS, durationS) {
  const decimals = stepS < 1 ? 1 : 0;
  if (durationS <= 120) return `${timeS.toFixed(decimals)} s`;
  return clock(timeS, { decimals, withHours: durationS >= 3600 });
}

/**
 * Draw the calibration pulse on the strip's own paper, which does not move.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {{gain: number, middleY: number, top: number, palette: Palette}} options
 */
export function drawCalibration(context, frame, { gain, middleY, top, palette }) {
  context.fillStyle = palette.paper;
  context.fillRect(0, 0, GUTTER_PX, frame.height);
  context.fillStyle = palette.gridMajor;
  context.fillRect(GUTTER_PX - 1, 0, 1, frame.height);
  const heightPx = PULSE_MV * gain * PX_PER_MM;
  const baseY = Math.min(frame.height - 20, middleY + heightPx / 2);
  const [left, up, down, right] = [1.5, 3, 3 + PULSE_MM, 9.5].map((mm) => mm * PX_PER_MM);
  context.strokeStyle = palette.trace;
  context.lineWidth = 1.5;
  context.lineJoin = "miter";
  context.beginPath();
  context.moveTo(left, baseY);
  context.lineTo(up, baseY);
  context.lineTo(up, baseY - heightPx);
  context.lineTo(down, baseY - heightPx);
  context.lineTo(down, baseY);
  context.lineTo(right, baseY);
  context.stroke();
  context.font = font(10);
  context.fillStyle = palette.soft;
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  const labelY = baseY - heightPx - 5 > top + 8 ? baseY - heightPx - 5 : baseY + 13;
  context.fillText("1 mV", (up + down) / 2, labelY);
}
