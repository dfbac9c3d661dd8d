/**
 * The reader's classes: marked beat by beat, sent together. Marks stay on the page after they were
 * sent.
 */

import { plural } from "../base/format.js";
import { asProblem } from "../base/problem.js";
import { NO_FEEDBACK, unsentLabels } from "../state/app_state.js";

/** @typedef {ReturnType<typeof makeFeedback>} FeedbackSender */

/**
 * List the beats of a prediction that have the shape of one beat.
 *
 * @param {import("../answer/prediction.js").Answer} answer
 * @param {import("../signal/beats.js").Beat} beat
 */
export function beatsOfForm(answer, beat) {
  return beat.form === null ? [] : (answer.beats.all ?? []).filter((one) => one.form === beat.form);
}

/**
 * Make what marks beats and sends the marks.
 *
 * @param {import("../state/app_state.js").ViewerStore} store
 * @param {import("./service.js").Service} service
 */
export function makeFeedback(store, service) {
  let annotator = "";
  return {
    annotator: () => annotator,
    /** @param {string} name */
    setAnnotator(name) {
      annotator = name;
    },
    /**
     * Mark the chosen beat, or take its mark back; a mark that was sent can be changed and sent
     * again, but not taken back.
     *
     * @param {"N" | "V" | null} label
     */
    mark(label) {
      const { answer, selected, labels, sentLabels } = store.get();
      if (!selected || answer?.kind !== "prediction") return;
      const kept = label ?? sentLabels.get(selected.id);
      const changed = new Map(labels);
      if (kept) changed.set(selected.id, kept);
      else changed.delete(selected.id);
      const removed = kept ? `The mark ${kept} was sent and stays` : "Mark removed";
      store.set({
        labels: changed,
        feedback: NO_FEEDBACK,
        said: label ? `Marked as ${label}` : removed,
      });
    },
    /**
     * Mark all beats of the chosen beat's shape.
     *
     * @param {"N" | "V"} label
     */
    markForm(label) {
      const { answer, selected, labels } = store.get();
      if (!selected || answer?.kind !== "prediction") return;
      const changed = new Map(labels);
      for (const beat of beatsOfForm(answer, selected)) changed.set(beat.id, label);
      store.set({
        labels: changed,
        feedback: NO_FEEDBACK,
        said: `All beats of form ${selected.form} marked as ${label}`,
      });
    },
    /** Send the marks that were not sent yet. */
    async send() {
      const { answer } = store.get();
      const unsent = unsentLabels(store.get());
      if (!answer || !unsent.length) return;
      store.set({ feedback: { status: "sending", text: "Sending …" } });
      try {
        const taken = await service.sendFeedback({
          prediction_id: answer.id,
          labels: unsent.map(([id, type]) => ({ beat_index: Number(id), arrhythmia_type: type })),
          ...(annotator.trim() ? { annotator: annotator.trim() } : {}),
        });
        const current = store.get();
        if (current.answer !== answer) return;
        const text = `${plural(unsent.length, "mark")} stored as feedback ${taken.feedback_id}.`;
        const sentLabels = new Map([...current.sentLabels, ...unsent]);
        store.set({ sentLabels, feedback: { status: "taken", text } });
      } catch (error) {
        const { title, detail } = asProblem(error);
        const text = `${title}${detail ? `: ${detail}` : ""}. Your marks are still here.`;
        store.set({ feedback: { status: "failed", text } });
      }
    },
  };
}
