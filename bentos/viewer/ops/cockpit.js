/**
 * The operations page: what is served, drift, releases, the pipeline, labels and recordings.
 */

import { readApiKey } from "../js/base/api_key.js";
import { byId, fill, h } from "../js/base/dom.js";
import { count, duration, plural } from "../js/base/format.js";
import { asProblem } from "../js/base/problem.js";
import { nameData } from "../js/panels/control/model.js";
import { BASE_URL, ago, bindPage, service, time } from "./page.js";

/** @typedef {import("../js/base/dom.js").Child} Child */

/**
 * @typedef {object} Check
 * @property {string} created_at
 * @property {"KEEP" | "RETRAIN" | "ROLLBACK"} action
 * @property {boolean} is_conclusive
 * @property {boolean} is_breach
 * @property {boolean} is_candidate
 * @property {string} bento_tag
 * @property {string[]} reasons
 * @property {string | null} page
 * @property {string | null} report
 * @property {{deployment: string, state: string, run_url: string | null} | null} decision
 */

/**
 * @typedef {object} Overview
 * @property {string} timestamp
 * @property {string} version
 * @property {string} status
 * @property {any} served
 * @property {{bento_tag: string, reason: string} | null} refused
 * @property {Check[] | null} drift
 * @property {Check[] | null} decisions
 * @property {any[] | null} releases
 * @property {any} rollout Null when no candidate is tried.
 * @property {any} pipeline
 * @property {any} labels
 * @property {Record<string, number> | null} recordings
 * @property {{waiting: number, lost: number, problem: string | null}} prediction_log
 * @property {Record<string, string>} degraded
 * @property {{name: string, url: string}[]} links
 * @property {Record<string, string>} unknown
 */

const dialog = /** @type {HTMLDialogElement} */ (byId("drift-page"));

bindPage({ read: () => service.readOverview(), show, isBusy: () => dialog.open });

/** @param {Overview} overview */
function show(overview) {
  const nowMs = Date.parse(overview.timestamp);
  const parts = byId("parts");
  parts.hidden = false;
  fill(byId("banner"), ...listDegraded(overview));
  fill(
    parts,
    part("Served now", "served", overview, (served) => showServed(served, overview)),
    part("Drift", "drift", overview, (checks) => showVerdict(checks, nowMs)),
    overview.rollout && section("Rollout", "", ...showRollout(overview.rollout)),
    part("Last pipeline", "pipeline", overview, (pipeline) => showPipeline(pipeline, nowMs)),
    part("Labels and review", "labels", overview, showLabels),
    part("Recordings", "recordings", overview, showRecordings),
    section("Links", "", ...showLinks(overview)),
    part("Decisions", "decisions", overview, showDecisions, "wide"),
    part("Drift checks", "drift", overview, showChecks, "wide"),
    part("Releases", "releases", overview, showReleases, "wide"),
  );
}

/**
 * A part of the page, or why it is not there.
 *
 * @param {string} title
 * @param {"served" | "drift" | "decisions" | "pipeline" | "labels" | "recordings" | "releases"} name
 * @param {Overview} overview
 * @param {(content: any) => Child[]} describe
 * @param {string} [kind] A class of its own.
 */
function part(title, name, overview, describe, kind = "") {
  const content = overview[name];
  const inside =
    content === null
      ? [h("p", { class: "unknown" }, `Not known: ${overview.unknown[name] ?? "no reason given"}.`)]
      : describe(content);
  return section(title, kind, ...inside);
}

/**
 * @param {string} title
 * @param {string} kind
 * @param {...Child} children
 */
function section(title, kind, ...children) {
  return h("section", { class: `card ${kind}`.trim(), "aria-label": title }, h("h2", {}, title), ...children);
}

/** @param {[string, Child][]} rows */
function facts(rows) {
  return h(
    "dl",
    { class: "facts" },
    ...rows.flatMap(([name, value]) => [
      h("dt", {}, name),
      h("dd", {}, value === null || value === undefined || value === "" ? "–" : value),
    ]),
  );
}

/**
 * @param {string[]} headings
 * @param {Child[][]} rows
 */
function table(headings, rows) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": headings.join(", ") },
    h(
      "table",
      {},
      h("thead", {}, h("tr", {}, ...headings.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map((cell) => h("td", {}, cell))))),
    ),
  );
}

/** @param {Overview} overview */
function listDegraded({ status, refused, prediction_log: log, degraded, unknown }) {
  const lines = [
    status === "starting" && "No model is loaded: predictions are answered with 503.",
    status === "draining" && "This process is being replaced by a newer one.",
    refused && `Release ${refused.bento_tag} was refused: ${refused.reason}`,
    log.problem && `The prediction log cannot be written: ${log.problem} (${count(log.waiting)} rows wait on disk)`,
    log.lost > 0 && `${plural(log.lost, "answer")} could not be kept for the prediction log.`,
    ...Object.entries(degraded).map(([name, state]) => `${name} does not run: ${state}.`),
  ].filter(Boolean);
  const gaps = listGaps(unknown);
  if (!lines.length && !gaps.length) return [h("p", { class: "good" }, "All parts run.")];
  const rest = gaps.length > 0 && h("p", { class: "unknown" }, gaps.join(" "));
  if (!lines.length) return [h("p", {}, "No part is known to be degraded."), rest];
  return [
    h(
      "section",
      { class: "warning", "aria-label": "Degraded parts" },
      h("h2", {}, `Degraded: ${plural(lines.length, "part")}`),
      h("ul", {}, ...lines.map((line) => h("li", {}, String(line)))),
    ),
    rest,
  ];
}

/**
 * What nobody can say of the platform: parts that were not read, and helpers that are not watched.
 *
 * @param {Record<string, string>} unknown
 */
function listGaps({ helpers, ...unread }) {
  const names = Object.keys(unread).join(", ");
  return [names && `Not known: ${names}.`, helpers && "Helpers are not watched."].filter(Boolean);
}

/**
 * @param {any} served
 * @param {Overview} overview
 */
function showServed(served, { version }) {
  const { model, figures, figures_of: source } = served;
  return [
    h(
      "p",
      { class: "headline" },
      `Model ${model.version}`,
      h("span", { class: "tag" }, model.source),
      model.data === "simulated" && h("span", { class: "tag bad" }, "simulated patients"),
    ),
    h("ul", { class: "figures" }, ...figures.map(describeFigure)),
    h("p", { class: "soft small" }, source),
    facts([
      ["Release", model.bento_tag],
      ["Released", time(served.released_at)],
      ["Bundle", model.bundle_hash.slice(0, 12)],
      ["Trained on", nameData(model.data)],
      ["Trained", time(served.created_at)],
      ["Run", model.run_id],
      ["Commit", model.git_commit.slice(0, 12)],
      ["Service", version],
    ]),
  ];
}

/** @param {{name: string, value: number, low: number | null, high: number | null}} figure */
function describeFigure({ name, value, low, high }) {
  const interval = low !== null && high !== null ? `${low.toFixed(3)} to ${high.toFixed(3)}` : "";
  return h(
    "li",
    {},
    h("span", { class: "soft small" }, name),
    h("strong", {}, value.toFixed(3)),
    h("span", { class: "soft small" }, interval),
  );
}

/** @param {any} rollout */
function showRollout(rollout) {
  const stage = rollout.stages.find((/** @type {any} */ one) => one.is_current);
  const { NV = 0, VN = 0, unclassed = 0 } = rollout.beats;
  return [
    h("p", { class: "headline" }, `Model ${rollout.version}`, h("span", { class: "tag" }, stage?.name ?? "–")),
    rollout.problem && h("p", { class: "small" }, `Not tried: ${rollout.problem}`),
    facts([
      ["Beside", rollout.champion],
      ["Compared", `${plural(rollout.strips, "strip")} of ${count(rollout.people)} people`],
      ["Beats that differ", count(NV + VN + unclassed)],
      ["Stage since", time(rollout.stage_since)],
      ["Why", rollout.why],
    ]),
    h("p", {}, h("a", { href: new URL("ops/rollout", BASE_URL).href }, "Open the rollout")),
  ];
}

const VERDICTS = {
  KEEP: "Nothing is started; the model goes on answering.",
  RETRAIN: "The pipeline is asked for: its model replaces this one only if it is better.",
  ROLLBACK: "A rollback to the release before is asked for.",
};

/** @param {Check} check */
function finding({ is_breach: isBreach, is_conclusive: isConclusive, is_candidate: isCandidate }) {
  if (isCandidate) return "a candidate broke its bounds";
  if (!isConclusive) return "too little traffic to tell";
  return isBreach ? "the traffic has moved" : "no drift";
}

/**
 * @param {Check[]} checks
 * @param {number} nowMs
 */
function showVerdict([latest], nowMs) {
  return [
    h(
      "p",
      { class: `headline verdict ${latest.action}` },
      latest.action,
      h("span", { class: "tag" }, finding(latest)),
    ),
    h("p", {}, VERDICTS[latest.action]),
    h("ul", { class: "reasons small" }, ...latest.reasons.map((reason) => h("li", {}, reason))),
    facts([
      ["Checked", `${time(latest.created_at)}, ${ago(latest.created_at, nowMs)}`],
      ["Release", latest.bento_tag],
      ["Asked for", describeDecision(latest)],
    ]),
    linkPages(latest),
  ];
}

/** @param {Check} check */
function describeDecision({ decision }) {
  if (!decision) return null;
  const text = `${decision.deployment}, ${decision.state}`;
  return decision.run_url ? h("a", { href: decision.run_url }, text) : text;
}

/** @param {Check} check */
function linkPages({ page, report, created_at: at }) {
  if (!page && !report) return null;
  return h(
    "span",
    { class: "pages" },
    page && makePageLink("Page", page, at, (event) => void openPage(event, page, at)),
    report && makePageLink("Evidently", report, at, (event) => void keepReport(event, report)),
  );
}

/**
 * @param {string} text
 * @param {string} name
 * @param {string} at
 * @param {(event: MouseEvent) => void} open
 */
function makePageLink(text, name, at, open) {
  return h(
    "a",
    {
      href: new URL(`ops/drift/${encodeURIComponent(name)}`, BASE_URL).href,
      "aria-label": `${text} of the check of ${time(at)}`,
      onclick: open,
    },
    text,
  );
}

/**
 * Show the page of a check over this one. A browser sends no key when it follows a link.
 *
 * @param {MouseEvent} event
 * @param {string} name
 * @param {string} at
 */
async function openPage(event, name, at) {
  if (!readApiKey()) return;
  event.preventDefault();
  const close = h("form", { method: "dialog" }, h("button", { class: "primary" }, "Close"));
  const title = h("h2", { id: "drift-title" }, `Drift check of ${time(at)}`);
  fill(dialog, h("header", {}, title, close), h("p", {}, "Reading …"));
  dialog.showModal();
  try {
    const page = new DOMParser().parseFromString(
      await (await service.readDriftPage(name)).text(),
      "text/html",
    );
    // Its links lead to pages that a browser asks for without the key.
    for (const link of page.querySelectorAll("a[href]")) link.removeAttribute("href");
    const frame = h("iframe", { sandbox: "", title: "Page of the drift check" });
    frame.srcdoc = page.documentElement.outerHTML;
    fill(dialog, h("header", {}, title, close), frame);
  } catch (error) {
    fill(dialog, h("header", {}, title, close), h("p", {}, asProblem(error).message));
  }
}

/**
 * Save Evidently's page as a file, where a key is asked for.
 *
 * @param {MouseEvent} event
 * @param {string} name
 */
async function keepReport(event, name) {
  if (!readApiKey()) return;
  event.preventDefault();
  try {
    const url = URL.createObjectURL(await service.readDriftPage(name));
    h("a", { href: url, download: `${name}.html` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
  } catch (error) {
    fill(byId("problem"), h("p", { class: "problem" }, asProblem(error).message));
  }
}

/** @param {Check[]} checks */
function showChecks(checks) {
  return [
    table(
      ["Checked", "Verdict", "Found", "Release", "Asked for", "Pages"],
      checks.map((check) => [
        time(check.created_at),
        h("span", { class: `verdict ${check.action}`, title: check.reasons.join("; ") }, check.action),
        finding(check),
        check.bento_tag,
        describeDecision(check) ?? "–",
        linkPages(check) ?? "–",
      ]),
    ),
  ];
}

/** @param {Check[]} decisions */
function showDecisions(decisions) {
  if (!decisions.length) {
    return [h("p", { class: "soft" }, "No check has asked for a retraining or a rollback yet.")];
  }
  return [
    table(
      ["Checked", "Verdict", "Release", "Asked for", "Why", "Pages"],
      decisions.map((check) => [
        time(check.created_at),
        h("span", { class: `verdict ${check.action}` }, check.action),
        check.bento_tag,
        describeDecision(check) ?? "–",
        h("span", { class: "why" }, check.reasons.join("; ")),
        linkPages(check) ?? "–",
      ]),
    ),
  ];
}

/** @param {any[]} releases */
function showReleases(releases) {
  return [
    table(
      ["Time", "Event", "Model", "Bento", "Before", "Why", "Who"],
      releases.map((event) => [
        time(event.at),
        h(
          "span",
          {},
          event.kind,
          ["release", "rollback"].includes(event.kind) && !event.is_verified && h("span", { class: "soft small" }, " not seen by a running service"),
        ),
        event.model_version,
        event.bento_tag,
        event.before ?? "–",
        h("span", { class: "why" }, event.why),
        event.who,
      ]),
    ),
  ];
}

/**
 * @param {any} run
 * @param {number} nowMs
 */
function showPipeline(run, nowMs) {
  const stages = Object.entries(run.stages);
  return [
    h("p", { class: `headline outcome ${run.outcome.replace(" ", "-")}` }, describeOutcome(run)),
    run.failure && h("p", { class: "small" }, run.failure),
    run.outcome === "running" && h("p", { class: "small" }, `In stage ${run.stage}. A run that was killed looks the same.`),
    run.reasons.length > 0 &&
      h("ul", { class: "reasons small" }, ...run.reasons.map((/** @type {string} */ reason) => h("li", {}, reason))),
    facts([
      ["Started", `${time(run.started_at)}, ${ago(run.started_at, nowMs)}`],
      ["Finished", time(run.finished_at)],
      ["Why", run.why],
      ["Champion after it", run.version && `model ${run.version}`],
      ["Stages", stages.map(([name, seconds]) => `${name} ${duration(seconds)}`).join(", ")],
      ["In Prefect", run.run_url && h("a", { href: run.run_url }, "flow run")],
    ]),
  ];
}

/** @param {any} run */
function describeOutcome({ outcome, stage }) {
  if (outcome === "failed") return `Failed in ${stage}`;
  return `${outcome[0].toUpperCase()}${outcome.slice(1)}`;
}

/** @param {any} labels */
function showLabels(labels) {
  const { days } = labels;
  return [
    h(
      "ul",
      { class: "figures" },
      ...[
        ["Drawn, to review", labels.drawn_waiting],
        ["Doubtful, to review", labels.doubtful_waiting],
        ["Labelled, of any time", labels.labelled],
      ].map(([name, number]) =>
        h("li", {}, h("span", { class: "soft small" }, name), h("strong", {}, count(number))),
      ),
    ),
    facts([
      [`Predictions, ${days} days`, count(labels.predictions)],
      [`Drawn, ${days} days`, count(labels.drawn)],
      ["Feedback that counts", count(labels.feedback)],
    ]),
    h("p", {}, h("a", { href: new URL("ops/review", BASE_URL).href }, "Open the review queue")),
  ];
}

/** @param {Record<string, number>} recordings */
function showRecordings(recordings) {
  return [facts(Object.entries(recordings).map(([status, number]) => [status, count(number)]))];
}

/** @param {Overview} overview */
function showLinks({ links, degraded }) {
  const own = [
    ["Model card", "api/v1/model/"],
    ["Health", "health"],
    ["Metrics", "metrics"],
  ].map(([name, path]) => ({ name, url: new URL(path, BASE_URL).href }));
  return [
    h("ul", { class: "ops-links" }, ...[...links, ...own].map(({ name, url }) => h("li", {}, h("a", { href: url }, name)))),
    h(
      "p",
      { class: "soft small" },
      "Prefect and MLflow listen on the machine of the service. ",
      degraded["prefect-server"] || degraded["mlflow-server"] ? "One of them does not run now." : "",
    ),
  ];
}
