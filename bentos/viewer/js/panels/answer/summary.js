/**
 * What was found, in one look: class, attention, burden, heart rate, warnings.
 */

import { fill, h } from "../../base/dom.js";
import { count, number, percent, plural } from "../../base/format.js";

/**
 * Show the summary.
 *
 * @param {HTMLElement} element
 * @param {import("../../state/app_state.js").ViewerStore} store
 */
export function bindSummary(element, store) {
  store.subscribe((state, before) => {
    if (state.answer === before.answer) return;
    element.hidden = !state.answer;
    if (state.answer) fill(element, ...describe(state.answer));
  });
}

/** @param {import("../../answer/prediction.js").Answer} answer */
function describe(answer) {
  const { overall, confidence, counts, rhythm } = answer;
  const isV = overall === "V";
  const headline = isV
    ? plural(counts.ventricular, "ventricular beat")
    : "No ventricular beat found";
  return [
    h(
      "div",
      { class: "verdict" },
      h("span", { class: isV ? "badge badge-v" : "badge badge-n", "aria-hidden": "true" }, overall),
      h(
        "div",
        {},
        h("h2", { id: "summary-title" }, headline),
        confidence !== null &&
          h(
            "p",
            { class: "soft" },
            `Overall ${overall}, confidence ${percent(confidence, confidence > 0.995 ? 2 : 1)}`,
          ),
      ),
    ),
    describeAttention(answer),
    h(
      "dl",
      { class: "figures" },
      ...figure(
        "V burden",
        percent(rhythm.burden),
        `${count(counts.ventricular)} of ${count(counts.normal + counts.ventricular)} read beats`,
      ),
      ...figure("Mean heart rate", `${number(rhythm.meanRateBpm)} /min`, describeSpread(rhythm)),
      ...figure("Runs", count(rhythm.runs), "3 or more V in a row"),
      ...figure("Couplets", count(rhythm.couplets), "2 V in a row"),
      ...figure(
        "Isolated V",
        count(rhythm.isolated),
        rhythm.rOnT ? `${rhythm.rOnT} may be R-on-T` : "",
      ),
      ...figure(
        "In bigeminy",
        count(rhythm.bigeminyBeats),
        `${count(rhythm.trigeminyBeats)} in trigeminy`,
      ),
      ...figure(
        "Longest RR",
        `${number(rhythm.longestRrS, 2)} s`,
        rhythm.pauses ? `${plural(rhythm.pauses, "pause")} above 2 s` : "",
      ),
      ...figure(
        "Readable",
        percent(answer.usableShare, 0),
        counts.unreadable ? `${plural(counts.unreadable, "beat")} not read` : "",
      ),
    ),
    answer.warnings.length > 0 &&
      h("ul", { class: "warnings" }, ...answer.warnings.map((text) => h("li", {}, text))),
  ];
}

/** @param {import("../../answer/prediction.js").Rhythm} rhythm */
function describeSpread({ slowestBpm, fastestBpm }) {
  if (number(slowestBpm) === number(fastestBpm)) return "";
  return `${number(slowestBpm)} to ${number(fastestBpm)} over any 8 beats`;
}

/**
 * @param {string} name
 * @param {string} value
 * @param {string} more
 */
function figure(name, value, more) {
  return [
    h(
      "div",
      {},
      h("dt", {}, name),
      h("dd", {}, h("b", {}, value), more && h("span", { class: "soft small" }, more)),
    ),
  ];
}

/** @param {import("../../answer/prediction.js").Answer} answer */
function describeAttention({ kind, riskLevel, riskBasis, riskReasons, isProvisional }) {
  if (!riskLevel) return null;
  const level = riskLevel.toLowerCase();
  return h(
    "div",
    { class: `attention attention-${level}` },
    h("p", {}, h("b", {}, `Attention: ${level}`), ` · ${describeBasis(kind, riskBasis)}`),
    riskReasons.length > 0 && h("p", {}, riskReasons.join("; ")),
    isProvisional && h("p", {}, "Provisional: less than a day was recorded."),
    h(
      "p",
      { class: "soft small" },
      "How much attention it deserves: information, not a diagnosis.",
    ),
  );
}

/**
 * @param {string} kind Of the answer.
 * @param {string} basis
 */
function describeBasis(kind, basis) {
  if (basis === "recording") return "judged on this recording";
  return kind === "recording" ? "judged without the burden: under an hour" : "judged on this strip";
}
