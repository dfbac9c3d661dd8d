"""The steps of a flow run as an artifact: each subflow with its outcome and a link."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from ecg_lib.operations.settings import Settings
from flows.doors.ui.artifacts import (
    PREFECT_ERRORS,
    escape_markdown,
    find_logger,
    shorten,
    show_artifact,
)
from flows.doors.ui.links import as_markdown, link_flow_run

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

_CELL: Final = 160


class Step(NamedTuple):
    """A subflow of a run."""

    flow: str
    state: str
    outcome: str
    """Name of its run, which says what it came to."""
    seconds: float
    address: str


def show_steps(
    settings: Settings, *, key: str, heading: str, lines: Sequence[str], links: Sequence[str]
) -> None:
    """Show the subflows of the run that calls this, as an artifact of it.

    Args:
        settings: Where Prefect is.
        key: Key of the artifact.
        heading: Its heading.
        lines: What the run came to, as text.
        links: Links in Markdown, to other pages.
    """
    if flow_run.id is None:
        return
    try:
        with get_client(sync_client=True) as client:
            steps = _read_steps(client, settings, UUID(flow_run.id))
    except PREFECT_ERRORS as error:
        find_logger().warning("the steps are not shown: %s", str(error) or type(error).__name__)
        steps = []
    markdown = to_markdown(heading, steps, lines=lines, links=links)
    show_artifact(markdown, key=key, description=heading)


def to_markdown(
    heading: str, steps: Sequence[Step], *, lines: Sequence[str], links: Sequence[str]
) -> str:
    """Write the steps as a table, with what the run came to, as text, before it."""
    rows = [
        f"| {number} | {escape_markdown(step.flow)} | {escape_markdown(step.state)} "
        f"| {as_markdown(_cell(step.outcome), step.address)} | {step.seconds:.0f} |"
        for number, step in enumerate(steps, start=1)
    ]
    table = ["| | step | state | outcome | s |", "|---:|---|---|---|---:|", *rows]
    return "\n".join(
        [
            f"# {heading}",
            "",
            *(f"- {escape_markdown(line)}" for line in lines),
            *([""] if lines else []),
            *(table if rows else ["No step was begun."]),
            "",
            " · ".join(links),
        ]
    )


def _read_steps(client: SyncPrefectClient, settings: Settings, parent: UUID) -> list[Step]:
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
    from prefect.client.schemas.sorting import FlowRunSort

    runs: list[FlowRun] = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent])
        ),
        sort=FlowRunSort.START_TIME_ASC,
    )
    return [
        Step(
            flow=client.read_flow(run.flow_id).name,
            state="unknown" if run.state is None else str(run.state.name),
            outcome=run.name,
            seconds=run.total_run_time.total_seconds(),
            address=link_flow_run(settings, str(run.id)),
        )
        for run in runs
    ]


def _cell(text: str) -> str:
    return escape_markdown(shorten(text, longest=_CELL))
