/**
 * Draw all of a signal on one line, and the window that the strip shows of it.
 *
 * Short signals are drawn themselves; of long ones heart rate and burden are.
 */

import { percent } from "../base/format.js";
import { font, hatch, prepareCanvas, sharp } from "./canvas.js";
import { GUTTER_PX, niceStep } from "../base/geometry.js";
import { nameTime } from "./paper.js";
import { drawTrace } from "./trace.js";

const TIME_LANE_PX = 16;
const EVENT_LANE_PX = 13;

/**
 * @typedef {object} OverviewContent
 * @property {number} durationS
 * @property {{startS: number, endS: number}} window
 * @property {import("../signal/local_signal.js").SignalSource | null} signal For short ones.
 * @property {import("../signal/trend.js").Trend | null} trend For long ones.
 * @property {import("../signal/beats.js").Beat[]} beats Drawn where there is nothing else.
 * @property {Array<{timeS: number, kind: string}>} events
 * @property {import("../answer/prediction.js").UnreadableStretch[]} unreadable
 */

/**
 * Draw the overview.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{width: number, height: number, dpr: number}} size
 * @param {OverviewContent} content
 * @param {import("./canvas.js").Palette} palette
 */
export function drawOverview(canvas, size, content, palette) {
  const context = prepareCanvas(canvas, size);
  const pxPerS = (size.width - GUTTER_PX) / content.durationS;
  const frame = { ...size, startS: 0, endS: content.durationS, pxPerS };
  const area = { top: EVENT_LANE_PX, bottom: size.height - TIME_LANE_PX };
  context.fillStyle = palette.paper;
  context.fillRect(GUTTER_PX, 0, size.width - GUTTER_PX, size.height);
  for (const { startS, endS } of content.unreadable) {
    const width = Math.max(1, (endS - startS) * pxPerS);
    const x = GUTTER_PX + startS * pxPerS;
    hatch(context, { x, y: area.top, width, height: area.bottom - area.top }, palette);
  }
  if (content.trend) drawTrend(context, frame, area, { trend: content.trend, palette });
  else if (content.signal) drawSignal(context, frame, area, { signal: content.signal, palette });
  else drawBeats(context, frame, area, { beats: content.beats, palette });
  drawEvents(context, frame, content.events, palette);
  drawTimes(context, frame, palette);
  drawWindow(context, frame, content.window, palette);
}

/**
 * Where the window of the strip is in the overview.
 *
 * @param {number} width
 * @param {number} durationS
 * @param {{startS: number, endS: number}} window
 * @returns {{left: number, right: number}}
 */
export function placeWindow(width, durationS, { startS, endS }) {
  const pxPerS = (width - GUTTER_PX) / durationS;
  const left = GUTTER_PX + startS * pxPerS;
  // So that it can be seen and held in 24 hours.
  return { left, right: Math.min(width, Math.max(left + 5, GUTTER_PX + endS * pxPerS)) };
}

/**
 * @typedef {import("../base/geometry.js").Frame} Frame
 * @typedef {{top: number, bottom: number}} Area
 * @typedef {import("./canvas.js").Palette} Palette
 */

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {Area} area
 * @param {{signal: import("../signal/local_signal.js").SignalSource, palette: Palette}} options
 */
function drawSignal(context, frame, { top, bottom }, { signal, palette }) {
  const pieces = signal.read({ startS: 0, endS: frame.endS, pointsPerS: frame.pxPerS * frame.dpr });
  let least = Infinity;
  let greatest = -Infinity;
  for (const { values } of pieces) {
    for (const value of values) {
      least = Math.min(least, value);
      greatest = Math.max(greatest, value);
    }
  }
  const scale = (bottom - top - 4) / Math.max(0.2, greatest - least);
  const middle = (least + greatest) / 2;
  const yAt = (/** @type {number} */ mv) => (top + bottom) / 2 - (mv - middle) * scale;
  const ink = { colour: palette.trace, spanColour: palette.trace, spans: [], width: 0.9 };
  drawTrace(context, frame, pieces, yAt, ink);
}

/**
 * A line for each beat, a taller one for each V.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {Area} area
 * @param {{beats: import("../signal/beats.js").Beat[], palette: Palette}} options
 */
function drawBeats(context, frame, { top, bottom }, { beats, palette }) {
  for (const { timeS, type } of beats) {
    const height = (type === "V" ? 0.9 : 0.4) * (bottom - top);
    context.fillStyle = type === "V" ? palette.v : type ? palette.n : palette.hatch;
    context.fillRect(GUTTER_PX + timeS * frame.pxPerS - 0.75, bottom - height, 1.5, height);
  }
}

/**
 * Burden as bars from below, heart rate as a line, each with its scale at the left.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {Area} area
 * @param {{trend: import("../signal/trend.js").Trend, palette: Palette}} options
 */
function drawTrend(context, frame, { top, bottom }, { trend, palette }) {
  const widthPx = trend.stepS * frame.pxPerS;
  const greatestBurden = Math.max(0.05, ...trend.burden.map((value) => value ?? 0));
  const rates = trend.heartRateBpm.filter((value) => value !== null);
  const [low, high] = roundScale(rates.map(Number));
  const yOfRate = (/** @type {number} */ bpm) =>
    bottom - 2 - ((bpm - low) / (high - low)) * (bottom - top - 4);
  context.fillStyle = palette.v;
  trend.burden.forEach((value, at) => {
    if (!value) return;
    const height = Math.max(1.5, 0.62 * (bottom - top) * (value / greatestBurden));
    const x = GUTTER_PX + at * widthPx;
    context.globalAlpha = 0.55;
    context.fillRect(x, bottom - height, Math.max(1, widthPx - (widthPx > 4 ? 1 : 0)), height);
    context.globalAlpha = 1;
  });
  context.strokeStyle = palette.n;
  context.lineWidth = 1.8;
  context.lineJoin = "round";
  context.beginPath();
  let isDown = false;
  trend.heartRateBpm.forEach((bpm, at) => {
    const x = GUTTER_PX + (at + 0.5) * widthPx;
    if (bpm !== null && isDown) context.lineTo(x, yOfRate(bpm));
    else if (bpm !== null) context.moveTo(x, yOfRate(bpm));
    isDown = bpm !== null;
  });
  context.stroke();
  context.font = font(10);
  context.textAlign = "right";
  context.textBaseline = "middle";
  context.fillStyle = palette.n;
  context.fillText(`${high}`, GUTTER_PX - 5, top + 5);
  context.fillText(`${low}`, GUTTER_PX - 5, bottom - 5);
  nameCurves(context, { greatestBurden: Math.max(...trend.burden.map(Number)), palette });
}

/**
 * Say what the line and the bars are.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {{greatestBurden: number, palette: Palette}} options
 */
function nameCurves(context, { greatestBurden, palette }) {
  const parts = [
    ["heart rate /min", palette.n],
    [`V burden, up to ${percent(greatestBurden)}`, palette.v],
  ];
  context.font = font(10.5, 600);
  context.textAlign = "left";
  let x = GUTTER_PX + 8;
  for (const [text, colour] of parts) {
    const { width } = context.measureText(text);
    context.fillStyle = palette.paper;
    context.fillRect(x - 3, EVENT_LANE_PX, width + 6, 14);
    context.fillStyle = colour;
    context.fillText(text, x, EVENT_LANE_PX + 7);
    x += width + 16;
  }
}

/**
 * @param {number[]} rates
 * @returns {[number, number]}
 */
function roundScale(rates) {
  if (!rates.length) return [40, 120];
  const low = 10 * Math.floor((Math.min(...rates) - 3) / 10);
  const high = 10 * Math.ceil((Math.max(...rates) + 3) / 10);
  return [low, Math.max(high, low + 30)];
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {Array<{timeS: number, kind: string}>} events
 * @param {Palette} palette
 */
function drawEvents(context, frame, events, palette) {
  context.fillStyle = palette.v;
  for (const { timeS, kind } of events) {
    const x = GUTTER_PX + timeS * frame.pxPerS;
    const half = kind === "run" ? 4.5 : 2.5;
    context.beginPath();
    context.moveTo(x - half, 2);
    context.lineTo(x + half, 2);
    context.lineTo(x, 2 + 2 * half);
    context.closePath();
    context.fill();
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {Palette} palette
 */
function drawTimes(context, frame, palette) {
  const stepS = niceStep(78 / frame.pxPerS);
  context.font = font(10.5);
  context.fillStyle = palette.soft;
  context.textAlign = "left";
  context.textBaseline = "alphabetic";
  for (let timeS = 0; timeS <= frame.endS; timeS += stepS) {
    const x = GUTTER_PX + timeS * frame.pxPerS;
    context.fillRect(sharp(x, frame.dpr), frame.height - TIME_LANE_PX, 1 / frame.dpr, 5);
    if (x < frame.width - 34) {
      context.fillText(nameTime(timeS, stepS, frame.endS), x + 3, frame.height - 3);
    }
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {{startS: number, endS: number}} window
 * @param {Palette} palette
 */
function drawWindow(context, frame, window, palette) {
  const { left, right } = placeWindow(frame.width, frame.endS, window);
  const bottom = frame.height - TIME_LANE_PX;
  context.fillStyle = palette.shade;
  context.fillRect(GUTTER_PX, 0, left - GUTTER_PX, bottom);
  context.fillRect(right, 0, frame.width - right, bottom);
  context.strokeStyle = palette.select;
  context.lineWidth = 2;
  context.strokeRect(left + 1, 1, Math.max(2, right - left - 2), bottom - 2);
}
