/**
 * The reader's classes: marked beat by beat, sent together.
 */

import { plural } from "../base/format.js";
import { asProblem } from "../base/problem.js";
import { NO_FEEDBACK } from "../state/app_state.js";

/** @typedef {ReturnType<typeof makeFeedback>} FeedbackSender */

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
     * Mark the chosen beat, or take its mark back.
     *
     * @param {"N" | "V" | null} label
     */
    mark(label) {
      const { answer, selected, labels } = store.get();
      if (!selected || answer?.kind !== "prediction") return;
      const changed = new Map(labels);
      if (label) changed.set(selected.id, label);
      else changed.delete(selected.id);
      store.set({
        labels: changed,
        feedback: NO_FEEDBACK,
        said: label ? `Marked as ${label}` : "Mark taken back",
      });
    },
    /** Send all marks. */
    async send() {
      const { answer, labels } = store.get();
      if (!answer || !labels.size) return;
      store.set({ feedback: { status: "sending", text: "Sending …" } });
      try {
        const taken = await service.sendFeedback({
          prediction_id: answer.id,
          labels: Array.from(labels, ([id, type]) => ({
            beat_index: Number(id),
            arrhythmia_type: type,
          })),
          ...(annotator.trim() ? { annotator: annotator.trim() } : {}),
        });
        const text = `${plural(labels.size, "mark")} taken as feedback ${taken.feedback_id}.`;
        store.set({ labels: new Map(), feedback: { status: "taken", text } });
      } catch (error) {
        const { title, detail } = asProblem(error);
        const text = `${title}${detail ? `: ${detail}` : ""}. Your marks are still here.`;
        store.set({ feedback: { status: "failed", text } });
      }
    },
  };
}
