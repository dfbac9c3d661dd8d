/**
 * Draw the curve of a signal from its pieces: samples as a line, envelopes as columns.
 */

import { xAt } from "../base/geometry.js";

const LINE_PX = 1.4;

/**
 * @typedef {import("../base/geometry.js").Frame} Frame
 * @typedef {import("../signal/local_signal.js").Piece} Piece
 * @typedef {[number, number]} Span From and to, in seconds.
 */

/**
 * @typedef {object} Ink
 * @property {string} colour
 * @property {string} spanColour
 * @property {Span[]} spans In order of time; there the curve has the other colour.
 * @property {number} [width] Of the line, in px.
 */

/**
 * Draw the curve.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {Piece[]} pieces
 * @param {(mv: number) => number} yAt
 * @param {Ink} ink
 */
export function drawTrace(context, frame, pieces, yAt, ink) {
  for (const piece of pieces) {
    if (piece.kind === "envelope") drawColumns(context, frame, piece, yAt, ink);
    else drawLine(context, frame, piece, yAt, ink);
  }
}

/**
 * The points of a piece that are in view.
 *
 * @param {Frame} frame
 * @param {Piece} piece
 */
function pointsInView(frame, { kind, startS, stepS, values }) {
  const nPoints = values.length / (kind === "envelope" ? 2 : 1);
  return {
    first: Math.max(0, Math.floor((frame.startS - startS) / stepS) - 1),
    last: Math.min(nPoints, Math.ceil((frame.endS - startS) / stepS) + 2),
  };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {Piece} piece
 * @param {(mv: number) => number} yAt
 * @param {Ink} ink
 */
function drawLine(context, frame, piece, yAt, { colour, spanColour, spans, width = LINE_PX }) {
  const path = tracePath(frame, piece, yAt);
  context.lineJoin = "round";
  context.lineWidth = width;
  context.strokeStyle = colour;
  context.stroke(path);
  if (!spans.length) return;
  context.save();
  context.beginPath();
  for (const [startS, endS] of spans) {
    context.rect(xAt(frame, startS), 0, (endS - startS) * frame.pxPerS, frame.height);
  }
  context.clip();
  context.lineWidth = width + 0.4;
  context.strokeStyle = spanColour;
  context.stroke(path);
  context.restore();
}

/**
 * @param {Frame} frame
 * @param {Piece} piece
 * @param {(mv: number) => number} yAt
 */
function tracePath(frame, piece, yAt) {
  const path = new Path2D();
  const { startS, stepS, values } = piece;
  const { first, last } = pointsInView(frame, piece);
  let isDown = false;
  for (let at = first; at < last; at += 1) {
    const isThere = Number.isFinite(values[at]);
    const x = xAt(frame, startS + at * stepS);
    if (isThere && isDown) path.lineTo(x, yAt(values[at]));
    else if (isThere) path.moveTo(x, yAt(values[at]));
    isDown = isThere;
  }
  return path;
}

/**
 * One column for each device pixel, which touches the one before: thousands of tall strokes would
 * take a tenth of a second.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {Frame} frame
 * @param {Piece} piece
 * @param {(mv: number) => number} yAt
 * @param {Ink} ink
 */
function drawColumns(context, frame, piece, yAt, { colour, spanColour, spans, width = LINE_PX }) {
  const { startS, stepS, values } = piece;
  const { first, last } = pointsInView(frame, piece);
  const pixel = 1 / frame.dpr;
  const columnPx = Math.max(pixel, stepS * frame.pxPerS);
  let [topBefore, bottomBefore] = [NaN, NaN];
  let span = 0;
  let at = first;
  while (at < last) {
    const x = Math.floor(xAt(frame, startS + at * stepS) * frame.dpr) * pixel;
    const timeS = startS + at * stepS;
    let least = Infinity;
    let greatest = -Infinity;
    do {
      if (values[2 * at] < least) least = values[2 * at];
      if (values[2 * at + 1] > greatest) greatest = values[2 * at + 1];
      at += 1;
    } while (at < last && xAt(frame, startS + at * stepS) < x + pixel);
    const [top, bottom] = [yAt(greatest), yAt(least)];
    if (!Number.isFinite(top + bottom)) {
      [topBefore, bottomBefore] = [NaN, NaN];
      continue;
    }
    while (span < spans.length && spans[span][1] < timeS) span += 1;
    const isInSpan = span < spans.length && spans[span][0] <= timeS + stepS;
    context.fillStyle = isInSpan ? spanColour : colour;
    const from = bottomBefore < top ? bottomBefore : top;
    const to = topBefore > bottom ? topBefore : bottom;
    context.fillRect(x, from - width / 2, columnPx, to - from + width);
    [topBefore, bottomBefore] = [top, bottom];
  }
}
