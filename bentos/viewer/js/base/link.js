/**
 * What is shown, in the address of the page, so that it can be shared.
 */

/**
 * Put something into the address; nothing leaves the start page there.
 *
 * @param {{prediction?: string, recording?: string, example?: string}} shown
 */
export function link(shown) {
  const url = new URL(location.href);
  url.search = new URLSearchParams(shown).toString();
  if (url.href !== location.href) history.pushState(null, "", url);
}

/**
 * Read what the address asks for.
 *
 * @returns {{prediction: string | null, recording: string | null, example: string | null}}
 */
export function readLink() {
  const query = new URLSearchParams(location.search);
  return {
    prediction: query.get("prediction"),
    recording: query.get("recording"),
    example: query.get("example"),
  };
}
