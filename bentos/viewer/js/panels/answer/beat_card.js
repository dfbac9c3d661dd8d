/**
 * The beat that is chosen, what the reader calls it, and sending that to the service.
 */

import { beatsOfForm } from "../../actions/feedback.js";
import { describeRule } from "../../answer/prediction.js";
import { fill, h } from "../../base/dom.js";
import { clock, number, plural } from "../../base/format.js";
import { unsentLabels } from "../../state/app_state.js";

/**
 * Show the chosen beat.
 *
 * @param {HTMLElement} element
 * @param {object} options
 * @param {import("../../state/app_state.js").ViewerStore} options.store
 * @param {import("../../actions/feedback.js").FeedbackSender} options.feedback
 */
export function bindBeatCard(element, { store, feedback }) {
  store.subscribe((state, before) => {
    if (
      state.answer === before.answer &&
      state.selected === before.selected &&
      state.labels === before.labels &&
      state.sentLabels === before.sentLabels &&
      state.feedback === before.feedback
    ) {
      return;
    }
    element.hidden = !state.answer;
    if (state.answer) show(element, state, feedback);
  });
}

/**
 * @param {HTMLElement} element
 * @param {import("../../state/app_state.js").State} state
 * @param {import("../../actions/feedback.js").FeedbackSender} feedback
 */
function show(element, state, feedback) {
  const { answer, selected } = state;
  // Typed text and focus stay when the card is filled again.
  const focused = element.contains(document.activeElement) ? document.activeElement?.id : "";
  fill(
    element,
    h("h2", { id: "beat-title" }, selected ? nameBeat(selected) : "No beat chosen"),
    selected && answer
      ? describe(selected, answer)
      : h("p", { class: "soft" }, "Click a beat, or step through them with the keys , and ."),
    ...(answer?.kind === "prediction" ? describeMarks(state, feedback) : []),
  );
  if (focused) document.getElementById(focused)?.focus();
}

/** @param {import("../../signal/beats.js").Beat} beat */
function nameBeat(beat) {
  return beat.index === null
    ? `Beat at ${clock(beat.timeS, { decimals: 2 })}`
    : `Beat ${beat.index + 1}`;
}

/**
 * @param {import("../../signal/beats.js").Beat} beat
 * @param {import("../../answer/prediction.js").Answer} answer
 */
function describe(beat, answer) {
  const isRead = beat.type !== null;
  const rows = [
    ["Class", isRead ? `${beat.type}, confidence ${number(beat.confidence, 3)}` : "not read"],
    ["p(V)", `${number(beat.probabilityV, 3)} (threshold ${number(answer.threshold, 2)})`],
    [
      "At",
      answer.durationS > 120 ? clock(beat.timeS, { decimals: 2 }) : `${beat.timeS.toFixed(3)} s`,
    ],
    ["RR before, after", `${milliseconds(beat.rrPreviousS)}, ${milliseconds(beat.rrNextS)}`],
    ["QRS width", beat.qrsWidthMs === null ? "–" : `${Math.round(beat.qrsWidthMs)} ms`],
    ["Rule", beat.rule ? describeRule(beat.rule) : "none"],
    ["Quality", beat.quality],
  ];
  return h(
    "dl",
    { class: "facts" },
    ...rows.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]),
  );
}

/** @param {number | null} seconds */
export function milliseconds(seconds) {
  return seconds === null ? "–" : `${Math.round(1000 * seconds)} ms`;
}

/**
 * @param {import("../../state/app_state.js").State} state
 * @param {import("../../actions/feedback.js").FeedbackSender} feedback
 */
function describeMarks({ answer, selected, labels, sentLabels, feedback: sent }, feedback) {
  const label = selected ? labels.get(selected.id) : undefined;
  const alike = answer && selected ? beatsOfForm(answer, selected) : [];
  const nUnsent = unsentLabels({ labels, sentLabels }).length;
  const makeMark = (/** @type {"N" | "V"} */ type) =>
    h(
      "button",
      {
        type: "button",
        id: `mark-${type}`,
        class: "mark",
        "aria-pressed": String(label === type),
        disabled: !selected,
        onclick: () => feedback.mark(label === type ? null : type),
      },
      type,
    );
  return [
    h(
      "div",
      { class: "marks", role: "group", "aria-label": "What you call this beat" },
      h("span", {}, "You call it"),
      makeMark("N"),
      makeMark("V"),
    ),
    alike.length > 0 &&
      h(
        "div",
        { class: "marks", role: "group", "aria-label": "What you call all beats of this form" },
        h("span", {}, `All ${alike.length} of form ${selected?.form}`),
        ...(/** @type {const} */ (["N", "V"])).map((type) =>
          h(
            "button",
            {
              type: "button",
              id: `mark-form-${type}`,
              class: "mark",
              "aria-label": `Call all ${alike.length} of form ${selected?.form} ${type}`,
              "aria-pressed": String(alike.every((beat) => labels.get(beat.id) === type)),
              onclick: () => feedback.markForm(type),
            },
            type,
          ),
        ),
      ),
    nUnsent > 0 &&
      h(
        "form",
        {
          class: "send",
          onsubmit: (/** @type {SubmitEvent} */ event) => {
            event.preventDefault();
            void feedback.send();
          },
        },
        h("label", { for: "annotator" }, "Your name or initials (optional)"),
        h("input", {
          id: "annotator",
          maxlength: 128,
          value: feedback.annotator(),
          oninput: (/** @type {InputEvent} */ event) =>
            feedback.setAnnotator(/** @type {HTMLInputElement} */ (event.target).value),
        }),
        h(
          "button",
          { type: "submit", class: "primary", id: "send", disabled: sent.status === "sending" },
          `Send ${plural(nUnsent, "mark")}`,
        ),
      ),
    sent.text &&
      h(
        "p",
        {
          class: sent.status === "failed" ? "warnings" : "soft",
          role: "status",
          id: "feedback-said",
        },
        sent.text,
      ),
  ];
}
