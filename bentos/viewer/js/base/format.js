/**
 * Numbers as a reader wants them.
 */

const DASH = "–";

/**
 * A number with fixed decimals, or a dash.
 *
 * @param {number | null | undefined} value
 * @param {number} [digits]
 * @returns {string}
 */
export function number(value, digits = 0) {
  return value === null || value === undefined || Number.isNaN(value)
    ? DASH
    : value.toFixed(digits);
}

/**
 * A large number with its thousands apart.
 *
 * @param {number | null | undefined} value
 * @returns {string}
 */
export function count(value) {
  if (value === null || value === undefined) return DASH;
  return String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/**
 * A share in percent.
 *
 * @param {number | null | undefined} share From 0 to 1.
 * @param {number} [digits]
 * @returns {string}
 */
export function percent(share, digits = 1) {
  return share === null || share === undefined ? DASH : `${(100 * share).toFixed(digits)} %`;
}

/**
 * A length of time in the unit that suits it.
 *
 * @param {number} seconds
 * @returns {string}
 */
export function duration(seconds) {
  if (seconds < 119.95) return `${trim(seconds.toFixed(1))} s`;
  if (seconds < 7199.5) return `${trim((seconds / 60).toFixed(1))} min`;
  return `${trim((seconds / 3600).toFixed(1))} h`;
}

/**
 * A time since the start: `3.42 s` in strips, `1:02:03` in recordings.
 *
 * @param {number} timeS
 * @param {{decimals?: number, withHours?: boolean}} [options]
 * @returns {string}
 */
export function clock(timeS, { decimals = 0, withHours = false } = {}) {
  const ticks = Math.round(Math.max(0, timeS) * 10 ** decimals);
  const whole = Math.floor(ticks / 10 ** decimals);
  const rest = decimals ? `.${String(ticks % 10 ** decimals).padStart(decimals, "0")}` : "";
  const seconds = `${String(whole % 60).padStart(2, "0")}${rest}`;
  const minutes = Math.floor(whole / 60);
  if (!withHours && minutes < 60) return `${minutes}:${seconds}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${seconds}`;
}

/**
 * "1 beat", "2 beats".
 *
 * @param {number} n
 * @param {string} noun
 * @param {string} [plural]
 * @returns {string}
 */
export function plural(n, noun, plural = `${noun}s`) {
  return `${count(n)} ${n === 1 ? noun : plural}`;
}

/** @param {string} text */
function trim(text) {
  return text.replace(/\.0$/, "");
}
