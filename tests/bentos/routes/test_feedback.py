"""Feedback over HTTP: all kinds of marks, on strips and recordings, and what becomes of them."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bentos.runtime.live_model import LoadedModel
from bentos.runtime.predictor import Runtime
from bentos.wire.schemas import Marks, ReviewQueue
from ecg_lib.operations.keys.api_keys import Scope, add_api_key, find_api_key, read_api_keys
from ecg_lib.operations.settings import Settings
from ecg_lib.records.files.wfdb.annotation_file import encode_annotations
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.monitoring.labels.feedback_import import import_file


def wait_until(is_true: Callable[[], object], *, timeout_s: float = 60.0) -> None:
    stop = time.monotonic() + timeout_s
    while not is_true():
        assert time.monotonic() < stop
        time.sleep(0.02)


RequestMaker = Callable[..., dict[str, Any]]
Predict = Callable[..., httpx.Response]


def post(http: httpx.Client, **body: Any) -> httpx.Response:  # noqa: ANN401  any JSON
    return http.post("/api/v1/feedback/", json=body)


def label(beat_index: int, arrhythmia_type: str) -> dict[str, Any]:
    return {"beat_index": beat_index, "arrhythmia_type": arrhythmia_type}


def read_marks(http: httpx.Client, kind: str, name: str) -> Marks:
    found = http.get(f"/api/v1/{kind}/{name}/feedback")
    assert found.status_code == 200, found.text
    return Marks.model_validate_json(found.content)


@pytest.fixture
def answer(predict: Predict, make_request: RequestMaker) -> dict[str, Any]:
    found: dict[str, Any] = predict(**make_request()).json()
    return found


@pytest.fixture(scope="module")
def recording_id(http_of_module: httpx.Client) -> str:
    """Send four minutes with one kind of V beat, so that there is a form A."""
    strip = simulate_strip(StripKind.ISOLATED_PVC, seed=3, fs=360.0).signal_mv().astype(np.float32)
    file = io.BytesIO()
    np.save(file, np.tile(strip, 24))
    taken = http_of_module.post(
        "/api/v1/recordings/",
        files={"files": ("long.npy", file.getvalue())},
        data={"sampling_rate": "360"},
    )
    assert taken.status_code == 202, taken.text
    job_id: str = taken.json()["job_id"]

    def is_done() -> bool:
        return bool(http_of_module.get(f"/api/v1/recordings/{job_id}").json()["status"] == "done")

    wait_until(is_done)
    return job_id


@pytest.fixture(scope="module")
def http_of_module(service: Any) -> httpx.Client:  # noqa: ANN401  the class of a conftest
    http: httpx.Client = service.http
    return http


def test_marks_of_a_strip_are_shown_at_once_and_its_counts_follow(
    http: httpx.Client, answer: dict[str, Any]
) -> None:
    name, n_beats = answer["prediction_id"], answer["total_beats_detected"]
    called = [beat["arrhythmia_type"] for beat in answer["beat_predictions"]]
    first_n, first_v = called.index("N"), called.index("V")
    taken = post(
        http,
        prediction_id=name,
        labels=[label(first_n, "V")],
        missed_beats=[{"position_sample": 3599, "arrhythmia_type": "V"}],
        false_detections=[{"beat_index": first_v}],
        annotator="reader 1",
    )
    assert (taken.status_code, taken.json()["recording_id"]) == (201, None)
    marks = read_marks(http, "predictions", name)
    assert [one.model_dump() for one in marks.labels] == [label(first_n, "V")]
    assert [one.position_sample for one in marks.missed_beats] == [3599]
    assert [one.beat_index for one in marks.false_detections] == [first_v]
    # One N became V, one V is not a beat, and one V was missed.
    assert marks.counts.normal_beats == answer["normal_beats"] - 1
    assert marks.counts.ventricular_beats == answer["ventricular_beats"] + 1
    (given,) = marks.feedback
    assert (given.annotator, given.owner, given.is_withdrawn) == ("reader 1", None, False)
    assert n_beats == len(called)


def test_withdrawn_feedback_stays_visible_and_counts_no_longer(
    http: httpx.Client, runtime: Runtime, answer: dict[str, Any]
) -> None:
    name = answer["prediction_id"]
    first = post(http, prediction_id=name, labels=[label(0, "V")]).json()["feedback_id"]
    post(http, prediction_id=name, labels=[label(0, "N"), label(1, "N")])
    assert http.delete(f"/api/v1/feedback/{first}").status_code == 204
    marks = read_marks(http, "predictions", name)
    assert [one.model_dump() for one in marks.labels] == [label(0, "N"), label(1, "N")]
    assert [one.is_withdrawn for one in marks.feedback] == [True, False]
    wait_until(lambda: not len(runtime.spool))
    assert read_marks(http, "predictions", name) == marks
    again = http.delete(f"/api/v1/feedback/{first}")
    assert (again.status_code, again.json()["type"]) == (404, "/problems/unknown-feedback")
    assert http.delete("/api/v1/feedback/nix").status_code == 404


def test_a_complete_review_gives_every_beat_a_class(
    http: httpx.Client, answer: dict[str, Any]
) -> None:
    name = answer["prediction_id"]
    called = [beat["arrhythmia_type"] for beat in answer["beat_predictions"]]
    flipped = "V" if called[0] == "N" else "N"
    assert post(http, prediction_id=name, labels=[label(0, flipped)], is_complete=True).is_success
    marks = read_marks(http, "predictions", name)
    assert [one.arrhythmia_type for one in marks.labels] == [flipped, *called[1:]]
    assert marks.is_complete


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "labels"),
        ({"labels": [label(0, "N"), label(0, "V")]}, "labels"),
        ({"labels": [label(0, "N")], "false_detections": [{"beat_index": 0}]}, "labels"),
        ({"forms": [{"form": "Q", "arrhythmia_type": "N"}]}, "forms[0].form"),
        ({"labels": [label(0, "S")]}, "labels[0].arrhythmia_type"),
        ({"labels": [label(0, "N")], "recording_id": "x"}, "prediction_id"),
        ({"false_detections": [{"beat_index": 999}]}, "false_detections[0].beat_index"),
        (
            {"missed_beats": [{"position_sample": 3600, "arrhythmia_type": "V"}]},
            "missed_beats[0].position_sample",
        ),
    ],
)
def test_marks_that_say_nothing_or_two_things_or_lie_outside_are_rejected(
    http: httpx.Client, answer: dict[str, Any], fields: dict[str, Any], field: str
) -> None:
    refused = post(http, prediction_id=answer["prediction_id"], **fields)
    assert refused.status_code == 422, refused.text
    assert refused.json()["errors"][0]["field"] == field
    assert read_marks(http, "predictions", answer["prediction_id"]).feedback == []


def test_all_beats_of_a_form_of_a_strip_are_marked_at_once(
    http: httpx.Client, runtime: Runtime, predict: Predict, make_request: RequestMaker
) -> None:
    # Bigeminy has two shapes, in turn.
    strip = simulate_strip(StripKind.BIGEMINY, seed=3, fs=360.0).signal_mv()
    answer = predict(**make_request(signal_data=strip.tolist(), sampling_rate=360)).json()
    beats = answer["beat_predictions"]
    of_v = {beat["form"] for beat in beats if beat["arrhythmia_type"] == "V"} - {None}
    (form,) = of_v
    assert {beat["arrhythmia_type"] for beat in beats if beat["form"] == form} == {"V"}
    of_form = [beat["beat_index"] for beat in beats if beat["form"] == form]
    assert len(of_form) >= 3
    kept = of_form[0]
    body = {"forms": [{"form": form, "arrhythmia_type": "N"}], "labels": [label(kept, "V")]}
    taken = post(http, prediction_id=answer["prediction_id"], **body)
    assert taken.status_code == 201, taken.text
    marks = read_marks(http, "predictions", answer["prediction_id"])
    assert {one.beat_index: one.arrhythmia_type for one in marks.labels} == {
        index: "V" if index == kept else "N" for index in of_form
    }
    assert marks.counts.ventricular_beats == answer["ventricular_beats"] - len(of_form) + 1
    assert [one.form for one in marks.feedback[0].forms] == [form]
    # Monitoring counts them too.
    wait_until(lambda: not len(runtime.spool))
    (reviewed,) = [
        one
        for one in runtime.log.read_reviewed(
            since=datetime(2000, 1, 1, tzinfo=UTC), bundle_hash=answer["model"]["bundle_hash"]
        )
        if one.prediction_id == answer["prediction_id"]
    ]
    assert reviewed.labels == {index: "V" if index == kept else "N" for index in of_form}


def test_all_beats_of_a_form_of_a_recording_are_marked_at_once(
    http: httpx.Client, recording_id: str
) -> None:
    result = http.get(f"/api/v1/recordings/{recording_id}/result").json()
    (form,) = result["morphologies"]["forms"]
    stretch = {"start_s": 0, "duration_s": 1000}
    beats = http.get(f"/api/v1/recordings/{recording_id}/beats", params=stretch).json()
    of_form = [index for index, one in enumerate(beats["form"]) if one == 0]
    assert (form["name"], len(of_form)) == ("A", form["beats"])
    kept = of_form[0]
    body = {"forms": [{"form": "A", "arrhythmia_type": "N"}], "labels": [label(kept, "V")]}
    taken = post(http, recording_id=recording_id, **body)
    assert (taken.status_code, taken.json()["prediction_id"]) == (201, None), taken.text
    marks = read_marks(http, "recordings", recording_id)
    assert {one.beat_index: one.arrhythmia_type for one in marks.labels} == {
        index: "V" if index == kept else "N" for index in of_form
    }
    assert marks.counts.ventricular_beats == beats["type"].count("V") - len(of_form) + 1
    assert marks.counts.normal_beats == beats["type"].count("N") + len(of_form) - 1
    assert http.delete(f"/api/v1/feedback/{taken.json()['feedback_id']}").status_code == 204
    assert read_marks(http, "recordings", recording_id).labels == []


def test_forms_and_recordings_that_do_not_exist_are_rejected(
    http: httpx.Client, recording_id: str
) -> None:
    wrong = post(http, recording_id=recording_id, forms=[{"form": "Q", "arrhythmia_type": "N"}])
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "forms[0].form")
    unknown = post(http, recording_id="nix", labels=[label(0, "N")])
    assert (unknown.status_code, unknown.json()["type"]) == (404, "/problems/unknown-recording")


def test_a_stretch_names_the_index_of_its_first_beat(http: httpx.Client, recording_id: str) -> None:
    path = f"/api/v1/recordings/{recording_id}/beats"
    whole = http.get(path, params={"start_s": 0, "duration_s": 1000}).json()
    part = http.get(path, params={"start_s": 100, "duration_s": 20}).json()
    assert whole["first_beat"] == 0
    first = part["first_beat"]
    assert whole["time_s"][first : first + part["total"]] == part["time_s"]


def test_only_the_key_that_gave_feedback_withdraws_it_and_its_hash_is_noted(
    start_service: Callable[..., Any],
    toy_model: LoadedModel,
    make_request: RequestMaker,
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    for key in ("first", "second"):
        add_api_key(keys, key)
    service = start_service(api_keys_file=keys)
    try:
        service.runtime.live.use(toy_model)
        service.http.headers["X-API-Key"] = "first"
        name = service.predict(**make_request()).json()["prediction_id"]
        given = post(service.http, prediction_id=name, labels=[label(0, "V")]).json()
        path = f"/api/v1/feedback/{given['feedback_id']}"
        other = {"X-API-Key": "second"}
        assert service.http.delete(path, headers=other).status_code == 404
        shown = f"/api/v1/predictions/{name}/feedback"
        assert service.http.get(shown, headers=other).status_code == 404
        (noted,) = read_marks(service.http, "predictions", name).feedback
        found = find_api_key(b"first", read_api_keys(keys))
        assert found is not None
        assert (noted.owner, noted.is_withdrawn) == (found.owner, False)
        assert service.http.delete(path).status_code == 204
    finally:
        service.close()


def test_annotations_of_a_recording_are_imported_with_all_its_beats(
    http: httpx.Client, url: str, recording_id: str, tmp_path: Path
) -> None:
    stretch = {"start_s": 0, "duration_s": 1000}
    beats = http.get(f"/api/v1/recordings/{recording_id}/beats", params=stretch).json()
    samples = np.rint(np.array(beats["time_s"]) * 360).astype(np.int64)
    file = tmp_path / f"recording-{recording_id}.atr"
    file.write_bytes(encode_annotations(samples, np.full(len(samples), "V")))
    settings = Settings(home=tmp_path, service_port=int(url.rpartition(":")[2]))
    done = import_file(file, settings=settings)
    assert (done.subject, done.labels, done.missed, done.false) == (
        "recording",
        beats["total"],
        0,
        0,
    )
    assert read_marks(http, "recordings", recording_id).counts.ventricular_beats == beats["total"]


def test_the_queue_lists_what_has_no_label_and_says_why(
    start_service: Callable[..., Any], toy_model: LoadedModel, make_request: RequestMaker
) -> None:
    service = start_service(audit_share=1.0)
    try:
        service.runtime.live.use(toy_model)
        names = [service.predict(**make_request()).json()["prediction_id"] for _ in range(2)]
        post(service.http, prediction_id=names[0], is_complete=True)
        wait_until(lambda: not len(service.runtime.spool))
        found = ReviewQueue.model_validate_json(service.http.get("/api/v1/review-queue/").content)
        assert [(one.prediction_id, one.drawn_for_review) for one in found.predictions] == [
            (names[1], True)
        ]
        wrong = service.http.get("/api/v1/review-queue/", params={"limit": 201})
        assert wrong.status_code == 422
    finally:
        service.close()


def test_the_queue_is_for_keys_that_may_label_and_has_the_predictions_of_the_key_alone(
    start_service: Callable[..., Any],
    toy_model: LoadedModel,
    make_request: RequestMaker,
    tmp_path: Path,
) -> None:
    keys = tmp_path / "keys"
    add_api_key(keys, "first")
    add_api_key(keys, "second")
    add_api_key(keys, "predicts", scopes=[Scope.PREDICT])
    add_api_key(keys, "operates", scopes=[Scope.LABEL, Scope.OPERATE])
    service = start_service(api_keys_file=keys)
    try:
        service.runtime.live.use(toy_model)
        service.http.headers["X-API-Key"] = "first"
        name = service.predict(**make_request()).json()["prediction_id"]
        wait_until(lambda: not len(service.runtime.spool))

        def ask(key: str) -> httpx.Response:
            answered: httpx.Response = service.http.get(
                "/api/v1/review-queue/", headers={"X-API-Key": key}
            )
            return answered

        assert ask("predicts").status_code == 403
        queues = {key: ask(key).json()["predictions"] for key in ("first", "second", "operates")}
        assert {key: [one["prediction_id"] for one in queue] for key, queue in queues.items()} == {
            "first": [name],
            "second": [],
            "operates": [name],
        }
    finally:
        service.close()


@pytest.mark.parametrize(("number", "status"), [(2**31 - 1, 404), (2**31, 422), (2**63, 422)])
def test_numbers_of_marks_are_checked_before_the_prediction_is_looked_for(
    http: httpx.Client, number: int, status: int
) -> None:
    missed = {"missed_beats": [{"position_sample": number, "arrhythmia_type": "V"}]}
    false = {"false_detections": [{"beat_index": number}]}
    for fields in (missed, false, {"labels": [label(number, "V")]}):
        assert post(http, prediction_id="unknown", **fields).status_code == status
