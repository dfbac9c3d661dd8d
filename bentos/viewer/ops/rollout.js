/**
 * The page of a gradual rollout: stage, comparisons, bounds, and the strips that differ.
 */

import { byId, fill, h } from "../js/base/dom.js";
import { count, duration, percent, plural } from "../js/base/format.js";
import { asProblem } from "../js/base/problem.js";
import { BASE_URL, bindPage, service, time } from "./page.js";

/** @typedef {import("../js/base/dom.js").Child} Child */

/**
 * @typedef {object} Beat
 * @property {number} position_sample
 * @property {string | null} champion
 * @property {string | null} candidate
 * @property {number | null} probability_champion
 * @property {number | null} probability_candidate
 */

/**
 * @typedef {object} Signal
 * @property {number} fs
 * @property {number} start_sample
 * @property {number[]} samples_mv
 */

/**
 * @typedef {object} Disagreement
 * @property {string} prediction_id
 * @property {string} created_at
 * @property {string} stage
 * @property {string} answered_by
 * @property {number} duration_s
 * @property {number} n_beats
 * @property {Beat[]} beats
 * @property {boolean} has_signal
 */

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 640;
const HEIGHT = 160;
const MV_SHOWN = 3;

bindPage({
  read: () => service.readRollout(),
  // An open signal would be closed by new content.
  isBusy: () => document.querySelector("details[open]") !== null,
  /** @param {{rollout: any, problem: string | null, disagreements: Disagreement[]}} view */
  show({ rollout, problem, disagreements }) {
    const parts = byId("parts");
    parts.hidden = false;
    if (!rollout) {
      fill(parts, section("Rollout", h("p", {}, problem ?? "No candidate is tried beside the served release.")));
      return;
    }
    fill(
      parts,
      section(`${rollout.bento_tag} beside ${rollout.champion}`, ...showState(rollout)),
      section("Compared", ...showCompared(rollout)),
      section("Bounds", ...showBounds(rollout)),
      section("Strips that differ", ...showDisagreements(disagreements)),
    );
  },
});

/**
 * @param {string} title
 * @param {...Child} children
 */
function section(title, ...children) {
  return h("section", { class: "card wide", "aria-label": title }, h("h2", {}, title), ...children);
}

/** @param {any} rollout */
function showState(rollout) {
  return [
    rollout.problem && h("p", { class: "problem" }, `Not tried by this process: ${rollout.problem}`),
    h(
      "ol",
      { class: "rollout-stages" },
      ...rollout.stages.map((/** @type {any} */ stage) =>
        h(
          "li",
          { "aria-current": stage.is_current ? "step" : null },
          h("strong", {}, stage.name),
          h(
            "span",
            { class: "soft small" },
            ` at least ${stage.min_hours} h, ${plural(stage.min_strips, "strip")}, ${stage.min_groups} people`,
          ),
        ),
      ),
      h("li", {}, h("strong", {}, "release")),
    ),
    h("p", { class: "soft small" }, `Since ${time(rollout.stage_since)}, started ${time(rollout.started_at)} by ${rollout.who}: ${rollout.why}`),
  ];
}

/** @param {any} rollout */
function showCompared({ strips, people, beats, failed, champion_refused: refused, v_runs_per_hour: runs }) {
  const { NN = 0, VV = 0, NV = 0, VN = 0, unclassed = 0 } = beats;
  const rate = (/** @type {number | null} */ value) => (value === null ? "–" : value.toFixed(1));
  return [
    h("p", {}, `${plural(strips, "strip")} of ${count(people)} people.`),
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...["Champion", "Candidate N", "Candidate V"].map((name) => h("th", { scope: "col" }, name)))),
      h(
        "tbody",
        {},
        h("tr", {}, h("th", { scope: "row" }, "N"), h("td", {}, count(NN)), h("td", {}, count(NV))),
        h("tr", {}, h("th", { scope: "row" }, "V"), h("td", {}, count(VN)), h("td", {}, count(VV))),
      ),
    ),
    h(
      "p",
      { class: "soft small" },
      `${plural(unclassed, "beat")} without a class in one of them. V runs an hour: ${rate(runs.champion)}, and ${rate(runs.candidate)} by the candidate. ${plural(failed, "error")} of the candidate. ${plural(refused, "strip")} that the champion alone refuses.`,
    ),
  ];
}

/** @param {any} rollout */
function showBounds({ bounds, false_return_chance: chance }) {
  return [
    h("ul", {}, ...bounds.map((/** @type {any} */ bound) => h("li", {}, bound.text))),
    h(
      "p",
      { class: "soft small" },
      `A bound counts as broken when chance explains it too seldom: a candidate within all bounds is taken back with a chance of at most ${percent(chance, 1)}.`,
    ),
  ];
}

/** @param {Disagreement[]} disagreements */
function showDisagreements(disagreements) {
  if (!disagreements.length) return [h("p", { class: "soft" }, "None so far.")];
  return [h("ol", { class: "queue" }, ...disagreements.map(showDisagreement))];
}

/** @param {Disagreement} one */
function showDisagreement(one) {
  const url = new URL("./", BASE_URL);
  url.searchParams.set("prediction", one.prediction_id);
  return h(
    "li",
    {},
    h(
      "p",
      { class: "queue-head" },
      h("a", { href: url.href }, time(one.created_at)),
      h("span", { class: "soft" }, `${duration(one.duration_s)} · ${one.stage} · answered by the ${one.answered_by}`),
      h("span", { class: "tag" }, plural(one.n_beats, "beat")),
    ),
    one.has_signal && offerSignal(one),
    h("ul", { class: "small" }, ...one.beats.slice(0, 8).map(showBeat)),
  );
}

/**
 * A signal is read when it is opened, and not before.
 *
 * @param {Disagreement} one
 */
function offerSignal(one) {
  const body = h("div", {});
  const details = /** @type {HTMLDetailsElement} */ (
    h("details", { class: "small" }, h("summary", {}, "Signal"), body)
  );
  details.addEventListener("toggle", async () => {
    if (!details.open || body.hasChildNodes()) return;
    try {
      /** @type {Signal} */
      const signal = await service.readRolloutSignal(one.prediction_id);
      fill(body, drawSignal(signal, one.beats));
    } catch (error) {
      const { title, detail } = asProblem(error);
      body.replaceWith(h("p", { class: "problem" }, `${title}. ${detail}`));
    }
  });
  return details;
}

/** @param {Beat} beat */
function showBeat(beat) {
  const of = (/** @type {string | null} */ type, /** @type {number | null} */ probability) =>
    `${type ?? "no class"}${probability === null ? "" : ` (V ${percent(probability, 0)})`}`;
  return h(
    "li",
    {},
    `sample ${beat.position_sample}: ${of(beat.champion, beat.probability_champion)}, candidate ${of(beat.candidate, beat.probability_candidate)}`,
  );
}

/**
 * Draw the signal with a mark at each beat that differs.
 *
 * @param {Signal} signal
 * @param {Beat[]} beats
 */
function drawSignal({ fs, start_sample: start, samples_mv: samples }, beats) {
  const x = (/** @type {number} */ at) => (at / Math.max(samples.length - 1, 1)) * WIDTH;
  const middle = [...samples].sort((a, b) => a - b)[samples.length >> 1] ?? 0;
  const y = (/** @type {number} */ mv) => HEIGHT / 2 - ((mv - middle) / MV_SHOWN) * HEIGHT;
  const shown = beats.filter((beat) => beat.position_sample - start < samples.length);
  return svg(
    "svg",
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      class: "rollout-strip",
      role: "img",
      "aria-label": `${(samples.length / fs).toFixed(1)} s around the first beat that differs`,
    },
    ...shown.map((beat) => {
      const at = x(beat.position_sample - start);
      return svg(
        "g",
        {},
        svg("line", { x1: at, x2: at, y1: 18, y2: HEIGHT, class: "mark" }),
        svg("text", { x: at, y: 13, "text-anchor": "middle" }, `${beat.champion ?? "–"} → ${beat.candidate ?? "–"}`),
      );
    }),
    svg("polyline", { points: samples.map((mv, at) => `${x(at).toFixed(1)},${y(mv).toFixed(1)}`).join(" ") }),
  );
}

/**
 * @param {string} tag
 * @param {Record<string, string | number>} attributes
 * @param {...(Node | string)} children
 */
function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}
