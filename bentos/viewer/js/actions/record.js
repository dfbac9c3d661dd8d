/**
 * Have the service analyse a recording: upload, job, result.
 */

import { USUAL_VIEW } from "../base/geometry.js";
import { link } from "../base/link.js";
import { ProblemError, asProblem, fileProblem } from "../base/problem.js";
import { makeRecording, refineTrend } from "../answer/recording.js";

const POLL_MS = 400;
const SLOWEST_POLL_MS = 2000;

/**
 * Make what has recordings analysed.
 *
 * @param {object} options
 * @param {import("../state/app_state.js").ViewerStore} options.store
 * @param {import("./service.js").Service} options.service
 * @param {(text: string, share?: number | null) => void} options.tell Show how far it is.
 */
export function makeRecorder({ store, service, tell }) {
  /** @type {string | null} */
  let runningJob = null;
  /** @type {import("../answer/recording.js").Recording | null} */
  let recording = null;

  /**
   * Follow a job until it is done, and show its result.
   *
   * @param {import("./service.js").Job} job
   * @param {AbortSignal} signal
   */
  async function follow(job, signal) {
    let waitMs = POLL_MS;
    let state = job;
    runningJob = job.job_id;
    while (state.status === "queued" || state.status === "running") {
      tell(
        state.status === "queued" ? "Waiting for its turn" : "Finding the beats",
        state.progress,
      );
      await pause(waitMs, signal);
      if (signal.aborted) return;
      waitMs = Math.min(SLOWEST_POLL_MS, 1.2 * waitMs);
      state = await service.readJob(job.job_id);
    }
    runningJob = null;
    if (state.status === "failed") throw readJobError(state.error);
    if (state.status === "cancelled") throw fileProblem("The analysis was cancelled");
    tell("Reading the result");
    const summary = await service.readSummary(job.job_id);
    if (!signal.aborted) await show(job.job_id, summary, signal);
  }

  /**
   * @param {string} jobId
   * @param {Record<string, any>} summary
   * @param {AbortSignal} aborter
   */
  async function show(jobId, summary, aborter) {
    close();
    recording = makeRecording({
      jobId,
      summary,
      service,
      onChange(error) {
        const { drawn } = store.get();
        store.set({ drawn: drawn + 1, ...(error ? { problem: asProblem(error) } : {}) });
      },
    });
    const { signal } = recording;
    const answer = await refineTrend(recording.answer, service);
    if (aborter.aborted) return;
    store.set({ signal, answer, progress: null, view: USUAL_VIEW });
  }

  /** Give up what is asked for. */
  function close() {
    recording?.close();
    recording = null;
  }

  return {
    follow,
    close,
    /**
     * Upload a recording and follow its job.
     *
     * @param {File[]} files
     * @param {Array<[string, string]>} fields What goes into the form with them.
     * @param {AbortSignal} signal
     */
    async record(files, fields, signal) {
      const { subject } = store.get();
      if (subject) store.set({ subject: { ...subject, form: fields } });
      const form = new FormData();
      for (const file of files) form.append("files", file, file.name);
      for (const [name, value] of fields) form.append(name, value);
      tell("Uploading", 0);
      const job = await service.startRecording(form, {
        signal,
        onProgress: (share) => tell(share < 1 ? "Uploading" : "Waiting for its turn", share),
      });
      const opened = store.get().subject;
      // The service decides which files it can analyse.
      if (opened) store.set({ subject: { ...opened, leads: job.leads, lead: job.lead } });
      link({ recording: job.job_id });
      await follow(job, signal);
    },
    /**
     * Cancel the job that runs.
     *
     * @returns {Promise<boolean>} Whether there was one.
     */
    async cancel() {
      const jobId = runningJob;
      runningJob = null;
      if (jobId) await service.cancelJob(jobId);
      return jobId !== null;
    },
  };
}

/** @param {unknown} error */
function readJobError(error) {
  const {
    type = "viewer/job",
    title = "The recording could not be analysed",
    detail,
  } = Object(error);
  return new ProblemError({ type, title, detail });
}

/**
 * @param {number} ms
 * @param {AbortSignal} signal
 */
function pause(ms, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve(undefined);
    });
  });
}
