from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client.samples import Sample
from scipy import ndimage

from bentos.runtime.limits.caller import Caller
from bentos.runtime.live_model import LoadedModel
from bentos.runtime.predictor import Runtime
from bentos.wire.answers import build_answer
from bentos.wire.schemas import Feedback, Health, ModelCard, Prediction, PredictionRequest
from ecg_lib.classifier.beat_classifier import ClassifiedBeats
from ecg_lib.operations.drift.observation import OBSERVED_COLUMNS, POINTS_DOWN
from ecg_lib.operations.keys.patient_key import hash_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from ecg_lib.signal_path.preprocessing import prepare_beats
from ecg_lib.signal_path.readability.findings import OK, PACED

RequestMaker = Callable[..., dict[str, Any]]
Predict = Callable[..., httpx.Response]


def wait_until(is_true: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def classes_of(answer: dict[str, Any]) -> str:
    return "".join(beat["arrhythmia_type"] or "?" for beat in answer["beat_predictions"])


def test_the_answer_has_every_field_of_the_contract_and_no_other(
    predict: Predict, make_request: RequestMaker
) -> None:
    answered = predict(**make_request(StripKind.RUN, patient_id="p1"))
    assert answered.status_code == 201, answered.text
    answer = Prediction.model_validate_json(answered.content)
    assert answered.headers["location"] == f"/api/v1/predictions/{answer.prediction_id}"
    assert (answer.overall_arrhythmia_type, answer.risk_level, answer.risk_basis) == (
        "V",
        "HIGH",
        "strip",
    )
    assert [run.beats for run in answer.rhythm.runs] == [5]
    assert answer.ventricular_beats == 5
    assert answer.normal_beats + answer.ventricular_beats == answer.total_beats_detected
    assert answer.beat_predictions[0].rr_previous is None
    assert answer.beat_predictions[-1].rr_next is None
    assert answer.timestamp.utcoffset().total_seconds() == 0
    assert answer.model.bento_tag == "ecg:toy"


@pytest.mark.parametrize("apply_ruleguard", [True, False])
@pytest.mark.parametrize("kind", [StripKind.ISOLATED_PVC, StripKind.BIGEMINY, StripKind.NOISY])
def test_the_numbers_over_http_are_those_of_the_classifier(
    predict: Predict,
    toy_model: LoadedModel,
    make_request: RequestMaker,
    kind: StripKind,
    apply_ruleguard: bool,  # noqa: FBT001  a parameter of the test
) -> None:
    request = make_request(kind, apply_ruleguard=apply_ruleguard)
    answer = predict(**request).json()
    expected: ClassifiedBeats = toy_model.classifier.classify(
        np.array(request["signal_data"]), fs=360.0, apply_rule_guard=apply_ruleguard
    )
    beats = answer["beat_predictions"]
    assert [beat["position_sample"] for beat in beats] == expected.r_peaks.tolist()
    assert [beat["probability_v"] for beat in beats] == expected.probability_v.tolist()
    assert [beat["confidence"] for beat in beats] == expected.confidence.tolist()
    assert [beat["arrhythmia_type"] == "V" for beat in beats] == expected.is_v.tolist()
    assert [beat["rule"] or "" for beat in beats] == expected.rule.tolist()
    assert answer["ruleguard_applied"] is apply_ruleguard


def _leads_of(request: dict[str, Any]) -> dict[str, list[float]]:
    """Make a wider picture of the same beats, and the lead again."""
    first = np.array(request["signal_data"])
    return {"aVR": (-first).tolist(), "V1": ndimage.gaussian_filter1d(first, 5.0).tolist()}


def test_another_lead_of_the_request_has_a_say(
    predict: Predict, toy_model: LoadedModel, make_request: RequestMaker
) -> None:
    request = make_request(StripKind.BIGEMINY)
    leads = _leads_of(request)
    alone, both = predict(**request).json(), predict(**request, leads=leads).json()
    expected = toy_model.classifier.classify(
        np.array(request["signal_data"]), others_mv=[np.array(leads["V1"])], fs=360.0
    )
    found = [beat["probability_v"] for beat in both["beat_predictions"]]
    assert found == expected.probability_v.tolist()
    assert found != [beat["probability_v"] for beat in alone["beat_predictions"]]
    assert (alone["derivation"], alone["second_lead"]) == ("MLII", None)
    assert (both["derivation"], both["second_lead"]) == ("MLII", "V1")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda leads: leads | {"MLII": leads["V1"]}, "MLII is the lead of signal_data"),
        (lambda leads: leads | {"V1": leads["V1"][1:]}, "V1 must have as many samples"),
        (lambda leads: leads | {"PLETH": leads["V1"]}, "leads.PLETH"),
        (
            lambda leads: leads | {"aVR": [2e4, *leads["V1"][1:]]},
            "leads.aVR: samples must be in mV",
        ),
    ],
)
def test_leads_that_do_not_fit_are_refused(
    predict: Predict,
    make_request: RequestMaker,
    change: Callable[[dict[str, list[float]]], dict[str, list[float]]],
    words: str,
) -> None:
    request = make_request(StripKind.BIGEMINY)
    answered = predict(**request, leads=change(_leads_of(request)))
    assert answered.status_code == 422
    problem = answered.json()
    assert words in problem["detail"]
    assert problem["errors"][0]["field"].startswith("leads")


@pytest.mark.parametrize("kind", [StripKind.ISOLATED_PVC, StripKind.COUPLET, StripKind.NORMAL])
def test_another_sampling_rate_gives_the_same_beats_in_its_own_samples(
    predict: Predict, make_request: RequestMaker, kind: StripKind
) -> None:
    usual = predict(**make_request(kind)).json()
    for fs in (250.0, 500.0):
        other = predict(**make_request(kind, fs=fs)).json()
        assert classes_of(other) == classes_of(usual)
        for one, two in zip(other["beat_predictions"], usual["beat_predictions"], strict=True):
            assert one["position_sample"] / fs == pytest.approx(
                two["position_sample"] / 360, abs=0.02
            )


@pytest.mark.parametrize("gain", [0.1, 0.3, 3.0, 10.0, -1.0, -10.0])
@pytest.mark.parametrize("kind", [StripKind.ISOLATED_PVC, StripKind.BIGEMINY])
def test_gain_and_polarity_keep_the_classes(
    predict: Predict, make_request: RequestMaker, kind: StripKind, gain: float
) -> None:
    usual = predict(**make_request(kind)).json()
    changed = predict(**make_request(kind, gain=gain))
    assert changed.status_code == 201
    assert classes_of(changed.json()) == classes_of(usual)


@pytest.mark.parametrize("kind", [StripKind.FLAT, StripKind.NOISE_ONLY, StripKind.SATURATED])
def test_a_strip_without_readable_ecg_is_refused_with_its_reason(
    predict: Predict, make_request: RequestMaker, kind: StripKind
) -> None:
    answered = predict(**make_request(kind))
    assert answered.status_code == 422
    assert answered.json()["type"] == "/problems/signal-unreadable"
    assert "at least 5 s must be readable" in answered.json()["detail"]


def test_beats_in_an_unreadable_stretch_are_listed_without_a_class(
    predict: Predict, make_request: RequestMaker
) -> None:
    readable = make_request(StripKind.ISOLATED_PVC)["signal_data"]
    noise = make_request(StripKind.NOISE_ONLY)["signal_data"]
    answer = predict(signal_data=readable + noise + readable).json()
    (stretch,) = answer["signal_quality"]["unreadable"]
    assert stretch["reason"] == "noise"
    assert abs(stretch["start_sample"] - 3600) <= 1440
    unreadable = [beat for beat in answer["beat_predictions"] if beat["quality"] != "ok"]
    assert len(unreadable) == answer["unreadable_beats"] > 0
    assert {beat["arrhythmia_type"] for beat in unreadable} == {None}
    assert {beat["quality"] for beat in unreadable} == {"noise"}
    counted = answer["normal_beats"] + answer["ventricular_beats"]
    assert counted == answer["total_beats_detected"] - answer["unreadable_beats"]
    assert answer["signal_quality"]["usable_share"] < 0.9
    assert any("cannot be read" in warning for warning in answer["signal_quality"]["warnings"])
    Prediction.model_validate(answer)


def test_overall_confidence_is_that_of_the_surest_v_beat_or_of_no_v_beat(
    predict: Predict, make_request: RequestMaker
) -> None:
    for kind in (StripKind.ISOLATED_PVC, StripKind.NORMAL):
        answer = predict(**make_request(kind)).json()
        probabilities = [beat["probability_v"] for beat in answer["beat_predictions"]]
        is_v = answer["overall_arrhythmia_type"] == "V"
        expected = max(probabilities) if is_v else 1 - max(probabilities)
        assert answer["confidence"] == pytest.approx(expected)
        assert answer["risk_level"] == ("MEDIUM" if is_v else "LOW")


def test_a_stored_prediction_is_the_answer_that_was_given(
    runtime: Runtime, predict: Predict, http: httpx.Client, make_request: RequestMaker
) -> None:
    answer = predict(**make_request()).json()
    path = f"/api/v1/predictions/{answer['prediction_id']}"
    assert http.get(path).json() == answer
    wait_until(lambda: not len(runtime.spool))
    assert http.get(path).json() == answer


def test_the_log_keeps_observations_and_only_a_hash_of_the_patient(
    runtime: Runtime, predict: Predict, home: Path, make_request: RequestMaker
) -> None:
    secret = "Müller, Hans *1950"  # noqa: S105  a name
    ids = [predict(**make_request(patient_id=secret)).json()["prediction_id"] for _ in "ab"]
    wait_until(lambda: not len(runtime.spool))
    rows = [runtime.log.get_prediction(prediction_id) for prediction_id in ids]
    key = (home / "patient.key").read_bytes()
    assert [row.patient_key for row in rows] == [hash_patient(secret, key=key)] * 2
    assert set(rows[0].observed) == {*OBSERVED_COLUMNS, POINTS_DOWN}
    assert rows[0].observed[POINTS_DOWN][0] in (True, False)
    assert rows[0].observed["rr_prev_s"][0] is None
    assert (home / "patient.key").stat().st_mode & 0o777 == 0o600
    written = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert secret.encode() not in written
    assert b"ller, Hans" not in written


def test_feedback_is_stored_and_unknown_beats_and_predictions_are_refused(
    runtime: Runtime, predict: Predict, http: httpx.Client, make_request: RequestMaker
) -> None:
    answer = predict(**make_request()).json()
    feedback = {
        "prediction_id": answer["prediction_id"],
        "labels": [{"beat_index": 2, "arrhythmia_type": "V"}],
        "annotator": "reader 1",
    }
    taken = http.post("/api/v1/feedback/", json=feedback)
    assert taken.status_code == 201
    assert Feedback.model_validate_json(taken.content).verified
    wait_until(lambda: not len(runtime.spool))
    (row,) = runtime.log.read_feedback([answer["prediction_id"]])
    assert (row.feedback_id, row.labels, row.annotator) == (
        taken.json()["feedback_id"],
        {2: "V"},
        "reader 1",
    )
    too_far = {**feedback, "labels": [{"beat_index": 999, "arrhythmia_type": "N"}]}
    refused = http.post("/api/v1/feedback/", json=too_far)
    assert (refused.status_code, refused.json()["type"]) == (422, "/problems/unknown-beat")
    assert refused.json()["errors"][0]["field"] == "labels[0].beat_index"
    unknown = http.post("/api/v1/feedback/", json={**feedback, "prediction_id": "nix"})
    assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems/unknown-prediction")


def test_health_and_model_card_name_the_model(http: httpx.Client) -> None:
    health = Health.model_validate_json(http.get("/health").content)
    assert (health.status, health.model_loaded, health.refused) == ("ok", True, None)
    card = ModelCard.model_validate_json(http.get("/api/v1/model/").content)
    assert card.model == health.model
    assert card.metrics == {"oof_v_f1": 0.9}
    assert card.config["threshold"] == 0.5
    assert card.model_card.startswith("# Toy")


def test_health_answers_while_long_strips_are_computed(
    http: httpx.Client, make_request: RequestMaker
) -> None:
    strip = make_request(StripKind.ISOLATED_PVC)["signal_data"]
    body = json.dumps({"signal_data": strip * 60}).encode()  # ten minutes
    headers = {"Content-Type": "application/json"}
    with ThreadPoolExecutor(2) as executor:
        long = [
            executor.submit(http.post, "/api/v1/predictions/", content=body, headers=headers)
            for _ in range(2)
        ]
        waits_s = []
        while not all(future.done() for future in long):
            start = time.perf_counter()
            assert http.get("/health").status_code == 200
            waits_s.append(time.perf_counter() - start)
    assert [future.result().status_code for future in long] == [201, 201]
    assert np.median(waits_s) < 0.25


def test_metrics_count_what_was_done(
    predict: Predict, http: httpx.Client, make_request: RequestMaker
) -> None:
    predict(**make_request())
    predict(signal_data=[])
    text = http.get("/metrics").text
    assert 'ecg_requests_total{method="POST",route="/api/v1/predictions/",status="201"}' in text
    assert 'ecg_stage_seconds_bucket{le="0.005",stage="prepare"}' in text
    assert 'ecg_beats_total{arrhythmia_type="V"}' in text
    assert 'ecg_refusals_total{problem="signal-too-short"}' in text
    assert 'bento_tag="ecg:toy"' in text
    assert "ecg_log_backlog_rows" in text


def test_paced_beats_are_counted(
    predict: Predict,
    make_request: RequestMaker,
    make_paced: Callable[[float], NDArray[np.float64]],
    read_samples: Callable[[], list[Sample]],
) -> None:
    def read() -> dict[str, float]:
        return {
            sample.labels.get("arrhythmia_type", sample.name): sample.value
            for sample in read_samples()
            if sample.name in {"ecg_beats_total", "ecg_beats_per_prediction_sum"}
        }

    predict(**make_request())
    before = read()
    answer = predict(signal_data=make_paced(30.0).tolist()).json()
    counted = {name: value - before[name] for name, value in read().items()}
    assert answer["paced_beats"] > 20
    assert counted == {
        "N": answer["normal_beats"],
        "V": answer["ventricular_beats"],
        "paced": answer["paced_beats"],
        "unreadable": answer["unreadable_beats"],
        "ecg_beats_per_prediction_sum": answer["total_beats_detected"],
    }


def test_rows_that_are_lost_are_counted_once(
    runtime: Runtime, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    counter, inc = runtime.metrics._lost_rows, runtime.metrics._lost_rows.inc
    before = counter._value.get()

    def inc_slowly(amount: float) -> None:
        time.sleep(0.05)
        inc(amount)

    monkeypatch.setattr(counter, "inc", inc_slowly)
    monkeypatch.setattr(runtime.spool, "lost", runtime.spool.lost + 3)
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda _: runtime.metrics.refresh(), range(4)))
    assert counter._value.get() == before + 3
    monkeypatch.setattr(runtime.metrics, "_lost", runtime.metrics._lost - 3)


def test_feedback_is_kept_once_however_slow_the_log_is(
    runtime: Runtime,
    predict: Predict,
    http: httpx.Client,
    make_request: RequestMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client sends again after an error, so nothing may have been kept."""
    monkeypatch.setattr("bentos.routes.routing.LOOK_UP_S", 0.2)
    release = threading.Event()
    find = runtime.find_prediction

    def find_late(prediction_id: str, caller: Caller) -> dict[str, Any]:
        release.wait(10)
        return find(prediction_id, caller)

    prediction_id = predict(**make_request()).json()["prediction_id"]
    monkeypatch.setattr(runtime, "find_prediction", find_late)
    feedback = {
        "prediction_id": prediction_id,
        "labels": [{"beat_index": 0, "arrhythmia_type": "N"}],
    }
    # More than there are threads that look up.
    with ThreadPoolExecutor(6) as executor:
        taken = list(
            executor.map(lambda _: http.post("/api/v1/feedback/", json=feedback), range(6))
        )
    slow = http.get(f"/api/v1/predictions/{prediction_id}")
    release.set()
    assert [(one.status_code, one.json()["verified"]) for one in taken] == [(201, False)] * 6
    assert (slow.status_code, slow.json()["type"]) == (503, "/problems/prediction-log-unavailable")
    monkeypatch.undo()
    wait_until(lambda: not len(runtime.spool))
    stored = {row.feedback_id for row in runtime.log.read_feedback([prediction_id])}
    assert stored == {one.json()["feedback_id"] for one in taken}


def test_every_example_is_a_valid_request(http: httpx.Client) -> None:
    for kind in StripKind:
        answered = http.get(f"/api/v1/examples/{kind.value}")
        assert answered.status_code == 200
        PredictionRequest.model_validate_json(answered.content)


def test_flutter_is_answered_with_an_alarm_and_no_beat(
    predict: Predict, make_request: RequestMaker
) -> None:
    waves = np.sin(2 * np.pi * 4.5 * np.arange(3600) / 360)
    request = {**make_request(StripKind.NORMAL), "signal_data": waves.tolist()}
    answered = predict(**request)
    assert answered.status_code == 201, answered.text
    answer = Prediction.model_validate_json(answered.content)
    assert (answer.overall_arrhythmia_type, answer.confidence) == (None, None)
    assert answer.risk_level == "HIGH"
    assert {beat.quality for beat in answer.beat_predictions} == {"flutter"}
    assert {beat.arrhythmia_type for beat in answer.beat_predictions} == {None}
    assert [finding.kind for finding in answer.signal_quality.findings] == ["ventricular_flutter"]
    assert (answer.normal_beats, answer.ventricular_beats) == (0, 0)


@pytest.mark.parametrize(("between", "in_bigeminy"), [(OK, True), (PACED, False)])
def test_v_beats_between_paced_ones_do_not_make_a_bigeminy(
    between: str, *, in_bigeminy: bool
) -> None:
    record = simulate_strip(StripKind.NORMAL, seed=1)
    prepared = prepare_beats(record.signal_mv(), fs=record.fs)
    is_v = np.arange(len(prepared)) % 2 == 1
    beats = ClassifiedBeats(
        prepared=replace(prepared, beat_quality=np.where(is_v, OK, between)),
        probability_v=np.where(is_v, 0.9, 0.1),
        is_v=is_v,
        rule=np.full(len(is_v), ""),
        threshold=0.5,
        run_threshold=0.0,
    )
    answer = build_answer(beats, fs=record.fs)
    assert answer["ventricular_beats"] == is_v.sum() > 3
    assert answer["rhythm"]["bigeminy_beats"] == (is_v.sum() if in_bigeminy else 0)


def test_every_second_of_the_request_has_a_quality(
    predict: Predict, make_request: RequestMaker
) -> None:
    quality = predict(**make_request(StripKind.NORMAL)).json()["signal_quality"]
    assert len(quality["per_second"]) == 10
    assert all(0 < grade <= 1 for grade in quality["per_second"])
    assert quality["findings"] == []
