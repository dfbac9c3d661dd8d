"""The commands: what they print, and how they fail."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from typer.testing import CliRunner, Result

from ecg_lib.errors import ConfigurationError, EcgError
from ecg_lib.operations.processes.helper_states import (
    HelperState,
    HelperStatus,
    write_helper_states,
)
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.doors.release_history import LedgerError
from flows.local.cli import app
from flows.local.commands.platform import login, prepare_home, show_prediction
from flows.local.flow_runs import FlowRunError
from flows.local.supervision.platform_status import state_path, states_path
from flows.local.supervision.process_state import ProcessRecord, State

NOBODY = "1"
"""A port that no server has: tcpmux."""


@pytest.fixture(autouse=True)
def _environment_and_umask_of_before() -> Iterator[None]:
    """Commands change the environment and the umask of their process."""
    variables, mask = dict(os.environ), os.umask(0o022)
    os.umask(mask)
    yield
    os.umask(mask)
    os.environ.clear()
    os.environ.update(variables)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that is not there yet, whose Prefect server does not run."""
    monkeypatch.setenv("ECG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ECG_PREFECT_PORT", NOBODY)
    return tmp_path / "home"


def _ecg(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def _run(home: Path) -> subprocess.CompletedProcess[str]:
    """Ask for a flow where no platform runs."""
    return subprocess.run(
        [sys.executable, "-c", "from flows.local.cli import main; main()", "run", "pipeline"],
        env={**os.environ, "ECG_HOME": str(home), "ECG_PREFECT_PORT": NOBODY},
        check=False,
        capture_output=True,
        text=True,
    )


def test_a_missing_home_is_made_for_this_user_alone(tmp_path: Path) -> None:
    done = _run(tmp_path / "a" / "b")
    assert done.returncode == 1
    assert done.stderr == (
        "error: Prefect must be running at http://127.0.0.1:1, it is not; `ecg up` starts it\n"
    )
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_home_that_cannot_be_made_is_an_error_of_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = _run(tmp_path / "file" / "home")
    assert done.returncode == 1
    assert done.stderr == (
        "error: ECG_HOME must be a directory that can be written, got Not a directory\n"
    )


def test_a_home_that_others_can_read_is_closed_to_them(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    prepare_home(Settings(home=home))
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    (home / "file").write_text("")
    assert stat.S_IMODE((home / "file").stat().st_mode) == 0o600


def test_a_home_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ConfigurationError, match="ECG_HOME must belong to this user"):
        prepare_home(Settings(home=tmp_path))


def test_a_home_that_is_a_link_of_another_user_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make a link of another user")
    ours, link = tmp_path / "documents", tmp_path / "home"
    ours.mkdir(mode=0o755)
    link.symlink_to(ours)
    prepare_home(Settings(home=link))
    ours.chmod(0o755)
    os.lchown(link, 65534, 65534)
    with pytest.raises(ConfigurationError, match="must not be a link of another user"):
        prepare_home(Settings(home=link))
    assert stat.S_IMODE(ours.stat().st_mode) == 0o755


@pytest.mark.parametrize(("mode", "is_refused"), [(0o777, True), (0o1777, False), (0o775, False)])
def test_a_home_that_every_user_can_replace_is_refused(
    tmp_path: Path, mode: int, *, is_refused: bool
) -> None:
    parent = tmp_path / "parent"
    (parent / "between").mkdir(parents=True)
    parent.chmod(mode)
    home = Settings(home=parent / "between" / "home")
    if not is_refused:
        prepare_home(home)
        return
    with pytest.raises(ConfigurationError, match=f"chmod o-w {parent}"):
        prepare_home(home)


@pytest.mark.parametrize("command", [("run", "pipeline"), ("reproduce",)])
def test_a_command_that_needs_the_platform_says_how_to_start_it(
    home: Path, command: tuple[str, ...]
) -> None:
    done = _ecg(*command)
    assert isinstance(done.exception, FlowRunError)
    assert str(done.exception).endswith("it is not; `ecg up` starts it")


def test_a_rollback_before_the_first_release_says_so(home: Path) -> None:
    done = _ecg("rollback")
    assert isinstance(done.exception, LedgerError)
    assert "nothing was released yet" in str(done.exception)


def test_a_parameter_without_a_value_is_refused(home: Path) -> None:
    done = _ecg("run", "monitor-drift", "-p", "window")
    assert done.exit_code == 2
    assert "a parameter must be name=value, got 'window'" in done.stderr


def test_nothing_is_shown_to_run_where_nothing_runs(home: Path) -> None:
    assert _ecg("status").stdout == "nothing is running\nnothing is released\n"
    assert _ecg("down").stdout == "nothing is running\n"
    assert _ecg("releases").stdout == "nothing was released yet\n"


def test_status_shows_restarts_and_names_what_is_degraded(home: Path) -> None:
    settings = Settings(home=home)
    me = psutil.Process()
    names = ("supervisor", "prefect-server", "mlflow-server", "worker")
    records = [
        ProcessRecord(name=name, pid=me.pid, created_at=me.create_time(), address=f"at {name}")
        for name in names
    ]
    gone = ProcessRecord(name="service", pid=me.pid, created_at=1.0)
    State(mark="m", supervisor=records[0], children=(*records[1:], gone)).write(
        state_path(settings)
    )
    write_helper_states(
        states_path(settings),
        {
            "prefect-server": HelperState(status=HelperStatus.RUNNING, restarts=2),
            "mlflow-server": HelperState(status=HelperStatus.WAITING, restarts=7),
            "worker": HelperState(status=HelperStatus.RUNNING),
        },
    )
    lines = _ecg("status").stdout.splitlines()
    shown = {line.split()[0]: line for line in lines[:5]}
    assert shown["prefect-server"].split()[1] == "running"
    assert shown["prefect-server"].endswith("at prefect-server  restarted 2 times")
    assert shown["mlflow-server"].split()[1] == "waiting"
    assert shown["worker"].endswith("at worker")
    assert shown["service"].split()[1] == "ended"
    assert lines[5:] == ["degraded: mlflow-server, service", "nothing is released"]


def test_login_writes_the_page_and_prints_no_secret_into_a_pipe(home: Path) -> None:
    done = _ecg("login")
    assert done.exit_code == 0
    assert done.stdout == f"open in a browser: {(home / 'sign-in.html').as_uri()}\n"
    secret = (home / "secrets" / "prefect").read_text()
    assert secret in (home / "sign-in.html").read_text()


def test_login_prints_the_links_on_a_terminal(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    login()
    shown = capsys.readouterr().out.splitlines()
    secret = (home / "secrets" / "mlflow").read_text()
    assert [line.split()[0] for line in shown] == ["open", "Prefect", "MLflow"]
    assert shown[2].endswith(f"/ecg-sign-in#ecg:{secret}")


def test_a_key_is_added_to_the_file_as_a_hash_and_shown_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = tmp_path / "keys"
    monkeypatch.setenv("ECG_API_KEYS_FILE", str(keys))
    key = _ecg("api-key", "ward 3").stdout.strip()
    assert len(key) == 43
    assert key not in keys.read_text()
    assert keys.read_text().endswith("  # ward 3\n")


@pytest.mark.parametrize("place", ["home", "elsewhere"])
def test_the_directory_of_the_first_key_is_closed_to_other_users(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    os.umask(0)
    monkeypatch.setenv("ECG_API_KEYS_FILE", str(tmp_path / place / "keys" / "service"))
    assert _ecg("api-key").exit_code == 0
    for made in (tmp_path / place, tmp_path / place / "keys"):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_a_key_without_a_file_is_shown_with_its_line(home: Path) -> None:
    lines = _ecg("api-key", "ward 3").stdout.splitlines()
    assert lines[0].startswith("ECG_API_KEYS_FILE is not set")
    assert lines[1].endswith("  # ward 3")
    assert len(lines[3]) == 43


@pytest.fixture
def strip(tmp_path: Path) -> Path:
    path = tmp_path / "strip.npy"
    np.save(path, simulate_strip(StripKind.RUN, seed=5).signal_mv())
    return path


def test_beats_of_a_file_are_classified_by_the_model_that_ships(home: Path, strip: Path) -> None:
    done = _ecg("predict", str(strip), "--fs", "360", "--json")
    assert done.exit_code == 0, done.output
    classes = {beat["arrhythmia_type"] for beat in json.loads(done.stdout)}
    assert "V" in classes
    assert "V" in _ecg("predict", str(strip), "--fs", "360").stdout


def test_a_file_that_cannot_be_read_is_an_error(home: Path, tmp_path: Path) -> None:
    (tmp_path / "text.edf").write_text("no EDF")
    done = _ecg("predict", str(tmp_path / "text.edf"))
    assert isinstance(done.exception, EcgError)


def test_records_are_annotated_and_a_broken_one_is_named(home: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.hea").write_text("broken")
    done = _ecg("annotate", str(tmp_path / "broken"), "--output-dir", str(tmp_path / "out"))
    assert done.exit_code == 1
    assert f"{tmp_path / 'broken'}: " in done.stderr
    assert done.stderr.endswith("1 of 1 records failed\n")


def test_a_file_is_analysed_and_an_unknown_format_is_refused(
    home: Path, strip: Path, tmp_path: Path
) -> None:
    out = ("--output-dir", str(tmp_path / "out"), "--fs", "360", "--unit", "mV")
    done = _ecg("analyze", str(strip), *out, "--format", "json")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("strip: lead ")
    assert (tmp_path / "out" / "strip.json").exists()
    assert _ecg("analyze", str(strip), *out, "--format", "docx").exit_code == 2


def test_unknown_traffic_is_refused(home: Path) -> None:
    assert _ecg("traffic", "heavy").exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "left_out"),
    [
        (("--part", "svdb", "--quick"), "--part"),
        (("--part", "ds2"), "--part"),
        (("--reason", "x"), "--reason"),
        (("--part", "svdb", "--reason", "x"), "--part, --reason"),
        (("--final", "--reason", "x", "--quick"), "--quick"),
        (("--annotations", "atr"), "--annotations"),
        (("--subjects", "x.csv"), "--subjects"),
        (("--final", "--reason", "x", "--lead", "V1"), "--lead"),
        (("--quick", "--output", "x.html"), "--output"),
        (("--database", ".", "--quick"), "--quick"),
        (("--database", ".", "--final"), "--final"),
        (("--database", ".", "--part", "svdb", "--reason", "x"), "--part, --reason"),
    ],
)
def test_an_option_of_evaluate_that_would_be_passed_over_is_refused(
    home: Path, arguments: tuple[str, ...], left_out: str
) -> None:
    done = _ecg("evaluate", *arguments)
    assert done.exit_code == 2
    assert f"leave out {left_out}" in _plain(done.output)


def test_a_rollback_to_two_releases_is_refused(home: Path) -> None:
    done = _ecg("rollback", "1", "--to", "2")
    assert done.exit_code == 2
    assert "name one release, got '1' and --to 2" in _plain(done.output)


def test_a_doctor_that_changes_nothing_signs_nothing(home: Path) -> None:
    done = _ecg("doctor", "--dry-run", "--sign", "1")
    assert done.exit_code == 2
    assert "leave out --dry-run" in _plain(done.output)
    assert not home.exists()


def _plain(output: str) -> str:
    """Take an error out of its frame and put it on one line."""
    return " ".join(re.sub(r"[│╭╮╰╯─]|\x1b\[[0-9;]*m", " ", output).split())


def test_ds2_is_not_opened_without_a_reason(home: Path) -> None:
    done = _ecg("evaluate", "--final")
    assert isinstance(done.exception, EcgError)
    assert not home.joinpath("reports").exists()


def test_a_demo_that_is_not_answered_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_prediction(Settings(home=tmp_path, service_port=int(NOBODY)))
    shown = capsys.readouterr().out
    assert "prediction for a simulated strip:\n  none: the service must answer at" in shown


def test_the_lineage_of_the_shipped_model_is_printed_and_a_strange_name_is_an_error(
    home: Path,
) -> None:
    shown = _ecg("lineage", "shipped")
    assert shown.exit_code == 0, shown.output
    assert "dataset      30b61b290fea9e5c, 62 development records" in shown.output
    assert "5ba7d2237fc838438efd8bb0a3baeffc5de2e70c76e3ab7e401e811ad82f43e0" in shown.output
    document = json.loads(_ecg("lineage", "203", "--json").output)
    assert document["record"]["models"][0]["use"].startswith("trained on it")
    assert "got 'nothing'" in str(_ecg("lineage", "nothing").exception)
    assert not (home / "mlflow" / "mlflow.db").exists()
    assert not (home / "monitoring.db").exists()


@pytest.mark.parametrize(
    ("command", "code"),
    [(("releases",), 0), (("lineage", "shipped"), 0), (("down",), 1)],
)
def test_a_command_that_only_prints_ends_well_when_nobody_reads_on(
    home: Path, command: tuple[str, ...], code: int
) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `head` has when it has its lines
    try:
        done = subprocess.run(
            [sys.executable, "-c", "from flows.local.cli import main; main()", *command],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=os.environ | {"ECG_HOME": str(home)},
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (code, "")
