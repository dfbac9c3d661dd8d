/**
 * The review queue: the predictions that are most worth a look, each a link into the viewer.
 */

import { readApiKey } from "../js/base/api_key.js";
import { byId, fill, h } from "../js/base/dom.js";
import { duration, percent, plural } from "../js/base/format.js";
import { BASE_URL, bindPage, service, time } from "./page.js";

/**
 * @typedef {object} Queued
 * @property {string} prediction_id
 * @property {string} timestamp
 * @property {boolean} drawn_for_review
 * @property {number} doubt
 * @property {string[]} reasons
 * @property {string | null} derivation
 * @property {number | null} duration_s
 * @property {string | null} overall_arrhythmia_type
 */

bindPage({
  read: () => service.readReviewQueue(),
  /** @param {{predictions: Queued[]}} content */
  show({ predictions }) {
    const queue = byId("queue");
    queue.hidden = false;
    if (!predictions.length) {
      fill(queue, h("p", { class: "soft" }, describeNothing()));
      return;
    }
    fill(
      queue,
      h("p", { class: "soft small" }, `${plural(predictions.length, "prediction")}, at most 100`),
      h("ol", { class: "queue" }, ...predictions.map(describe)),
    );
  },
});

/** A key sees what it made itself, unless it may operate too. */
function describeNothing() {
  return readApiKey()
    ? "Nothing waits that this key may see. A key with the scopes label and operate sees the predictions of all keys."
    : "Nothing waits: every prediction has labels, or there is none.";
}

/** @param {Queued} queued */
function describe(queued) {
  const url = new URL("./", BASE_URL);
  url.searchParams.set("prediction", queued.prediction_id);
  const about = [
    queued.derivation && `lead ${queued.derivation}`,
    queued.duration_s !== null && duration(queued.duration_s),
    queued.overall_arrhythmia_type && `called ${queued.overall_arrhythmia_type}`,
  ];
  return h(
    "li",
    {},
    h(
      "p",
      { class: "queue-head" },
      h("a", { href: url.href }, time(queued.timestamp)),
      h("span", { class: "soft" }, about.filter(Boolean).join(" · ")),
      queued.drawn_for_review
        ? h("span", { class: "tag drawn" }, "drawn at random")
        : h("span", { class: "tag" }, `doubt ${percent(queued.doubt, 0)}`),
    ),
    queued.reasons.length > 0 && h("p", { class: "small" }, queued.reasons.join("; ")),
  );
}
