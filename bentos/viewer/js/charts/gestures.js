/**
 * Move the strip by mouse, pen, touch, wheel and keys.
 */

import { durationOf } from "../state/app_state.js";
import { GUTTER_PX, makeFrame, timeAt } from "../base/geometry.js";
import { placeWindow } from "./overview_chart.js";

const ZOOM_STEP = 1.5;
const KEY_SHARE = 0.2;
/** A press that moves less than this is a click. */
const CLICK_PX = 4;
const EDGE_PX = 7;
/** How near to a beat the pointer must be, in seconds at most and px. */
const NEAR_S = 0.7;
const NEAR_PX = 80;

/**
 * @typedef {object} GestureOptions
 * @property {import("../state/app_state.js").ViewerStore} store
 * @property {import("../actions/navigate.js").Navigation} navigation
 */

/**
 * Let the strip be dragged, pinched and wheeled, and its beats be pointed at and clicked.
 *
 * @param {HTMLElement} strip
 * @param {GestureOptions & {beatsInView: () => import("../signal/beats.js").Beat[]}} options
 */
export function bindStripGestures(strip, { store, navigation, beatsInView }) {
  /** @type {Map<number, number>} Where each finger is. */
  const pointers = new Map();
  let movedPx = 0;

  const frame = () => makeFrame(store.get().view, { width: store.get().width, height: 0, dpr: 1 });
  const xOf = (/** @type {MouseEvent} */ event) =>
    event.clientX - strip.getBoundingClientRect().left;

  /** @param {number} x */
  function beatNear(x) {
    const timeS = timeAt(frame(), x);
    const reachS = Math.min(NEAR_S, NEAR_PX / frame().pxPerS);
    const near = beatsInView().filter((beat) => Math.abs(beat.timeS - timeS) < reachS);
    const [first, ...others] = near;
    return others.reduce(
      (best, beat) => (Math.abs(beat.timeS - timeS) < Math.abs(best.timeS - timeS) ? beat : best),
      first ?? null,
    );
  }

  strip.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    if (!pointers.size) movedPx = 0;
    pointers.set(event.pointerId, xOf(event));
    strip.setPointerCapture(event.pointerId);
  });

  strip.addEventListener("pointermove", (event) => {
    const x = xOf(event);
    const before = pointers.get(event.pointerId);
    if (before === undefined) {
      const beat = x > GUTTER_PX ? beatNear(x) : null;
      if (beat !== store.get().hovered) store.set({ hovered: beat });
      return;
    }
    movedPx += Math.abs(x - before);
    if (pointers.size === 1 && movedPx > CLICK_PX) {
      strip.classList.add("is-dragged");
      navigation.moveTo(store.get().view.startS - (x - before) / frame().pxPerS);
    } else if (pointers.size === 2) {
      const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1] ?? 0;
      const [wasApart, isApart] = [Math.abs(before - other), Math.abs(x - other)];
      if (wasApart > 8 && isApart > 8) {
        navigation.zoom(isApart / wasApart, timeAt(frame(), (x + other) / 2));
      }
    }
    pointers.set(event.pointerId, x);
  });

  /** @param {PointerEvent} event */
  function release(event) {
    if (!pointers.delete(event.pointerId)) return;
    strip.classList.remove("is-dragged");
    if (event.type !== "pointerup" || movedPx > CLICK_PX || pointers.size) return;
    navigation.select(beatNear(xOf(event)));
  }
  strip.addEventListener("pointerup", release);
  strip.addEventListener("pointercancel", release);
  strip.addEventListener("pointerleave", () => {
    if (store.get().hovered) store.set({ hovered: null });
  });

  strip.addEventListener(
    "wheel",
    (event) => {
      if (event.ctrlKey || event.metaKey) {
        event.preventDefault();
        navigation.zoom(Math.exp(-wheelPx(event) / 240), timeAt(frame(), xOf(event)));
        return;
      }
      // A chart that fits does not scroll; the page does.
      const durationS = durationOf(store.get());
      if (navigation.seenS() >= durationS) return;
      event.preventDefault();
      navigation.moveTo(store.get().view.startS + wheelPx(event) / frame().pxPerS);
    },
    { passive: false },
  );
}

/** @param {WheelEvent} event */
function wheelPx({ deltaX, deltaY, deltaMode }) {
  const delta = Math.abs(deltaX) > Math.abs(deltaY) ? deltaX : deltaY;
  return deltaMode === WheelEvent.DOM_DELTA_LINE ? 24 * delta : delta;
}

/**
 * Let the window in the overview be dragged, stretched at its edges, and put elsewhere.
 *
 * @param {HTMLElement} overview
 * @param {GestureOptions} options
 */
export function bindOverviewGestures(overview, { store, navigation }) {
  /** @type {{part: "left" | "right" | "middle", offsetS: number} | null} */
  let held = null;

  const timeOf = (/** @type {MouseEvent} */ event) => {
    const x = event.clientX - overview.getBoundingClientRect().left - GUTTER_PX;
    return (x / (store.get().width - GUTTER_PX)) * durationOf(store.get());
  };

  /** @param {MouseEvent} event */
  function partAt(event) {
    const { view, width } = store.get();
    const window = { startS: view.startS, endS: view.startS + navigation.seenS() };
    const { left, right } = placeWindow(width, durationOf(store.get()), window);
    const x = event.clientX - overview.getBoundingClientRect().left;
    if (right - left > 3 * EDGE_PX && Math.abs(x - left) < EDGE_PX) return "left";
    if (right - left > 3 * EDGE_PX && Math.abs(x - right) < EDGE_PX) return "right";
    return x >= left - EDGE_PX && x <= right + EDGE_PX ? "middle" : null;
  }

  overview.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    overview.setPointerCapture(event.pointerId);
    const part = partAt(event);
    if (!part) navigation.moveTo(timeOf(event) - navigation.seenS() / 2);
    held = { part: part ?? "middle", offsetS: timeOf(event) - store.get().view.startS };
  });
  overview.addEventListener("pointermove", (event) => {
    if (!held) {
      const part = partAt(event);
      overview.dataset.over = part === "left" || part === "right" ? "edge" : (part ?? "");
      return;
    }
    const { view } = store.get();
    const [startS, endS] = [view.startS, view.startS + navigation.seenS()];
    if (held.part === "middle") navigation.moveTo(timeOf(event) - held.offsetS);
    else if (held.part === "left") {
      navigation.zoom((endS - startS) / Math.max(1e-3, endS - timeOf(event)), endS);
    } else navigation.zoom((endS - startS) / Math.max(1e-3, timeOf(event) - startS), startS);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    overview.addEventListener(name, () => {
      held = null;
    });
  }
}

/** What the keys do, in the order in which the page lists them. */
export const KEYS = [
  ["← →", "move the strip"],
  ["Page Up, Page Down", "a whole window"],
  ["Home, End", "to the start, to the end"],
  ["+ −", "zoom; 0 shows all"],
  [", .", "beat before, next beat"],
  ["< >", "V beat before, next V beat"],
  ["N V", "mark the chosen beat as N or V; Delete takes it back"],
  ["Escape", "choose no beat"],
  ["?", "show this list, wherever the focus is"],
];

/**
 * Let keys move the strip and choose beats while it has the focus.
 *
 * @param {HTMLElement} element
 * @param {GestureOptions & {mark: (label: "N" | "V" | null) => void}} options
 */
export function bindKeys(element, { store, navigation, mark }) {
  const isV = (/** @type {import("../signal/beats.js").Beat} */ beat) => beat.type === "V";
  /** @type {Record<string, () => void>} */
  const actions = {
    ArrowLeft: () => navigation.page(-KEY_SHARE),
    ArrowRight: () => navigation.page(KEY_SHARE),
    PageUp: () => navigation.page(-0.95),
    PageDown: () => navigation.page(0.95),
    Home: () => navigation.moveTo(0),
    End: () => navigation.moveTo(durationOf(store.get())),
    "+": () => navigation.zoom(ZOOM_STEP),
    "=": () => navigation.zoom(ZOOM_STEP),
    "-": () => navigation.zoom(1 / ZOOM_STEP),
    0: () => navigation.fit(),
    ",": () => void navigation.step(-1),
    ".": () => void navigation.step(1),
    "<": () => void navigation.step(-1, isV),
    ">": () => void navigation.step(1, isV),
    n: () => mark("N"),
    v: () => mark("V"),
    Delete: () => mark(null),
    Escape: () => navigation.select(null),
  };
  element.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const action = actions[event.key] ?? actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
