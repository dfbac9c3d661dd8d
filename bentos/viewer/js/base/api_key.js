/**
 * The API key that the user entered, kept until the tab is closed; all pages of the service share it.
 */

const NAME = "ecg-viewer-api-key";

/** @returns {string} Empty when there is none. */
export function readApiKey() {
  return sessionStorage.getItem(NAME) ?? "";
}

/** @param {string} key */
export function keepApiKey(key) {
  sessionStorage.setItem(NAME, key);
}
