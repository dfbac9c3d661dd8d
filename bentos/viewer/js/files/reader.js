/**
 * Ask the reader's thread.
 */

import { ProblemError } from "../base/problem.js";

/**
 * @typedef {import("./table.js").ReadTable} ReadTable
 * @typedef {{signalMv: Float64Array, body: Blob}} PreparedRequest
 */

/**
 * @typedef {object} Reader
 * @property {(file: File) => Promise<ReadTable>} readRequest Read a JSON file.
 * @property {(samples: Float64Array, settings: import("./request.js").SignalSettings) =>
 *   Promise<PreparedRequest>} prepareRequest Bring samples to mV and write the request.
 */

/**
 * Make a reader; its thread starts with the first file.
 *
 * @returns {Reader}
 */
export function makeReader() {
  /** @type {Map<number, {resolve: (value: any) => void, reject: (error: unknown) => void}>} */
  const waiting = new Map();
  /** @type {Worker | undefined} */
  let worker;
  let asked = 0;

  function startWorker() {
    const started = new Worker(new URL("./reader_worker.js", import.meta.url), { type: "module" });
    started.addEventListener("message", ({ data: { id, result, problem } }) => {
      const asker = waiting.get(id);
      waiting.delete(id);
      if (problem) asker?.reject(new ProblemError(problem));
      else asker?.resolve(result);
    });
    started.addEventListener("error", () => {
      for (const { reject } of waiting.values()) reject(new Error("the reader's thread ended"));
      waiting.clear();
      worker = undefined;
    });
    return started;
  }

  /**
   * @param {string} task
   * @param {unknown} argument
   * @returns {Promise<any>}
   */
  function ask(task, argument) {
    worker ??= startWorker();
    asked += 1;
    const id = asked;
    const answered = new Promise((resolve, reject) => waiting.set(id, { resolve, reject }));
    worker.postMessage({ id, task, argument });
    return answered;
  }

  return {
    readRequest: (file) => ask("read", file),
    prepareRequest: (samples, settings) => ask("prepare", { samples, settings }),
  };
}
