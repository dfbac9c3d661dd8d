"""Seeds of which every fit is kept already: what is made of them, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecg_lib.classifier.bundle import DataSource
from ecg_lib.records.record import Record, read_wfdb, write_wfdb
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import simulate_record
from ecg_lib.training.cross_validation import Recipe
from ecg_lib.training.datasets import build_beats, join_records
from flows.data.databases import SIMULATED, Role
from flows.data.dataset_versions import (
    DatasetVersion,
    PreparedRecord,
    hash_files,
    make_version,
)
from flows.data.training_data import SCORING_VIEWS
from flows.training.seed_spread import SEED_FIGURES, measure_seeds

N_FOLDS = 3


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    directory = tmp_path_factory.mktemp("records")
    for number in range(5):
        patient = draw_patient(40 + number)
        write_wfdb(
            simulate_record(f"sim{number}", patient=patient, duration_s=60.0, seed=number),
            directory,
        )
    names = [f"sim{number}" for number in range(5)]
    return directory, [read_wfdb(directory / name, with_annotations=True) for name in names]


@pytest.fixture(scope="module")
def version(records: tuple[Path, list[Record]]) -> DatasetVersion:
    directory, members = records
    prepared = [
        PreparedRecord(
            name=record.name,
            role=Role.DEVELOPMENT,
            files=hash_files(directory, SIMULATED.files_of(record.name)),
            prepared="",
            duration_s=record.duration_s,
            lead="MLII",
            annotated={"N": 60, "S": 0, "V": 10, "F": 0, "Q": 0},
            detected=70,
            unreadable_s=0.0,
            missed_v=0,
        )
        for record in members
    ]
    return make_version(
        data_source=DataSource.SIMULATED, source_directory=directory, records=prepared, broken=()
    )


def test_each_seed_is_judged_by_itself_and_the_first_stays_as_it_was(
    records: tuple[Path, list[Record]], version: DatasetVersion, tmp_path: Path
) -> None:
    dataset = join_records(
        [
            build_beats(record, scoring_views=SCORING_VIEWS, training_views=(), conducted_share=0.5)
            for record in records[1]
        ]
    )
    data = tmp_path / "data"
    dataset.save(data)
    rng = np.random.default_rng(0)
    # The network of seed 1005 is nearly right, that of seed 2005 mostly guesses.
    for seed, noise in ((1005, 0.5), (2005, 8.0)):
        for fold in range(N_FOLDS):
            members = [
                name for name in dataset.record_names if version.folds[N_FOLDS][name] == fold
            ]
            rows = dataset.rows_of(records=members)
            logits = 4.0 * dataset.is_v[rows] - 2.0 + noise * rng.standard_normal(len(rows))
            np.savez(
                tmp_path / f"seed-{seed}-fold-{fold}.npz",
                rows=rows,
                logits=logits,
                beat_logits=np.full(len(rows), 5.0),
                loss=np.array([0.1]),
                n_training_beats=10,
            )
    first: dict[str, Any] = dict.fromkeys(SEED_FIGURES, 0.9)
    measured = measure_seeds(
        first=first,
        n_seeds=3,
        seed=5,
        n_folds=N_FOLDS,
        recipe=Recipe(),
        version=version,
        annotations={
            record.name: record.annotations
            for record in records[1]
            if record.annotations is not None
        },
        data=data,
        keep=lambda name: tmp_path / f"{name}.npz",
        on_fit=lambda _done, _total: pytest.fail("every fit was kept"),
    )
    assert [one["seed"] for one in measured] == [5, 1005, 2005]
    assert measured[0] == {"seed": 5, **first}
    assert measured[1]["oof_v_f1"] > 0.95
    assert measured[2]["oof_v_f1"] < measured[1]["oof_v_f1"]
    assert all(set(one) == {"seed", *SEED_FIGURES} for one in measured)
