/**
 * A form for the API key, where the service asks for one.
 */

import { h } from "../../base/dom.js";

/**
 * Make the form.
 *
 * @param {(key: string) => void} useKey
 */
export function makeKeyForm(useKey) {
  const input = h("input", {
    type: "password",
    id: "api-key",
    autocomplete: "off",
    required: true,
  });
  return h(
    "form",
    {
      class: "key-form",
      onsubmit: (/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        useKey(input.value.trim());
      },
    },
    h("label", { for: "api-key" }, "API key, kept until this tab is closed"),
    input,
    h("button", { type: "submit", class: "primary" }, "Use it"),
  );
}
