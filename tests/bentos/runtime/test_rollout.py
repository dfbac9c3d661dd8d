"""A candidate beside the served release, with a real host, real workers and real releases."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.learning.rollout.candidate import Bounds, Plan, Stage
from ecg_lib.operations.learning.rollout.comparison_log import Compared, read_compared
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.releases import NOT_SERVING, Release, bento_source, hash_code
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.doors.ledger import read_ledger
from flows.release.rollout.look import Verdict, look_at_candidate
from flows.release.rollout.steps import start_rollout
from flows.release.transaction import TransactionError, release_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[3]
PEOPLE = [f"person {number}" for number in range(24)]


def plan(*shares: float) -> Plan:
    stages = [Stage(share=share, min_hours=0, min_strips=10, min_groups=4) for share in shares]
    return Plan(stages=tuple(stages), bounds=Bounds(false_return_chance=0.05))


@dataclass
class Platform:
    """A home with releases of one code, and the service on it."""

    settings: Settings
    url: str
    bundles: dict[str, Bundle]
    code_hash: str
    log: PredictionLog
    strips: dict[str, dict[str, Any]] = field(default_factory=dict)

    def make_release(self, name: str) -> Release:
        return Release(
            bento_tag=f"ecg:{name}",
            model_tag=f"ecg_bundle:{name}",
            bundle_hash=self.bundles[name].hash,
            code_hash=self.code_hash,
            model_version=name,
            released_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )

    def send(self) -> dict[str, str]:
        """Send a strip of each person; return the bento that answered."""
        answered = {}
        with httpx.Client(base_url=self.url, timeout=30) as client:
            for number, person in enumerate(PEOPLE):
                if person not in self.strips:
                    signal = simulate_strip(StripKind.ISOLATED_PVC, seed=number, fs=360.0)
                    self.strips[person] = {
                        "signal_data": signal.signal_mv().round(4).tolist(),
                        "sampling_rate": 360.0,
                        "patient_id": person,
                    }
                answer = client.post("/api/v1/predictions/", json=self.strips[person])
                assert answer.status_code == 201, answer.text
                answered[person] = answer.json()["model"]["bento_tag"]
        return answered

    def metric(self, name: str) -> float:
        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics").text)
        return max(
            sample.value for family in families for sample in family.samples if sample.name == name
        )

    def wait(self, is_there: Callable[[], object], what: str) -> None:
        deadline_s = time.monotonic() + 600  # candidates have a low priority
        while not is_there():
            assert time.monotonic() < deadline_s, f"{what} within ten minutes"
            time.sleep(0.1)

    def wait_for_stage(self, stage: int) -> None:
        """Wait until all workers are in a stage."""
        self.wait(lambda: self.metric("ecg_rollout_stage") == stage, f"stage {stage}")

    def compare(self, candidate_id: str) -> Compared:
        """Send strips until those of all people are compared; a worker may load it later."""
        answered: set[str] = set()

        def is_compared() -> bool:
            answered.update(self.send().values())
            return len(read_compared(self.log, candidate_id).groups) == len(PEOPLE)

        self.wait(is_compared, "comparisons of all people")
        assert answered == {"ecg:one"}
        return read_compared(self.log, candidate_id)

    def look(self) -> Any:  # noqa: ANN401  a Look
        return look_at_candidate(self.settings, self.log, now=datetime.now(UTC))

    def wait_for_look(self, verdict: Verdict) -> None:
        """Send strips until a look at the candidate has a verdict."""
        deadline_s = time.monotonic() + 600  # candidates have a low priority
        while (look := self.look()).verdict is not verdict:
            assert look.verdict is Verdict.WAITS, look
            assert time.monotonic() < deadline_s, look
            self.send()


@pytest.fixture
def platform(make_toy_bundle: Callable[..., Bundle], tmp_path: Path) -> Iterator[Platform]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    settings = Settings(home=tmp_path / "home", service_port=port)
    # With the threshold of the bad one most beats are V.
    thresholds = {"one": 0.5, "good": 0.4, "bad": 0.002}
    bundles = {name: make_toy_bundle(name, threshold=value) for name, value in thresholds.items()}
    for name, bundle in bundles.items():
        source = settings.bentoml_home / "bentos" / "ecg" / name / "src"
        for package in ("bentos", "ecg_lib"):
            shutil.copytree(
                ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__")
            )
        for folder in NOT_SERVING:
            shutil.rmtree(source / folder)
        stored = settings.bentoml_home / "models" / "ecg_bundle" / name / "bundle"
        shutil.copytree(bundle.directory, stored)
    log = PredictionLog(settings.monitoring_database_url)
    log.create_tables()
    built = Platform(settings, f"http://127.0.0.1:{port}", bundles, hash_code(source), log)
    release_model(settings, built.make_release("one"), why="the first")
    output_path = tmp_path / "service.log"
    with output_path.open("wb") as output:
        host = subprocess.Popen(
            [sys.executable, "-P", "-m", "bentos.host"],
            cwd=tmp_path,
            env={
                "PATH": "/usr/bin:/bin",
                "ECG_HOME": str(settings.home),
                "ECG_SERVICE_PORT": str(port),
                "ECG_SERVICE_WORKERS": "2",
                "PYTHONPATH": str(bento_source(settings.bentoml_home, built.make_release("one"))),
            },
            stdout=output,
            stderr=output,
        )
        try:

            def answers() -> bool:
                try:
                    return bool(httpx.get(f"{built.url}/health").json()["model_loaded"])
                except httpx.TransportError:
                    return False

            built.wait(answers, "the service answers")
            yield built
        except BaseException:
            sys.stderr.write(output_path.read_text())
            raise
        finally:
            host.terminate()
            host.wait(20)
            log.close()


def test_a_bad_candidate_is_taken_back_in_shadow_and_a_good_one_goes_all_the_way(
    platform: Platform,
) -> None:
    bad = platform.make_release("bad")
    tried = start_rollout(platform.settings, bad, plan=plan(0.0, 0.3), why="a bad one")
    platform.wait_for_stage(0)
    # Shadow: the champion answers everybody, and the candidate is asked afterwards.
    compared = platform.compare(tried.id)
    assert compared.beats["NV"] > 10 * compared.beats["VN"]
    look = platform.look()
    assert look.verdict is Verdict.TAKEN_BACK
    assert "share of V, rise" in look.reasons[0]
    with pytest.raises(TransactionError, match="taken back"):
        start_rollout(platform.settings, bad, plan=plan(0.0), why="again")

    good = platform.make_release("good")
    tried = start_rollout(platform.settings, good, plan=plan(0.0, 0.3, 0.6), why="a good one")
    platform.wait_for_stage(0)
    platform.compare(tried.id)
    assert platform.look().verdict is Verdict.ADVANCED
    platform.wait_for_stage(1)
    first = platform.send()
    chosen = {person for person, tag in first.items() if tag == "ecg:good"}
    assert 0 < len(chosen) < len(PEOPLE)
    assert platform.send() == first  # one person, one model
    # A busy service drops comparisons: strips are sent until enough were compared.
    platform.wait_for_look(Verdict.ADVANCED)
    platform.wait_for_stage(2)
    second = platform.send()
    assert chosen < {person for person, tag in second.items() if tag == "ecg:good"}
    platform.wait_for_look(Verdict.RELEASED)
    assert set(platform.send().values()) == {"ecg:good"}
    kinds = [entry.event.kind.value for entry in read_ledger(platform.settings.ledger_dir).entries]
    assert kinds[::-1] == [
        *("release", "candidate", "taken back"),
        *("candidate", "stage", "stage", "release"),
    ]
