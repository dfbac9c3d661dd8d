/**
 * Every request to the service, and nothing about what is shown.
 */

import { ProblemError, readProblem } from "../base/problem.js";

const JSON_TYPE = "application/json";

/**
 * @typedef {object} SignalAnswer
 * @property {"samples" | "envelope"} kind
 * @property {number} startS
 * @property {number} stepS
 * @property {Float32Array} values In mV; pairs of least and greatest for an envelope.
 */

/**
 * @typedef {object} Job
 * @property {string} job_id
 * @property {"queued" | "running" | "done" | "failed" | "cancelled"} status
 * @property {number} progress
 * @property {string} lead The one that is analysed.
 * @property {string[]} leads
 * @property {Record<string, unknown>} [error]
 */

/** @typedef {ReturnType<typeof makeService>} Service */

/**
 * Make the client of the service that the page came from.
 *
 * @param {object} options
 * @param {string} options.baseUrl With a slash at its end.
 * @param {() => string} options.apiKey Empty when there is none.
 */
export function makeService({ baseUrl, apiKey }) {
  /** @param {string} path */
  const address = (path) => new URL(path, baseUrl).href;

  /** @returns {Record<string, string>} */
  const keyHeader = () => (apiKey() ? { "X-API-Key": apiKey() } : {});

  /**
   * @param {string} path
   * @param {RequestInit & {accepted?: number[]}} [options]
   */
  async function ask(path, { accepted = [], headers, ...options } = {}) {
    let answered;
    try {
      answered = await fetch(address(path), {
        ...options,
        headers: { ...keyHeader(), ...headers },
      });
    } catch (error) {
      throw explainFailure(error);
    }
    if (!answered.ok && !accepted.includes(answered.status)) {
      throw readProblem(answered.status, await answered.text(), (name) =>
        answered.headers.get(name),
      );
    }
    return answered;
  }

  /**
   * @param {string} path
   * @param {RequestInit & {accepted?: number[]}} [options]
   */
  const askJson = async (path, options) => (await ask(path, options)).json();

  return {
    address,
    /** How the service is; 503 says so too. */
    readHealth: () => askJson("health", { accepted: [503] }),
    /** The state of the platform, for the operations page. */
    readOverview: () => askJson("api/v1/ops/"),
    /** The candidate that is tried, and where it differs from the champion. */
    readRollout: () => askJson("api/v1/ops/rollout/"),
    /**
     * The signal around the first beat on which candidate and champion differ.
     *
     * @param {string} id
     */
    readRolloutSignal: (id) => askJson(`api/v1/ops/rollout/signals/${encodeURIComponent(id)}`),
    readReviewQueue: () => askJson("api/v1/review-queue/?limit=100"),
    /**
     * A page of a drift check.
     *
     * @param {string} name
     * @returns {Promise<Blob>}
     */
    readDriftPage: async (name) => (await ask(`ops/drift/${encodeURIComponent(name)}`)).blob(),
    readDescription: () => askJson("openapi.json"),
    readModelCard: () => askJson("api/v1/model/"),
    /** @param {string} kind */
    readExample: (kind) => askJson(`api/v1/examples/${encodeURIComponent(kind)}`),
    /**
     * @param {Blob} body JSON text of a request.
     * @param {AbortSignal} signal
     */
    predict: (body, signal) =>
      askJson("api/v1/predictions/", {
        method: "POST",
        headers: { "Content-Type": JSON_TYPE },
        body,
        signal,
      }),
    /**
     * Read a file of samples; the service keeps nothing of it.
     *
     * @param {Blob} file
     * @param {{name: string, isPart: boolean, signal: AbortSignal}} options
     */
    readTable: (file, { name, isPart, signal }) => {
      const form = new FormData();
      form.append("files", file, name);
      if (isPart) form.append("is_part", "true");
      return askJson("api/v1/signals/", { method: "POST", body: form, signal });
    },
    /** @param {string} id */
    readPrediction: (id) => askJson(`api/v1/predictions/${encodeURIComponent(id)}`),
    /**
     * The marks that readers made on a prediction.
     *
     * @param {string} id
     */
    readMarks: (id) => askJson(`api/v1/predictions/${encodeURIComponent(id)}/feedback`),
    /** @param {{prediction_id: string, labels: object[], annotator?: string}} feedback */
    sendFeedback: (feedback) =>
      askJson("api/v1/feedback/", {
        method: "POST",
        headers: { "Content-Type": JSON_TYPE },
        body: JSON.stringify(feedback),
      }),
    /**
     * Upload a recording; the progress is that of the upload, from 0 to 1.
     *
     * @param {FormData} form
     * @param {{onProgress: (progress: number) => void, signal: AbortSignal}} options
     * @returns {Promise<Job>}
     */
    startRecording: (form, options) =>
      upload(address("api/v1/recordings/"), form, { ...options, headers: keyHeader() }),
    /**
     * @param {string} jobId
     * @returns {Promise<Job>}
     */
    readJob: (jobId) => askJson(jobPath(jobId)),
    /** @param {string} jobId */
    cancelJob: (jobId) => ask(jobPath(jobId), { method: "DELETE" }),
    /** @param {string} jobId */
    readSummary: (jobId) => askJson(`${jobPath(jobId)}/result?format=json`),
    /**
     * @param {string} jobId
     * @param {string} format
     * @returns {Promise<Blob>}
     */
    readResult: async (jobId, format) =>
      (await ask(`${jobPath(jobId)}/result?format=${encodeURIComponent(format)}`)).blob(),
    /**
     * @param {string} jobId
     * @param {{startS: number, durationS: number, maxPoints: number, signal: AbortSignal}} part
     * @returns {Promise<SignalAnswer>}
     */
    async readSignal(jobId, { startS, durationS, maxPoints, signal }) {
      const query = `start_s=${startS}&duration_s=${durationS}&max_points=${maxPoints}`;
      const answered = await ask(`${jobPath(jobId)}/signal?${query}`, { signal });
      return {
        kind: answered.headers.get("x-ecg-kind") === "envelope" ? "envelope" : "samples",
        startS: Number(answered.headers.get("x-ecg-start-s")),
        stepS: Number(answered.headers.get("x-ecg-step-s")),
        values: readFloats(await answered.arrayBuffer()),
      };
    },
    /**
     * @param {string} jobId
     * @param {{startS: number, durationS: number, signal?: AbortSignal}} part
     */
    readBeats: (jobId, { startS, durationS, signal }) =>
      askJson(`${jobPath(jobId)}/beats?start_s=${startS}&duration_s=${durationS}`, { signal }),
  };
}

/** @param {string} jobId */
function jobPath(jobId) {
  return `api/v1/recordings/${encodeURIComponent(jobId)}`;
}

/**
 * Float32 in little-endian order, whatever the machine's is.
 *
 * @param {ArrayBuffer} buffer
 * @returns {Float32Array}
 */
function readFloats(buffer) {
  const view = new DataView(buffer);
  return Float32Array.from({ length: buffer.byteLength >> 2 }, (_, i) =>
    view.getFloat32(4 * i, true),
  );
}

/** @param {unknown} error */
function explainFailure(error) {
  if (error instanceof DOMException && error.name === "AbortError") return error;
  return new ProblemError({ type: "viewer/network", title: "The service does not answer" });
}

/**
 * POST a form with progress, which `fetch` does not tell.
 *
 * @param {string} url
 * @param {FormData} form
 * @param {object} options
 * @param {Record<string, string>} options.headers
 * @param {(progress: number) => void} options.onProgress
 * @param {AbortSignal} options.signal
 * @returns {Promise<any>}
 */
function upload(url, form, { headers, onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => {
      if (event.lengthComputable) onProgress(event.loaded / event.total);
    });
    request.addEventListener("load", () => {
      if (request.status >= 200 && request.status < 300) resolve(JSON.parse(request.responseText));
      else {
        reject(
          readProblem(request.status, request.responseText, (name) =>
            request.getResponseHeader(name),
          ),
        );
      }
    });
    request.addEventListener("error", () => reject(explainFailure(undefined)));
    request.addEventListener("abort", () => reject(new DOMException("cancelled", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}
