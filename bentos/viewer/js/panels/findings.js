/**
 * Runs, couplets, bigeminy, shapes and unreadable stretches, each a click away.
 */

import { fill, h } from "../dom.js";
import { clock, count } from "../format.js";

const SHOWN_AT_FIRST = 8;

/** @typedef {(startS: number, endS: number) => void} LookAt */

/**
 * List the findings.
 *
 * @param {HTMLElement} element
 * @param {object} options
 * @param {import("../state.js").ViewerStore} options.store
 * @param {import("../navigate.js").Navigation} options.navigation
 * @param {HTMLElement} options.paper What is to be seen after a click.
 */
export function bindFindings(element, { store, navigation, paper }) {
  /** @type {LookAt} */
  const lookAt = (startS, endS) => {
    navigation.lookAt(startS, endS);
    paper.scrollIntoView({ block: "nearest" });
  };
  store.subscribe((state, before) => {
    if (state.answer === before.answer) return;
    const { answer } = state;
    const hasAny = answer && (answer.findings.length || answer.morphologies.length);
    element.hidden = !hasAny;
    if (hasAny) show(element, answer, lookAt);
  });
}

/**
 * @param {HTMLElement} element
 * @param {import("../answer.js").Answer} answer
 * @param {LookAt} lookAt
 */
function show(element, answer, lookAt) {
  const { findings, morphologies, durationS } = answer;
  const list = h("ul", { class: "findings" });
  /** @param {number} limit */
  const showFirst = (limit) => {
    const hidden = findings.length - limit;
    fill(
      list,
      ...findings
        .slice(0, limit)
        .map((finding) =>
          h("li", {}, makeJump(finding.text, finding.kind, finding, durationS, lookAt)),
        ),
      hidden > 0 &&
        h(
          "li",
          {},
          h(
            "button",
            { type: "button", class: "more", onclick: () => showFirst(findings.length) },
            `${count(hidden)} more`,
          ),
        ),
    );
  };
  showFirst(SHOWN_AT_FIRST);
  fill(
    element,
    h("h2", { id: "findings-title" }, "Go to"),
    findings.length > 0 && list,
    morphologies.length > 0 && h("h3", {}, "Shapes of V beats"),
    morphologies.length > 0 &&
      h(
        "ul",
        { class: "findings" },
        ...morphologies.map(({ name, beats, timesS }) =>
          h(
            "li",
            {},
            h("span", {}, `${name}, ${count(beats)} beats`),
            h(
              "span",
              { class: "times" },
              ...timesS.slice(0, 4).map((timeS) => makeTime(timeS, durationS, lookAt)),
            ),
          ),
        ),
      ),
  );
}

/**
 * @param {string} text
 * @param {string} kind
 * @param {{startS: number, endS: number}} where
 * @param {number} durationS
 * @param {LookAt} lookAt
 */
function makeJump(text, kind, { startS, endS }, durationS, lookAt) {
  return h(
    "button",
    { type: "button", class: `jump jump-${kind}`, onclick: () => lookAt(startS, endS) },
    h("span", {}, text),
    h("span", { class: "soft" }, nameTime(startS, durationS)),
  );
}

/**
 * @param {number} timeS
 * @param {number} durationS
 * @param {LookAt} lookAt
 */
function makeTime(timeS, durationS, lookAt) {
  return h(
    "button",
    { type: "button", onclick: () => lookAt(timeS, timeS) },
    nameTime(timeS, durationS),
  );
}

/**
 * @param {number} timeS
 * @param {number} durationS
 */
function nameTime(timeS, durationS) {
  if (durationS <= 120) return `${timeS.toFixed(1)} s`;
  return clock(timeS, { withHours: durationS >= 3600 });
}
