/**
 * A cache of parts of something long that a service has: each part is asked for once, only while
 * it is wanted, and the parts that were used longest ago are forgotten.
 */

/** How long a tile that failed is left alone. */
const RETRY_MS = 2000;

/**
 * @typedef {object} TileKey
 * @property {number} level
 * @property {number} index
 */

/**
 * @template T
 * @typedef {object} TileCache
 * @property {(level: number, index: number) => T | undefined} get
 * @property {(wanted: TileKey[]) => void} want What is seen now, most urgent first; requests for
 *   what is no longer wanted are cancelled.
 * @property {() => void} close Give up all requests.
 */

/**
 * Make a cache.
 *
 * @template T
 * @param {object} options
 * @param {(key: TileKey, signal: AbortSignal) => Promise<T>} options.load
 * @param {(error?: unknown) => void} options.onChange A tile came, or failed.
 * @param {(key: TileKey) => boolean} [options.isPinned] Never forgotten.
 * @param {number} [options.capacity]
 * @param {number} [options.maxRequests] At the same time.
 * @param {number} [options.settleMs] How long the same tiles must be wanted before they are asked
 *   for, so that what flies past is not.
 * @returns {TileCache<T>}
 */
export function makeTileCache({
  load,
  onChange,
  isPinned = () => false,
  capacity = 96,
  maxRequests = 3,
  settleMs = 0,
}) {
  /** @type {Map<string, {key: TileKey, tile: T}>} In the order of use, the latest last. */
  const held = new Map();
  /** @type {Map<string, AbortController>} */
  const running = new Map();
  /** @type {Map<string, number>} When a tile that failed may be asked for again. */
  const failed = new Map();
  /** @type {TileKey[]} */
  let queue = [];
  let wantedBefore = "";
  let timer = 0;

  const nameOf = (/** @type {TileKey} */ { level, index }) => `${level}/${index}`;

  function startNext() {
    while (running.size < maxRequests && queue.length) {
      start(/** @type {TileKey} */ (queue.shift()));
    }
  }

  function startLater() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      timer = 0;
      startNext();
    }, settleMs);
  }

  /** @param {TileKey} key */
  async function start(key) {
    const name = nameOf(key);
    const controller = new AbortController();
    running.set(name, controller);
    try {
      const tile = await load(key, controller.signal);
      if (controller.signal.aborted) return;
      failed.delete(name);
      held.set(name, { key, tile });
      forget();
      onChange();
    } catch (error) {
      if (controller.signal.aborted) return;
      // Said once; then it is tried again for as long as it is wanted.
      const isNews = !failed.has(name);
      failed.set(name, performance.now() + RETRY_MS);
      setTimeout(onChange, RETRY_MS + 1);
      onChange(isNews ? error : undefined);
    } finally {
      if (running.get(name) === controller) running.delete(name);
      if (!timer) startNext();
    }
  }

  function forget() {
    for (const [name, { key }] of held) {
      if (held.size <= capacity) return;
      if (!isPinned(key)) held.delete(name);
    }
  }

  return {
    get(level, index) {
      const name = nameOf({ level, index });
      const found = held.get(name);
      if (!found) return undefined;
      held.delete(name);
      held.set(name, found);
      return found.tile;
    },
    want(wanted) {
      const keys = new Map(wanted.map((key) => [nameOf(key), key]));
      for (const [name, controller] of running) {
        if (keys.has(name)) continue;
        controller.abort();
        running.delete(name);
      }
      const now = performance.now();
      const isMissing = (/** @type {string} */ name) =>
        !held.has(name) && !running.has(name) && !((failed.get(name) ?? 0) > now);
      queue = [...keys].filter(([name]) => isMissing(name)).map(([, key]) => key);
      const names = [...keys.keys()].join();
      if (!settleMs || !held.size) startNext();
      else if (names !== wantedBefore) startLater();
      else if (!timer) startNext();
      wantedBefore = names;
    },
    close() {
      queue = [];
      clearTimeout(timer);
      for (const controller of running.values()) controller.abort();
      running.clear();
    },
  };
}
