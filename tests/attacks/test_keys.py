"""Keys of the API: scopes, ownership, and files without a key."""

from __future__ import annotations

from typing import Any

import pytest

ALLOWED = {
    "predictor": {"predict"},
    "labeller": {"label"},
    "operator": {"read", "operate"},
    "monitor": {"metrics"},
    "alice": {"predict", "label", "read"},
    "all": {"predict", "label", "read", "operate", "metrics"},
}
REQUESTS = {
    ("GET", "/api/v1/model/"): {"predict", "read"},
    ("GET", "/api/v1/examples/normal"): {"predict", "read"},
    ("GET", "/api/v1/predictions/none"): {"predict", "read"},
    ("GET", "/api/v1/recordings/none"): {"predict", "read"},
    ("DELETE", "/api/v1/recordings/none"): {"predict", "read"},
    ("POST", "/api/v1/feedback/"): {"label"},
    ("POST", "/api/v1/feedback"): {"label"},
    ("GET", "/metrics"): {"metrics"},
    ("GET", "/api/v1/ops/"): {"operate"},
    ("GET", "/api/v1/ops"): {"operate"},
    ("GET", "/ops/drift/none"): {"operate"},
    ("GET", "/ops/evaluation/none"): {"operate"},
    ("GET", "/api/v1/review-queue/"): {"label"},
}


@pytest.mark.parametrize("key", ALLOWED)
@pytest.mark.parametrize("request_", REQUESTS, ids=" ".join)
def test_a_key_does_what_its_scopes_say(keyed: Any, key: str, request_: tuple[str, str]) -> None:  # noqa: ANN401  of a conftest
    answered = keyed.ask(*request_, key)
    if ALLOWED[key] & REQUESTS[request_]:
        assert answered.status_code not in {401, 403}
    else:
        assert (answered.status_code, answered.json()["type"]) == (403, "/problems/missing-scope")


@pytest.mark.parametrize("key", ["labeller", "monitor", "operator"])
@pytest.mark.parametrize(
    "path", ["/api/v1/predictions/", "/api/v1/recordings/", "/api/v1/signals/"]
)
def test_a_key_without_the_scope_sends_no_signal(
    keyed: Any,  # noqa: ANN401  of a conftest
    strip: dict[str, Any],
    key: str,
    path: str,
) -> None:
    assert keyed.ask("POST", path, key, json=strip).status_code == 403


WRONG = ["", "wrong", "alice ", "ALICE", "alice\x00", "alice,bob", "*", "' OR 1=1", "a" * 5000]


@pytest.mark.parametrize("key", WRONG)
@pytest.mark.parametrize("path", ["/api/v1/model/", "/metrics"])
def test_a_wrong_key_is_rejected(keyed: Any, key: str, path: str) -> None:  # noqa: ANN401  of a conftest
    got = keyed.send(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"X-API-Key: {key}x\r\n\r\n".encode()
    )
    assert got[:12] in {b"HTTP/1.1 401", b"HTTP/1.1 400"}


def test_the_hash_and_the_owner_of_a_key_are_rejected_as_keys(keyed: Any) -> None:  # noqa: ANN401  of a conftest
    for key in keyed.runtime.api_keys:
        assert keyed.ask("GET", "/api/v1/model/", key.hash).status_code == 401
        assert keyed.ask("GET", "/api/v1/model/", key.owner).status_code == 401


@pytest.fixture
def prediction_id(keyed: Any, strip: dict[str, Any]) -> str:  # noqa: ANN401  of a conftest
    answered = keyed.ask("POST", "/api/v1/predictions/", "alice", json=strip)
    found: str = answered.json()["prediction_id"]
    return found


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize(
    ("key", "status"),
    [("alice", 200), ("bob", 404), ("predictor", 404), ("operator", 200), ("all", 200)],
)
def test_a_prediction_is_read_by_the_key_that_made_it(
    keyed: Any,  # noqa: ANN401  of a conftest
    prediction_id: str,
    key: str,
    status: int,
    *,
    is_stored: bool,
) -> None:
    if is_stored:
        keyed.runtime.spool.drain()
    answered = keyed.ask("GET", f"/api/v1/predictions/{prediction_id}", key)
    assert answered.status_code == status
    if status == 404:
        unknown = keyed.ask("GET", "/api/v1/predictions/none", key)
        assert answered.json() == unknown.json()


@pytest.mark.parametrize(
    ("key", "status"), [("alice", 201), ("bob", 404), ("labeller", 404), ("all", 201)]
)
def test_labels_are_of_the_key_that_made_the_prediction(
    keyed: Any,  # noqa: ANN401  of a conftest
    prediction_id: str,
    key: str,
    status: int,
) -> None:
    labels = [{"beat_index": 0, "arrhythmia_type": "N"}]
    body = {"prediction_id": prediction_id, "labels": labels}
    assert keyed.ask("POST", "/api/v1/feedback/", key, json=body).status_code == status


@pytest.mark.parametrize("part", ["", "/result", "/signal", "/beats"])
@pytest.mark.parametrize("key", ["bob", "predictor"])
def test_a_recording_is_of_the_key_that_sent_it(keyed: Any, part: str, key: str) -> None:  # noqa: ANN401  of a conftest
    rows = "".join(f"{n % 7 / 10}\n" for n in range(3000))
    sent = keyed.ask(
        "POST", "/api/v1/recordings/", "alice",
        files={"files": ("r.csv", f"MLII\n{rows}")}, data={"sampling_rate": "250"},
    )  # fmt: skip
    assert sent.status_code == 202, sent.text
    path = sent.headers["location"]
    assert keyed.ask("GET", f"{path}{part}", key).status_code == 404
    assert keyed.ask("DELETE", path, key).status_code == 404
    assert keyed.ask("GET", path, "alice").status_code == 200
    assert keyed.ask("GET", path, "operator").status_code == 200
    assert keyed.ask("DELETE", path, "alice").status_code in {202, 204}


@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_a_key_health_tells_no_commit_run_or_bundle(keyed: Any, key: str | None) -> None:  # noqa: ANN401  of a conftest
    health = keyed.ask("GET", "/health", key).json()
    assert health["model"] is None
    assert health["refused"] is None
    assert health["model_loaded"] is True
    assert keyed.runtime.live.current.bundle.hash not in str(health)


@pytest.mark.parametrize("key", ["alice", "operator", "monitor"])
def test_with_a_key_health_names_the_model(keyed: Any, key: str) -> None:  # noqa: ANN401  of a conftest
    assert keyed.ask("GET", "/health", key).json()["model"]["bento_tag"] == "ecg:toy"
