"""What MLflow's pages show: the columns of the run list, and descriptions with links.

What describes fails no flow: an error of MLflow is logged, and the page stays as it was.
The registry itself, with its runs, versions and aliases, is :mod:`flows.doors.registry`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.operations.settings import Settings
from flows.doors.addresses import find_addresses
from flows.doors.registry import (
    EXPERIMENT,
    MODEL_NAME,
    Registry,
    explain_unreachable,
    has_runs,
)
from flows.doors.ui.columns import PREFECT_RUN, STATE, V_F1, V_F1_OF_SEARCH
from flows.doors.ui.links import (
    as_markdown,
    link_flow_run,
    link_operations,
    link_run,
    link_this_run,
    link_version,
    tag_origin,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

VIEW: Final = "ecg"
"""Key of the shared view of the run list, in ``#/experiments/ID/runs?viewStateShareKey=ecg``."""

DRIFT_CHECK: Final = "drift.check"
"""Tag of a model version: the decision of its latest drift check, and when it was made."""
DRIFT_PAGE: Final = "drift.page"
"""Tag of a model version: address of the page of that check."""

_UPDATED: Final = "ecg.earlier_runs"
"""Tag of the experiment, set once the runs of earlier code have the columns of now."""
_NOTE: Final = "mlflow.note.content"
_LONGEST: Final = 5000
"""Characters of a description that every database of MLflow takes."""

_ABOUT: Final = """Sweeps of the beat classifier, ventricular ectopic (V) or not.

- **V-F1** is the figure that counts: out of fold over subjects, at the full budget. Candidates and
  the model that ships have it; the best candidate is the challenger of the next promotion.
- **V-F1 in search** is that of a trial on few beats and epochs: compare trials with it, no more.
- A trial that was pruned is finished, with the tag `state` = `pruned`. Red is an error.

[Operations]({operations}) · [Flow runs]({prefect}/runs) ·
[Model versions]({mlflow_models})
"""
_COLUMNS: Final = (
    f"metrics.`{V_F1}`",
    f"metrics.`{V_F1_OF_SEARCH}`",
    "tags.`ecg.kind`",
    f"tags.`{STATE}`",
    "params.`seed`",
)


@contextmanager
def _describing(what: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        logger.warning("MLflow does not describe %s: %s", what, error)


def describe_experiment(registry: Registry, settings: Settings) -> None:
    """Describe the experiment, and set the columns and order of its run list.

    Runs of earlier code get these columns once; what was cut off is continued the next time.
    """
    with _describing("the experiment"):
        client = _open(settings)
        experiment = client.get_experiment(registry.experiment_id())
        for key, value in _describe(settings).items():
            if experiment.tags.get(key) != value:
                client.set_experiment_tag(experiment.experiment_id, key, value)
        if _UPDATED not in experiment.tags:
            update_earlier_runs(registry, settings)
            client.set_experiment_tag(experiment.experiment_id, _UPDATED, "updated")


def _describe(settings: Settings) -> dict[str, str]:
    view = {
        "orderByKey": f"metrics.`{V_F1}`",
        "orderByAsc": False,
        "selectedColumns": list(_COLUMNS),
    }
    return {
        _NOTE: _ABOUT.format(
            operations=link_operations(settings),
            prefect=find_addresses(settings).prefect,
            mlflow_models=link_version(settings, "1").rpartition("/versions/")[0],
        ),
        "mlflow.experiment.primaryMetric.name": V_F1,
        "mlflow.experiment.primaryMetric.greaterIsBetter": "true",
        "mlflow.experimentKind": "custom_model_development",
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }


def update_earlier_runs(registry: Registry, settings: Settings) -> int:
    """Give the runs of earlier code the columns of now; return how many were changed.

    Their V-F1 has another name, and their pruned trials are red like failures.
    """
    from mlflow.entities import RunStatus

    client, experiment_id = _open(settings), registry.experiment_id()
    n_changed = 0
    for earlier, name in (("oof_v_f1", V_F1), ("search_v_f1", V_F1_OF_SEARCH)):
        for run in _search(client, experiment_id, f"metrics.{earlier} >= 0"):
            if name not in run.data.metrics and run.info.status == "FINISHED":
                client.log_metric(run.info.run_id, name, run.data.metrics[earlier])
                n_changed += 1
    pruned = "tags.`ecg.pruned` = 'true' and attributes.status = 'KILLED'"
    for run in _search(client, experiment_id, pruned):
        client.set_tag(run.info.run_id, STATE, "pruned")
        finished = RunStatus.to_string(RunStatus.FINISHED)
        client.set_terminated(run.info.run_id, finished, end_time=run.info.end_time)
        n_changed += 1
    return n_changed


def _search(client: MlflowClient, experiment_id: str, query: str) -> list[Any]:
    found: list[Any] = []
    page: Any = None
    while page is None or page.token:
        page = client.search_runs(
            [experiment_id], query, page_token=None if page is None else page.token
        )
        found += page
    return found


def find_landing(tracking_uri: str) -> str | None:
    """Find the part of the address after ``#`` of the run list; None before the first run."""
    from mlflow import MlflowClient

    experiment = MlflowClient(tracking_uri=tracking_uri).get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        return None
    page = f"#/experiments/{experiment.experiment_id}/runs"
    has_view = f"mlflow.sharedViewState.{VIEW}" in experiment.tags
    return f"{page}?viewStateShareKey={VIEW}" if has_view else page


def describe_run(
    registry: Registry, settings: Settings, run_id: str, *, about: str, lines: Mapping[str, str]
) -> None:
    """Describe a run: what it is, with the flow run that made it, and more lines by their names."""
    shown = {"Flow run in Prefect": link_this_run(settings), **lines}
    items = [
        f"- {name}: {as_markdown('open', value) if value.startswith('http') else value}"
        for name, value in shown.items()
        if value
    ]
    with _describing(f"run {run_id}"):
        registry.log(run_id, tags={_NOTE: "\n".join([about, "", *items]), **tag_origin()})


def describe_version(
    registry: Registry, settings: Settings, version: str, *, run_id: str, bundle: Bundle
) -> None:
    """Describe a model version: its figures, where it came from, and its model card."""
    with _describing(f"version {version}"):
        client = _open(settings)
        address = link_run(settings, registry.experiment_id(), run_id)
        head = _describe_origin(settings, bundle, address, client.get_run(run_id).data.tags)
        rest = (
            f"The whole card is {as_markdown('with the files of the run', f'{address}/artifacts')}."
        )
        card = shorten(bundle.model_card, _LONGEST - len(head), rest=f"\n\n{rest}")
        client.update_model_version(MODEL_NAME, version, head + card)


def tag_check(settings: Settings, version: str, *, verdict: str, page: str) -> None:
    """Tag a model version with its latest drift check, where there are model versions.

    Args:
        settings: Where MLflow is.
        version: The version that was served.
        verdict: The decision, and when it was made.
        page: Address of the page of the check.
    """
    if not has_runs(settings):
        return
    if reason := explain_unreachable(settings):
        logger.warning("MLflow has no tag of the drift check of version %s: %s", version, reason)
        return
    with _describing(f"the drift check of version {version}"):
        client = _open(settings)
        for key, value in ((DRIFT_CHECK, verdict), (DRIFT_PAGE, page)):
            client.set_model_version_tag(MODEL_NAME, version, key, value)


def _describe_origin(settings: Settings, bundle: Bundle, run: str, tags: Mapping[str, str]) -> str:
    metrics, origin = bundle.metrics, bundle.provenance
    links = [as_markdown("Run in MLflow", run)]
    if (flow_run := tags.get(PREFECT_RUN)) is not None:
        links.append(as_markdown("Flow run that trained it", link_flow_run(settings, flow_run)))
    if (this := link_this_run(settings)) is not None and not this.endswith(flow_run or "-"):
        links.append(as_markdown("Flow run that registered it", this))
    links.append(as_markdown("Operations", link_operations(settings)))
    return "\n".join(
        [
            f"**V-F1 {metrics['oof_v_f1']:.4f}** {_interval(metrics)}out of fold",
            "",
            f"- Source: {origin.source}, trained on {origin.data_source} data",
            f"- Dataset version `{origin.dataset_version}`",
            f"- Commit `{origin.git_commit or 'unknown'}`",
            f"- Bundle `{bundle.hash}`",
            "",
            " · ".join(links),
            "",
            "",
        ]
    )


def shorten(text: str, longest: int, *, rest: str) -> str:
    """Cut a text at the end of a paragraph, and say where the rest is, if it is too long."""
    if len(text) <= longest:
        return text
    return text[: longest - len(rest)].rpartition("\n\n")[0] + rest


def _interval(metrics: Mapping[str, Any]) -> str:
    low, high = metrics.get("oof_v_f1_low"), metrics.get("oof_v_f1_high")
    return "" if low is None or high is None else f"({low:.3f} to {high:.3f}) "


def _open(settings: Settings) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=settings.tracking_uri)
