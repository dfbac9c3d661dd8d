"""What README says to type is typed: its curl commands and its Python, against a real service."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from ecg_lib.operations.settings import Settings
from ecg_lib.records.record import write_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:3000"

# An error of the service is an error of the command.
PROLOGUE = """
set -euo pipefail
curl() { command curl --noproxy '*' --fail-with-body --max-time 60 "$@"; }
"""


def find_blocks(section: str, language: str) -> list[str]:
    found = re.search(rf"^## {section}\n(.*?)(?=^## )", README, re.MULTILINE | re.DOTALL)
    assert found is not None, f"README must have a section {section}"
    return re.findall(rf"^```{language}\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL)


def run(command: list[str], directory: Path) -> str:
    done = subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_commands_of_readme_do_what_it_says(url: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl and bash are not installed")
    record = simulate_record("r", patient=draw_patient(1), duration_s=12.0, seed=4)
    write_wfdb(record, tmp_path)
    blocks = [
        block
        for section in ("Ask for a prediction", "Analyse a long recording")
        for block in find_blocks(section, "sh")
        if ADDRESS in block or "$JOB" in block
    ]
    assert len(blocks) == 5
    script = PROLOGUE + "\n".join(blocks).replace(ADDRESS, url)
    written = run(["bash", "-c", script], tmp_path)

    answer = json.loads((tmp_path / "answer.json").read_text())
    assert answer["ventricular_beats"] >= 1
    # The three encodings of one strip, the answer read again, and feedback.
    assert written.count('"overall_arrhythmia_type":"V"') == 3
    assert written.count(answer["prediction_id"]) == 2
    assert '"verified":true' in written

    result = json.loads((tmp_path / "result.json").read_text())
    assert result["ventricular_beats"] == answer["ventricular_beats"]
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert len(np.frombuffer((tmp_path / "stretch.f32").read_bytes(), "<f4")) == 500
    job = json.loads((tmp_path / "job.json").read_text())
    assert httpx.get(f"{url}/api/v1/recordings/{job['job_id']}").status_code == 404


def test_the_python_of_readme_runs(url: str, tmp_path: Path) -> None:
    (block,) = find_blocks("Ask for a prediction", "python")
    lines = run([sys.executable, "-c", block.replace(ADDRESS, url)], tmp_path).splitlines()
    assert lines
    for line in lines:
        position, probability_v = line.split()
        assert int(position) > 0
        assert float(probability_v) > 0.5


def test_the_settings_of_readme_exist() -> None:
    variables = set(re.findall(r"`(ECG_[A-Z_]+)", README)) | set(
        re.findall(r"\b(ECG_[A-Z_]+)=", README)
    )
    known = {f"ECG_{name.upper()}" for name in Settings.model_fields}
    assert variables - known == set()
