/**
 * Errors in plain words: those of the service (problem+json), of files, and of the network.
 */

/**
 * @typedef {object} FieldError
 * @property {string} field
 * @property {string} reason
 */

/** An error that a reader can do something about. */
export class ProblemError extends Error {
  /**
   * @param {object} problem
   * @param {string} problem.type Stable name, like `/problems/signal-too-short`.
   * @param {string} problem.title
   * @param {string} [problem.detail]
   * @param {number} [problem.status]
   * @param {FieldError[]} [problem.errors]
   * @param {string} [problem.requestId]
   * @param {number} [problem.retryAfterS]
   */
  constructor({ type, title, detail = "", status = 0, errors = [], requestId, retryAfterS }) {
    super(detail || title);
    this.type = type;
    this.title = title;
    this.detail = detail;
    this.status = status;
    this.errors = errors;
    this.requestId = requestId;
    this.retryAfterS = retryAfterS;
  }

  /** The last part of the type. */
  get name() {
    return this.type.split("/").pop() ?? "";
  }
}

/**
 * A problem of a file that was not sent.
 *
 * @param {string} title
 * @param {string} [detail]
 * @returns {ProblemError}
 */
export function fileProblem(title, detail) {
  return new ProblemError({ type: "viewer/file", title, detail });
}

/** What a reader may try, by the name of the problem. */
const HINTS = new Map([
  ["signal-too-short", "Is the sampling rate right? At a lower rate the same samples last longer."],
  [
    "signal-too-long",
    "Cut the signal, or send it as a recording where this service analyses recordings.",
  ],
  ["signal-unreadable", "Nothing is guessed: look at the electrode, the lead and the unit below."],
  ["signal-out-of-range", "The samples look like counts of a converter: choose their unit below."],
  ["signal-not-finite", "Fill or cut the gaps in the file, then choose it again."],
  ["sampling-rate-out-of-range", "Set the sampling rate below, from 100 to 1000 Hz."],
  ["unknown-lead", "Choose one of the names that the service knows below."],
  ["body-too-large", "Cut the signal, or lower its sampling rate."],
  ["not-ready", "The service has no model yet. Try again in a moment."],
  [
    "prediction-log-unavailable",
    "The store of predictions does not answer. Try again in a moment.",
  ],
  ["unknown-prediction", "The link may be mistyped, or of another service."],
  ["network", "Is the service running? What you chose is still here; send it again when it is."],
  ["internal-error", "Send it again, or give the operator the request number below."],
]);

/**
 * What a reader may try.
 *
 * @param {ProblemError} problem
 * @returns {string}
 */
export function hintFor(problem) {
  if (problem.retryAfterS !== undefined) {
    return `The service takes more requests again in ${problem.retryAfterS} s.`;
  }
  return HINTS.get(problem.name) ?? "";
}

/**
 * Any error as a problem.
 *
 * @param {unknown} error
 * @returns {ProblemError}
 */
export function asProblem(error) {
  if (error instanceof ProblemError) return error;
  const detail = error instanceof Error ? error.message : String(error);
  return new ProblemError({ type: "viewer/failure", title: "The viewer failed", detail });
}

/**
 * Read the problem that the service answered with.
 *
 * @param {number} status
 * @param {string} text Body of the answer.
 * @param {(name: string) => string | null} header
 * @returns {ProblemError}
 */
export function readProblem(status, text, header) {
  const requestId = header("x-request-id") ?? undefined;
  const wait = header("retry-after");
  const retryAfterS = wait && /^\d+$/.test(wait) ? Number(wait) : undefined;
  /** @type {Record<string, unknown>} */
  let body = {};
  try {
    body = Object(JSON.parse(text));
  } catch {
    // A proxy in between does not speak our language.
  }
  return new ProblemError({
    type: typeof body.type === "string" ? body.type : "viewer/http",
    title: typeof body.title === "string" ? body.title : `The service answered ${status}`,
    detail: typeof body.detail === "string" ? body.detail : "",
    status,
    errors: Array.isArray(body.errors) ? body.errors.map(readFieldError) : [],
    requestId,
    retryAfterS,
  });
}

/**
 * @param {unknown} item
 * @returns {FieldError}
 */
function readFieldError(item) {
  const { field, reason } = Object(item);
  return { field: String(field ?? ""), reason: String(reason ?? "") };
}
