/**
 * Tell by its name whether a column is an ECG lead, and which one to analyse.
 *
 * The service chooses by the same rule (`ecg_lib/records/signal_names.py`), and both are tested with
 * one table, `tests/lead_choices.json`.
 */

const NOT_ECG = new Set(
  (
    "ppg spo2 sao2 so2 eeg eog emg resp rsp abp bp abpm nibp ibp cvp pap icp cpp hr " +
    "heartrate heart bpm pr rr rri ibi hrv acc accel accx accy accz mag temp nasal thorax " +
    "thor thoracic abdomen abdominal abdo sound light lux battery event events marker " +
    "markers annotation annotations label labels gsr eda co2 etco2 o2 pcg phono scg bcg " +
    "imp trigger status seq nseq index count counter time timestamp zeit tiempo digital " +
    "speed cadence power steps altitude humidity weight chan_status peak peaks rpeak " +
    "rpeaks quality sqi chin jaw eye crc"
  ).split(" "),
);
/** Words of many languages are put together, or inflected. */
const NOT_ECG_STEM = new RegExp(
  "^(?:.*(?:pleth|pletism|pulso?x|oximet|oxymet|puls[ewkao]|pouls|pression|presion|pressao|pressur" +
    "|druck|respir|atem|atmung|breath|souffle|saettig|sattig|satura|temper|frequen[zc]|frecuen" +
    "|ritmo|flow|fluss|flujo|schnarch|ronquid|snor" +
    "|beschleunig|acceler|aceler|gyro|impedan|bewegung|movim|lagesensor|posicion|position" +
    "|herzrate|herzschlag|elektroenzephal|electroencef|elektromyo|electromio|elektrookul)" +
    ".*|puls|fc|fr|nbp|uap|uvp|lap|rap|lvp|rvp|aop|edr|icg|dzdt|p[1-9]|co|art|map|pat|ptt|pwv)$",
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
const NOISE_WORDS = new Set(
  (
    "ecg ekg lead abl channel ch signal raw filtered filt limb mod modified wave waveform data " +
    "rhythm strip mv uv μv v microv"
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
 * The kind of a signal by its name.
 *
 * @param {string} name
 * @returns {"ecg" | "other" | "unknown"}
 */
export function kindOf(name) {
  const words = wordsOf(name);
  if (!words.length) return "unknown";
  const joined = words.join(" ");
  if (words.some((word) => NOT_ECG.has(word) || NOT_ECG_STEM.test(word))) return "other";
  if (words.some((word) => GENERIC.test(word)) || leadOf(name) !== null) return "ecg";
  if (LEAD_WORD.test(words[0]) && words[0] !== "canal" && words[0] !== "kanal") return "ecg";
  if (/^(?:lead ?\d{1,2}|leads?)$/.test(joined)) return "ecg";
  return EEG_ELECTRODE.test(joined) ? "other" : "unknown";
}

/**
 * @param {string} name
 * @returns {string | null} The lead that the name spells, in small letters.
 */
function leadOf(name) {
  const words = wordsOf(name);
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
