/**
 * What went wrong and what runs, at the place where it matters.
 */

import { makeKeyForm } from "./key_form.js";
import { fill, h } from "../../base/dom.js";
import { percent } from "../../base/format.js";
import { hintFor } from "../../base/problem.js";

/** What is over sooner is not announced: the page would jump. */
const PATIENCE_MS = 300;

/**
 * Show problems and progress.
 *
 * @param {HTMLElement} element
 * @param {object} options
 * @param {import("../../state/app_state.js").ViewerStore} options.store
 * @param {import("../../actions/open.js").Opener} options.opener
 * @param {(key: string) => void} options.useKey
 */
export function bindStatus(element, { store, opener, useKey }) {
  const progress = h("div", { class: "progress", role: "status" });
  const problem = h("div", { role: "alert" });
  element.append(progress, problem);
  let timer = 0;
  store.subscribe((state, before) => {
    if (state.progress && !before.progress) {
      timer = setTimeout(() => showProgress(progress, store.get().progress, opener), PATIENCE_MS);
    } else if (state.progress !== before.progress) {
      if (!state.progress) clearTimeout(timer);
      if (!state.progress || progress.hasChildNodes()) {
        showProgress(progress, state.progress, opener);
      }
    }
    if (state.problem !== before.problem || state.isKeyAsked !== before.isKeyAsked) {
      showProblem(problem, { state, store, opener, useKey });
    }
  });
}

/**
 * @param {HTMLElement} element
 * @param {import("../../state/app_state.js").Progress | null} progress
 * @param {import("../../actions/open.js").Opener} opener
 */
function showProgress(element, progress, opener) {
  if (!progress) {
    fill(element);
    return;
  }
  const { text, share } = progress;
  const bar = element.querySelector("progress");
  // The button stays the same one, so that it can be clicked while the bar moves.
  if (!bar) {
    fill(
      element,
      h("span", { class: "progress-text" }),
      h("progress", { max: 1, "aria-label": "Progress" }),
      h("button", { type: "button", onclick: () => void opener.cancel() }, "Cancel"),
    );
  }
  const label = share === null ? `${text} …` : `${text}, ${percent(share, 0)}`;
  /** @type {HTMLElement} */ (element.querySelector(".progress-text")).textContent = label;
  const shown = /** @type {HTMLProgressElement} */ (element.querySelector("progress"));
  if (share === null) shown.removeAttribute("value");
  else shown.value = share;
}

/**
 * @param {HTMLElement} element
 * @param {object} options
 * @param {import("../../state/app_state.js").State} options.state
 * @param {import("../../state/app_state.js").ViewerStore} options.store
 * @param {import("../../actions/open.js").Opener} options.opener
 * @param {(key: string) => void} options.useKey
 */
function showProblem(element, { state, store, opener, useKey }) {
  const { problem } = state;
  if (!problem) {
    fill(element);
    return;
  }
  const fields = problem.errors.filter(({ reason }) => reason && reason !== problem.detail);
  // The detail of one wrong field is that field again.
  const isField = fields.some(({ field, reason }) => problem.detail === `${field}: ${reason}`);
  const invalid = () =>
    /** @type {HTMLElement | null} */ (document.querySelector("#settings [aria-invalid]"));
  const hint = hintFor(problem);
  fill(
    element,
    h(
      "div",
      { class: "problem" },
      h("h2", {}, problem.title),
      problem.detail && !isField && h("p", {}, problem.detail),
      fields.length > 0 &&
        h(
          "ul",
          {},
          ...fields.map(({ field, reason }) => h("li", {}, h("code", {}, field), ` ${reason}`)),
        ),
      hint && h("p", { class: "hint" }, hint),
      state.isKeyAsked && makeKeyForm(useKey),
      h(
        "p",
        { class: "problem-foot" },
        h("button", { type: "button", onclick: () => opener.again() }, "Try again"),
        invalid() &&
          h("button", { type: "button", onclick: () => invalid()?.focus() }, "Go to the setting"),
        h("button", { type: "button", onclick: () => store.set({ problem: null }) }, "Hide"),
        problem.requestId && h("span", { class: "soft small" }, `Request ${problem.requestId}`),
      ),
    ),
  );
}
