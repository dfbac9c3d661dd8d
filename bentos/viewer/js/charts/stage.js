/**
 * Keep the canvases up to date: they are drawn once a frame, and only when something changed.
 */

import { MAX_BEATS_SEEN_S } from "../signal/beats.js";
import { durationOf } from "../state/app_state.js";
import { readPalette } from "./canvas.js";
import { secondsIn } from "../base/geometry.js";
import { REFUSED } from "./marks.js";
import { drawOverview } from "./overview_chart.js";
import { drawProbabilities } from "./probability_chart.js";
import { drawStrip } from "./strip_chart.js";

/** Beats this far outside the window still reach into it with their part of the trace. */
const AROUND_S = 8;

/** With more runs and couplets than this the overview marks runs alone. */
const MAX_EVENTS = 60;

/** Members of the state that are drawn. */
const DRAWN = /** @type {const} */ ([
  "signal",
  "answer",
  "problem",
  "view",
  "width",
  "selected",
  "hovered",
  "labels",
  "drawn",
]);

/**
 * @typedef {object} Stage
 * @property {() => void} drawNow Draw at once, in the colours that the page has now.
 * @property {() => import("../signal/beats.js").Beat[]} beatsInView
 */

/**
 * Bind the canvases to the store.
 *
 * @param {object} options
 * @param {import("../state/app_state.js").ViewerStore} options.store
 * @param {{strip: HTMLCanvasElement, track: HTMLCanvasElement, overview: HTMLCanvasElement,
 *   hint: HTMLElement}} options.elements
 * @param {() => void} options.onResize
 * @returns {Stage}
 */
export function bindStage({ store, elements, onResize }) {
  const { strip, track, overview, hint } = elements;
  let palette = readPalette();
  let frame = 0;

  function beatsAround(/** @type {number} */ marginS) {
    const { answer, view, width } = store.get();
    const endS = view.startS + secondsIn(width, view.speed);
    return answer?.beats.between(view.startS - marginS, endS + marginS) ?? [];
  }

  function drawNow() {
    cancelAnimationFrame(frame);
    frame = 0;
    const state = store.get();
    const durationS = durationOf(state);
    if (!durationS || !strip.clientWidth) return;
    const { answer, signal, view, labels, selected, hovered } = state;
    const beats = beatsAround(AROUND_S);
    const unreadable = answer?.unreadable ?? refusedStretch(state);
    const events = areTooMany(state) ? eventsOf(answer) : [];
    const groups = answer?.groups ?? [];
    const shown = { labels, selected, hovered };
    const content = { signal, beats, events, groups, durationS, unreadable, ...shown };
    const { leavesPaper } = drawStrip(strip, sizeOf(strip), view, content, palette);
    track.hidden = !answer;
    hint.hidden = !leavesPaper || view.gain <= 5;
    const threshold = answer?.threshold ?? null;
    if (answer) {
      const isEmpty = areTooMany(state);
      drawProbabilities(
        track,
        sizeOf(track),
        view,
        { beats, threshold, selected, isEmpty },
        palette,
      );
    }
    const endS = Math.min(durationS, view.startS + secondsIn(state.width, view.speed));
    drawOverview(
      overview,
      sizeOf(overview),
      {
        durationS,
        window: { startS: view.startS, endS },
        signal: answer?.kind === "recording" ? null : signal,
        trend: answer?.trend ?? null,
        beats: answer?.beats.all ?? [],
        events: eventsOf(answer),
        unreadable,
      },
      palette,
    );
  }

  function draw() {
    if (!frame) frame = requestAnimationFrame(drawNow);
  }

  store.subscribe((state, before) => {
    if (DRAWN.some((name) => state[name] !== before[name])) draw();
  });
  new ResizeObserver(() => {
    const width = strip.clientWidth;
    if (width && width !== store.get().width) {
      store.set({ width });
      onResize();
    }
    // In this frame: a canvas that was stretched and then drawn would flicker.
    drawNow();
  }).observe(strip);
  const restyle = () => {
    palette = readPalette();
    draw();
  };
  new MutationObserver(restyle).observe(document.documentElement, {
    attributeFilter: ["data-theme"],
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", restyle);
  return {
    drawNow() {
      palette = readPalette();
      drawNow();
    },
    beatsInView: () => beatsAround(0),
  };
}

/**
 * Whether more is seen than beats of a recording are asked for.
 *
 * @param {import("../state/app_state.js").State} state
 */
function areTooMany({ answer, view, width }) {
  return answer?.beats.all === null && secondsIn(width, view.speed) > MAX_BEATS_SEEN_S;
}

/**
 * A signal that the service refused is hatched from end to end.
 *
 * @param {import("../state/app_state.js").State} state
 * @returns {import("../answer/prediction.js").UnreadableStretch[]}
 */
function refusedStretch({ problem, signal }) {
  if (problem?.name !== "signal-unreadable" || !signal) return [];
  return [{ startS: 0, endS: signal.durationS, reason: REFUSED }];
}

/** @param {HTMLCanvasElement} canvas */
function sizeOf(canvas) {
  return { width: canvas.clientWidth, height: canvas.clientHeight, dpr: devicePixelRatio || 1 };
}

/**
 * What is marked over the overview: V beats of short signals, runs and couplets of long ones.
 *
 * @param {import("../answer/prediction.js").Answer | null} answer
 */
function eventsOf(answer) {
  if (!answer) return [];
  if (!answer.trend && answer.beats.all) {
    const ventricular = answer.beats.all.filter((beat) => beat.type === "V");
    return ventricular.map(({ timeS }) => ({ timeS, kind: "beat" }));
  }
  const shown = answer.findings.filter(({ kind }) => kind === "run" || kind === "couplet");
  return shown
    .filter(({ kind }) => kind === "run" || shown.length <= MAX_EVENTS)
    .map(({ startS, kind }) => ({ timeS: startS, kind }));
}
