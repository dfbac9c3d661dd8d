"""Every command block of README and docs is executed; a comment above it names what it needs.

``nothing``, ``service``, and the files ``strip`` and ``record``, with commas; or ``syntax, because
...`` for what cannot run here: its commands are looked up and their options parsed.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import httpx
import numpy as np
import pytest
import typer
import yaml
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser

from ecg_lib.operations.settings import Settings
from flows.local.cli import app

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:3000"
GENERATED = ("docs/reference/api/", "docs/reference/cli.md", "docs/reference/http-api.md")
DOCUMENTS = [
    name
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deployments/*.md")]
    if not (name := path.relative_to(ROOT).as_posix()).startswith(GENERATED)
]
NEEDS = re.compile(r"<!-- needs: (?P<needs>[^>]+?) -->\n\Z")
KNOWN_NEEDS = {"nothing", "service", "strip", "record"}
# An error of the service is an error of the command, and variables last from block to block.
PROLOGUE = """set -euo pipefail
curl() { command curl --noproxy '*' --fail-with-body --max-time 60 "$@"; }
[ ! -f .state ] || . ./.state
trap 'declare -p | grep -E "^declare -(-|x) (ID|BEAT|JOB|ECG_[A-Z_]+)=" > .state || true' EXIT
"""


def _needs_of(example: Example) -> str:
    found = NEEDS.search(example.document.text[: example.region.start])
    assert found, f"{_place(example)}: a comment `<!-- needs: ... -->` must stand above the block"
    return found["needs"]


def _place(example: Example) -> str:
    return f"{Path(example.document.path).name}:{example.line}"


def _find_blocks(name: str) -> list[Example]:
    parsers = [CodeBlockParser(language, lambda _: None) for language in ("sh", "python")]
    document = Sybil(parsers=parsers, encoding="utf-8").parse(ROOT / name)
    return list(document.examples())


WITH_BLOCKS = [name for name in DOCUMENTS if _find_blocks(name)]


def test_there_are_blocks_in_readme_and_in_every_tutorial() -> None:
    tutorials = {name for name in DOCUMENTS if name.startswith("docs/tutorial/")}
    assert {"README.md", *tutorials} <= set(WITH_BLOCKS)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_block_of_code_is_in_a_language_that_is_executed(name: str) -> None:
    fences = re.findall(r"^```(\w+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert set(fences) <= {"sh", "python"}


def _check_command(words: list[str], place: str) -> None:
    """Check that `ecg` and `make` have what a block asks of them."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    if not words:
        return
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets, f"{place}: make has no target {words[1]}"
    elif words[0] == "ecg":
        group = typer.main.get_command(app)
        assert isinstance(group, click.Group) or hasattr(group, "commands")
        command = group.commands.get(words[1])  # type: ignore[attr-defined]
        assert command is not None, f"{place}: ecg has no command {words[1]}"
        context = command.make_context(words[1], words[2:])  # a wrong option raises
        if words[1] == "run":
            deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
            flows = {one["entrypoint"].split(".")[-1].replace("_", "-") for one in deployments}
            assert context.params["flow"] in flows, f"{place}: there is no such flow"


def _check_syntax(example: Example) -> None:
    place = _place(example)
    done = subprocess.run(
        ["bash", "-n", "-c", example.parsed],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{place}: {done.stderr}"
    for line in example.parsed.splitlines():
        _check_command(shlex.split(line, comments=True), place)


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_the_blocks_do_what_they_say(
    name: str,
    tmp_path: Path,
    docs_environment: Mapping[str, str],
    docs_files: Mapping[str, list[Path]],
    request: pytest.FixtureRequest,
) -> None:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("curl and bash are not installed")
    for example in _find_blocks(name):
        needs = _needs_of(example)
        if needs.startswith("syntax"):
            assert re.fullmatch(r"syntax, because \w.+", needs), f"{_place(example)}: why?"
            _check_syntax(example)
            continue
        wanted = set(needs.split(", "))
        assert wanted <= KNOWN_NEEDS, f"{_place(example)}: unknown need in {needs!r}"
        assert ("service" in wanted) == (ADDRESS in example.parsed or "$JOB" in example.parsed)
        for need in wanted & set(docs_files):
            for path in docs_files[need]:
                shutil.copy(path, tmp_path)
        code = str(example.parsed)
        if "service" in wanted:
            code = code.replace(ADDRESS, request.getfixturevalue("docs_url"))
        is_python = example.document.text[example.region.start :].startswith("```python")
        command = [sys.executable, "-c", code] if is_python else ["bash", "-c", PROLOGUE + code]
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=docs_environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, f"{_place(example)}: {done.stdout}{done.stderr}"
        assert done.stdout or any(tmp_path.iterdir()), f"{_place(example)} left nothing"
    if name in WHAT_THEY_LEAVE:
        WHAT_THEY_LEAVE[name](tmp_path, request.getfixturevalue("docs_url"))


def _check_first_prediction(folder: Path, url: str) -> None:
    answer = json.loads((folder / "answer.json").read_text())
    assert answer["ventricular_beats"] >= 1
    # The three encodings of one strip, and the answer read again.
    for other in ("answer-f32.json", "answer-npy.json", "again.json"):
        found = json.loads((folder / other).read_text())
        assert found["overall_arrhythmia_type"] == answer["overall_arrhythmia_type"] == "V"
        assert found["ventricular_beats"] == answer["ventricular_beats"]
    assert httpx.get(f"{url}/api/v1/predictions/{answer['prediction_id']}").status_code == 200


def _check_recordings(folder: Path, url: str) -> None:
    result = json.loads((folder / "result.json").read_text())
    assert result["ventricular_beats"] >= 1
    assert (folder / "report.html").read_text().lower().startswith("<!doctype html>")
    assert len(np.frombuffer((folder / "stretch.f32").read_bytes(), "<f4")) == 500
    job = json.loads((folder / "job.json").read_text())
    assert httpx.get(f"{url}/api/v1/recordings/{job['job_id']}").status_code == 404
    assert {path.name for path in (folder / "results").iterdir()} >= {"strip.pdf", "r.pvc"}


def _check_live(folder: Path, _url: str) -> None:
    beats = json.loads((folder / "live.json").read_text())
    assert all(position < 1000 or position >= 1300 for position, _ in beats)
    assert sum(name == "V" for _, name in beats) >= 2


def _check_readme(folder: Path, _url: str) -> None:
    assert json.loads((folder / "answer.json").read_text())["ventricular_beats"] >= 1


WHAT_THEY_LEAVE: Mapping[str, Callable[[Path, str], None]] = {
    "README.md": _check_readme,
    "docs/tutorial/first-prediction.md": _check_first_prediction,
    "docs/how-to/recordings.md": _check_recordings,
    "docs/how-to/live.md": _check_live,
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_settings_that_are_named_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    variables = set(re.findall(r"\b(ECG_[A-Z_]+)\b", text))
    known = {f"ECG_{field.upper()}" for field in Settings.model_fields}
    compose = (ROOT / "deployments/compose.yaml").read_text(encoding="utf-8")
    known |= set(re.findall(r"\$\{(ECG_[A-Z_]+)", compose))
    assert variables - known - {"ECG_"} == set()


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if "/" not in name])
def test_a_link_of_a_page_outside_the_site_leads_to_a_file(name: str) -> None:
    # Those inside are checked by `make docs`.
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / name).read_text(encoding="utf-8")):
        assert target.startswith("http") or (ROOT / target).exists(), target
