/**
 * The reader's thread: long files are read and written here, so that the page goes on.
 */

import { asProblem, fileProblem } from "../base/problem.js";
import { parseCsv } from "./csv.js";
import { parseJson } from "./json.js";
import { parseNpy } from "./npy.js";
import { toMillivolt, writeRequest } from "./request.js";

/** A file that is larger is a recording: the service reads it, here its beginning is shown. */
const MAX_READ_BYTES = 48 * 2 ** 20;
const BEGINNING_BYTES = 2 ** 20;

/** @type {Record<string, (argument: any) => Promise<unknown>>} */
const TASKS = {
  /** @param {{file: File, kind: string}} argument */
  async read({ file, kind }) {
    const isPart = file.size > MAX_READ_BYTES;
    if (isPart && kind === "json")
      throw fileProblem(`${file.name} is too large`, "48 MiB are read.");
    const part = isPart ? file.slice(0, BEGINNING_BYTES) : file;
    if (kind === "npy") return { ...parseNpy(await part.arrayBuffer(), file.name, isPart), isPart };
    const text = await part.text();
    if (kind === "json") return { ...parseJson(text, file.name), isPart };
    const whole = isPart ? text.slice(0, text.lastIndexOf("\n")) : text;
    return { ...parseCsv(whole, file.name), isPart };
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
