/**
 * The reader's thread: long requests are read and written here, so that the page goes on.
 */

import { asProblem, fileProblem } from "../base/problem.js";
import { parseJson } from "./json.js";
import { toMillivolt, writeRequest } from "./request.js";

const MAX_READ_BYTES = 48 * 2 ** 20;

/** @type {Record<string, (argument: any) => Promise<unknown>>} */
const TASKS = {
  /** @param {File} file */
  async read(file) {
    if (file.size > MAX_READ_BYTES) {
      throw fileProblem(`${file.name} is too large`, "48 MiB of JSON are read.");
    }
    return parseJson(await file.text(), file.name);
  },
  /** @param {{samples: Float64Array, settings: import("./request.js").SignalSettings}} argument */
  async prepare({ samples, settings }) {
    const signalMv = toMillivolt(samples, settings);
    return { signalMv, body: new Blob([writeRequest(signalMv, settings)]) };
  },
};

addEventListener("message", async ({ data: { id, task, argument } }) => {
  try {
    postMessage({ id, result: await TASKS[task](argument) });
  } catch (error) {
    const { type, title, detail } = asProblem(error);
    postMessage({ id, problem: { type, title, detail } });
  }
});
