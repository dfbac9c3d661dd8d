"""Flow runs on a real Prefect server: named by what they came to, with their steps and links."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.runtime import flow_run

from ecg_lib.operations.settings import Settings
from flows.doors.ui.links import link_flow_run, link_this_run
from flows.doors.ui.run_names import name_run
from flows.doors.ui.steps import Step, show_steps, to_markdown


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
    assert "| 1 | train-sweep | Completed | [a / b (c)(http://d)](http://p/1) | 61 |" in shown
    assert "No step was begun." in to_markdown("It", [], lines=["why"], links=[])
