/**
 * How the signal is read and sent: lead, sampling rate, unit, rules. It can be changed and sent
 * again. The form asks for what the file does not state before anything is sent.
 */

import { fill, h } from "../../base/dom.js";
import { duration, plural } from "../../base/format.js";
import { isUnitKnown, unitOf } from "../../state/subject.js";

const UNITS = [
  ["mV", "mV"],
  ["uV", "µV"],
  ["V", "V"],
  ["nV", "nV"],
  ["counts", "counts of a converter"],
];

/** Fields of the form by the field of the service. */
const FIELDS = /** @type {Record<string, string>} */ ({
  sampling_rate: "setting-fs",
  derivation: "setting-derivation",
  patient_id: "setting-patient",
  lead: "setting-lead",
  unit: "setting-unit",
});

/** What to set when the service refuses the samples, by the name of the problem. */
const FIELDS_OF_SAMPLES = /** @type {Record<string, string>} */ ({
  "signal-too-short": "setting-fs",
  "signal-too-long": "setting-fs",
  "signal-out-of-range": "setting-unit",
});

/**
 * Show the settings of the signal that is open.
 *
 * @param {HTMLDetailsElement} element
 * @param {object} options
 * @param {import("../../state/app_state.js").ViewerStore} options.store
 * @param {import("../../actions/open.js").Opener} options.opener
 */
export function bindSettings(element, { store, opener }) {
  store.subscribe((state, before) => {
    const { subject } = state;
    // While something is typed or chosen the form stays the same one, and keeps the focus.
    const isOther =
      subject?.table !== before.subject?.table ||
      subject?.files !== before.subject?.files ||
      subject?.leads !== before.subject?.leads ||
      isAsked(state) !== isAsked(before) ||
      state.knownLeads !== before.knownLeads;
    if (isOther) show(element, { state, before, opener });
    else if (subject && subject !== before.subject) {
      const shown = element.querySelector(".summary-now");
      if (shown) shown.textContent = describe(subject);
    }
    if (state.problem !== before.problem) flag(element, state.problem);
  });
}

/**
 * Whether nothing is sent before the reader said how to read the samples.
 *
 * @param {import("../../state/app_state.js").State} state
 */
function isAsked({ subject, answer }) {
  return subject !== null && !subject.isKnown && !answer;
}

/**
 * @param {HTMLDetailsElement} element
 * @param {{state: import("../../state/app_state.js").State, before: import("../../state/app_state.js").State,
 *   opener: import("../../actions/open.js").Opener}} options
 */
function show(element, { state, before, opener }) {
  const { subject } = state;
  const hasLeads =
    subject?.kind === "recording" && subject.files.length > 0 && subject.leads.length > 1;
  element.hidden = !subject?.settings && !hasLeads;
  if (!subject || element.hidden) {
    fill(element);
    return;
  }
  const title = isAsked(state) ? "How is this signal to be read?" : "Signal settings";
  // The question is answered: show the strip.
  const isSame = subject.files === before.subject?.files && !isAsked(before);
  const isOpen = isAsked(state) || (isSame && element.open);
  const focused = element.contains(document.activeElement) ? document.activeElement?.id : "";
  fill(
    element,
    h(
      "summary",
      {},
      h("span", { class: "summary-title" }, title),
      h("span", { class: "soft summary-now" }, describe(subject)),
    ),
    hasLeads ? makeLeadForm(subject, opener) : makeForm(state, isAsked(state), opener),
  );
  element.open = isOpen;
  flag(element, state.problem);
  if (focused) document.getElementById(focused)?.focus();
}

/** @param {import("../../state/app_state.js").Subject} subject */
function describe({ settings, leads }) {
  if (!settings) return plural(leads.length, "lead");
  const { fs, unit, derivation, applyRuleguard } = settings;
  const name = UNITS.find(([value]) => value === unit)?.[1] ?? unit;
  return `${fs === null ? "rate not known" : `${fs} Hz`} · ${name} · ${derivation} · rules ${applyRuleguard ? "on" : "off"}`;
}

/**
 * @param {import("../../state/app_state.js").State} state
 * @param {boolean} isFirst Whether it is asked before anything is sent.
 * @param {import("../../actions/open.js").Opener} opener
 */
function makeForm({ subject, knownLeads }, isFirst, opener) {
  const { settings, table, leads } = /** @type {import("../../state/app_state.js").Subject} */ (subject);
  if (!settings || !table) return null;
  const form = h("form", { class: "settings-form" });
  const nSamples = table.columns[0].length;
  const note = h("p", { class: "soft", id: "setting-length" });
  const read = () => readForm(form, settings);
  const describeLength = () => {
    const { fs } = read();
    const samples = plural(nSamples, "sample");
    const length = fs ? `${samples} at ${fs} Hz last ${duration(nSamples / fs)}` : samples;
    note.textContent = table.isPart ? "The beginning of a long recording is shown." : length;
  };
  fill(
    form,
    leads.length > 1 &&
      makeSelect(
        "lead",
        "Column",
        leads.map((name) => [name, name]),
        settings.lead,
      ),
    makeInput("fs", "Samples per second (Hz)", {
      type: "number",
      min: 1,
      step: "any",
      required: true,
      placeholder: "not in the file",
      value: settings.fs ?? "",
    }),
    makeSelect("unit", "Unit of the samples", UNITS, settings.unit),
    makeInput("countsPerMv", "Counts for 1 mV", {
      type: "number",
      min: 0.001,
      step: "any",
      required: true,
      placeholder: "not in the file",
      value: settings.countsPerMv ?? "",
    }),
    makeSelect(
      "derivation",
      "Name of the lead",
      (knownLeads.includes(settings.derivation)
        ? knownLeads
        : [settings.derivation, ...knownLeads]
      ).map((name) => [name, name]),
      settings.derivation,
    ),
    makeInput("patient", "Patient identifier (optional)", {
      maxlength: 128,
      autocomplete: "off",
      value: settings.patientId,
    }),
    h(
      "label",
      { class: "check" },
      h("input", { type: "checkbox", id: "setting-rules", checked: settings.applyRuleguard }),
      "Let physiological rules correct unsure classes",
    ),
    isFirst && h("p", { class: "soft" }, tellMissing(table, settings)),
    note,
    ...table.warnings.map((warning) => h("p", { class: "soft" }, warning)),
    h(
      "p",
      { class: "settings-foot" },
      h(
        "button",
        { type: "submit", class: "primary", id: "analyse" },
        isFirst ? "Find the beats" : "Analyse again",
      ),
      h("span", { class: "soft small" }, "The patient identifier is kept only as a keyed hash."),
    ),
  );
  const showCounts = () => {
    const field = form.querySelector(".field-countsPerMv");
    const input = form.querySelector("#setting-countsPerMv");
    const isHidden = read().unit !== "counts";
    if (field instanceof HTMLElement) field.hidden = isHidden;
    if (input instanceof HTMLInputElement) input.required = !isHidden;
  };
  showCounts();
  describeLength();
  form.addEventListener("input", describeLength);
  form.addEventListener("change", ({ target }) => {
    const unit = form.querySelector("#setting-unit");
    const isLead = target instanceof HTMLSelectElement && target.id === "setting-lead";
    if (isLead && unit instanceof HTMLSelectElement) {
      unit.value = unitOf(table, target.value);
    }
    showCounts();
    // A signal that is not sent yet is drawn with these settings.
    if (isFirst && form.checkValidity()) void opener.preview(read());
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    void opener.analyse(read());
  });
  return form;
}

/**
 * What the reader must state before the signal is sent.
 *
 * @param {import("../../files/table.js").ReadTable} table
 * @param {import("../../files/request.js").SignalSettings} settings
 */
function tellMissing(table, { lead }) {
  const missing = [
    table.lead === null && "which column is an ECG",
    table.fs === null && "the sampling rate",
    !isUnitKnown(table, lead) && "the unit of the samples",
  ].filter(Boolean);
  return missing.length ? `The file does not state ${missing.join(", nor ")}.` : "";
}

/**
 * @param {HTMLFormElement} form
 * @param {import("../../files/request.js").SignalSettings} before
 * @returns {import("../../files/request.js").SignalSettings}
 */
function readForm(form, before) {
  const value = (/** @type {string} */ name) =>
    /** @type {HTMLInputElement | null} */ (form.querySelector(`#setting-${name}`))?.value;
  const rules = /** @type {HTMLInputElement} */ (form.querySelector("#setting-rules"));
  return {
    lead: value("lead") ?? before.lead,
    fs: Number(value("fs")) || null,
    unit: value("unit") ?? before.unit,
    countsPerMv: Number(value("countsPerMv")) || null,
    derivation: value("derivation") ?? before.derivation,
    applyRuleguard: rules.checked,
    patientId: (value("patient") ?? "").trim(),
  };
}

/**
 * @param {import("../../state/app_state.js").Subject} subject
 * @param {import("../../actions/open.js").Opener} opener
 */
function makeLeadForm({ leads, lead }, opener) {
  const select = makeSelect(
    "lead",
    "Lead",
    leads.map((name) => [name, name]),
    lead || leads[0],
  );
  return h(
    "form",
    {
      class: "settings-form",
      onsubmit: (/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        void opener.analyseLead(select.querySelector("select")?.value ?? leads[0]);
      },
    },
    select,
    h(
      "p",
      { class: "settings-foot" },
      h("button", { type: "submit", class: "primary" }, "Analyse this lead"),
    ),
  );
}

/**
 * @param {string} name
 * @param {string} label
 * @param {Record<string, unknown>} attributes
 */
function makeInput(name, label, attributes) {
  const id = `setting-${name}`;
  return h(
    "div",
    { class: `field field-${name}` },
    h("label", { for: id }, label),
    h("input", { id, ...attributes }),
    h("p", { class: "field-problem", id: `${id}-problem`, hidden: true }),
  );
}

/**
 * @param {string} name
 * @param {string} label
 * @param {string[][]} options Value and text.
 * @param {string} chosen
 */
function makeSelect(name, label, options, chosen) {
  const id = `setting-${name}`;
  return h(
    "div",
    { class: `field field-${name}` },
    h("label", { for: id }, label),
    h(
      "select",
      { id },
      ...options.map(([value, text]) => h("option", { value, selected: value === chosen }, text)),
    ),
    h("p", { class: "field-problem", id: `${id}-problem`, hidden: true }),
  );
}

/**
 * Show at each field what the service says of it, and open the form for it.
 *
 * @param {HTMLDetailsElement} element
 * @param {import("../../base/problem.js").ProblemError | null} problem
 */
function flag(element, problem) {
  for (const input of element.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-describedby");
  }
  for (const text of element.querySelectorAll(".field-problem")) text.setAttribute("hidden", "");
  for (const { field, reason } of problem?.errors ?? []) {
    const name = field.split(/[.[]/)[0];
    const id = name === "signal_data" ? FIELDS_OF_SAMPLES[problem?.name ?? ""] : FIELDS[name];
    const input = id ? element.querySelector(`#${id}`) : null;
    const text = id ? element.querySelector(`#${id}-problem`) : null;
    if (!input || !text) continue;
    input.setAttribute("aria-invalid", "true");
    input.setAttribute("aria-describedby", `${id}-problem`);
    text.textContent = reason;
    text.removeAttribute("hidden");
    element.open = true;
  }
}
