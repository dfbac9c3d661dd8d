/**
 * Speed, gain and zoom of the paper, the legend, and the list of keys.
 */

import { KEYS } from "../../charts/gestures.js";
import { GAINS_MM_PER_MV, SPEEDS_MM_PER_S, secondsIn } from "../../base/geometry.js";
import { fill, h } from "../../base/dom.js";
import { duration } from "../../base/format.js";
import { durationOf } from "../../state/app_state.js";

const ZOOM_STEP = 1.5;

/**
 * Fill the toolbar.
 *
 * @param {HTMLElement} element
 * @param {object} options
 * @param {import("../../state/app_state.js").ViewerStore} options.store
 * @param {import("../../actions/navigate.js").Navigation} options.navigation
 * @param {HTMLDialogElement} options.keys
 */
export function bindToolbar(element, { store, navigation, keys }) {
  const isV = (/** @type {import("../../signal/beats.js").Beat} */ beat) => beat.type === "V";
  const speeds = makeChoice("speed", "Speed", "mm/s", SPEEDS_MM_PER_S, navigation.setSpeed);
  const gains = makeChoice("gain", "Gain", "mm/mV", GAINS_MM_PER_MV, navigation.setGain);
  const shown = h("output", { class: "shown", "aria-live": "off" });
  const vButtons = [
    makeButton("‹ V", "V beat before", () => void navigation.step(-1, isV)),
    makeButton("V ›", "Next V beat", () => void navigation.step(1, isV)),
  ];
  fill(
    element,
    speeds.element,
    gains.element,
    h(
      "div",
      { class: "group" },
      makeButton("−", "Zoom out", () => navigation.zoom(1 / ZOOM_STEP)),
      makeButton("+", "Zoom in", () => navigation.zoom(ZOOM_STEP)),
      makeButton("Fit", "Show all of the signal", navigation.fit),
    ),
    h("div", { class: "group" }, ...vButtons),
    shown,
    makeButton("Keys", "List the keys", () => keys.showModal()),
  );
  for (const button of vButtons) button.disabled = true;
  fillKeys(keys);
  store.subscribe((state, before) => {
    if (state.answer !== before.answer) {
      for (const button of vButtons) button.disabled = !state.answer?.counts.ventricular;
    }
    const { view, width } = state;
    if (view === before.view && width === before.width && state.signal === before.signal) return;
    speeds.show(view.speed);
    gains.show(view.gain);
    const seenS = Math.min(secondsIn(width, view.speed), durationOf(state));
    const isUsual = SPEEDS_MM_PER_S.some((speed) => Math.abs(speed - view.speed) < 0.01);
    const speed = view.speed < 1 ? view.speed.toPrecision(2) : view.speed.toFixed(1);
    shown.textContent = `${isUsual ? "" : `${speed} mm/s · `}${duration(seenS)} in view`;
  });
}

/**
 * @param {string} text
 * @param {string} label
 * @param {() => void} act
 */
function makeButton(text, label, act) {
  return h("button", { type: "button", "aria-label": label, title: label, onclick: act }, text);
}

/**
 * Radio buttons in a row.
 *
 * @param {string} name
 * @param {string} legend
 * @param {string} unit
 * @param {number[]} values
 * @param {(value: number) => void} choose
 */
function makeChoice(name, legend, unit, values, choose) {
  const inputs = values.map((value) =>
    h("input", {
      type: "radio",
      name,
      id: `${name}-${value}`,
      value,
      onchange: () => choose(value),
    }),
  );
  const element = h(
    "fieldset",
    { class: "choice" },
    h("legend", { class: "visually-hidden" }, `${legend} in ${unit}`),
    ...values.flatMap((value, at) => [
      inputs[at],
      h("label", { for: `${name}-${value}` }, String(value)),
    ]),
    h("span", { class: "unit", "aria-hidden": "true" }, unit),
  );
  return {
    element,
    /** @param {number} current */
    show(current) {
      for (const input of inputs) input.checked = Math.abs(Number(input.value) - current) < 0.01;
    },
  };
}

/** @param {HTMLDialogElement} dialog */
function fillKeys(dialog) {
  fill(
    dialog,
    h("h2", { id: "keys-title" }, "Keys"),
    h("p", { class: "soft" }, "While the strip has the focus:"),
    h("dl", {}, ...KEYS.flatMap(([key, text]) => [h("dt", {}, key), h("dd", {}, text)])),
    h(
      "p",
      { class: "soft" },
      "Drag or wheel to move, pinch or Ctrl and wheel to zoom. Click a beat to choose it.",
    ),
    h("form", { method: "dialog" }, h("button", { class: "primary" }, "Close")),
  );
}

/**
 * Fill the legend.
 *
 * @param {HTMLElement} element
 */
export function fillLegend(element) {
  const items = [
    ["key-n", "N", "other beat"],
    ["key-v", "V", "ventricular"],
    ["key-rule", "", "a rule changed the class"],
    ["key-unreadable", "", "cannot be read"],
    ["key-reader", "V", "your mark"],
  ];
  fill(
    element,
    ...items.map(([kind, letter, text]) =>
      h("span", {}, h("i", { class: `key ${kind}`, "aria-hidden": "true" }, letter), text),
    ),
    h("span", { class: "soft" }, "RR intervals in ms"),
  );
}
