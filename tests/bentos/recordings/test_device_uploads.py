"""Uploads of what devices export: what is kept of them, and that it says the same."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from bentos.recordings.uploads import lay_out
from bentos.wire.problems import UNREADABLE_FILE, ProblemError
from ecg_lib.records.files.lead import choose_lead
from ecg_lib.records.files.opening import open_recording
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip

SUFFIXES = {
    "dicom": ".dcm",
    "ishne": ".ecg",
    "scp": ".scp",
    "aecg": ".aecg",
    "muse": ".xml",
    "philips": ".xml",
    "atc": ".atc",
}


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "benchmarks"))
    return importlib.import_module("device_writers")


@pytest.mark.parametrize("kind", SUFFIXES)
def test_of_an_export_only_samples_and_leads_are_kept(
    kind: str, writers: ModuleType, tmp_path: Path
) -> None:
    strip = simulate_strip(StripKind.RUN, seed=2, duration_s=12.0, fs=250.0)
    two, one = np.rint(strip.signals_mv.T * 200).astype(np.int64)
    content: bytes = getattr(writers, f"write_{kind}")({"I": one, "II": two}, fs=250)
    assert writers.PERSON.encode() in content
    upload = tmp_path / f"upload0{SUFFIXES[kind]}"
    upload.write_bytes(content)
    expected = open_recording(upload)
    samples = np.concatenate(list(expected.blocks(choose_lead(expected.leads, "II"))))

    laid_out = lay_out({"lead": "II"}, {"Mustermann.x": upload}, tmp_path)

    assert (laid_out.kind, laid_out.lead.name) == (kind, "II")
    assert laid_out.leads[:2] == ("I", "II")
    assert not upload.exists()
    assert all(writers.PERSON.encode() not in path.read_bytes() for path in tmp_path.iterdir())
    opened = open_recording(laid_out.path)
    assert opened.leads == expected.leads
    assert opened.start_clock_s == 13 * 3600 + 45 * 60 + 1
    read = np.concatenate(list(opened.blocks(laid_out.lead)))
    np.testing.assert_allclose(read, samples, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("suffix", [".dcm", ".ecg", ".scp", ".xml"])
def test_an_export_that_cannot_be_read_is_a_problem(suffix: str, tmp_path: Path) -> None:
    upload = tmp_path / f"upload0{suffix}"
    upload.write_bytes(b"<RestingECG>" + b" " * 2000)
    with pytest.raises(ProblemError) as caught:
        lay_out({}, {"r": upload}, tmp_path)
    assert caught.value.kind is UNREADABLE_FILE
