from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import pytest

from bentos import VERSION
from bentos import host as bentos_host
from bentos.host import check_monitoring_url, open_shared_directory
from ecg_lib.errors import ConfigurationError
from ecg_lib.operations.keys.api_keys import (
    add_api_key,
    find_api_key,
    make_api_key,
    read_api_keys,
    read_keys_file,
)
from ecg_lib.operations.keys.patient_key import hash_patient, read_patient_key
from ecg_lib.operations.processes.service_socket import open_listener
from ecg_lib.operations.settings import Settings

ROOT = Path(__file__).parents[3]
LETMEIN = "1c8bfe8f801d79745c4631d09fff36c82aa37fc4cce4fc946683d7b336b63032"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def test_the_version_is_that_of_the_project() -> None:
    assert f'\nversion = "{VERSION}"\n' in (ROOT / "pyproject.toml").read_text()


def test_serving_imports_no_training_or_orchestration_library() -> None:
    code = (
        "import sys, bentos.service, bentos.worker\n"
        "heavy = {'tensorflow', 'keras', 'mlflow', 'prefect', 'optuna', 'evidently', 'sklearn',"
        " 'pandas', 'scipy', 'flows'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_worker_of_the_host_loads_nothing_of_bentoml() -> None:
    code = (
        "import sys, bentos.worker\n"
        "print(sorted({'bentoml', '_bentoml_sdk', '_bentoml_impl'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_host_stays_small() -> None:
    code = (
        "import sys, bentos.host; print(sorted({'bentoml', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_processes_that_start_together_make_one_patient_key(tmp_path: Path) -> None:
    path = tmp_path / "new" / "patient.key"
    with ThreadPoolExecutor(8) as executor:
        keys = set(executor.map(lambda _: read_patient_key(path), range(32)))
    assert len(keys) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in path.parent.iterdir()] == ["patient.key"]


def test_a_patient_hash_depends_on_patient_and_key() -> None:
    hashes = {hash_patient(who, key=key) for who in ("a", "b") for key in (b"k" * 32, b"l" * 32)}
    assert len(hashes) == 4
    assert {len(text) for text in hashes} == {64}


def test_a_short_patient_key_is_refused_without_being_shown(tmp_path: Path) -> None:
    path = tmp_path / "patient.key"
    path.write_text("hunter2")
    with pytest.raises(ConfigurationError, match="at least 16 bytes, got 7") as caught:
        read_patient_key(path)
    assert "hunter2" not in str(caught.value)


def test_api_keys_are_read_from_hashes_and_compared(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\n{'0' * 64}\n{LETMEIN}  # reader\n")
    hashes = read_api_keys(path)
    assert find_api_key(b"letmein", hashes) is hashes[1]
    assert find_api_key(b"letmeout", hashes) is None
    assert find_api_key(None, hashes) is None


def test_a_key_that_is_made_is_accepted_and_its_file_does_not_have_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "keys"
    keys = [make_api_key() for _ in range(3)]
    for key in keys:
        add_api_key(path, key, name="reader 1")
    hashes = read_api_keys(path)
    assert [find_api_key(key.encode(), hashes) for key in keys] == list(hashes)
    assert find_api_key(make_api_key().encode(), hashes) is None
    assert len(set(keys)) == 3
    assert min(map(len, keys)) >= 43
    assert path.stat().st_mode & 0o777 == 0o600
    assert not any(key in path.read_text() for key in keys)


def test_a_key_is_added_to_a_file_without_an_end_of_line(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(LETMEIN)
    add_api_key(path, "other")
    assert len(read_api_keys(path)) == 2


@pytest.mark.parametrize("name", ["two\nlines", "a # b", "x" * 81])
def test_a_name_that_cannot_be_a_comment_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="the name of a key must be one line"):
        add_api_key(tmp_path / "keys", "key", name=name)


def test_the_command_line_makes_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import flows.local.cli; flows.local.cli.main()",
            "api-key",
            "reader 1",
        ],
        cwd=ROOT,
        env={**os.environ, "ECG_API_KEYS_FILE": str(path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert find_api_key(done.stdout.strip().encode(), read_api_keys(path)) is not None
    assert path.read_text().endswith("  # reader 1\n")


@pytest.mark.parametrize("text", [None, "", "# nothing\n", "\n\n", f"# {LETMEIN}\n"])
def test_a_missing_or_empty_file_accepts_no_key(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "keys"
    if text is not None:
        path.write_text(text)
    assert read_api_keys(path) == ()


@pytest.mark.parametrize(("mode", "is_refused"), [(0o602, True), (0o666, True), (0o664, False)])
def test_a_file_to_which_every_user_can_add_a_key_accepts_none(
    tmp_path: Path, mode: int, *, is_refused: bool
) -> None:
    path = tmp_path / "keys"
    add_api_key(path, "key")
    path.chmod(mode)
    assert read_keys_file(path).keys == (() if is_refused else read_api_keys(path))
    if is_refused:
        with pytest.raises(ConfigurationError, match="must not be writable by all users, chmod"):
            read_api_keys(path)


@pytest.mark.parametrize(
    ("mode", "owner", "is_refused"),
    [
        (0o777, 0, True),
        (0o1777, 0, False),
        (0o1777, 65534, True),
        (0o775, 0, False),
    ],
)
@pytest.mark.parametrize("above", ["keys", "keys/of/the/ward"])
def test_a_file_that_every_user_can_replace_accepts_no_key(
    tmp_path: Path, above: str, mode: int, owner: int, *, is_refused: bool
) -> None:
    if owner and os.geteuid():
        pytest.skip("only root gives a file to another user")
    place = tmp_path / "place"
    path = place / above / "service"
    add_api_key(path, "key")
    place.chmod(mode)
    if owner:
        os.chown(place / "keys", owner, owner)
    assert read_keys_file(path).keys == (() if is_refused else read_api_keys(path))
    if is_refused:
        with pytest.raises(ConfigurationError, match="must not be replaceable by other users"):
            read_api_keys(path)


def test_a_link_that_every_user_can_replace_accepts_no_key(tmp_path: Path) -> None:
    path, link = tmp_path / "own" / "keys", tmp_path / "open" / "link"
    add_api_key(path, "key")
    link.parent.mkdir()
    link.symlink_to(path)
    assert len(read_api_keys(link)) == 1
    link.parent.chmod(0o777)
    assert read_keys_file(link).keys == ()
    assert len(read_api_keys(path)) == 1


def test_the_directories_of_hosts_that_were_killed_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "from bentos.host import open_shared_directory\n"
        "with open_shared_directory() as shared:\n"
        "    print(shared.path, flush=True)\n"
        "    input()\n"
    )
    made = []
    started = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        made.append(Path(process.stdout.readline().strip()))
        started.append(process)
    started[0].kill()
    started[0].wait()
    (tmp_path / "ecg-workers-being-made").mkdir()
    with open_shared_directory() as shared:
        assert not made[0].exists()
        assert made[1].is_dir()
        assert (tmp_path / "ecg-workers-being-made").is_dir()
    assert not shared.path.exists()
    started[1].communicate("\n", timeout=30)
    assert not made[1].exists()
    for process in started:
        process.__exit__(None, None, None)


@pytest.mark.parametrize(
    "text",
    ["letmein\n", f"{LETMEIN}\nplain\n", f"{LETMEIN} admin\n", f"{LETMEIN} predict,\n",
     f"{LETMEIN} predict label\n", f"{LETMEIN}{LETMEIN}\n"],
)  # fmt: skip
def test_a_file_with_other_lines_is_rejected_without_being_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="must hold SHA-256 hashes") as caught:
        read_api_keys(path)
    assert "letmein" not in str(caught.value)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])  # noqa: S104  the point
@pytest.mark.parametrize(
    ("is_keyed", "limit", "missing"),
    [
        (False, 0, "ECG_API_KEYS_FILE and ECG_RATE_LIMIT_PER_MIN are not set"),
        (True, 0, "ECG_RATE_LIMIT_PER_MIN is not set"),
        (False, 60, "ECG_API_KEYS_FILE is not set"),
    ],
)
def test_a_public_address_without_keys_and_a_limit_is_refused(
    tmp_path: Path,
    host: str,
    is_keyed: bool,  # noqa: FBT001  a parameter of the test
    limit: int,
    missing: str,
) -> None:
    settings = Settings(
        service_host=host,
        service_port=free_port(),
        api_keys_file=tmp_path / "keys" if is_keyed else None,
        rate_limit_per_min=limit,
    )
    with pytest.raises(ConfigurationError, match=rf"{missing}|cannot be used"):
        open_listener(settings)


def test_a_public_address_with_keys_and_a_limit_is_served(tmp_path: Path) -> None:
    settings = Settings(
        service_host="0.0.0.0",  # noqa: S104  the point
        service_port=free_port(),
        api_keys_file=tmp_path / "keys",
        rate_limit_per_min=60,
    )
    with open_listener(settings) as listener:
        assert listener.getsockname()[1] == settings.service_port


def test_a_taken_port_ends_the_host_with_a_clear_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = Settings(home=tmp_path, service_port=port)
        monkeypatch.setattr(bentos_host, "read_settings", lambda: settings)
        monkeypatch.setattr(
            bentos_host, "wait_for_listener", partial(bentos_host.wait_for_listener, wait_s=0.1)
        )
        monkeypatch.setattr(bentos_host, "set_up_logging", lambda: None)
        monkeypatch.setattr(sys, "argv", ["bentos.host"])
        before = os.umask(0o077)
        try:
            assert bentos_host.main() == 2
        finally:
            os.umask(before)
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"ECG_SERVICE_PORT: 127.0.0.1 port {port} cannot be used: Address already in use"
    )


def test_a_name_that_leads_to_a_loopback_address_is_guarded_as_the_address(tmp_path: Path) -> None:
    port = free_port()
    environment = {
        **os.environ,
        "ECG_HOME": str(tmp_path),
        "ECG_SERVICE_HOST": "127.1",  # what needs no file of hosts
        "ECG_SERVICE_PORT": str(port),
        "ECG_SERVICE_WORKERS": "1",
    }
    host = subprocess.Popen([sys.executable, "-m", "bentos.host"], cwd=ROOT, env=environment)
    try:
        deadline, url = time.monotonic() + 180, f"http://127.0.0.1:{port}/health"
        while True:
            with contextlib.suppress(httpx.ConnectError):
                refused = httpx.get(url, headers={"Host": "evil.example"}, timeout=90)
                break
            assert host.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert (refused.status_code, refused.json()["type"]) == (421, "/problems/foreign-host")
        assert httpx.get(url).status_code == 503  # without a model
    finally:
        host.terminate()
        assert host.wait(30) == 0


def test_a_monitoring_database_without_a_driver_is_refused_at_the_start(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, monitoring_url="postgresql+psycopg://u:secret@db/x")
    with pytest.raises(
        ConfigurationError, match=r"ECG_MONITORING_URL: .*psycopg is not"
    ) as refused:
        check_monitoring_url(settings)
    assert "secret" not in str(refused.value)
    check_monitoring_url(Settings(home=tmp_path))
    check_monitoring_url(Settings(home=tmp_path, monitoring_url=f"sqlite:///{tmp_path}/m.db"))
