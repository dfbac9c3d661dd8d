"""A lineage as lines of text, for the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Final

from ecg_lib.operations.learning.log_counts import PredictionSpan
from flows.release.integrity.lineage import (
    DatasetLineage,
    Lineage,
    ModelLineage,
    RecordLineage,
    ReleaseLineage,
    RunLineage,
    SourceRecord,
)

_TIME: Final = "%Y-%m-%d %H:%M:%S UTC"


def to_json(lineage: Lineage) -> str:
    """Write a lineage as JSON."""
    document = asdict(lineage)
    for model in document["models"]:
        for release in model["releases"]:
            span: PredictionSpan | None = release["predictions"]
            release["predictions"] = None if span is None else span._asdict()
    return json.dumps(document, indent=2, default=_write_time)


def _write_time(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    msg = f"a lineage must hold plain values and times, got {type(value).__name__}"
    raise TypeError(msg)


def to_lines(lineage: Lineage) -> Iterator[str]:
    """Write a lineage as lines."""
    if (prediction := lineage.prediction) is not None:
        yield f"prediction {prediction.prediction_id}"
        yield f"  made         {prediction.created_at:{_TIME}}"
        yield f"  by           {prediction.bento_tag}, bundle {prediction.bundle_hash}"
    if lineage.record is not None:
        yield from _record_lines(lineage.record)
    for model in lineage.models:
        yield from _model_lines(model)
    for problem in lineage.problems:
        yield f"not known: {problem}"


def _record_lines(found: RecordLineage) -> Iterator[str]:
    record = found.record
    yield f"record {record.name} of {record.database}, person {record.person}: {found.role}"
    yield from _file_lines(record)
    for model in found.models:
        versions = ", ".join(model.model_versions) or "never released"
        yield f"  bundle {model.bundle_hash[:12]} ({model.source}, model {versions}): {model.use}"
    if found.is_in_code:
        yield "  every model: the R-peak verifier, which is part of the code, was fitted to it"
    if not found.models:
        yield "  there is no model on this machine"


def _file_lines(record: SourceRecord) -> Iterator[str]:
    for name, sha256 in record.files.items():
        yield f"    {name:<16} {sha256}"


def _model_lines(model: ModelLineage) -> Iterator[str]:
    yield f"bundle {model.bundle_hash}"
    yield f"  source       {model.source}, {model.data_source} data, made {model.created_at}"
    yield f"  commit       {model.git_commit}, seed {model.seed}"
    yield from _run_lines(model.run)
    yield from _dataset_lines(model.dataset)
    for release in model.releases:
        yield from _release_lines(release)
    if not model.releases:
        yield "  releases     none"


def _run_lines(run: RunLineage) -> Iterator[str]:
    yield f"  run          {run.run_id}, {run.state}"
    if run.installed_as is not None:
        yield f"  installed as {run.installed_as} in MLflow"
    trial = "not known" if run.trial is None else run.trial
    among = "" if run.n_trials is None else f", chosen among {run.n_trials}"
    yield f"  trial        {trial}{among}"
    sweep = "not known" if run.sweep is None else f"{run.sweep}, run {run.sweep_run_id}"
    yield f"  sweep        {sweep}"


def _dataset_lines(dataset: DatasetLineage) -> Iterator[str]:
    yield f"  dataset      {dataset.version}, {len(dataset.records)} development records"
    yield f"               SHA-256 by {dataset.hashes_of}"
    for record in dataset.records:
        fold = "" if record.fold is None else f", fold {record.fold}"
        yield f"  record       {record.name} of {record.database}, person {record.person}{fold}"
        yield from _file_lines(record)


def _release_lines(release: ReleaseLineage) -> Iterator[str]:
    yield f"  release      model {release.model_version}, {release.bento_tag}"
    yield f"    first served {release.first_served:{_TIME}}, ledger {release.ledger_commit[:10]}"
    yield f"    code         {release.code_hash[:12]}"
    yield f"    predictions  {_describe_span(release.predictions)}"


def _describe_span(span: PredictionSpan | None) -> str:
    if span is None:
        return "not known"
    if span.first is None or span.last is None:
        return "none in the log"
    return f"{span.predictions} in the log, {span.first:{_TIME}} to {span.last:{_TIME}}"
