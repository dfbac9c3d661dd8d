/**
 * Open files, demo strips, stored predictions and recordings, and have them analysed.
 *
 * What was chosen stays at hand whatever the service answers, so that it can be sent again; and
 * what is shown stays until there is something else to show.
 */

import { readPrediction } from "../answer/prediction.js";
import { nameExample } from "../answer/examples.js";
import { isRequest, sortFiles } from "../files/recording_files.js";
import { tableOfFile, tableOfRequest } from "../files/table.js";
import { link } from "../base/link.js";
import { asProblem, fileProblem } from "../base/problem.js";
import { makeRecorder } from "./record.js";
import { makeLocalSignal } from "../signal/local_signal.js";
import { NOTHING_OPEN, NO_FEEDBACK } from "../state/app_state.js";
import {
  chooseSettings,
  columnOf,
  describeSubject,
  formFields,
  hasGaps,
  isComplete,
  isUnitKnown,
  isWaitingForSignal,
} from "../state/subject.js";

/** What the predictions route takes. */
const MAX_PREDICTION_S = 30 * 60;
const MAX_PREDICTION_BYTES = 16 * 2 ** 20;

/** Of a file that is larger the beginning is shown. */
const MAX_TABLE_BYTES = 15 * 2 ** 20;
const BEGINNING_BYTES = 2 ** 20;

/** @typedef {ReturnType<typeof makeOpener>} Opener */
/** @typedef {import("../files/table.js").ReadTable} ReadTable */
/** @typedef {import("../files/request.js").SignalSettings} SignalSettings */

/**
 * Make what opens things.
 *
 * @param {object} options
 * @param {import("../state/app_state.js").ViewerStore} options.store
 * @param {import("./service.js").Service} options.service
 * @param {import("../files/reader.js").Reader} options.reader
 * @param {Promise<void>} options.known When it is known what the service takes; all waits for it.
 */
export function makeOpener({ store, service, reader, known }) {
  let current = new AbortController();
  let hasBegun = false;
  /** @type {() => void} */
  let retry = () => {};

  /** @type {(text: string, share?: number | null) => void} */
  const tell = (text, share = null) => store.set({ progress: { text, share } });
  const recorder = makeRecorder({ store, service, tell });

  /** Give up what runs. */
  function stop() {
    hasBegun = true;
    current.abort();
    current = new AbortController();
    return current.signal;
  }

  /**
   * Do something that takes time; what goes wrong is shown, unless something else was begun.
   *
   * @param {(signal: AbortSignal) => Promise<void>} work
   */
  async function attempt(work) {
    const signal = stop();
    retry = () => void attempt(work);
    store.set({ problem: null, isKeyAsked: false });
    try {
      await known;
      if (!signal.aborted) await work(signal);
    } catch (error) {
      if (signal.aborted) return;
      const problem = asProblem(error);
      store.set({ problem, progress: null, isKeyAsked: problem.status === 401 });
    }
  }

  /**
   * Show something else from now on.
   *
   * @param {Partial<import("../state/app_state.js").State>} [state]
   */
  function reset(state = {}) {
    recorder.close();
    store.set({ ...NOTHING_OPEN, isAtStart: false, ...state });
  }

  /**
   * Read a file of samples: requests here, others by the service, which reads every other file.
   *
   * @param {File} file
   * @param {AbortSignal} signal
   * @returns {Promise<ReadTable>}
   */
  async function readTable(file, signal) {
    if (isRequest(file)) return reader.readRequest(file);
    const read = async (/** @type {boolean} */ isPart) => {
      const part = isPart ? file.slice(0, BEGINNING_BYTES) : file;
      const answer = await service.readTable(part, { name: file.name, isPart, signal });
      return tableOfFile(answer, isPart);
    };
    if (file.size > MAX_TABLE_BYTES) return read(true);
    try {
      return await read(false);
    } catch (error) {
      // More samples than a page shows: it is sent as a recording, and here is how it begins.
      if (asProblem(error).status === 413 && file.size > BEGINNING_BYTES) return read(true);
      throw error;
    }
  }

  /**
   * Show a table of samples; it is sent when its lead, sampling rate and unit are known.
   *
   * @param {ReadTable} table
   * @param {{name: string, files: File[], example: string | null}} origin
   * @param {AbortSignal} signal
   */
  async function showTable(table, origin, signal) {
    const settings = chooseSettings(table, store.get().knownLeads);
    const isKnown =
      table.lead !== null &&
      !table.missing.length &&
      table.fs !== null &&
      isUnitKnown(table, table.lead);
    reset({
      subject: {
        ...describeSubject("signal", origin.name, origin),
        table,
        leads: table.leads,
        settings,
        isKnown,
      },
    });
    link({});
    await predict(settings, signal, { isSent: isKnown });
  }

  /**
   * Prepare the signal with its settings, show it, and have it analysed.
   *
   * @param {SignalSettings} settings
   * @param {AbortSignal} signal
   * @param {{isSent: boolean}} options
   */
  async function predict(settings, signal, { isSent }) {
    const { subject } = store.get();
    if (!subject?.table) return;
    if (settings.fs === null || !isComplete(settings)) {
      store.set({ subject: { ...subject, settings }, progress: null });
      return;
    }
    tell("Reading the signal");
    const samples = columnOf(subject.table, settings.lead);
    const { signalMv, body } = await reader.prepareRequest(samples, settings);
    if (signal.aborted) return;
    store.set({
      subject: { ...subject, settings, body, isSent: false },
      signal: makeLocalSignal(signalMv, settings.fs),
      answer: null,
      selected: null,
      labels: new Map(),
      sentLabels: new Map(),
      feedback: NO_FEEDBACK,
      progress: null,
    });
    if (!isSent) return;
    store.set({ subject: { ...subject, settings, body, isSent } });
    const isLong =
      signalMv.length / settings.fs > MAX_PREDICTION_S || body.size > MAX_PREDICTION_BYTES;
    if (isLong || subject.table.isPart || hasGaps(subject.table, settings.lead)) {
      await recordSignal(subject, settings, signal);
      return;
    }
    tell("Finding the beats");
    const prediction = await service.predict(body, signal);
    store.set({ answer: readPrediction(prediction), progress: null });
    const example = subject.example ? { example: subject.example } : {};
    link({ prediction: prediction.prediction_id, ...example });
  }

  /**
   * Send a signal that is too long for one request, or has missing samples, as a recording.
   *
   * @param {import("../state/app_state.js").Subject} subject
   * @param {SignalSettings} settings
   * @param {AbortSignal} signal
   */
  async function recordSignal(subject, settings, signal) {
    const { name, leads, table } = subject;
    const [file] = subject.files;
    const isTaken = file && !isRequest(file) && settings.unit !== "counts";
    if (!table || !isTaken || !store.get().takesRecordings) {
      throw fileProblem(
        "The signal is too long for one request, or has missing samples",
        "Up to 30 min and 16 MiB without gaps are analysed at once. " +
          (store.get().takesRecordings
            ? "Others come as recordings: WFDB, EDF, or CSV and NPY in mV, µV or V."
            : "This service analyses no recordings."),
      );
    }
    reset({ subject: { ...describeSubject("recording", name, subject), leads } });
    await recorder.record([file], formFields(table, settings), signal);
  }

  /**
   * @param {import("../files/recording_files.js").ChosenFiles} chosen
   * @param {AbortSignal} signal
   */
  async function openRecordingFiles({ name, files }, signal) {
    if (!store.get().takesRecordings) {
      throw fileProblem(
        "This service analyses no recordings",
        `${name} would be sent as one. Signals of up to 30 min can be sent as CSV, NPY or JSON.`,
      );
    }
    reset({ subject: describeSubject("recording", name, { files }) });
    await recorder.record(files, [], signal);
  }

  /**
   * Put the signal of a file under a stored prediction.
   *
   * @param {File} file
   * @param {ReadTable} table
   * @param {AbortSignal} signal
   */
  async function attachSignal(file, table, signal) {
    const { answer, subject } = store.get();
    if (!answer || !subject) return;
    const samples = columnOf(table, table.lead ?? table.leads[0]);
    const { fs } = answer;
    if (fs === null) return;
    const lastsS = samples.length / fs;
    if (Math.abs(lastsS - answer.durationS) > 1 / fs + 1e-6) {
      throw fileProblem(
        `${file.name} is not the signal of this prediction`,
        `It lasts ${lastsS.toFixed(2)} s at ${fs} Hz, the prediction is of ` +
          `${answer.durationS.toFixed(2)} s. Close the prediction to analyse another file.`,
      );
    }
    const settings = { ...chooseSettings(table, []), fs };
    if (!isComplete(settings)) {
      throw fileProblem(
        `The gain of ${file.name} is not known`,
        "Its samples are counts of a converter. Close the prediction to analyse the file.",
      );
    }
    const { signalMv } = await reader.prepareRequest(samples, settings);
    if (signal.aborted) return;
    store.set({
      subject: { ...subject, name: file.name, files: [file] },
      signal: makeLocalSignal(signalMv, fs),
      progress: null,
    });
  }

  return {
    /**
     * Open what was dropped or chosen.
     *
     * @param {File[]} files
     */
    openFiles: (files) =>
      attempt(async (signal) => {
        if (!files.length) return;
        const chosen = sortFiles(files, store.get().signalSuffixes);
        if (chosen.kind === "recording") {
          await openRecordingFiles(chosen, signal);
          return;
        }
        tell(`Reading ${chosen.name}`);
        const table = await readTable(files[0], signal);
        if (signal.aborted) return;
        if (isWaitingForSignal(store.get())) await attachSignal(files[0], table, signal);
        else await showTable(table, { name: chosen.name, files, example: null }, signal);
      }),

    /**
     * Open a demo strip.
     *
     * @param {string} kind
     */
    openExample: (kind) =>
      attempt(async (signal) => {
        tell("Fetching the demo strip");
        const table = tableOfRequest(await service.readExample(kind));
        if (signal.aborted) return;
        await showTable(table, { name: nameExample(kind), files: [], example: kind }, signal);
      }),

    /**
     * Send the same signal with other settings.
     *
     * @param {SignalSettings} settings
     */
    analyse: (settings) => attempt((signal) => predict(settings, signal, { isSent: true })),

    /**
     * Show the signal with other settings, and send nothing.
     *
     * @param {SignalSettings} settings
     */
    preview: (settings) => attempt((signal) => predict(settings, signal, { isSent: false })),

    /**
     * Analyse another lead of the recording that is open.
     *
     * @param {string} lead
     */
    analyseLead: (lead) =>
      attempt(async (signal) => {
        const { subject } = store.get();
        if (!subject?.files.length) return;
        const others = subject.form.filter(([name]) => name !== "lead");
        reset({ subject });
        await recorder.record(subject.files, [["lead", lead], ...others], signal);
      }),

    /**
     * Show a stored prediction, with its signal when it is that of a demo strip.
     *
     * @param {string} id
     * @param {string | null} example
     */
    openPrediction: (id, example) =>
      attempt(async (signal) => {
        tell("Fetching the prediction");
        const prediction = await service.readPrediction(id);
        const labels = readLabels(await service.readMarks(id));
        const table = example ? tableOfRequest(await service.readExample(example)) : null;
        if (signal.aborted) return;
        const nSamples = Math.round(prediction.duration_s * prediction.sampling_rate);
        const isIts = table !== null && table.columns[0].length === nSamples;
        const name = isIts && example ? nameExample(example) : "Stored prediction";
        reset({
          subject: describeSubject("stored", name, { example: isIts ? example : null }),
          signal: isIts ? makeLocalSignal(table.columns[0], prediction.sampling_rate) : null,
          answer: readPrediction(prediction),
          labels,
          sentLabels: new Map(labels),
        });
      }),

    /**
     * Show the recording of a job, or follow it until it is done.
     *
     * @param {string} jobId
     */
    openRecording: (jobId) =>
      attempt(async (signal) => {
        tell("Looking for the recording");
        const job = await service.readJob(jobId);
        if (signal.aborted) return;
        reset({ subject: describeSubject("recording", "Recording") });
        await recorder.follow(job, signal);
      }),

    /** Give up what runs; what was chosen stays. */
    async cancel() {
      stop();
      store.set({ progress: null });
      try {
        const wasRunning = await recorder.cancel();
        if (!wasRunning) return;
        store.set({
          problem: fileProblem("The analysis was cancelled", "The files are still here."),
        });
      } catch (error) {
        store.set({ problem: asProblem(error) });
      }
    },

    /** Whether anything was opened or closed yet. */
    hasBegun: () => hasBegun,

    /** Do again what failed. */
    again: () => retry(),

    /** Go back to the start page. */
    close() {
      stop();
      reset({ isAtStart: true });
      link({});
    },
  };
}

/**
 * Read the classes that readers gave to beats, by the beat's id.
 *
 * @param {{labels: {beat_index: number, arrhythmia_type: "N" | "V"}[]}} marks
 * @returns {Map<string, "N" | "V">}
 */
function readLabels({ labels }) {
  return new Map(labels.map((one) => [String(one.beat_index), one.arrhythmia_type]));
}
