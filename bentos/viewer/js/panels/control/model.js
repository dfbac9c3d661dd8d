/**
 * The model that answered, and its card.
 */

import { fill, h } from "../../base/dom.js";
import { number } from "../../base/format.js";
import { asProblem } from "../../base/problem.js";
import { renderMarkdown } from "./markdown.js";

/** What `model.data` means. */
const DATA = new Map([
  ["mitdb", "MIT-BIH, recordings of people"],
  ["simulated", "simulated patients"],
]);

/** @param {string | undefined} data */
export function nameData(data) {
  return DATA.get(data ?? "") ?? data ?? "–";
}

/**
 * Show the model.
 *
 * @param {HTMLElement} element
 * @param {object} options
 * @param {HTMLElement} options.alarm Says loudly what the model was not trained on.
 * @param {import("../../state/app_state.js").ViewerStore} options.store
 */
export function bindModel(element, { alarm, store }) {
  store.subscribe((state, before) => {
    if (state.answer === before.answer && state.health === before.health) return;
    const model = state.answer?.model ?? state.health?.model;
    alarm.hidden = model?.data !== "simulated";
    if (model?.data === "simulated") {
      fill(
        alarm,
        h("strong", {}, "⚠ Trained on simulated patients, not on people. "),
        "Its answers show how the platform works; read nothing into them.",
      );
    }
    element.hidden = !state.answer;
    if (state.answer) fill(element, ...describe(state.answer));
  });
}

/** @param {import("../../answer/prediction.js").Answer} answer */
function describe({ model, isGuarded, processingMs, timestamp }) {
  const rows = [
    ["Version", `${model.version ?? "–"}, ${model.source ?? "–"}`],
    ["Trained on", nameData(model.data)],
    ["Rules", isGuarded ? "applied" : "off"],
    ["Answered", `${timestamp.replace("T", " ").slice(0, 19)} UTC`],
    ["Took", processingMs === null ? "–" : `${number(processingMs, 1)} ms`],
    ["Bento", model.bento_tag],
    ["Bundle", model.bundle_hash?.slice(0, 16)],
    ["Run", model.run_id],
    ["Dataset", model.dataset_version],
    ["Commit", model.git_commit?.slice(0, 12)],
  ];
  return [
    h("h2", { id: "model-title" }, "Model that answered"),
    h(
      "dl",
      { class: "facts" },
      ...rows.flatMap(([name, value]) => (value ? [h("dt", {}, name), h("dd", {}, value)] : [])),
    ),
  ];
}

/**
 * Show the model card as a page of its own over this one.
 *
 * @param {HTMLAnchorElement} linkToCard Leads to the card as JSON where scripts do not run.
 * @param {HTMLDialogElement} dialog
 * @param {import("../../actions/service.js").Service} service
 */
export function bindModelCard(linkToCard, dialog, service) {
  linkToCard.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    void open();
  });

  async function open() {
    const close = h("form", { method: "dialog" }, h("button", { class: "primary" }, "Close"));
    fill(dialog, h("h2", { id: "card-title" }, "Model card"), h("p", {}, "Reading …"), close);
    dialog.showModal();
    try {
      const card = await service.readModelCard();
      fill(
        dialog,
        h("h2", { id: "card-title", class: "visually-hidden" }, "Model card"),
        h("div", { class: "markdown" }, renderMarkdown(String(card.model_card))),
        h("p", {}, h("a", { href: linkToCard.href }, "The card with all constants as JSON")),
        close,
      );
    } catch (error) {
      const { title, detail } = asProblem(error);
      fill(dialog, h("h2", { id: "card-title" }, title), h("p", {}, detail), close);
    }
    dialog.scrollTop = 0;
  }
}
