/**
 * Write the command that sends what the viewer sent.
 */

const USUAL_LEAD = "MLII";

/**
 * @typedef {object} Curl
 * @property {string} text
 * @property {string | null} bodyName File with the body, to be saved beside; null when none is.
 */

/**
 * Write the command for a subject; null when nothing was sent for it.
 *
 * @param {import("../state/app_state.js").Subject} subject
 * @param {{baseUrl: string, hasKey: boolean}} options
 * @returns {Curl | null}
 */
export function writeCurl(subject, { baseUrl, hasKey }) {
  const key = hasKey ? ' -H "X-API-Key: $ECG_API_KEY"' : "";
  const { files } = subject;
  if (subject.kind === "recording" && files.length) {
    const fields = [
      ...files.map((file) => `files=@${file.name}`),
      ...subject.form.map(([name, value]) => `${name}=${value}`),
    ];
    const parts = fields.map((field) => ` \\\n  -F ${quote(field)}`);
    return { text: `curl -s ${baseUrl}api/v1/recordings/${key}${parts.join("")}`, bodyName: null };
  }
  if (!subject.settings || !subject.body) return null;
  const send = (/** @type {string} */ body) =>
    `curl -s ${baseUrl}api/v1/predictions/${key} \\\n` +
    `  -H "Content-Type: application/json" --data-binary ${body}`;
  if (subject.example && isUntouched(subject)) {
    const example = `curl -s ${baseUrl}api/v1/examples/${subject.example}${key} |\n`;
    return { text: example + send("@-"), bodyName: null };
  }
  const bodyName = `${subject.name.replace(/\.[^.]*$/, "").replace(/[^\w-]+/g, "_") || "signal"}.request.json`;
  return { text: send(`@${bodyName}`), bodyName };
}

/**
 * Whether a demo strip was sent as the service gave it.
 *
 * @param {import("../state/app_state.js").Subject} subject
 */
function isUntouched({ settings, table }) {
  return (
    settings !== null &&
    settings.fs === table?.fs &&
    settings.unit === "mV" &&
    settings.derivation === USUAL_LEAD &&
    settings.applyRuleguard &&
    !settings.patientId
  );
}

/**
 * For a shell.
 *
 * @param {string} text
 */
function quote(text) {
  return /^[\w@=./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}
