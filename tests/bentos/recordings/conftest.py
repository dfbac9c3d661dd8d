"""A recording of two minutes, as files and as the service read it."""

from __future__ import annotations

from typing import Any

import pytest

from ecg_lib.records.record import Record, write_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from tests.bentos.recordings.sending import NAME, RECORDINGS, send, wait_until


@pytest.fixture(scope="module")
def record() -> Record:
    patient = draw_patient(1)
    return simulate_record("r", patient=patient, duration_s=120.0, seed=4)


@pytest.fixture(scope="module")
def wfdb_files(record: Record, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    directory = tmp_path_factory.mktemp("wfdb")
    write_wfdb(record, directory)
    header = directory / "r.hea"
    header.write_text(header.read_text() + f"# {NAME}, 1 January 1950\n")
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def done(
    service: Any,  # noqa: ANN401  the conftest's class cannot be imported
    wfdb_files: dict[str, bytes],
) -> dict[str, Any]:
    """A recording that was sent as a WFDB record and analysed."""
    answered = send(service.http, wfdb_files)
    assert answered.status_code == 202, answered.text
    job = answered.json()
    assert answered.headers["location"] == f"{RECORDINGS}{job['job_id']}"
    assert (job["status"], job["progress"]) == ("queued", 0.0)
    return wait_until(service.http, job["job_id"])
