/**
 * The table of beats, of which only the rows in view are made.
 */

import { describeRule } from "../../answer/prediction.js";
import { secondsIn } from "../../base/geometry.js";
import { fill, h } from "../../base/dom.js";
import { clock, count, number, plural } from "../../base/format.js";
import { MAX_BEATS_SEEN_S } from "../../signal/beats.js";

const ROW_PX = 32;
/** Rows that are made at once: those of the tallest table, and some around. */
const SHOWN_ROWS = 12;
const MARGIN_ROWS = 8;
const REST_MS = 150;
/** Rows that are printed. */
const PRINTED_ROWS = 500;

const COLUMNS = [
  "Beat",
  "Time",
  "Class",
  "p(V)",
  "RR before",
  "RR after",
  "QRS",
  "Rule",
  "Quality",
  "You",
];

/**
 * @typedef {import("../../signal/beats.js").Beat} Beat
 * @typedef {(beat: Beat, labels: Map<string, "N" | "V">) => boolean} Filter
 */

/** @type {Array<[string, string, Filter]>} */
const FILTERS = [
  ["all", "All beats", () => true],
  ["v", "V", (beat) => beat.type === "V"],
  ["n", "N", (beat) => beat.type === "N"],
  ["rule", "Changed by a rule", (beat) => Boolean(beat.rule)],
  ["unread", "Not read", (beat) => beat.type === null],
  ["marked", "Marked by you", (beat, labels) => labels.has(beat.id)],
];

/**
 * Show the table.
 *
 * @param {HTMLElement} element
 * @param {object} options
 * @param {import("../../state/app_state.js").ViewerStore} options.store
 * @param {import("../../actions/navigate.js").Navigation} options.navigation
 */
export function bindBeatTable(element, { store, navigation }) {
  const select = h(
    "select",
    { id: "table-filter", onchange: () => update() },
    ...FILTERS.map(([value, name]) => h("option", { value }, name)),
  );
  const counted = h("span", { class: "soft", role: "status" });
  const body = h("tbody");
  const scroller = h(
    "div",
    { class: "table-scroller", tabindex: 0, "aria-label": "Beats", role: "region" },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...COLUMNS.map((name) => h("th", { scope: "col" }, name)))),
      body,
    ),
  );
  const table = /** @type {HTMLTableElement} */ (scroller.firstElementChild);
  fill(
    element,
    h(
      "div",
      { class: "table-head" },
      h("h2", { id: "table-title" }, "Beats"),
      h("label", { for: "table-filter" }, "Show"),
      select,
      counted,
    ),
    scroller,
  );
  /** @type {Beat[]} */
  let rows = [];
  let frame = 0;
  let rest = 0;
  let isPrinted = false;

  function update() {
    const state = store.get();
    const { answer, labels } = state;
    element.hidden = !answer;
    if (!answer) return;
    const filter = FILTERS.find(([value]) => value === select.value)?.[2] ?? FILTERS[0][2];
    const endS = state.view.startS + secondsIn(state.width, state.view.speed);
    const beats = answer.beats.all ?? answer.beats.between(state.view.startS, endS);
    rows = beats.filter((beat) => filter(beat, labels));
    const isTooWide = !answer.beats.all && endS - state.view.startS > MAX_BEATS_SEEN_S;
    counted.textContent = isTooWide
      ? "Zoom in to an hour or less to list them"
      : plural(rows.length, "beat") + (answer.beats.all ? "" : " in view");
    table.setAttribute("aria-rowcount", String(rows.length + 1));
    render();
  }

  function render() {
    const { answer, selected, labels } = store.get();
    if (!answer) return;
    const top = Math.floor(scroller.scrollTop / ROW_PX);
    const first = isPrinted ? 0 : Math.max(0, top - MARGIN_ROWS);
    const last = Math.min(rows.length, isPrinted ? PRINTED_ROWS : top + SHOWN_ROWS + MARGIN_ROWS);
    const focused = body.contains(document.activeElement) ? document.activeElement?.id : "";
    fill(
      body,
      makeSpacer(first),
      ...rows.slice(first, last).map((beat, at) =>
        makeRow(beat, {
          place: first + at,
          isSelected: beat.id === selected?.id,
          label: labels.get(beat.id),
          isLong: answer.durationS > 120,
          choose: () => navigation.select(beat),
        }),
      ),
      makeSpacer(isPrinted ? 0 : rows.length - last),
    );
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  }

  /** Bring the chosen beat's row into view. */
  function reveal() {
    const { selected } = store.get();
    const place = rows.findIndex((beat) => beat.id === selected?.id);
    if (place < 0) return;
    const top = place * ROW_PX;
    const room = scroller.clientHeight - 2 * ROW_PX;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top > scroller.scrollTop + room) scroller.scrollTop = top - room;
  }

  /** @param {() => void} work */
  function later(work) {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(work);
  }

  /** List the beats in view when the strip has come to rest. */
  function updateAtRest() {
    clearTimeout(rest);
    rest = setTimeout(update, REST_MS);
  }

  for (const [name, starts] of /** @type {const} */ ([
    ["beforeprint", true],
    ["afterprint", false],
  ])) {
    addEventListener(name, () => {
      isPrinted = starts;
      render();
    });
  }
  scroller.addEventListener("scroll", () => later(render));
  scroller.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || !rows.length) return;
    event.preventDefault();
    const { selected } = store.get();
    const place = rows.findIndex((beat) => beat.id === selected?.id);
    const next = rows[Math.min(rows.length - 1, Math.max(0, place + step))];
    navigation.select(next);
    reveal();
    render();
    document.getElementById(rowId(next))?.focus({ preventScroll: true });
  });
  store.subscribe((state, before) => {
    const isOther = state.answer !== before.answer || state.labels !== before.labels;
    const isMoved =
      !state.answer?.beats.all && (state.view !== before.view || state.drawn !== before.drawn);
    if (state.answer !== before.answer) {
      select.value = "all";
      scroller.scrollTop = 0;
    }
    if (isOther) update();
    else if (isMoved) updateAtRest();
    if (state.selected !== before.selected) {
      reveal();
      render();
    }
  });
}

/** @param {Beat} beat */
function rowId(beat) {
  return `row-${beat.id}`;
}

/** @param {number} rows */
function makeSpacer(rows) {
  const spacer = h("tr", { "aria-hidden": "true", class: "spacer" });
  spacer.style.height = `${Math.max(0, rows) * ROW_PX}px`;
  return spacer;
}

/**
 * @param {Beat} beat
 * @param {{place: number, isSelected: boolean, label: string | undefined, isLong: boolean,
 *   choose: () => void}} options
 */
function makeRow(beat, { place, isSelected, label, isLong, choose }) {
  const time = isLong ? clock(beat.timeS, { decimals: 1 }) : `${beat.timeS.toFixed(2)} s`;
  const name = beat.index === null ? "show" : count(beat.index + 1);
  const cells = [
    h(
      "button",
      { type: "button", id: rowId(beat), "aria-label": `Choose the beat at ${time}` },
      name,
    ),
    time,
    h("span", { class: `class class-${beat.type ?? "none"}` }, beat.type ?? "?"),
    makeMeter(beat.probabilityV),
    milliseconds(beat.rrPreviousS),
    milliseconds(beat.rrNextS),
    beat.qrsWidthMs === null ? "–" : number(beat.qrsWidthMs),
    beat.rule ? h("span", { title: describeRule(beat.rule) }, beat.rule.replaceAll("_", " ")) : "",
    beat.quality,
    label ?? "",
  ];
  return h(
    "tr",
    {
      "aria-rowindex": place + 2,
      "aria-selected": String(isSelected),
      class: beat.type === "V" ? "is-v" : null,
      onclick: choose,
    },
    ...cells.map((cell) => h("td", {}, cell)),
  );
}

/** @param {number | null} seconds */
function milliseconds(seconds) {
  return seconds === null ? "–" : String(Math.round(1000 * seconds));
}

/** @param {number | null} probability */
function makeMeter(probability) {
  if (probability === null) return "–";
  const bar = h("span", { class: "meter-bar" });
  bar.style.width = `${Math.round(100 * probability)}%`;
  return h(
    "span",
    { class: "meter" },
    h("span", { class: "meter-track", "aria-hidden": "true" }, bar),
    probability.toFixed(3),
  );
}
