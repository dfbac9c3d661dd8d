/**
 * Suspicions, runs, couplets, patterns, shapes and unreadable stretches, each a click away.
 */

import { fill, h } from "../../base/dom.js";
import { clock, count, plural } from "../../base/format.js";

/** So many findings are one list. */
const MAX_TOGETHER = 10;
const SHOWN_AT_FIRST = 4;
const SHOWN_MORE = 50;

/** What matters most comes first. */
const KINDS = [
  ["suspicion", "Suspected"],
  ["run", "Runs"],
  ["pause", "Pauses"],
  ["couplet", "Couplets"],
  ["bigeminy", "Bigeminy"],
  ["trigeminy", "Trigeminy"],
  ["unreadable", "Unreadable"],
];

/** @typedef {(startS: number, endS: number) => void} LookAt */

/**
 * List the findings.
 *
 * @param {HTMLElement} element
 * @param {object} options
 * @param {import("../../state/app_state.js").ViewerStore} options.store
 * @param {import("../../actions/navigate.js").Navigation} options.navigation
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
 * @param {import("../../answer/prediction.js").Answer} answer
 * @param {LookAt} lookAt
 */
function show(element, { findings, morphologies, durationS }, lookAt) {
  /** @param {import("../../answer/prediction.js").Finding} finding */
  const makeFinding = (finding) => makeJump(finding.text, finding.kind, finding, durationS, lookAt);
  const groups = [
    ...sortByKind(findings).map(({ title, members }) => ({
      title,
      makers: members.map((finding) => () => makeFinding(finding)),
    })),
    {
      title: "Shapes of V beats",
      makers: morphologies.map((shape) => () => makeShape(shape, durationS, lookAt)),
    },
  ];
  fill(
    element,
    h("h2", { id: "findings-title" }, "Go to"),
    h(
      "div",
      { class: "findings-groups" },
      ...groups
        .filter(({ makers }) => makers.length)
        .flatMap(({ title, makers }) => [
          title && h("h3", {}, `${title}: ${count(makers.length)}`),
          makeList(makers),
        ]),
    ),
  );
}

/**
 * Few findings stay together in the order of time; many are sorted by what they are.
 *
 * @param {import("../../answer/prediction.js").Finding[]} findings
 */
function sortByKind(findings) {
  if (findings.length <= MAX_TOGETHER) return [{ title: null, members: findings }];
  return KINDS.map(([kind, title]) => ({
    title,
    members: findings.filter((finding) => finding.kind === kind),
  }));
}

/**
 * A list that shows its first members, and more on demand.
 *
 * @param {Array<() => HTMLElement>} makers
 */
function makeList(makers) {
  const list = h("ul", { class: "findings" });
  /** @param {number} limit */
  const showFirst = (limit) => {
    const hidden = makers.length - limit;
    const showMore = () => showFirst(limit + SHOWN_MORE);
    fill(
      list,
      ...makers.slice(0, limit).map((make) => h("li", {}, make())),
      hidden > 0 &&
        h("li", {}, h("button", { type: "button", onclick: showMore }, `${count(hidden)} more`)),
    );
  };
  showFirst(makers.length <= MAX_TOGETHER ? makers.length : SHOWN_AT_FIRST);
  return list;
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
 * @param {import("../../answer/prediction.js").Morphology} morphology
 * @param {number} durationS
 * @param {LookAt} lookAt
 */
function makeShape({ name, beats, exampleS, couplingMs, qrsWidthMs }, durationS, lookAt) {
  const coupling = couplingMs === null ? "" : `, coupling ${Math.round(couplingMs)} ms`;
  const text = `${name}: ${plural(beats, "beat")}, QRS ${Math.round(qrsWidthMs)} ms${coupling}`;
  return makeJump(text, "shape", { startS: exampleS, endS: exampleS }, durationS, lookAt);
}

/**
 * @param {number} timeS
 * @param {number} durationS
 */
function nameTime(timeS, durationS) {
  if (durationS <= 120) return `${timeS.toFixed(1)} s`;
  return clock(timeS, { withHours: durationS >= 3600 });
}
