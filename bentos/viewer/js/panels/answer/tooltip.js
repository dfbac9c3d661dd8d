/**
 * The facts of the beat under the pointer, or of the chosen one while the strip has the focus.
 */

import { describeRule } from "../../answer/prediction.js";
import { makeFrame, xAt } from "../../base/geometry.js";
import { fill, h } from "../../base/dom.js";
import { number } from "../../base/format.js";
import { milliseconds } from "./beat_card.js";

/**
 * Show the tooltip.
 *
 * @param {HTMLElement} element
 * @param {HTMLElement} paper What it lies on.
 * @param {import("../../state/app_state.js").ViewerStore} store
 */
export function bindTooltip(element, paper, store) {
  function update() {
    const { answer, hovered, selected, view, width } = store.get();
    const hasFocus = paper.matches(":focus-visible");
    const beat = hovered ?? (hasFocus ? selected : null);
    const frame = makeFrame(view, { width, height: 0, dpr: 1 });
    const x = beat ? xAt(frame, beat.timeS) : -1;
    element.hidden = !answer || !beat || x < 0 || x > width;
    if (element.hidden || !answer || !beat) return;
    fill(element, ...describe(beat, answer.threshold));
    const isRight = x > width / 2;
    const gap = 34;
    element.style.left = isRight ? "" : `${x + gap}px`;
    element.style.right = isRight ? `${paper.clientWidth - x + gap}px` : "";
  }

  store.subscribe((state, before) => {
    if (
      state.hovered !== before.hovered ||
      state.selected !== before.selected ||
      state.view !== before.view ||
      state.answer !== before.answer
    ) {
      update();
    }
  });
  paper.addEventListener("focus", update);
  paper.addEventListener("blur", update);
}

/**
 * @param {import("../../signal/beats.js").Beat} beat
 * @param {number | null} threshold
 */
function describe(beat, threshold) {
  const order = beat.index === null ? "Beat" : `Beat ${beat.index + 1}`;
  const sign = (beat.probabilityV ?? 0) >= (threshold ?? 1) ? "≥" : "<";
  const lines = [
    beat.probabilityV !== null &&
      `p(V) ${number(beat.probabilityV, 3)} ${sign} ${number(threshold, 2)}`,
    `RR ${milliseconds(beat.rrPreviousS)} before, ${milliseconds(beat.rrNextS)} after`,
    beat.qrsWidthMs !== null && `QRS ${Math.round(beat.qrsWidthMs)} ms`,
    beat.rule && `Rule: ${describeRule(beat.rule)}`,
    beat.quality !== "ok" && `Cannot be read: ${beat.quality}`,
  ];
  return [
    h("b", {}, beat.type === null ? `${order}, not read` : `${order}: ${beat.type}`),
    ...lines.map((line) => line && h("div", {}, line)),
  ];
}
