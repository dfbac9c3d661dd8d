/**
 * What the pages of operators and readers share: the service, the key, reading and its problems.
 */

import { makeService } from "../js/actions/service.js";
import { keepApiKey, readApiKey } from "../js/base/api_key.js";
import { byId, fill, h } from "../js/base/dom.js";
import { asProblem } from "../js/base/problem.js";
import { bindTheme } from "../js/base/theme.js";
import { makeKeyForm } from "../js/panels/control/key_form.js";

/** Where the service is; with a slash at its end. */
export const BASE_URL = new URL("../../", import.meta.url).href;

export const service = makeService({ baseUrl: BASE_URL, apiKey: readApiKey });

const REFRESH_MS = 30_000;

/**
 * Read and show what a page is about: now, when asked, and every half minute while it is looked at.
 *
 * @template T
 * @param {object} options
 * @param {() => Promise<T>} options.read
 * @param {(content: T) => void} options.show
 * @param {() => boolean} [options.isBusy] Whether the user is in the middle of something.
 */
export function bindPage({ read, show, isBusy = () => false }) {
  bindTheme(/** @type {HTMLButtonElement} */ (byId("theme")));
  byId("refresh").addEventListener("click", () => void refresh());
  setInterval(() => {
    if (!document.hidden && !isBusy() && !byId("problem").hasChildNodes()) void refresh();
  }, REFRESH_MS);
  void refresh();

  async function refresh() {
    const button = /** @type {HTMLButtonElement} */ (byId("refresh"));
    button.disabled = true;
    try {
      const content = await read();
      fill(byId("problem"));
      show(content);
      fill(byId("read-at"), `Read at ${time(new Date().toISOString())}`);
    } catch (error) {
      showProblem(error, (key) => {
        keepApiKey(key);
        void refresh();
      });
    } finally {
      button.disabled = false;
    }
  }
}

/**
 * Show why a page cannot be read, and ask for a key where one is missing or may too little.
 *
 * @param {unknown} error
 * @param {(key: string) => void} useKey
 */
function showProblem(error, useKey) {
  const problem = asProblem(error);
  const isKeyAsked = problem.status === 401 || problem.status === 403;
  fill(
    byId("problem"),
    h(
      "section",
      { class: "problem" },
      h("h2", {}, problem.title),
      h("p", {}, problem.detail),
      isKeyAsked && makeKeyForm(useKey),
    ),
  );
}

/**
 * A time of the service as the reader's clock shows it.
 *
 * @param {string | null | undefined} text
 */
export function time(text) {
  if (!text) return "–";
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) return text;
  const pad = (/** @type {number} */ number) => String(number).padStart(2, "0");
  const day = `${moment.getFullYear()}-${pad(moment.getMonth() + 1)}-${pad(moment.getDate())}`;
  return `${day} ${pad(moment.getHours())}:${pad(moment.getMinutes())}`;
}

/**
 * How long ago something was.
 *
 * @param {string} text
 * @param {number} nowMs
 */
export function ago(text, nowMs) {
  const minutes = Math.max(0, Math.round((nowMs - Date.parse(text)) / 60_000));
  if (minutes < 2) return "just now";
  if (minutes < 120) return `${minutes} min ago`;
  return minutes < 2880 ? `${Math.round(minutes / 60)} h ago` : `${Math.round(minutes / 1440)} days ago`;
}
