"""Flow runs on a real Prefect server: named by what they came to, with their steps and links."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings

from ecg_lib.operations.settings import Settings
from flows.doors.ui.artifacts import escape_markdown, show_artifact
from flows.doors.ui.links import link_flow_run, link_this_run
from flows.doors.ui.run_names import name_run
from flows.doors.ui.steps import Step, show_steps, to_markdown
from flows.pipeline import shown


@pytest.fixture
def client(prefect_server: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


@flow(name="step")
def step(outcome: str) -> str:
    name_run("under way")
    if outcome == "broken":
        msg = "no data"
        raise ValueError(msg)
    name_run(outcome)
    return str(flow_run.id)


@flow(name="whole")
def whole(home: Path) -> tuple[str, str]:
    settings = Settings(home=home)
    first = step("dataset x of 3 records")
    step("broken", return_state=True)
    show_steps(
        settings,
        key="whole",
        heading="What came of it",
        lines=["all"],
        links=["[MLflow](http://m)"],
    )
    return first, str(link_this_run(settings))


@pytest.mark.slow
def test_a_run_lists_its_steps_with_outcome_and_link(
    client: SyncPrefectClient, tmp_path: Path
) -> None:
    first, own = whole(tmp_path)
    assert client.read_flow_run(UUID(first)).name == "dataset x of 3 records"
    run_id = own.rpartition("/")[2]
    (artifact,) = client.read_artifacts(
        artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=["whole"]))
    )
    assert str(artifact.flow_run_id) == run_id
    lines = str(artifact.data).splitlines()
    assert lines[0] == "# What came of it"
    assert "- all" in lines
    address = link_flow_run(Settings(home=tmp_path), first)
    (done,) = [line for line in lines if line.startswith("| 1 |")]
    assert done.startswith(f"| 1 | step | Completed | [dataset x of 3 records]({address}) |")
    (failed,) = [line for line in lines if line.startswith("| 2 |")]
    assert "| step | Failed | [under way](http" in failed
    assert lines[-1] == "[MLflow](http://m)"


@pytest.mark.slow
@pytest.mark.parametrize(("length", "shown"), [(120, 120), (121, 120)])
def test_a_long_name_is_cut(client: SyncPrefectClient, length: int, shown: int) -> None:
    name = client.read_flow_run(UUID(step("x" * length))).name
    assert len(name) == shown
    assert name.endswith("…") == (length > 120)


@pytest.mark.slow
def test_a_run_goes_on_when_its_name_is_not_taken(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @flow(name="nameless")
    def nameless() -> str:
        run_id = str(flow_run.id)
        monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(uuid4()))  # of no run
        name_run("a name")
        monkeypatch.delenv("PREFECT__RUNTIME__FLOW_RUN__ID")
        return run_id

    assert client.read_flow_run(UUID(nameless())).name != "a name"
    assert "the run keeps its name, it would be 'a name'" in caplog.text


def test_outside_a_run_nothing_is_named(tmp_path: Path) -> None:
    name_run("a name")
    assert link_this_run(Settings(home=tmp_path)) is None


def test_what_a_step_says_cannot_break_the_table() -> None:
    odd = Step("train-sweep", "Completed", "a | b [c](http://d)", 61.4, "http://p/1")
    shown = to_markdown("It", [odd], lines=[], links=[])
    title = r"a \| b \[c\](http://d)"
    assert f"| 1 | train-sweep | Completed | [{title}](http://p/1) | 61 |" in shown
    assert "No step was begun." in to_markdown("It", [], lines=["why"], links=[])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[a](http://b)", r"\[a\](http://b)"),
        ("<img src=x>", r"\<img src=x\>"),
        ("`x` *y* __z__ ~~q~~", r"\`x\` \*y\* \_\_z\_\_ \~\~q\~\~"),
        ("a\n\n# b\r\nc", r"a \# b c"),
        ("# b", r"\# b"),
        ("- b - c", r"\- b - c"),
        ("a &lt; \\b", r"a \&lt; \\b"),
        ("v-f1 0.9 (0.8 to 1.0)", "v-f1 0.9 (0.8 to 1.0)"),
    ],
)
def test_text_of_others_is_text_in_markdown(text: str, expected: str) -> None:
    assert escape_markdown(text) == expected
    odd = Step("s", "Failed", text, 1.0, "http://p/1")
    lines = to_markdown("It", [odd], lines=[text], links=[]).splitlines()
    assert lines[2] == f"- {expected}"
    assert lines[-2] == f"| 1 | s | Failed | [{expected}](http://p/1) | 1 |"


@pytest.fixture
def stopped_prefect(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A run whose server of Prefect has stopped."""
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", str(uuid4()))
    with temporary_settings(updates={PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield


@pytest.mark.filterwarnings("ignore:Artifact creation outside:FutureWarning")
@pytest.mark.usefixtures("stopped_prefect")
def test_nothing_that_is_only_shown_fails_a_run_when_prefect_has_stopped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    show_steps(Settings(home=tmp_path), key="whole", heading="It", lines=["all"], links=[])
    show_artifact("x", key="card")
    name_run("a name")
    for said in (
        "the steps are not shown", "the artifact whole is not shown",
        "the artifact card is not shown", "the run keeps its name, it would be 'a name'",
    ):  # fmt: skip
        assert said in caplog.text, said


@pytest.mark.filterwarnings("ignore:Artifact creation outside:FutureWarning")
@pytest.mark.usefixtures("stopped_prefect")
def test_a_pipeline_fails_by_its_own_error_when_prefect_has_stopped(tmp_path: Path) -> None:
    settings, begin = Settings(home=tmp_path), datetime(2026, 3, 1, tzinfo=UTC)

    def fail() -> None:
        msg = "the disk is full"
        raise OSError(msg)

    with (
        pytest.raises(OSError, match="the disk is full"),
        shown(settings, why="by hand", started_at=begin) as progress,
    ):
        progress.time("package-bento", fail)
    with shown(settings, why="by hand", started_at=begin) as progress:
        progress.lines = ("released",)
