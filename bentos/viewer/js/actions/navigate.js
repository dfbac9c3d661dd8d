/**
 * Move the window over the signal, and choose beats.
 */

import { describeBeat } from "../answer/prediction.js";
import { USUAL_VIEW, clampView, secondsIn, speedThatFits, zoomTo } from "../base/geometry.js";
import { durationOf } from "../state/app_state.js";

const GLIDE_MS = 180;

/** @typedef {ReturnType<typeof makeNavigation>} Navigation */

/**
 * Make what moves the window.
 *
 * @param {import("../state/app_state.js").ViewerStore} store
 */
export function makeNavigation(store) {
  let glide = 0;

  /** @param {import("../base/geometry.js").View} view */
  function show(view) {
    const state = store.get();
    store.set({ view: clampView(view, durationOf(state), state.width) });
  }

  const seenS = () => secondsIn(store.get().width, store.get().view.speed);

  /**
   * Move to a start in a short glide, or at once for those who want no motion.
   *
   * @param {number} startS
   */
  function glideTo(startS) {
    cancelAnimationFrame(glide);
    const { view, width } = store.get();
    const target = clampView({ ...view, startS }, durationOf(store.get()), width).startS;
    const isFar = Math.abs(target - view.startS) > 3 * seenS();
    if (isFar || matchMedia("(prefers-reduced-motion: reduce)").matches) {
      show({ ...view, startS: target });
      return;
    }
    const begun = performance.now();
    const step = (/** @type {number} */ now) => {
      const share = Math.min(1, Math.max(0, (now - begun) / GLIDE_MS));
      const eased = 1 - (1 - share) ** 3;
      show({ ...store.get().view, startS: view.startS + (target - view.startS) * eased });
      if (share < 1) glide = requestAnimationFrame(step);
    };
    glide = requestAnimationFrame(step);
  }

  /**
   * Bring a moment to the middle when it is not well in view.
   *
   * @param {number} timeS
   */
  function reveal(timeS) {
    const { view } = store.get();
    const margin = Math.min(1, 0.15 * seenS());
    if (timeS < view.startS + margin || timeS > view.startS + seenS() - margin) {
      glideTo(timeS - seenS() / 2);
    }
  }

  /** @param {import("../signal/beats.js").Beat | null} beat */
  function select(beat) {
    const { answer } = store.get();
    store.set({ selected: beat, said: beat && answer ? describeBeat(beat, answer) : "" });
    if (beat) reveal(beat.timeS);
  }

  return {
    seenS,
    select,
    reveal,
    glideTo,
    /** @param {number} startS */
    moveTo(startS) {
      cancelAnimationFrame(glide);
      show({ ...store.get().view, startS });
    },
    /** @param {number} share Of what is seen. */
    page(share) {
      glideTo(store.get().view.startS + share * seenS());
    },
    /**
     * @param {number} factor
     * @param {number} [anchorS] What stays where it is; the middle when left out.
     */
    zoom(factor, anchorS) {
      cancelAnimationFrame(glide);
      const { view } = store.get();
      const anchor = anchorS ?? view.startS + seenS() / 2;
      show(zoomTo(view, view.speed * factor, anchor));
    },
    /** @param {number} speed In mm/s. */
    setSpeed(speed) {
      const { view, selected } = store.get();
      const middleS = view.startS + seenS() / 2;
      const isSeen = selected && Math.abs(selected.timeS - middleS) < seenS() / 2;
      show(zoomTo(view, speed, isSeen ? selected.timeS : middleS));
    },
    /** @param {number} gain In mm/mV. */
    setGain(gain) {
      store.set({ view: { ...store.get().view, gain } });
    },
    fit() {
      const state = store.get();
      const speed = speedThatFits(durationOf(state), state.width);
      show({ ...state.view, speed, startS: 0 });
    },
    /**
     * Show a moment at the usual speed.
     *
     * @param {number} startS
     * @param {number} endS
     */
    lookAt(startS, endS) {
      const { view, width } = store.get();
      const speed = view.speed < 12.5 ? USUAL_VIEW.speed : view.speed;
      const seen = secondsIn(width, speed);
      const isLong = endS - startS > seen;
      const start = isLong ? startS - 0.1 * seen : (startS + endS - seen) / 2;
      if (speed === view.speed) glideTo(start);
      else show({ ...view, speed, startS: start });
    },
    /** Keep the window on the signal when the page got another width. */
    settle() {
      show(store.get().view);
    },
    /**
     * Select the next beat, or the one before.
     *
     * @param {1 | -1} step
     * @param {(beat: import("../signal/beats.js").Beat) => boolean} [isWanted]
     */
    async step(step, isWanted = () => true) {
      const { answer, selected, view } = store.get();
      if (!answer) return;
      const isSelectedSeen =
        selected && selected.timeS >= view.startS && selected.timeS <= view.startS + seenS();
      const edgeS = step > 0 ? view.startS : view.startS + seenS();
      const fromS = isSelectedSeen ? selected.timeS : edgeS;
      const found = await answer.beats.find(fromS, step, isWanted);
      if (found) select(found);
      else store.set({ said: step > 0 ? "No such beat after this" : "No such beat before this" });
    },
  };
}
