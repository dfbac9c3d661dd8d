/**
 * Tell by its name whether a column is an ECG lead, and which one to analyse.
 *
 * The service chooses by the same rule (`ecg_lib/records/signal_names.py`), and both are tested with
 * one table, `tests/lead_choices.json`.
 */

const OTHER_SIGNALS = new Set(
  (
    "ppg spo2 sao2 so2 eeg eog emg resp rsp abp abpm nibp nbp ibp cvp pap icp cpp uap uvp rap " +
    "lvp rvp aop hr heartrate bpm pr rr rri ibi hrv fc puls acc accel accx accy accz temp gsr " +
    "eda co2 etco2 o2 pcg phono scg bcg icg dzdt edr ptt pwv imp"
  ).split(" "),
);
/** Words of many languages are put together, or inflected. */
const OTHER_SIGNAL_STEM = new RegExp(
  "^(?:.*(?:pleth|pletism|pulso?x|oximet|oxymet|respir|atmung|breath|saettig|sattig|satura|temper" +
    "|schnarch|ronquid|snor|beschleunig|acceler|aceler|gyro|impedan|lagesensor" +
    "|elektroenzephal|electroencef|elektromyo|electromio|elektrookul).*" +
    "|(?:puls[ewkao]|pouls|atem|souffle|pression|presion|pressao|pressur" +
    "|(?:blut|arterien|venen)druck|(?:air|nasal|nasen)?(?:flow|fluss|flujo)).*)$",
);
/** Names of tracks that devices record or derive beside signals. */
const TRACKS = new Set(
  (
    "nasal sound light lux battery event events marker markers annotation annotations label " +
    "labels trigger status seq nseq index count counter timestamp speed cadence power steps " +
    "altitude humidity weight chan_status peak peaks rpeak rpeaks quality sqi chin jaw eye crc " +
    "time zeit tiempo"
  ).split(" "),
);
const TRACK_STEM = /frequen[zc]|frecuen|herzrate|herzschlag/;
const TRACK_PHRASE = /(?<![\p{L}\p{N}_])(?:heart (?:rate|beat|sound)s?(?![\p{L}\p{N}_])|ritmo card)/u;
/** Words that may be another signal, and that say nothing beside a word for the ECG. */
const PERHAPS_OTHER = new RegExp(
  "^(?:.*(?:puls[ewkao]|pouls|pression|presion|pressao|pressur|druck|atem|souffle|flow|fluss|flujo" +
    "|bewegung|movim|posicion|position|ritmo).*" +
    "|thor|thorax|thoracic|abdo|abdomen|abdominal|p[1-9]|art|bp|co|fr|lap|mag|map|pat" +
    "|digital|heart)$",
);
const EEG_ELECTRODE =
  /^(?:fp[12z]|af[3478z]|f[3478z]|fc[1-6z]|c[34z]|cp[1-6z]|p[34z]|po[3478z]|o[12z]|t[3-8])(?: ?(?:[am][12]|ref|le|av|cz))?$/;
const GENERIC = /^(?:(?:ecg|ekg|exg)[a-z0-9]*|e[ck]gs?|ele[ck]tro[ck]ard\p{L}*)$/u;
const LEAD_WORD =
  /^(?:lead|abl|(?:brustwand|extremitaten|extremitaeten|standard|einthoven|goldberger|wilson)?ableitung\p{L}*|deriv\p{L}*|precordial|canal|brustwand|kanal)$/u;
const LEAD = new RegExp(
  "^(?:(?:ml|m)?i{1,3}|ml[123]|d[123]|di{1,3}|-?a?v[rlf]|v\\d{0,2}r?|mv\\d|mcl\\d|cm\\d|cc5|cs\\d" +
    "|nasa|v[xyz]|e[sai]|a[si]|(?:la|ra|ll) (?:la|ra|ll))$",
);
/** Leads that no other word looks like. */
const CLEAR_LEAD = /^(?:(?:ml?)?i{2,3}|ml[123]|di{2,3}|-?av[rlf]|v[1-9]r?|mcl\d)$/;
const NOISE_WORDS = new Set(
  (
    "ecg ekg lead abl channel ch signal raw filtered filt limb mod modified wave waveform data " +
    "rhythm rhythmus rythme ritmo strip tira mv uv μv v microv"
  ).split(" "),
);
const ROMAN = new Map([
  ["1", "i"],
  ["2", "ii"],
  ["3", "iii"],
]);
const LONGEST = 200;

/**
 * Find the column to analyse when nobody has named one: MLII, else II in any spelling, else the
 * first that is an ECG by its name, else the only one there is.
 *
 * @param {string[]} names
 * @returns {number | null} Null when none is clearly an ECG.
 */
export function findEcg(names) {
  const kinds = names.map(kindOf);
  const ofEcg = names.flatMap((_, at) => (kinds[at] === "ecg" ? [at] : []));
  for (const wanted of ["mlii", "ii"]) {
    const found = ofEcg.find((at) => leadOf(names[at]) === wanted && !/^lead\d$/.test(names[at]));
    if (found !== undefined) return found;
  }
  return ofEcg[0] ?? (kinds.length === 1 && kinds[0] === "unknown" ? 0 : null);
}

/**
 * The kind of a signal by its name: a word that can only be another signal counts most, then one
 * for the ECG, then one that may be another signal.
 *
 * @param {string} name
 * @returns {"ecg" | "other" | "unknown"}
 */
export function kindOf(name) {
  const words = wordsOf(name);
  if (!words.length) return "unknown";
  if (hasOther(words)) return "other";
  const isEcg = words.some((word) => GENERIC.test(word)) || leadOf(name) !== null;
  if (hasPerhapsOther(words)) return isEcg || hasLead(words) ? "ecg" : "other";
  const joined = words.join(" ");
  const beginsAsLead = LEAD_WORD.test(words[0]) && words[0] !== "canal" && words[0] !== "kanal";
  if (isEcg || beginsAsLead || /^(?:lead ?\d{1,2}|leads?)$/.test(joined)) return "ecg";
  return EEG_ELECTRODE.test(joined) ? "other" : "unknown";
}

/**
 * Whether a word can only be another signal, whatever stands beside it.
 *
 * @param {string[]} words
 */
function hasOther(words) {
  const isOther = (/** @type {string} */ word) =>
    OTHER_SIGNALS.has(word) ||
    OTHER_SIGNAL_STEM.test(word) ||
    TRACKS.has(word) ||
    TRACK_STEM.test(word);
  return words.some(isOther) || TRACK_PHRASE.test(words.join(" "));
}

/** @param {string[]} words */
function hasPerhapsOther(words) {
  return words.some((word) => PERHAPS_OTHER.test(word));
}

/**
 * Whether a word is a lead that no other word looks like, or any after `lead`.
 *
 * @param {string[]} words
 */
function hasLead(words) {
  const leads = words.some((word) => LEAD_WORD.test(word)) ? LEAD : CLEAR_LEAD;
  return words.some((word) => leads.test(word));
}

/**
 * @param {string} name
 * @returns {string | null} The lead that the name spells, in small letters.
 */
function leadOf(name) {
  let words = wordsOf(name);
  if (hasPerhapsOther(words) && !hasOther(words)) {
    const clear = words.filter((word) => CLEAR_LEAD.test(word));
    if (clear.length === 1) words = clear;
  }
  const kept = words.filter((word) => !NOISE_WORDS.has(word) && !LEAD_WORD.test(word));
  let text = (kept.length ? kept : words.slice(-1)).join(" ");
  const roman = ROMAN.get(text);
  if (roman && words.some((word) => LEAD_WORD.test(word))) return roman;
  text = text.replace(/^(?:ecg|ekg|lead|abl)(?=[a-z])/, "");
  if (!LEAD.test(text)) text = text.replaceAll(" ", "");
  if (!LEAD.test(text)) return null;
  if (/^d(?:[123]|i{1,3})$/.test(text)) return ROMAN.get(text.slice(1)) ?? text.slice(1);
  return text.replace(/^ml([123])$/, (_, digit) => `ml${ROMAN.get(digit)}`);
}

/**
 * Split a name in small words without accents and brackets; units are taken off by the headings.
 *
 * @param {string} name
 */
function wordsOf(name) {
  return name
    .slice(0, LONGEST)
    .normalize("NFKD")
    .replace(/\p{M}/gu, "")
    .replace(/(?<=[a-z]{2})(?=[A-Z][a-z])|(?<=[A-Z]{3})(?=[A-Z][a-z]{2})/g, " ")
    .toLowerCase()
    .split(/[^\p{L}\p{N}_%]+|_+/u)
    .filter(Boolean);
}
