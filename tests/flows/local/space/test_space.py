"""The folder of a Hugging Face Space, and its container as far as it goes without an engine."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import BundleError
from ecg_lib.operations.keys.api_keys import make_api_key, write_key_line
from ecg_lib.operations.keys.signatures import SignatureError
from ecg_lib.operations.releases import LOCK, Release, bento_source
from ecg_lib.operations.settings import Settings
from ecg_lib.records.simulation.simulator import StripKind, simulate_strip
from flows.doors.addresses import PROJECT_DIR
from flows.local.space.make_space import SpaceError, make_space
from flows.local.space.start import make_environment, write_keys
from tests.flows.local.containers import Machine, open_machine, store_release


@pytest.fixture
def home(
    tmp_path: Path, toy_bundle: Bundle, serve_release: Callable[[Settings, Release], None]
) -> Settings:
    """A home with a release of this code, closed to other users as every home."""
    settings = Settings(home=tmp_path / "home")
    release = store_release(settings, toy_bundle)
    shutil.copyfile(PROJECT_DIR / LOCK, bento_source(settings.bentoml_home, release) / LOCK)
    for path in settings.home.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    serve_release(settings, release)
    return settings


@pytest.fixture
def machine() -> Iterator[Machine]:
    with open_machine() as machine:
        yield machine


def _instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """List the instructions of a Dockerfile with their arguments."""
    text = re.sub(r"\\\n\s*", " ", dockerfile.read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines)]


def test_the_folder_is_a_space_of_the_docker_kind_with_the_release_alone(
    home: Settings, tmp_path: Path, toy_bundle: Bundle
) -> None:
    space = tmp_path / "space"
    make_space(home, space)
    assert {path.name for path in space.iterdir()} == {
        *("README.md", "Dockerfile", "start.py", "release.json", "bentoml"),
        *(LOCK, ".gitattributes"),
    }
    _, front, text = (space / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front) | {"title": "", "emoji": ""} == {
        "title": "",
        "emoji": "",
        "sdk": "docker",
        "app_port": 7860,
        "license": "mit",
        "colorFrom": "red",
        "colorTo": "gray",
        "pinned": False,
    }
    assert f"`ecg:toy` of model 7, bundle\n`{toy_bundle.hash[:12]}`" in text
    assert toy_bundle.model_card in text
    # No key, log or name of this machine leaves the home.
    names = {path.name for path in space.rglob("*")}
    assert not names & {"secrets", "release-key", "signatures", "serving", "monitoring.db"}
    assert str(home.home) not in "".join(
        path.read_text(errors="replace") for path in space.rglob("*") if path.is_file()
    )
    modes = {path.stat().st_mode & 0o777 for path in space.rglob("*")}
    assert modes == {0o755, 0o644}  # git keeps no others, and the user of the container is another


def test_the_dockerfile_copies_what_is_there_and_serves_port_7860_without_root(
    home: Settings, tmp_path: Path
) -> None:
    make_space(home, tmp_path / "space")
    instructions = _instructions(tmp_path / "space" / "Dockerfile")
    for name, rest in instructions:
        if name == "COPY":
            *sources, _ = rest.split()
            assert all((tmp_path / "space" / one).exists() for one in sources), rest
    names = [name for name, _ in instructions]
    assert ("USER", "user") in instructions
    assert names.index("USER") > max(at for at, name in enumerate(names) if name == "COPY")
    assert ("EXPOSE", "7860") in instructions
    assert any("--uid 1000 user" in rest for name, rest in instructions if name == "RUN")


def test_a_folder_with_files_and_a_release_that_was_changed_are_refused(
    home: Settings, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    with pytest.raises(SpaceError, match="in an empty folder"):
        make_space(home, tmp_path / "full")
    source = home.bentoml_home / "bentos" / "ecg" / "toy" / "src"
    (source / "bentos" / "host.py").write_text("import os")
    with pytest.raises(SignatureError, match="must have the code"):
        make_space(home, tmp_path / "space")
    with pytest.raises(BundleError, match="nothing was released yet"):
        make_space(Settings(home=tmp_path / "other"), tmp_path / "space")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextmanager
def _container(
    machine: Machine, space: Path, secrets: dict[str, str], **variables: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run the Dockerfile's command with its variables, as another user, in a copy of its files."""
    instructions = _instructions(space / "Dockerfile")
    app = machine.folder / "app"
    app.mkdir(mode=0o755)
    for name, rest in instructions:
        if name == "COPY":
            *sources, target = rest.split()
            for one in sources:
                place = app / target if target != "./" else app / one
                copy = shutil.copytree if (space / one).is_dir() else shutil.copyfile
                copy(space / one, place)
    set_by_image = dict(
        pair.split("=", 1) for name, rest in instructions if name == "ENV" for pair in rest.split()
    )
    set_by_image["ECG_HOME"] = str(machine.make_data("ecg"))
    (command,) = [yaml.safe_load(rest) for name, rest in instructions if name == "CMD"]
    with (machine.folder / "log").open("wb") as log:
        process = machine.start(
            command, cwd=app, variables={**set_by_image, **secrets, **variables}, log=log
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _log(machine: Machine) -> str:
    return (machine.folder / "log").read_text()


@pytest.mark.slow
def test_its_container_serves_the_release_as_another_user_who_cannot_change_the_code(
    home: Settings, tmp_path: Path, machine: Machine, toy_bundle: Bundle
) -> None:
    make_space(home, tmp_path / "space")
    shutil.rmtree(home.home)
    port, key = _free_port(), make_api_key()
    secrets = {"SPACE_API_KEY_HASHES": write_key_line(key, name="me", scopes=())}
    here = {"ECG_SERVICE_HOST": "127.0.0.1", "ECG_SERVICE_PORT": str(port)}
    strip = simulate_strip(StripKind.RUN, seed=3)
    body: dict[str, Any] = {"signal_data": strip.signal_mv().tolist(), "sampling_rate": strip.fs}
    with (
        _container(
            machine, tmp_path / "space", secrets, ECG_SERVICE_WORKERS="1", **here
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60.0) as client,
    ):
        deadline_s = time.monotonic() + 120
        while True:
            assert process.poll() is None, _log(machine)
            assert time.monotonic() < deadline_s, _log(machine)
            try:
                if client.get("/health").json()["model_loaded"]:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        assert client.post("/api/v1/predictions/", json=body).status_code == 401
        answer = client.post(
            "/api/v1/predictions/",
            json=body,
            headers={"X-API-Key": key},
        )
        assert answer.status_code == 201, answer.text
        environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        if machine.account is not None:
            assert Path(f"/proc/{process.pid}").stat().st_uid == machine.account.pw_uid
    found = BeatClassifier.load(toy_bundle).classify(strip.signal_mv(), fs=strip.fs)
    called = [beat["arrhythmia_type"] for beat in answer.json()["beat_predictions"]]
    assert called.count("V") == sum(found.probability_v >= 0.5)
    assert "V" in called
    assert b"SPACE_API_KEY_HASHES" not in environment
    assert not list((machine.folder / "app").rglob("__pycache__"))
    written = {path.name for path in (machine.folder / "ecg").iterdir()}
    assert {"api-keys", "secrets", "serving", "monitoring.db"} <= written
    assert (machine.folder / "ecg" / "bentoml").readlink() == machine.folder / "app" / "bentoml"


def test_without_the_secret_nothing_is_served(
    home: Settings, tmp_path: Path, machine: Machine
) -> None:
    make_space(home, tmp_path / "space")
    with _container(machine, tmp_path / "space", {}) as process:
        assert process.wait(60) == 1
    assert "the Space needs the secret SPACE_API_KEY_HASHES" in _log(machine)


def test_keys_may_be_lines_or_separated_by_semicolons(tmp_path: Path) -> None:
    path = write_keys(tmp_path, f"{'a' * 64}  # me; {'b' * 64} operate\n")
    assert path.read_text() == f"{'a' * 64}  # me\n{'b' * 64} operate\n"
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_service_of_a_space_is_open_on_port_7860_unless_its_variables_say_otherwise(
    tmp_path: Path,
) -> None:
    (tmp_path / "bentoml" / "bentos" / "ecg" / "x" / "src").mkdir(parents=True)
    given = {"ECG_RATE_LIMIT_PER_MIN": "5", "SPACE_API_KEY_HASHES": "secret", "ECG_HOME": "/other"}
    made = make_environment(tmp_path, tmp_path / "ecg", given)
    assert (made["ECG_SERVICE_HOST"], made["ECG_SERVICE_PORT"]) == ("0.0.0.0", "7860")  # noqa: S104
    assert made["ECG_RATE_LIMIT_PER_MIN"] == "5"
    assert made["ECG_HOME"] == str(tmp_path / "ecg")
    assert "secret" not in made.values()
