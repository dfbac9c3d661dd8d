/**
 * The link to what is shown, the command that gives the same, and downloads.
 */

import { writeCurl } from "../../actions/curl.js";
import { fill, h } from "../../base/dom.js";
import { asProblem } from "../../base/problem.js";

/** Formats of a recording's result. */
const FORMATS = [
  ["html", "Report", "html"],
  ["pdf", "PDF", "pdf"],
  ["csv", "Beats, CSV", "beats.csv"],
  ["atr", "WFDB annotations", "pvc"],
  ["fhir", "FHIR", "fhir.json"],
  ["json", "Summary, JSON", "json"],
];

/**
 * Show links, command and downloads.
 *
 * @param {HTMLElement} element
 * @param {object} options
 * @param {import("../../state/app_state.js").ViewerStore} options.store
 * @param {import("../../actions/service.js").Service} options.service
 * @param {() => boolean} options.hasKey
 */
export function bindRequest(element, { store, service, hasKey }) {
  store.subscribe((state, before) => {
    if (state.answer === before.answer && state.subject === before.subject) return;
    element.hidden = !state.answer && !state.subject?.isSent;
    if (!element.hidden) show(element, state, { store, service, hasKey: hasKey() });
  });
}

/**
 * @param {HTMLElement} element
 * @param {import("../../state/app_state.js").State} state
 * @param {{store: import("../../state/app_state.js").ViewerStore, service: import("../../actions/service.js").Service,
 *   hasKey: boolean}} options
 */
function show(element, { subject, answer }, { store, service, hasKey }) {
  const curl = subject && writeCurl(subject, { baseUrl: service.address(""), hasKey });
  fill(
    element,
    h(
      "h2",
      { id: "request-title" },
      answer?.kind === "recording" ? "Results and request" : "Link and request",
    ),
    ...(answer?.kind === "prediction" ? describeLink(answer, service) : []),
    ...(answer?.kind === "recording" ? describeResults(answer.id, store, service) : []),
    curl && h("h3", {}, "What was sent, as a command"),
    curl &&
      h("pre", { tabindex: 0, id: "curl", "aria-label": "curl command" }, h("code", {}, curl.text)),
    curl &&
      h(
        "p",
        { class: "row" },
        makeCopy("Copy command", () => curl.text, "curl"),
        curl.bodyName !== null &&
          h(
            "button",
            {
              type: "button",
              onclick: () =>
                subject.body && save(subject.body, /** @type {string} */ (curl.bodyName)),
            },
            `Save ${curl.bodyName}`,
          ),
      ),
  );
}

/**
 * @param {import("../../answer/prediction.js").Answer} answer
 * @param {import("../../actions/service.js").Service} service
 */
function describeLink({ id }, service) {
  return [
    h(
      "p",
      { class: "soft small" },
      "The link shows this prediction to others. The service stores beats, not signals: they see the trace only of demo strips, or with the file at hand.",
    ),
    h(
      "p",
      { class: "row" },
      makeCopy("Copy link", () => location.href, null),
      h(
        "a",
        { class: "button", href: service.address(`api/v1/predictions/${encodeURIComponent(id)}`) },
        "JSON",
      ),
    ),
    h("p", { class: "soft small id" }, id),
  ];
}

/**
 * @param {string} jobId
 * @param {import("../../state/app_state.js").ViewerStore} store
 * @param {import("../../actions/service.js").Service} service
 */
function describeResults(jobId, store, service) {
  /**
   * @param {string} format
   * @param {string} suffix
   */
  async function download(format, suffix) {
    try {
      save(await service.readResult(jobId, format), `${jobId}.${suffix}`);
    } catch (error) {
      store.set({ problem: asProblem(error) });
    }
  }
  return [
    h(
      "p",
      { class: "row" },
      ...FORMATS.map(([format, name, suffix]) =>
        h("button", { type: "button", onclick: () => void download(format, suffix) }, name),
      ),
    ),
    h(
      "p",
      { class: "row" },
      makeCopy("Copy link", () => location.href, null),
    ),
    h("p", { class: "soft small id" }, jobId),
  ];
}

/**
 * Save something as a file.
 *
 * @param {Blob} content
 * @param {string} name
 */
function save(content, name) {
  const url = URL.createObjectURL(content);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * @param {string} label
 * @param {() => string} text
 * @param {string | null} selectId What is selected where the clipboard is closed to pages.
 */
function makeCopy(label, text, selectId) {
  const button = h("button", { type: "button" }, label);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = "Copied";
    } catch {
      const shown = selectId ? document.getElementById(selectId) : null;
      if (shown) getSelection()?.selectAllChildren(shown);
      button.textContent = shown ? "Selected: press Ctrl C" : "Copy it from the address bar";
    }
    setTimeout(() => {
      button.textContent = label;
    }, 2500);
  });
  return button;
}
