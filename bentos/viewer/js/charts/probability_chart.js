/**
 * Draw the probability of V of each beat against the threshold.
 */

import { font, prepareCanvas, sharp } from "./canvas.js";
import { GUTTER_PX, makeFrame, xAt } from "../base/geometry.js";
import { usualGapPx } from "./marks.js";

const PAD_PX = 9;
const RADIUS_PX = 5;
/** Smaller heads are dots, whatever the class. */
const SMALLEST_PX = 2;

/**
 * Draw the track under the strip.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{width: number, height: number, dpr: number}} size
 * @param {import("../base/geometry.js").View} view
 * @param {{beats: import("../signal/beats.js").Beat[], threshold: number | null,
 *   selected: import("../signal/beats.js").Beat | null, isEmpty: boolean}} content `isEmpty`:
 *   more is seen than beats are asked for.
 * @param {import("./canvas.js").Palette} palette
 */
export function drawProbabilities(canvas, size, view, content, palette) {
  const { beats, threshold, selected, isEmpty } = content;
  const context = prepareCanvas(canvas, size);
  const frame = makeFrame(view, size);
  const yAt = (/** @type {number} */ p) => PAD_PX + (1 - p) * (size.height - 2 * PAD_PX);
  drawScale(context, frame, { yAt, threshold, palette });
  if (isEmpty) drawInvitation(context, frame, palette);
  const radius = Math.min(RADIUS_PX, usualGapPx(frame, beats) / 2);
  context.save();
  context.beginPath();
  context.rect(GUTTER_PX, 0, frame.width - GUTTER_PX, frame.height);
  context.clip();
  for (const beat of beats) {
    if (beat.probabilityV === null) continue;
    const x = xAt(frame, beat.timeS);
    const y = yAt(beat.probabilityV);
    const colour = beat.type === "V" ? palette.v : palette.n;
    context.fillStyle = colour;
    context.fillRect(sharp(x, frame.dpr) - 0.5, y, 1, yAt(0) - y);
    drawHead(context, { x, y, radius }, beat, palette);
    if (beat === selected) {
      context.strokeStyle = palette.select;
      context.lineWidth = 2;
      context.strokeRect(x - 7.5, y - 7.5, 15, 15);
    }
  }
  context.restore();
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, y: number, radius: number}} place
 * @param {import("../signal/beats.js").Beat} beat
 * @param {import("./canvas.js").Palette} palette
 */
function drawHead(context, { x, y, radius }, beat, palette) {
  if (radius < SMALLEST_PX) {
    context.fillRect(x - 1, y - 1, 2, 2);
    return;
  }
  context.beginPath();
  if (beat.type === "V") {
    context.moveTo(x, y - radius);
    context.lineTo(x + radius, y);
    context.lineTo(x, y + radius);
    context.lineTo(x - radius, y);
    context.closePath();
  } else {
    context.arc(x, y, 0.65 * radius, 0, 2 * Math.PI);
  }
  context.fill();
  if (!beat.rule) return;
  context.strokeStyle = palette.reader;
  context.lineWidth = 1.5;
  context.beginPath();
  context.arc(x, y, 7, 0, 2 * Math.PI);
  context.stroke();
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {import("../base/geometry.js").Frame} frame
 * @param {{yAt: (p: number) => number, threshold: number | null,
 *   palette: import("./canvas.js").Palette}} options
 */
function drawScale(context, frame, { yAt, threshold, palette }) {
  context.font = font(10.5);
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (const p of [0, 1]) {
    context.fillStyle = palette.line;
    context.fillRect(GUTTER_PX, sharp(yAt(p), frame.dpr), frame.width - GUTTER_PX, 1 / frame.dpr);
    context.fillStyle = palette.soft;
    context.fillText(p ? "p(V) 1" : "0", GUTTER_PX - 5, yAt(p));
  }
  if (threshold === null) return;
  const y = sharp(yAt(threshold), frame.dpr);
  context.strokeStyle = palette.ink;
  context.lineWidth = 1;
  context.setLineDash([5, 4]);
  context.beginPath();
  context.moveTo(GUTTER_PX, y);
  context.lineTo(frame.width, y);
  context.stroke();
  context.setLineDash([]);
  context.fillStyle = palette.ink;
  context.textAlign = "right";
  context.fillText(
    threshold.toFixed(2),
    GUTTER_PX - 5,
    Math.min(yAt(0) - 11, Math.max(yAt(1) + 11, y)),
  );
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {import("../base/geometry.js").Frame} frame
 * @param {import("./canvas.js").Palette} palette
 */
function drawInvitation(context, frame, palette) {
  context.font = font(12);
  context.fillStyle = palette.soft;
  context.textAlign = "center";
  context.textBaseline = "middle";
  const x = (GUTTER_PX + frame.width) / 2;
  context.fillText("Zoom in to an hour or less to see each beat", x, frame.height * 0.72);
}
