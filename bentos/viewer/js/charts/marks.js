/**
 * Draw what was found over the trace: class of each beat, RR intervals, brackets, hatches.
 */

import { describeReason } from "../answer/prediction.js";
import { font, hatch, sharp } from "./canvas.js";
import { GUTTER_PX, xAt } from "../base/geometry.js";

/** Heights of the lanes over the trace. */
export const LABEL_LANE_PX = 26;
export const BRACKET_LANE_PX = 22;

/** Beats nearer to each other than this have no room for letters; then, for ticks of N beats. */
const LETTER_GAP_PX = 17;
const TICK_GAP_PX = 3;
const INTERVAL_GAP_PX = 48;

/** How far the name of a short group may reach beyond its bracket. */
const ROOM_PX = 60;
/** Shorter groups would be brackets around nothing that can be seen. */
const SHORTEST_BRACKET_PX = 7;

/** What is hatched because the service refused all of it. */
export const REFUSED = "refused";

/**
 * @typedef {import("./canvas.js").Palette} Palette
 * @typedef {import("../base/geometry.js").Frame} Frame
 * @typedef {import("../signal/beats.js").Beat} Beat
 */

/**
 * Where the beat's own part of the trace begins and ends.
 *
 * @param {Beat} beat
 * @returns {[number, number]}
 */
export function extentOf(beat) {
  const before = Math.min(0.28, 0.45 * (beat.rrPreviousS ?? 1));
  const after = Math.min(0.45, 0.55 * (beat.rrNextS ?? 1));
  return [beat.timeS - before, beat.timeS + after];
}

/**
 * Hatch what cannot be read and say why.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {Array<{startS: number, endS: number, reason: string}>} stretches
 * @param {{top: number, palette: Palette}} options
 */
export function drawUnreadable(context, frame, stretches, { top, palette }) {
  for (const { startS, endS, reason } of stretches) {
    const left = Math.max(GUTTER_PX, xAt(frame, startS));
    const right = Math.min(frame.width, xAt(frame, endS));
    if (right <= left) continue;
    hatch(context, { x: left, y: top, width: right - left, height: frame.height - top }, palette);
    const text = reason === REFUSED ? "refused: no ECG can be read" : describeReason(reason);
    context.font = font(12, 600);
    const width = context.measureText(text).width + 14;
    if (right - left < width) continue;
    const x = (left + right - width) / 2;
    context.fillStyle = palette.card;
    context.fillRect(x, frame.height - 44, width, 20);
    context.fillStyle = palette.ink;
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillText(text, x + 7, frame.height - 33.5);
  }
}

/**
 * Write the class of each beat into the upper lane, and the RR intervals between them.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {Beat[]} beats
 * @param {{palette: Palette, labels: Map<string, "N" | "V">}} options
 */
export function drawClasses(context, frame, beats, { palette, labels }) {
  const gapPx = usualGapPx(frame, beats);
  let before = -Infinity;
  for (const beat of beats) {
    const x = xAt(frame, beat.timeS);
    if (gapPx < LETTER_GAP_PX) drawTick(context, x, beat, { gapPx, palette });
    else drawLetter(context, x, beat, palette);
    const label = labels.get(beat.id);
    if (label) drawReaderMark(context, x, label, palette);
    const interval = beat.rrPreviousS;
    if (interval !== null && gapPx >= INTERVAL_GAP_PX && x - before > INTERVAL_GAP_PX - 2) {
      context.font = font(10.5);
      context.fillStyle = palette.soft;
      context.textAlign = "center";
      context.textBaseline = "middle";
      const middle = xAt(frame, beat.timeS - interval / 2);
      if (middle > GUTTER_PX + 14) {
        context.fillText(String(Math.round(1000 * interval)), middle, LABEL_LANE_PX / 2 + 1);
      }
    }
    before = x;
  }
}

/**
 * @param {Frame} frame
 * @param {Beat[]} beats
 */
export function usualGapPx(frame, beats) {
  if (beats.length < 2) return Infinity;
  const span = beats[beats.length - 1].timeS - beats[0].timeS;
  return (span * frame.pxPerS) / (beats.length - 1);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {Beat} beat
 * @param {Palette} palette
 */
function drawLetter(context, x, beat, palette) {
  context.textAlign = "center";
  context.textBaseline = "middle";
  if (beat.type === "V") {
    drawFlag(context, x, palette.v);
    context.fillStyle = palette.onV;
    context.font = font(12, 700);
    context.fillText("V", x, 11.5);
  } else {
    context.font = font(12, 600);
    context.fillStyle = beat.type ? palette.n : palette.soft;
    context.fillText(beat.type ?? "?", x, 11.5);
    context.fillRect(x - 0.5, 19, 1, 4);
  }
  if (beat.rule) {
    context.strokeStyle = palette.reader;
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(x, 11, 10.5, 0, 2 * Math.PI);
    context.stroke();
  }
}

/**
 * A flag that points at the beat.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {string} colour
 */
function drawFlag(context, x, colour) {
  context.fillStyle = colour;
  context.beginPath();
  context.moveTo(x - 9, 3);
  context.lineTo(x + 9, 3);
  context.lineTo(x + 9, 18);
  context.lineTo(x, 25);
  context.lineTo(x - 9, 18);
  context.closePath();
  context.fill();
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {Beat} beat
 * @param {{gapPx: number, palette: Palette}} options
 */
function drawTick(context, x, beat, { gapPx, palette }) {
  if (beat.type === "V") {
    drawTriangle(context, x, gapPx < TICK_GAP_PX ? 2.5 : 4, palette);
  } else if (gapPx >= TICK_GAP_PX) {
    context.fillStyle = beat.type ? palette.n : palette.hatch;
    context.fillRect(x - 0.5, 16, 1, 7);
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {number} half Of its width.
 * @param {Palette} palette
 */
function drawTriangle(context, x, half, palette) {
  context.fillStyle = palette.v;
  context.beginPath();
  context.moveTo(x - half, 6);
  context.lineTo(x + half, 6);
  context.lineTo(x, 22);
  context.closePath();
  context.fill();
}

/**
 * Mark what stands out where more is seen than beats are asked for.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {Array<{kind: string, timeS: number}>} events
 * @param {Palette} palette
 */
export function drawEvents(context, frame, events, palette) {
  for (const { kind, timeS } of events) {
    const x = xAt(frame, timeS);
    if (x > GUTTER_PX && x < frame.width) drawTriangle(context, x, kind === "run" ? 4 : 2, palette);
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} x
 * @param {string} label
 * @param {Palette} palette
 */
function drawReaderMark(context, x, label, palette) {
  const y = LABEL_LANE_PX + BRACKET_LANE_PX;
  context.fillStyle = palette.card;
  context.strokeStyle = palette.reader;
  context.lineWidth = 1.5;
  context.fillRect(x - 9, y, 18, 18);
  context.strokeRect(x - 9, y, 18, 18);
  context.font = font(12, 700);
  context.fillStyle = palette.reader;
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(label, x, y + 9.5);
}

/**
 * Bracket the beats that belong together.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {import("../answer/rhythm_groups.js").RhythmGroup[]} groups
 * @param {Palette} palette
 */
export function drawBrackets(context, frame, groups, palette) {
  const top = LABEL_LANE_PX + 3;
  let textEnd = -Infinity;
  for (const group of groups) {
    if ((group.endS - group.startS) * frame.pxPerS < SHORTEST_BRACKET_PX) continue;
    const left = Math.max(GUTTER_PX + 1, xAt(frame, group.startS) - 9);
    const right = Math.min(frame.width - 1, xAt(frame, group.endS) + 9);
    if (right <= left) continue;
    context.strokeStyle = palette.v;
    context.lineWidth = 1.5;
    context.beginPath();
    context.moveTo(left, top + 4);
    context.lineTo(left, top);
    context.lineTo(right, top);
    context.lineTo(right, top + 4);
    context.stroke();
    const text = nameGroup(group);
    context.font = font(11.5, 600);
    const width = context.measureText(text).width + 8;
    const room = group.kind === "run" || group.kind === "couplet" ? ROOM_PX : 0;
    const middle = (left + right) / 2;
    if (right - left + room < width || middle - width / 2 < textEnd) continue;
    textEnd = middle + width / 2;
    context.fillStyle = palette.v;
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(text, middle, top + 11);
  }
}

/**
 * @param {import("../answer/rhythm_groups.js").RhythmGroup} group
 */
function nameGroup({ kind, beats, rateBpm }) {
  if (kind === "run") return `run of ${beats} · ${Math.round(rateBpm ?? 0)}/min`;
  return kind;
}

/**
 * Show which beat is selected or under the pointer.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {Beat} beat
 * @param {{palette: Palette, isSelected: boolean}} options
 */
export function drawFocus(context, frame, beat, { palette, isSelected }) {
  const [startS, endS] = extentOf(beat);
  const [left, right] = [xAt(frame, startS), xAt(frame, endS)];
  context.fillStyle = palette.selectSoft;
  context.fillRect(left, 0, right - left, frame.height);
  if (!isSelected) return;
  context.strokeStyle = palette.select;
  context.lineWidth = 1.5;
  for (const x of [left, right]) {
    context.beginPath();
    context.moveTo(sharp(x, frame.dpr), 0);
    context.lineTo(sharp(x, frame.dpr), frame.height);
    context.stroke();
  }
}
