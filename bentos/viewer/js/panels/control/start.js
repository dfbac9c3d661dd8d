/**
 * The start page: the demo strips with their pictures, and the model that is served.
 */

import { prepareCanvas, readPalette } from "../../charts/canvas.js";
import { fill, h } from "../../base/dom.js";
import { EXAMPLES } from "../../answer/examples.js";
import { number } from "../../base/format.js";
import { nameData } from "./model.js";

/** Grid of the pictures: a square of 5 mm at a tenth of a second per 4 px. */
const SQUARE_PX = 9;

/**
 * Fill the start page.
 *
 * @param {{gallery: HTMLElement, served: HTMLElement, formats: HTMLElement}} elements
 * @param {object} options
 * @param {import("../../state/app_state.js").ViewerStore} options.store
 * @param {import("../../actions/service.js").Service} options.service
 * @param {import("../../actions/open.js").Opener} options.opener
 */
export function bindStart({ gallery, served, formats }, { store, service, opener }) {
  const canvases = new Map(
    EXAMPLES.map(({ kind }) => [kind, h("canvas", { "aria-hidden": "true" })]),
  );
  fill(
    gallery,
    ...EXAMPLES.map(({ kind, name, text }) =>
      h(
        "li",
        {},
        h(
          "button",
          { type: "button", class: "example", onclick: () => void opener.openExample(kind) },
          canvases.get(kind),
          h("span", { class: "example-name" }, name),
          h("span", { class: "soft small" }, text),
        ),
      ),
    ),
  );
  /** @type {Map<string, number[]>} */
  const strips = new Map();
  const draw = () => {
    if (!gallery.clientWidth) return;
    const palette = readPalette();
    for (const [kind, canvas] of canvases) {
      drawPicture(canvas, strips.get(kind) ?? [], palette);
    }
  };

  async function load() {
    for (const { kind } of EXAMPLES) {
      try {
        strips.set(kind, (await service.readExample(kind)).signal_data);
      } catch {
        // Without pictures the names are still there; a click says what is wrong.
        return;
      }
      draw();
    }
  }

  let isLoaded = false;
  new ResizeObserver(() => {
    if (!gallery.clientWidth) return;
    draw();
    if (isLoaded) return;
    isLoaded = true;
    void load();
  }).observe(gallery);
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  store.subscribe((state, before) => {
    if (state.health !== before.health) fill(served, describeHealth(state.health));
    if (state.takesRecordings !== before.takesRecordings) showFormats(state.takesRecordings);
  });
  showFormats(false);

  /** @param {boolean} takesRecordings */
  function showFormats(takesRecordings) {
    fill(
      formats,
      h("strong", {}, "Signals"),
      " of 10 s to 30 min: CSV, NPY, JSON.",
      takesRecordings && h("br"),
      takesRecordings && h("strong", {}, "Recordings"),
      takesRecordings &&
        " up to 14 days: WFDB (.hea with .dat, or a zip), EDF, CSV, NPY, DICOM, ISHNE, SCP-ECG, XML, ATC; also as zip or .gz.",
    );
  }
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {number[]} samples
 * @param {import("../../charts/canvas.js").Palette} palette
 */
function drawPicture(canvas, samples, palette) {
  const size = {
    width: canvas.clientWidth,
    height: canvas.clientHeight,
    dpr: devicePixelRatio || 1,
  };
  const context = prepareCanvas(canvas, size);
  context.fillStyle = palette.paper;
  context.fillRect(0, 0, size.width, size.height);
  context.fillStyle = palette.grid;
  for (let x = SQUARE_PX; x < size.width; x += SQUARE_PX) context.fillRect(x, 0, 1, size.height);
  for (let y = SQUARE_PX; y < size.height; y += SQUARE_PX) context.fillRect(0, y, size.width, 1);
  if (!samples.length) return;
  const least = Math.min(...samples);
  const spread = Math.max(0.8, Math.max(...samples) - least);
  const rest = (spread - (Math.max(...samples) - least)) / 2;
  const yAt = (/** @type {number} */ mv) =>
    6 + (1 - (mv - least + rest) / spread) * (size.height - 12);
  context.strokeStyle = palette.trace;
  context.lineWidth = 1.1;
  context.lineJoin = "round";
  context.beginPath();
  samples.forEach((mv, at) => {
    context.lineTo((at / (samples.length - 1)) * size.width, yAt(mv));
  });
  context.stroke();
}

/** @param {Record<string, any> | null} health */
function describeHealth(health) {
  if (!health) return h("p", {}, "The service does not answer.");
  const { model } = health;
  if (!model) return h("p", {}, "No model is loaded yet; predictions are refused until one is.");
  const rows = [
    ["Model", `version ${model.version}, ${model.source}`],
    ["Trained on", nameData(model.data)],
    ["Bento", model.bento_tag],
    ["Dataset", model.dataset_version],
    ["Commit", String(model.git_commit).slice(0, 12)],
    ["Service", `${health.version}, ${health.status}`],
  ];
  const waiting = health.prediction_log?.waiting;
  if (waiting) rows.push(["Waiting to be logged", number(waiting)]);
  return h(
    "dl",
    {},
    ...rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );
}
