"""The page of a verdict: what it says first, and how long it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import pytest

from ecg_lib.operations.drift.comparison import ColumnDrift, Comparison
from ecg_lib.operations.drift.decision import (
    DriftAction,
    DriftEvidence,
    DriftPolicy,
    PastCheck,
    decide_action,
)
from ecg_lib.operations.drift.group_shares import GroupVolume, RefusedShare
from ecg_lib.operations.drift.slices import SliceDrift
from ecg_lib.operations.drift.traffic_log import Volume
from ecg_lib.operations.learning.drifted_beats import (
    BEGIN,
    END,
    DriftedBeats,
    write_drifted_beats,
)
from ecg_lib.operations.releases import Release
from flows.evaluation.retraining_outcome import HELD
from flows.monitoring.verdict.trends import TrendPoint
from flows.monitoring.verdict.verdict_page import (
    Verdict,
    describe_effect,
    make_verdict,
    page_name,
    remove_old_beats,
    remove_old_pages,
    to_markdown,
    write_page,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
RELEASE = Release(
    bento_tag="ecg:7",
    model_tag="ecg_bundle:7",
    bundle_hash="b" * 64,
    code_hash="c",
    model_version="7",
    released_at=(NOW - timedelta(days=3)).isoformat(),
)
DRIFTED = ColumnDrift(
    column="rr_irregularity",
    distance=0.81,
    p_value=0.001,
    p_adjusted=0.01,
    is_drifted=True,
    reference="0.03 (0.02 to 0.05)",
    current="0.3 (0.2 to 0.4)",
    least=0.15,
    effect=9.0,
)
GAIN = replace(DRIFTED, column="amplitude_mv", effect=2.5)
CALM = replace(DRIFTED, column="qrs_width_ms", distance=0.1, p_adjusted=0.7, is_drifted=False)


def past(ago: timedelta, *, is_breach: bool, is_conclusive: bool = True) -> PastCheck:
    return PastCheck(
        created_at=NOW - ago,
        bundle_hash=RELEASE.bundle_hash,
        bento_tag="ecg:7",
        action=DriftAction.KEEP,
        is_conclusive=is_conclusive,
        is_breach=is_breach,
        newest_at=NOW - ago,
    )


def make(
    *columns: ColumnDrift,
    history: tuple[PastCheck, ...] = (),
    is_held: bool = False,
    is_dry_run: bool = False,
    trend: tuple[TrendPoint, ...] = (),
    figures: Mapping[str, object] = MappingProxyType({}),
    **evidence: object,
) -> Verdict:
    traffic = Comparison(
        columns=columns,
        n_strips=300,
        n_beats=3600,
        n_groups=evidence.pop("n_groups", 12),  # type: ignore[arg-type]
        n_reference_groups=22,
        left_out=(),
    )
    found = DriftEvidence(traffic=traffic, **evidence)  # type: ignore[arg-type]
    decision = decide_action(
        found,
        history=history,
        bundle_hash=RELEASE.bundle_hash,
        released_at=NOW - timedelta(days=3),
        now=NOW,
    )
    decision = replace(decision, figures=decision.figures | dict(figures))
    if is_held:
        reasons = (f"{HELD}: nothing was labelled", *decision.reasons)
        decision = replace(decision, action=DriftAction.KEEP, reasons=reasons)
    return make_verdict(
        RELEASE,
        decision,
        found,
        Volume(groups={"patient a": GroupVolume(300, 20)}),
        history,
        since=NOW - 24 * HOUR,
        now=NOW,
        policy=DriftPolicy(),
        is_dry_run=is_dry_run,
        trend=trend,
    )


def test_a_quiet_window_says_that_nothing_needs_to_be_done() -> None:
    verdict = make(CALM)
    assert verdict.action is DriftAction.KEEP
    assert verdict.headline == "The traffic is what the model was made for."
    assert dict(verdict.answers) == {
        "Since when": "No drift is open.",
        "How sure": "The least likely column has p = 0.700 after correction for all columns "
        "(qrs_width_ms); drift is called at 0.05.",
        "What is done": "Nothing is started; the model goes on answering.",
        "What you can do": "Nothing needs to be done.",
    }


def test_drift_that_is_confirmed_says_since_when_and_what_is_started() -> None:
    history = (
        past(HOUR, is_breach=False, is_conclusive=False),
        past(2 * HOUR, is_breach=True),
        past(3 * HOUR, is_breach=True),
        past(4 * HOUR, is_breach=False),
        past(5 * HOUR, is_breach=True),
    )
    verdict = make(DRIFTED, CALM, history=history)
    assert verdict.action is DriftAction.RETRAIN
    assert verdict.since == "First seen in the check of 2026-03-01 09:00 UTC."
    assert "p = 0.010" in verdict.certainty
    assert "pipeline is asked of Prefect" in verdict.done
    assert "Label some of the new traffic" in verdict.advice[0]
    assert [row.finding for row in verdict.history] == [
        "too little traffic", "drift", "drift", "no drift", "drift",
    ]  # fmt: skip


def test_drift_from_a_baseline_is_open_since_a_check_that_compared_with_it() -> None:
    # Earlier checks than the start of `make`, three days ago, were compared with something else.
    verdict = make(DRIFTED, CALM, history=(past(96 * HOUR, is_breach=True),))
    assert verdict.action is DriftAction.KEEP
    assert verdict.since == "First seen in the check of 2026-03-01 12:00 UTC."


def test_traffic_like_the_baseline_is_not_said_to_be_like_the_records_of_the_model() -> None:
    verdict = make(CALM, figures={"baseline": {"why": "another recorder"}})
    assert verdict.headline == "The traffic is what this site accepted as usual."


def test_drift_seen_once_waits_for_the_next_check() -> None:
    verdict = make(DRIFTED)
    assert verdict.action is DriftAction.KEEP
    assert verdict.headline.startswith("The traffic has moved; the next check")
    assert verdict.since == "First seen in the check of 2026-03-01 12:00 UTC."


def test_traffic_of_few_people_says_what_would_help() -> None:
    verdict = make(DRIFTED, n_groups=1)
    assert verdict.headline == "There is too little traffic of different people to tell."
    assert verdict.certainty.startswith("Not at all")
    assert verdict.advice[0].startswith("Send patient_id with each request")


def test_the_page_shows_verdict_model_window_columns_slices_and_alarms(tmp_path: Path) -> None:
    drift = SliceDrift(
        dimension="device", value="H3 <x>", n_groups=6, n_strips=70, column="qrs_width_ms",
        distance=0.5, p_value=0.001, p_adjusted=0.004, is_drifted=True,
    )  # fmt: skip
    refused = RefusedShare(
        share=0.85, low=0.7, high=0.95, n_requests=320, n_refused=272, n_groups=12
    )
    verdict = make(DRIFTED, GAIN, slices=(drift,), refused=refused)
    evidently = tmp_path / "one-evidently.html"
    page = write_page(verdict, tmp_path, "one", evidently=evidently)
    assert page == tmp_path / "one.html"
    text = page.read_text(encoding="utf-8")
    order = ["<h1>KEEP", "Since when", "<h2>Alarms", "<h2>Model", "<h2>Columns", "<h2>Slices"]
    places = [text.index(word, text.index("<main>")) for word in order]
    assert places == sorted(places)
    for shown in (
        "320, of which 20 refused", "2026-02-28 12:00 UTC to 2026-03-01 12:00 UTC",
        "85% of the signals were refused", "+9.00 IQR", "harmless", 'href="one-evidently.html"',
        "12 patients, or clients that name none", "H3 &lt;x&gt;",
    ):  # fmt: skip
        assert shown in text, shown
    assert "<x>" not in text
    assert "http" not in text.replace("http-equiv", "")  # it asks nobody for anything
    shown = to_markdown(
        verdict, page=page, evidently=None, service="http://ecg", model="http://ml/7"
    )
    assert shown.startswith("# KEEP\n\n**The traffic has moved")
    assert "| amplitude_mv |" in shown
    assert "| harmless |" in shown
    assert "No Evidently report" in shown


def test_the_page_shows_trends_and_a_place_for_strips_after_the_verdict(tmp_path: Path) -> None:
    earlier = TrendPoint(
        at=NOW - HOUR, release="ecg:6", is_conclusive=True, drifted_share=0.1,
        refused_low=None, estimated_f1=None, reviewed_f1=None,
    )  # fmt: skip
    verdict = make(DRIFTED, CALM)
    verdict = replace(verdict, trend=(earlier, *verdict.trend))
    assert verdict.trend[-1].drifted_share == 0.1
    page = write_page(verdict, tmp_path, "one", evidently=None)
    text = page.read_text(encoding="utf-8")
    order = ["<h1>KEEP", BEGIN, "Most drifted beats", END, "Trends over releases", "<svg"]
    places = [text.index(word) for word in order]
    assert places == sorted(places)
    assert "The last 2 checks" in text
    assert "for a key with the scopes label and operate" in text
    quiet = write_page(make(CALM), tmp_path, "two", evidently=None)
    assert "<svg" not in quiet.read_text(encoding="utf-8")
    assert BEGIN not in quiet.read_text(encoding="utf-8")


@pytest.mark.parametrize(("n_earlier", "n_shown"), [(94, 95), (95, 96), (96, 96)])
def test_the_trends_are_of_the_last_96_checks_with_this_one(
    n_earlier: int, n_shown: int, tmp_path: Path
) -> None:
    earlier = tuple(
        TrendPoint(
            at=NOW - ago * HOUR, release="ecg:6", is_conclusive=True, drifted_share=0.1,
            refused_low=None, estimated_f1=None, reviewed_f1=None,
        )
        for ago in range(n_earlier, 0, -1)
    )  # fmt: skip
    verdict = make(DRIFTED, CALM, trend=earlier)
    assert verdict.trend[-1].at == NOW
    text = write_page(verdict, tmp_path, "one", evidently=None).read_text(encoding="utf-8")
    assert f"The last {n_shown} checks;" in text


def test_pages_are_kept_as_long_as_their_checks_and_those_of_decisions_stay(
    tmp_path: Path,
) -> None:
    named = DriftedBeats(are_kept=True, column="qrs_width_ms", usual="90")
    quiet = make(CALM)
    decided = make(DRIFTED, history=(past(HOUR, is_breach=True),))
    old, limit, new = (page_name(NOW + hours * HOUR) for hours in (-1, 0, 1))
    for name in (old, limit, new):
        write_drifted_beats(write_page(quiet, tmp_path, name, evidently=None), named)
        write_page(decided, tmp_path, name, evidently=None)
        (tmp_path / f"{name}-evidently.html").touch()
    assert remove_old_pages(tmp_path, before=NOW) == 1
    left = {page.name for page in tmp_path.glob("*.html")}
    assert f"{old}.html" not in left
    assert {path.name for path in tmp_path.glob("*.json")} == {
        f"{limit}.beats.json", f"{new}.beats.json"
    }  # fmt: skip
    assert {f"{limit}.html", f"{new}.html", f"{old}-decision.html"} <= left
    assert f"{old}-evidently.html" in left


def test_named_beats_go_with_their_signals_also_next_to_evidence_and_without_a_page(
    tmp_path: Path,
) -> None:
    named = DriftedBeats(are_kept=True, column="qrs_width_ms", usual="90")
    decided = make(DRIFTED, history=(past(HOUR, is_breach=True),))
    old, limit, new = (page_name(NOW + hours * HOUR) for hours in (-1, 0, 1))
    for name in (old, limit, new):
        write_drifted_beats(write_page(decided, tmp_path, name, evidently=None), named)
    (tmp_path / f"{new}-decision.html").unlink()
    assert remove_old_beats(tmp_path, before=NOW) == 2
    assert [path.name for path in tmp_path.glob("*.json")] == [f"{limit}-decision.beats.json"]
    assert (tmp_path / f"{old}-decision.html").exists()  # evidence stays
    assert remove_old_beats(tmp_path, before=NOW) == 0


@pytest.mark.parametrize(
    ("column", "effect", "said"),
    [
        ("qrs_width_ms", 0.5, "+0.50 IQR"),
        ("qrs_width_ms", -1.234, "-1.23 IQR"),
        ("readable_share", None, "no spread"),
        ("arrhythmia_type", 0.034, "+3.4 points"),
    ],
)
def test_an_effect_is_said_in_its_unit(column: str, effect: float | None, said: str) -> None:
    assert describe_effect(replace(CALM, column=column, effect=effect)) == said


def test_a_retraining_that_is_held_says_what_it_waits_for() -> None:
    verdict = make(DRIFTED, CALM, history=(past(2 * HOUR, is_breach=True),), is_held=True)
    assert verdict.headline == (
        "A retraining is due, and held back until there is something new to learn from."
    )
    assert verdict.advice == ("Keep signals and label those of GET /api/v1/review-queue/.",)


def test_names_of_devices_are_text_in_the_prefect_ui(tmp_path: Path) -> None:
    verdict = replace(make(CALM), alarms=("device x ![a](http://b) | <i>\n# c",))
    evidently = tmp_path / "one-evidently.html"
    shown = to_markdown(
        verdict,
        page=tmp_path / "one.html",
        evidently=evidently,
        service="http://ecg",
        model="http://ml/7",
    )
    assert "[Page of this check](http://ecg/ops/drift/one)" in shown
    assert "[Evidently's report](http://ecg/ops/drift/one-evidently)" in shown
    assert "[Model in MLflow](http://ml/7)" in shown
    assert str(tmp_path) not in shown  # links, and no files of this machine
    assert r"device x \!\[a\](http://b) \| \<i\> \# c" in shown


def test_a_dry_run_says_that_nothing_is_done_and_its_page_is_not_kept(tmp_path: Path) -> None:
    history = (past(2 * HOUR, is_breach=True),)
    verdict = make(DRIFTED, CALM, history=history, is_dry_run=True)
    assert verdict.action is DriftAction.RETRAIN
    assert verdict.done == "Nothing: this is a dry run, which stores and starts nothing."
    assert write_page(verdict, tmp_path, "one", evidently=None).name == "one.html"
    kept = make(DRIFTED, CALM, history=history)
    assert write_page(kept, tmp_path, "two", evidently=None).name == "two-decision.html"
