"""The loop that learns in its steps, each by the platform's own flows, requests and decisions."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final
from uuid import UUID

from ecg_lib.operations.learning.pipeline_run import FILE, read_pipeline_run
from ecg_lib.operations.learning.rollout.candidate import Candidate, Plan
from ecg_lib.operations.learning.rollout.candidate import Stage as RolloutStage
from ecg_lib.operations.learning.rollout.comparison_log import read_compared
from flows.local.demo.bad_release import register_bad_model
from flows.local.demo.people import KnownStrip, make_new_strips, mark
from flows.local.demo.stage import Stage, StepError, expect
from flows.local.flow_runs import pause_schedules
from flows.local.processes import Platform
from flows.monitoring.evidence import open_log
from flows.monitoring.traffic import Traffic, make_strips
from flows.release.rollout.steps import Rollout, find_candidate
from flows.release.switch_service import read_current

_WORDS: Final = ("KEEP", "RETRAIN", "promoted", "ROLLBACK")
_HEALTHY_STRIPS: Final = 192
_NEW_PEOPLE: Final = 32
_STRIPS_EACH: Final = 4
"""Of the new people, in each of two batches; those of the first are labelled."""
_CANARY_PEOPLE: Final = 80
"""Of the same population: a bound counts each person once, so few people prove little."""
_CANARY_STRIPS: Final = 3
_CANARY_FIRST: Final = 2 * _STRIPS_EACH
_QUEUE: Final = 200
_LABELLED_S: Final = 60.0
_COMPARED_S: Final = 180.0
_SETTLED_POLLS: Final = 25
"""Polls, of 0.2 s or more, without another comparison."""
_LEAST_COMPARED: Final = 60


def run_steps(stage: Stage, platform: Platform) -> None:
    """Run all steps in turn.

    Raises:
        StepError: If a step comes out otherwise than it must.
        FlowRunError: If a flow run fails.
    """
    start_platform(stage, platform)
    show_healthy(stage)
    run_id = show_new_population(stage)
    show_promotion(stage, run_id)
    show_return(stage)


def summarize(stage: Stage) -> None:
    """Print what each step came to, also after one that failed."""
    stage.say("\nSummary")
    for outcome in stage.outcomes:
        stage.say(f"  {outcome.word:<9} {outcome.what}")
        stage.say(f"            {outcome.link}")
    missing = [word for word in _WORDS if word not in {one.word for one in stage.outcomes}]
    if missing:
        stage.say(f"  not reached: {', '.join(missing)}")


def start_platform(stage: Stage, platform: Platform) -> None:
    """Start all servers; train and release the first model; start the service with it."""
    platform.start()
    pause_schedules(check=platform.check)  # the demo asks for each check itself
    stage.say(
        "\n1. A first model is trained on simulated patients whose beats are easy to tell apart"
    )
    run_id = stage.run_flow(
        "pipeline", source="simulator", reason="the demo needs a model to begin with"
    )
    platform.start_service()
    release = read_current(stage.settings)
    if release is None:
        msg = "the first model must be released, nothing is"
        raise StepError(msg)
    stage.say(f"  => model {release.model_version} is served")
    stage.say(f"     {stage.link_run(run_id)}")


def show_healthy(stage: Stage) -> None:
    """Send strips of the people that the model was trained on: KEEP."""
    stage.say("\n2. Healthy traffic: strips of the people that the model was made for")
    strips = make_strips(Traffic.REPLAYED, count=_HEALTHY_STRIPS, seed=0, settings=stage.settings)
    stage.send_strips(strips)
    check, link = stage.check_drift()
    why = check.summary["reasons"][0]
    expect(check.action, "KEEP", why)
    if not check.summary["is_conclusive"]:
        msg = f"the check must have enough traffic to compare: {why}"
        raise StepError(msg)
    stage.end_step("KEEP", f"healthy traffic: {why}", link)


def show_new_population(stage: Stage) -> str:
    """Send strips of a new population until the platform starts a retraining; return its run."""
    stage.say(
        "\n3. A new population: an irregular rhythm, in which early atrial beats are conducted "
        "with a block, wide as ventricular ones"
    )
    first = _send_new(stage, place=0)
    check, link = stage.check_drift()
    expect(check.action, "KEEP", check.summary["reasons"][0])
    if not check.summary["is_breach"]:
        msg = f"the check must find that the input drifted: {check.summary['reasons'][0]}"
        raise StepError(msg)
    stage.say("  the input has drifted; one finding starts nothing, the next check must confirm it")
    stage.say(f"     {link}")
    label(stage, first)
    _send_new(stage, place=_STRIPS_EACH)
    check, link = stage.check_drift()
    why = check.summary["reasons"][0]
    expect(check.action, "RETRAIN", why)
    stage.end_step("RETRAIN", f"new population: {why}", link)
    return str(stage.wait_for_decision(check))


def _send_new(stage: Stage, *, place: int) -> dict[str, KnownStrip]:
    strips = list(make_new_strips(n_people=_NEW_PEOPLE, n_strips=_STRIPS_EACH, first=place))
    answers = stage.send_strips(one.strip for one in strips)
    return {
        answer["prediction_id"]: one
        for answer, one in zip(answers, strips, strict=True)
        if answer is not None
    }


def label(stage: Stage, known: dict[str, KnownStrip]) -> None:
    """Label what the service drew for review, as its queue lists it, by readers who know the truth.

    Raises:
        StepError: If nothing of it waits.
    """
    given: list[str] = []
    while waiting := _list_waiting(stage, known, given):
        for prediction_id in waiting:
            answer = stage.get(f"/api/v1/predictions/{prediction_id}")
            stage.post("/api/v1/feedback/", mark(answer, known[prediction_id].truth))
            given.append(prediction_id)
        with open_log(stage.settings) as log:
            stage.wait_for(
                lambda: log.find_labelled(given[-1:]) or None, "the last label",
                limit_s=_LABELLED_S,
            )  # fmt: skip
    if not given:
        msg = "strips of the new population must wait for review, none does"
        raise StepError(msg)
    stage.say(
        f"  readers labelled the {len(given)} strips of it that were drawn for review; their "
        "signals are kept, encrypted"
    )


def _list_waiting(stage: Stage, known: dict[str, KnownStrip], given: list[str]) -> list[str]:
    queue = stage.get("/api/v1/review-queue/", limit=_QUEUE, days=1)["predictions"]
    return [
        one["prediction_id"]
        for one in queue
        if one["drawn_for_review"]
        and one["prediction_id"] in known
        and one["prediction_id"] not in given
    ]


def show_promotion(stage: Stage, run_id: str) -> None:
    """Follow the retraining that the decision started: promoted and released."""
    stage.say("\n4. The platform retrains on the labelled traffic of the people not held out")
    stage.follow_run(UUID(run_id))
    run = read_pipeline_run(stage.settings.serving_dir / FILE)
    if run is None or run.is_promoted is None:
        msg = "the pipeline must have judged a challenger, it has not"
        raise StepError(msg)
    expect("promoted" if run.is_promoted else "not promoted", "promoted", "; ".join(run.reasons))
    gain = next(why for why in run.reasons if "new people" in why)
    release = read_current(stage.settings)
    if release is None or release.model_version != run.version:
        msg = f"model {run.version} must be served, it is not"
        raise StepError(msg)
    stage.end_step("promoted", f"model {run.version}: {gain}", stage.link_run(run_id))


_CANARY: Final = Plan(
    stages=(RolloutStage(share=0.5, min_hours=0.0, min_strips=200, min_groups=20),)
)
"""One stage, minutes where the default takes days; the bounds are the default ones."""


def show_return(stage: Stage) -> None:
    """Try a bad release in canary beside the served one, until the platform takes it back."""
    stage.say(
        "\n5. A bad release is tried in canary: half of the people get a model whose threshold is "
        "wrong"
    )
    served = read_current(stage.settings)
    version = register_bad_model(stage.settings)
    stage.run_flow(
        "release-service",
        model_version=version,
        rollout=Rollout.GRADUAL.value,
        plan=_CANARY.model_dump(mode="json"),
        reason="the demo tries a bad model",
    )
    candidate = find_candidate(stage.settings)
    if candidate is None:
        msg = f"model {version} must be tried, it is not"
        raise StepError(msg)
    answers = _send_watched(stage, candidate)
    by_model = Counter(answer["model"]["version"] for answer in answers)
    stage.say("  " + ", ".join(f"model {one}: {n} strips" for one, n in sorted(by_model.items())))
    if not by_model[version]:
        msg = f"model {version} must answer a share of the people, it answered none"
        raise StepError(msg)
    check, link = stage.check_rollout(candidate)
    why = "; ".join(check.summary["reasons"])
    expect(check.action, "ROLLBACK", why)
    stage.follow_run(stage.wait_for_decision(check))
    now = stage.get("/health")["model"]
    if served is None or now["bento_tag"] != served.bento_tag:
        msg = f"the release of before must answer, {now['bento_tag']} does"
        raise StepError(msg)
    stage.end_step(
        "ROLLBACK",
        f"model {version} is taken back, model {now['version']} answers everybody: {why}",
        link,
    )


def _send_watched(stage: Stage, candidate: Candidate) -> list[dict[str, Any]]:
    """Send strips of the new people, and wait until the other model was asked for them too."""
    strips = make_new_strips(n_people=_CANARY_PEOPLE, n_strips=_CANARY_STRIPS, first=_CANARY_FIRST)
    answers = stage.send_strips(one.strip for one in strips)
    with open_log(stage.settings) as log:
        counts: list[int] = []

        def find_settled() -> int | None:
            counts.append(read_compared(log, candidate.id).strips)
            is_over = len(counts) > _SETTLED_POLLS and counts[-1] == counts[-1 - _SETTLED_POLLS]
            return counts[-1] if is_over and counts[-1] >= _LEAST_COMPARED else None

        n_compared = stage.wait_for(find_settled, "comparisons of both models", limit_s=_COMPARED_S)
    stage.say(f"  {n_compared} strips were compared by both models")
    return [answer for answer in answers if answer is not None]
