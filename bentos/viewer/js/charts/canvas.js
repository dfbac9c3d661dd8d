/**
 * Canvases that are as sharp as the screen, and the colours that they share with the page.
 */

/**
 * @typedef {"paper" | "grid" | "gridMajor" | "trace" | "ink" | "soft" | "line" | "n" | "v" | "vSoft"
 *   | "unreadable" | "hatch" | "select" | "selectSoft" | "reader" | "onV" | "card" | "shade"} ColourName
 * @typedef {Record<ColourName, string>} Palette
 */

/** @type {Record<ColourName, string>} */
const VARIABLES = {
  paper: "--paper",
  grid: "--grid",
  gridMajor: "--grid-major",
  trace: "--trace",
  ink: "--ink",
  soft: "--soft",
  line: "--line",
  card: "--card",
  shade: "--shade",
  n: "--n",
  v: "--v",
  vSoft: "--v-soft",
  onV: "--on-v",
  unreadable: "--unreadable",
  hatch: "--hatch",
  select: "--select",
  selectSoft: "--select-soft",
  reader: "--reader",
};

/**
 * Read the colours of the theme that is shown.
 *
 * @returns {Palette}
 */
export function readPalette() {
  const style = getComputedStyle(document.documentElement);
  const entries = Object.entries(VARIABLES).map(([name, variable]) => [
    name,
    style.getPropertyValue(variable).trim(),
  ]);
  return Object.fromEntries(entries);
}

/**
 * Make a canvas as large as it is shown, cleared, and scaled to CSS px.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {{width: number, height: number, dpr: number}} size
 * @returns {CanvasRenderingContext2D}
 */
export function prepareCanvas(canvas, { width, height, dpr }) {
  const [deviceWidth, deviceHeight] = [Math.round(width * dpr), Math.round(height * dpr)];
  if (canvas.width !== deviceWidth || canvas.height !== deviceHeight) {
    canvas.width = deviceWidth;
    canvas.height = deviceHeight;
  }
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.setTransform(dpr, 0, 0, dpr, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/**
 * The middle of the device pixel nearest to a place, where a line of one pixel is sharp.
 *
 * @param {number} place In CSS px.
 * @param {number} dpr
 */
export function sharp(place, dpr) {
  return (Math.floor(place * dpr) + 0.5) / dpr;
}

/**
 * The fonts of the page at a size.
 *
 * @param {number} px
 * @param {number} [weight]
 */
export function font(px, weight = 400) {
  return `${weight} ${px}px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif`;
}

const HATCH_STEP_PX = 9;

/**
 * Fill a rectangle with slanted lines.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {{x: number, y: number, width: number, height: number}} area
 * @param {Palette} palette
 */
export function hatch(context, { x, y, width, height }, palette) {
  context.save();
  context.beginPath();
  context.rect(x, y, width, height);
  context.clip();
  context.fillStyle = palette.unreadable;
  context.fillRect(x, y, width, height);
  context.strokeStyle = palette.hatch;
  context.lineWidth = 1.5;
  context.beginPath();
  for (let at = x - height; at < x + width; at += HATCH_STEP_PX) {
    context.moveTo(at, y + height);
    context.lineTo(at + height, y);
  }
  context.stroke();
  context.restore();
}
