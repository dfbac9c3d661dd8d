/**
 * What is opened: where it came from, and how its samples are read at first.
 */

import { UNNAMED_LEAD, guessUnit, nameOnWire } from "../files/request.js";

/** @typedef {import("../files/table.js").ReadTable} ReadTable */

/**
 * Choose how a table is read: what the file states, and nothing that it does not.
 *
 * @param {ReadTable} table
 * @param {string[]} knownLeads Names that the service takes.
 * @returns {import("../files/request.js").SignalSettings}
 */
export function chooseSettings(table, knownLeads) {
  const lead = table.lead ?? table.leads[0];
  return {
    lead,
    fs: table.fs,
    unit: unitOf(table, lead),
    countsPerMv: null,
    derivation: table.hasLeadNames ? nameOnWire(lead, knownLeads) : UNNAMED_LEAD,
    applyRuleguard: table.applyRuleguard ?? true,
    patientId: table.patientId ?? "",
  };
}

/**
 * The samples of a lead.
 *
 * @param {ReadTable} table
 * @param {string} lead
 */
export function columnOf(table, lead) {
  return table.columns[table.leads.indexOf(lead)];
}

/**
 * The unit of a lead: as the file states it, or else a guess.
 *
 * @param {ReadTable} table
 * @param {string} lead
 * @returns {string}
 */
export function unitOf(table, lead) {
  return statedUnit(table, lead) ?? guessUnit(columnOf(table, lead));
}

/**
 * The unit of a lead as the file states it; null when it states none.
 *
 * @param {ReadTable} table
 * @param {string} lead
 */
export function statedUnit(table, lead) {
  return table.units[table.leads.indexOf(lead)];
}

/**
 * Whether the unit is certain: stated by the file, or samples of the size of mV. Counts and µV are
 * guesses.
 *
 * @param {ReadTable} table
 * @param {string} lead
 */
export function isUnitKnown(table, lead) {
  return unitOf(table, lead) === (statedUnit(table, lead) ?? "mV");
}

/**
 * Whether samples can be brought to mV at a rate.
 *
 * @param {import("../files/request.js").SignalSettings} settings
 */
export function isComplete({ fs, unit, countsPerMv }) {
  return fs !== null && (unit !== "counts" || countsPerMv !== null);
}

/**
 * Whether a lead has missing samples, so that it is analysed as a recording.
 *
 * @param {ReadTable} table
 * @param {string} lead
 */
export function hasGaps(table, lead) {
  return columnOf(table, lead).some(Number.isNaN);
}

/**
 * Whether a stored prediction is shown without its trace.
 *
 * @param {import("./app_state.js").State} state
 */
export function isWaitingForSignal({ subject, signal, answer }) {
  return subject?.kind === "stored" && answer !== null && signal === null;
}

/**
 * A subject of which nothing more is known yet.
 *
 * @param {"signal" | "recording" | "stored"} kind
 * @param {string} name
 * @param {{files?: File[], example?: string | null}} [origin]
 * @returns {import("./app_state.js").Subject}
 */
export function describeSubject(kind, name, { files = [], example = null } = {}) {
  return {
    kind,
    name,
    example,
    files,
    table: null,
    leads: [],
    lead: "",
    settings: null,
    isKnown: true,
    body: null,
    isSent: false,
    form: [],
  };
}

/**
 * What goes into the form with the file of a table: the lead, and what the file does not tell.
 *
 * @param {ReadTable} table
 * @param {import("../files/request.js").SignalSettings} settings
 * @returns {Array<[string, string]>}
 */
export function formFields(table, { lead, fs, unit }) {
  const isUnitTold = statedUnit(table, lead) === unit;
  /** @type {Array<[string, string]>} */
  const fields = [
    ["lead", lead],
    ["sampling_rate", fs === table.fs ? "" : String(fs)],
    ["unit", isUnitTold ? "" : unit],
  ];
  return fields.filter(([, value]) => value !== "");
}
