/**
 * The one place that holds state. Panels and charts read it and are told when it changes.
 */

/**
 * @template {object} S
 * @typedef {object} Store
 * @property {() => S} get The state; never changed in place.
 * @property {(change: Partial<S>) => void} set Replaces some of its members.
 * @property {(listener: (state: S, before: S) => void) => void} subscribe
 */

/**
 * Make a store.
 *
 * @template {object} S
 * @param {S} initial
 * @returns {Store<S>}
 */
export function makeStore(initial) {
  let state = initial;
  /** @type {Array<(state: S, before: S) => void>} */
  const listeners = [];
  return {
    get: () => state,
    set(change) {
      const before = state;
      state = { ...state, ...change };
      for (const listener of listeners) listener(state, before);
    },
    subscribe(listener) {
      listeners.push(listener);
    },
  };
}
