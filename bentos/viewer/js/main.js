/**
 * Put the page together.
 */

import { bindKeys, bindOverviewGestures, bindStripGestures } from "./charts/gestures.js";
import { bindStage } from "./charts/stage.js";
import { keepApiKey, readApiKey } from "./base/api_key.js";
import { byId, fill, h } from "./base/dom.js";
import { EXAMPLES } from "./answer/examples.js";
import { makeFeedback } from "./actions/feedback.js";
import { makeReader } from "./files/reader.js";
import { duration } from "./base/format.js";
import { readLink } from "./base/link.js";
import { makeNavigation } from "./actions/navigate.js";
import { makeOpener } from "./actions/open.js";
import { bindBeatCard } from "./panels/answer/beat_card.js";
import { bindBeatTable } from "./panels/answer/beat_table.js";
import { bindFindings } from "./panels/answer/findings.js";
import { bindModel, bindModelCard } from "./panels/control/model.js";
import { bindRequest } from "./panels/control/request.js";
import { bindSettings } from "./panels/control/settings.js";
import { bindStart } from "./panels/control/start.js";
import { bindStatus } from "./panels/control/status.js";
import { bindSummary } from "./panels/answer/summary.js";
import { bindToolbar, fillLegend } from "./panels/control/toolbar.js";
import { bindTooltip } from "./panels/answer/tooltip.js";
import { makeService } from "./actions/service.js";
import { INITIAL_STATE, durationOf } from "./state/app_state.js";
import { makeStore } from "./base/store.js";
import { bindPrinting, bindTheme } from "./base/theme.js";

const store = makeStore(INITIAL_STATE);
const service = makeService({
  baseUrl: new URL("./", document.baseURI).href,
  apiKey: readApiKey,
});
const known = learnService();
const opener = makeOpener({ store, service, reader: makeReader(), known });
const navigation = makeNavigation(store);
const feedback = makeFeedback(store, service);

bindTheme(byId("theme"));
bindPage();
bindStart(
  { gallery: byId("gallery"), served: byId("served"), formats: byId("formats") },
  { store, service, opener },
);
bindToolbar(byId("toolbar"), { store, navigation, keys: byId("keys") });
fillLegend(byId("legend"));
bindSettings(/** @type {HTMLDetailsElement} */ (byId("settings")), { store, opener });
// After the settings, whose wrong fields it leads to.
bindStatus(byId("status"), { store, opener, useKey });
bindSummary(byId("summary"), store);
bindBeatCard(byId("beat"), { store, feedback });
bindFindings(byId("findings"), { store, navigation, paper: byId("paper") });
bindModel(byId("model"), { alarm: byId("alarm"), store });
bindModelCard(byId("card-link"), byId("card"), service);
bindRequest(byId("request"), {
  store,
  service,
  hasKey: () => Boolean(readApiKey()),
});
bindBeatTable(byId("table"), { store, navigation });
bindTooltip(byId("tooltip"), byId("paper"), store);
bindStageAndGestures();
void known.then(() => {
  // A file may have been dropped meanwhile.
  if (!opener.hasBegun()) openLink();
});

/** Ask what the service can do. */
async function learnService() {
  const [health, description] = await Promise.allSettled([
    service.readHealth(),
    service.readDescription(),
  ]);
  if (description.status === "fulfilled") {
    const { paths, components } = description.value;
    store.set({
      takesRecordings: "/api/v1/recordings/" in paths,
      signalSuffixes: listSignalSuffixes(paths["/api/v1/signals/"]),
      knownLeads: components?.schemas?.PredictionRequest?.properties?.derivation?.enum ?? [],
    });
  }
  if (health.status === "fulfilled") store.set({ health: health.value });
}

/**
 * The suffixes of the files that the service reads for the viewer.
 *
 * @param {any} route As the description of the API has it; missing without recordings.
 * @returns {string[]}
 */
function listSignalSuffixes(route) {
  const form = route?.post.requestBody.content["multipart/form-data"].schema;
  return form?.properties.files["x-suffixes"] ?? [];
}

function openLink() {
  const { prediction, recording, example } = readLink();
  if (prediction) void opener.openPrediction(prediction, example);
  else if (recording) void opener.openRecording(recording);
  else if (example) void opener.openExample(example);
  else opener.close();
}

/** @param {string} key */
function useKey(key) {
  keepApiKey(key);
  opener.again();
}

/** What is open: the start page or the workspace; files chosen or dropped anywhere. */
function bindPage() {
  const files = byId("files");
  const input = /** @type {HTMLInputElement} */ (files);
  for (const button of document.querySelectorAll("[data-choose]")) {
    button.addEventListener("click", () => input.click());
  }
  input.addEventListener("change", () => {
    void opener.openFiles([...(input.files ?? [])]);
    // So that the same file can be chosen again.
    input.value = "";
  });
  bindDrop(byId("veil"));
  byId("close").addEventListener("click", () => opener.close());
  byId("home").addEventListener("click", (event) => {
    event.preventDefault();
    opener.close();
  });
  byId("print").addEventListener("click", () => print());
  const demo = /** @type {HTMLSelectElement} */ (byId("demo"));
  fill(
    demo,
    h("option", { value: "" }, "Demo strip …"),
    ...EXAMPLES.map(({ kind, name }) => h("option", { value: kind }, name)),
  );
  demo.addEventListener("change", () => demo.value && void opener.openExample(demo.value));
  addEventListener("popstate", openLink);

  store.subscribe((state, before) => {
    if (state.said !== before.said) byId("said").textContent = state.said;
    const { subject } = state;
    byId("start").hidden = subject !== null || !(state.isAtStart || state.problem);
    if (
      subject === before.subject &&
      state.answer === before.answer &&
      state.signal === before.signal
    ) {
      return;
    }
    byId("workspace").hidden = subject === null;
    document.title = subject ? `${subject.name} · ECG beat viewer` : "ECG beat viewer";
    byId("subject-name").textContent = subject?.name ?? "";
    byId("subject-about").textContent = subject ? describeSubject(state) : "";
    byId("layout").hidden = !durationOf(state);
    byId("stored-note").hidden = !state.answer || state.signal !== null;
    demo.value = subject?.example ?? "";
    if (subject && !before.subject) scrollTo({ top: 0 });
  });
}

/** @param {import("./state/app_state.js").State} state */
function describeSubject(state) {
  const { subject, answer } = state;
  const durationS = durationOf(state);
  const fs = answer?.fs ?? subject?.settings?.fs;
  const lead = answer?.lead ?? subject?.settings?.derivation;
  return [
    subject?.example ? "Demo, simulated" : null,
    durationS ? duration(durationS) : null,
    fs ? `${fs} Hz` : null,
    lead ? `lead ${lead}` : null,
    answer?.model.version ? describeModel(answer) : null,
  ]
    .filter(Boolean)
    .join(" · ");
}

/** @param {import("./answer/prediction.js").Answer} answer */
function describeModel({ model, processingMs }) {
  const took = processingMs === null ? "" : ` in ${processingMs.toFixed(1)} ms`;
  return `answered by model ${model.version}${took}`;
}

/** @param {HTMLElement} veil */
function bindDrop(veil) {
  let depth = 0;
  const hasFiles = (/** @type {DragEvent} */ event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth += 1;
    veil.hidden = false;
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    veil.hidden = depth === 0;
  });
  addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    veil.hidden = true;
    void opener.openFiles([...(event.dataTransfer?.files ?? [])]);
  });
}

/** @param {EventTarget | null} target */
function isTyping(target) {
  return target instanceof Element && target.matches("input, select, textarea");
}

function showKeys() {
  if (document.querySelector("dialog[open]")) return;
  /** @type {HTMLDialogElement} */ (byId("keys")).showModal();
}

function bindStageAndGestures() {
  const [paper, strip, overview] = [byId("paper"), byId("strip"), byId("overview")];
  const stage = bindStage({
    store,
    elements: {
      strip: byId("strip"),
      track: byId("track"),
      overview: byId("overview"),
      hint: byId("paper-hint"),
    },
    onResize: navigation.settle,
  });
  bindStripGestures(strip, { store, navigation, beatsInView: stage.beatsInView });
  bindOverviewGestures(overview, { store, navigation });
  const mark = feedback.mark;
  bindKeys(paper, { store, navigation, mark });
  bindKeys(overview, { store, navigation, mark });
  addEventListener("keydown", (event) => {
    if (event.key === "?" && !isTyping(event.target)) showKeys();
  });
  bindPrinting(() => stage.drawNow());
  store.subscribe((state, before) => {
    if (state.view === before.view && state.signal === before.signal) return;
    const durationS = durationOf(state);
    overview.setAttribute("aria-valuemax", durationS.toFixed(1));
    overview.setAttribute("aria-valuenow", state.view.startS.toFixed(1));
    const seenS = Math.min(durationS, navigation.seenS());
    overview.setAttribute(
      "aria-valuetext",
      `${duration(seenS)} from ${duration(state.view.startS)} of ${duration(durationS)}`,
    );
  });
}
