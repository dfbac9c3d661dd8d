"""Fit the networks of the R-peak detector to the databases that are at hand.

``python -m flows.training.fit_verifier`` reads DS1, the paced records of MIT-BIH, the development
part of the Supraventricular database, the first hundred subjects of LUDB and recorded noise from
the directories of the settings, and writes ``ecg_lib/signal_path/r_peaks/verifier.npz`` and the
blind networks beside the evaluation. The network of a second look that is blind to a fifth of the
people has seen the verdicts of the first look that is blind to them. The same files give the same
weights on the same machine: those that ship.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from ecg_lib.errors import ConfigurationError
from ecg_lib.evaluation.blind_verifiers import save_blind_verifiers
from ecg_lib.operations.settings import Settings, read_settings
from ecg_lib.records.annotations import Annotations
from ecg_lib.records.files.wfdb.annotated_record import read_annotated_record
from ecg_lib.records.record import read_wfdb
from ecg_lib.signal_path.filtering import resample
from ecg_lib.signal_path.r_peaks.verifier import WEIGHTS, BeatVerifier, Perceptron
from ecg_lib.training.r_peak_verifier.samples import (
    Samples,
    join,
    measure_ambulatory,
    measure_marked,
    measure_patients,
    measure_record,
)
from flows.data.databases import LUDB, MITDB, SVDB, Role
from flows.doors.parallel import run_in_processes

logger = logging.getLogger(__name__)

N_FOLDS: Final = 5
_LUDB_SUBJECTS: Final = range(1, 101)
_LEAST_MARKS: Final = 3


def assign_folds(records: dict[str, str]) -> dict[str, int]:
    """Deal the persons of records (values) to folds, and return the fold of each record."""
    persons = sorted(set(records.values()))
    fold_of = {person: index % N_FOLDS for index, person in enumerate(persons)}
    return {record: fold_of[person] for record, person in records.items()}


def read_mitdb(
    directory: Path, nstdb_dir: Path, name: str, firsts: Sequence[Perceptron] = ()
) -> Samples:
    """Measure the candidates of a record of MIT-BIH."""
    noises = {
        noise: read_wfdb(nstdb_dir / noise).signals_mv[:, 1].astype(np.float64)
        for noise in ("bw", "ma")
    }
    record = read_wfdb(directory / name, with_annotations=True)
    if record.annotations is None:
        msg = f"record must have annotations, {name} has none"
        raise ValueError(msg)
    lead = record.choose_lead()
    other = next(each for each in record.leads if each != lead)
    return measure_record(
        record.signal_mv(lead).astype(np.float64),
        record.signal_mv(other).astype(np.float64),
        record.annotations,
        noises=noises,
        seed=int(name),
        firsts=firsts,
    )


def read_svdb(directory: Path, name: str, firsts: Sequence[Perceptron] = ()) -> Samples:
    """Measure the candidates of a record of the Supraventricular database."""
    record = read_annotated_record(directory / name, annotations="atr")
    if record.annotations is None:
        msg = f"record must have annotations, {name} has none"
        raise ValueError(msg)
    leads = [resample(signal.astype(np.float64), fs=record.fs) for signal in record.signals_mv.T]
    marks = Annotations(
        samples=leads[0].from_source(record.annotations.samples),
        symbols=record.annotations.symbols,
    )
    signals = [lead.signal for lead in leads]
    return measure_ambulatory(signals, marks, seed=int(name), firsts=firsts)


def read_ludb(directory: Path, name: str, firsts: Sequence[Perceptron] = ()) -> Samples:
    """Measure the candidates of the twelve leads of a subject of LUDB."""
    parts = []
    for extension in LUDB.annotations:
        record = read_annotated_record(directory / name, annotations=extension, lead=extension)
        if record.annotations is None or len(record.annotations.beat_samples) < _LEAST_MARKS:
            continue
        lead = resample(record.signals_mv[:, 0].astype(np.float64), fs=record.fs)
        marks = lead.from_source(record.annotations.beat_samples)
        parts.append(measure_marked(lead.signal, marks, firsts=firsts))
    return join(parts)


def fit_verifiers(settings: Settings) -> None:
    """Fit the networks and write their weights.

    Raises:
        ConfigurationError: If a directory of a database is not set.
    """
    directories = {
        "ECG_MITDB_DIR": settings.mitdb_dir,
        "ECG_NSTDB_DIR": settings.nstdb_dir,
        "ECG_SVDB_DIR": settings.svdb_dir,
        "ECG_LUDB_DIR": settings.ludb_dir,
    }
    missing = [name for name, directory in directories.items() if directory is None]
    if missing:
        msg = f"the directories of all databases must be set, these are not: {', '.join(missing)}"
        raise ConfigurationError(msg)
    mitdb, nstdb, svdb, ludb = (Path(str(directory)) for directory in directories.values())
    ours = {Role.DEVELOPMENT, Role.PACED}
    jobs: dict[str, Callable[..., Samples]] = {}
    persons: dict[str, str] = {}
    for name in [name for name, role in MITDB.roles.items() if role in ours]:
        jobs[name], persons[name] = partial(read_mitdb, mitdb, nstdb, name), MITDB.person_of(name)
    for name in [name for name, role in SVDB.roles.items() if role in ours]:
        jobs[name], persons[name] = partial(read_svdb, svdb, name), SVDB.person_of(name)
    for name in map(str, _LUDB_SUBJECTS):
        full = LUDB.full_name(name)
        jobs[full], persons[full] = partial(read_ludb, ludb, name), LUDB.person_of(name)
    folds = assign_folds(persons)
    parts = [[name for name in jobs if folds[name] != fold] for fold in range(N_FOLDS)]
    parts.append(list(jobs))  # for the networks that ship
    samples, patients = _measure(jobs)
    firsts = [_fit([samples[name] for name in part], patients) for part in parts]
    samples, patients = _measure(jobs, firsts)
    verifiers = [
        BeatVerifier(
            first=first,
            second=_fit([samples[name].after(index) for name in part], patients.after(index)),
        )
        for index, (part, first) in enumerate(zip(parts, firsts, strict=True))
    ]
    *blind, shipped = verifiers
    save_blind_verifiers(blind, folds)
    shipped.save(WEIGHTS)


def _measure(
    jobs: Mapping[str, Callable[..., Samples]], firsts: Sequence[Perceptron] = ()
) -> tuple[dict[str, Samples], Samples]:
    """Measure the candidates of each record, and those of simulated patients."""
    every = [partial(job, firsts=firsts) for job in (*jobs.values(), measure_patients)]
    *measured, patients = run_in_processes(every)
    return dict(zip(jobs, measured, strict=True)), patients


def _fit(seen: list[Samples], patients: Samples) -> Perceptron:
    from ecg_lib.training.r_peak_verifier.fitting import fit_look

    everything = join([*seen, patients])
    logger.info("fitting to %d candidates", len(everything.weight))
    return fit_look(everything)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    fit_verifiers(read_settings())
