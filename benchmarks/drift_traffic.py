"""Traffic whose drift is known: strips of development records, each changed in one way.

The people are those that the model was developed with. Each strip is classified as the service
does, by the network of the fold that has not seen its person. The beats of a strip are scored
against its annotations, so that the true figures of each shift are known too. Where a database is
not at hand, simulated patients take its place.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecg_lib.classifier.beat_classifier import BeatClassifier, require_readable
from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import InvalidSignalError
from ecg_lib.evaluation.beat_scoring import BeatCounts, score_beats
from ecg_lib.evaluation.blind_verifiers import load_blind_verifier
from ecg_lib.operations.drift.observation import observe_beats, observe_polarity
from ecg_lib.records.annotations import DS1, Annotations
from ecg_lib.records.record import Record, read_wfdb
from ecg_lib.records.simulation.simulator import simulate_cohort_member
from ecg_lib.training.views import View, seed_generator, view_signal
from flows.data.databases import SVDB, Role

STRIP_S: Final = 10.0
STEP_S: Final = 45.0
"""From the start of one strip to that of the next."""
N_SIMULATED: Final = 24
SIMULATED_S: Final = 300.0


class Heard(NamedTuple):
    """One strip as monitoring sees it, and as it is."""

    person: str
    duration_s: float
    observed: dict[str, NDArray[np.generic]] | None
    """None when the service refuses the strip."""
    counts: BeatCounts
    slices: dict[str, str]
    """Its lead and rate, as a client may state them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """A way in which traffic may differ from what the model was made for."""

    name: str
    change: Callable[[Record], Record]


def _scale(record: Record, factor: float) -> Record:
    return replace(record, signals_mv=record.signals_mv * np.float32(factor))


def _add_noise(record: Record, noise_db: int) -> Record:
    signals = record.signals_mv.copy()
    own = record.leads.index(record.choose_lead())
    signals[:, own] = view_signal(record, View(noise_db=noise_db))
    return replace(record, signals_mv=signals)


def _take_other_lead(record: Record) -> Record:
    own = record.choose_lead()
    other = next((lead for lead in record.leads if lead != own), own)
    return replace(record, leads=(other,), signals_mv=record.signal_mv(other)[:, None])


def make_irregular(record: Record) -> Record:
    """Stretch and shorten each diastole at random, as in atrial fibrillation.

    The pause from 0.35 of an RR interval to 0.2 s before the next R-peak is resampled, so that the
    QRS and T waves keep their shape and the intervals vary by a quarter.
    """
    if record.annotations is None:
        raise ValueError(f"record {record.name} must have annotations, it has none")
    rng = seed_generator(f"irregular {record.name}")
    beats = record.annotations.beat_samples
    at, parts = 0, []
    for one, following in itertools.pairwise(beats.tolist()):
        first = int(one + 0.35 * (following - one))
        last = int(following - 0.2 * record.fs)
        if last - first < 0.1 * record.fs or first < at:
            continue
        factor = float(np.clip(rng.lognormal(0.0, 0.55), 0.15, 3.5))
        length = max(2, round((last - first) * factor))
        parts += [np.arange(at, first), np.linspace(first, last, length, endpoint=False)]
        at = last
    parts.append(np.arange(at, len(record.signals_mv)))
    places = np.concatenate(parts)  # of each new sample in the old record
    old = np.arange(len(record.signals_mv))
    signals = np.stack([np.interp(places, old, lead) for lead in record.signals_mv.T], axis=1)
    samples = np.searchsorted(places, record.annotations.samples).astype(np.int64)
    annotations = Annotations(
        samples=np.minimum(samples, len(places) - 1), symbols=record.annotations.symbols
    )
    return replace(record, signals_mv=signals.astype(np.float32), annotations=annotations)


def _keep(record: Record) -> Record:
    return record


NONE: Final = Shift(name="none", change=_keep)
SHIFTS: Final = (
    Shift(name="noise 0 dB", change=partial(_add_noise, noise_db=0)),
    Shift(name="noise 6 dB", change=partial(_add_noise, noise_db=6)),
    Shift(name="noise 12 dB", change=partial(_add_noise, noise_db=12)),
    Shift(name="gain x0.5", change=partial(_scale, factor=0.5)),
    Shift(name="gain x5", change=partial(_scale, factor=5.0)),
    Shift(name="inversion", change=partial(_scale, factor=-1.0)),
    Shift(name="AF-like rhythm", change=make_irregular),
    Shift(name="other lead", change=_take_other_lead),
)
POPULATION: Final = Shift(name="other population", change=_keep)


def hear_all(
    bundle: Bundle, shifts: Sequence[Shift], *, mitdb: Path | None, svdb: Path | None
) -> dict[str, list[Heard]]:
    """Classify the strips of all shifts, in as many processes as there are cores."""
    archive = [(mitdb, name) for name in _people(mitdb)]
    other = [(svdb, name) for name in _others(svdb)]
    if svdb is not None and any(name in bundle.folds for _, name in other):
        archive += other
    jobs = [(shift, *place) for shift in shifts for place in archive]
    jobs += [(POPULATION, *place) for place in other]
    heard: dict[str, list[Heard]] = {}
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        work = partial(_hear_one, bundle)
        for (shift, *_), strips in zip(jobs, processes.map(work, jobs, chunksize=4), strict=True):
            heard.setdefault(shift.name, []).extend(strips)
    return heard


def _people(mitdb: Path | None) -> list[str]:
    return list(DS1) if mitdb else [str(number) for number in range(1, N_SIMULATED + 1)]


def _others(svdb: Path | None) -> list[str]:
    if svdb is None:
        return [str(number) for number in range(101, 101 + N_SIMULATED)]
    return [name for name, role in SVDB.roles.items() if role is Role.DEVELOPMENT]


def _hear_one(bundle: Bundle, job: tuple[Shift, Path | None, str]) -> list[Heard]:
    shift, directory, name = job
    if directory is None:
        record = simulate_cohort_member(int(name), duration_s=SIMULATED_S, seed=int(name))
    else:
        record = read_wfdb(directory / name, with_annotations=True)
        if name in SVDB.roles:  # two of its records may be of one person
            record = replace(record, person=SVDB.person_of(name))
    is_known = directory is not None and record.subject in bundle.folds
    classifier = BeatClassifier.load(
        bundle,
        fold=bundle.fold_of(record.subject) if is_known else None,
        verifier=load_blind_verifier(name) if is_known else None,
    )
    return list(hear(shift.change(record), classifier))


def hear(
    record: Record, classifier: BeatClassifier, *, strip_s: float = STRIP_S
) -> Iterator[Heard]:
    """Classify strips of a record, and score them."""
    signal, fs = np.nan_to_num(record.signal_mv()), record.fs
    length = round(strip_s * fs)
    if record.annotations is None:
        raise ValueError(f"record {record.name} must have annotations, it has none")
    for start in range(0, len(signal) - length + 1, round(max(STEP_S, strip_s) * fs)):
        classified = classifier.classify(signal[start : start + length], fs=fs)
        try:
            require_readable(classified.prepared)
            observed: dict[str, NDArray[np.generic]] | None = {
                **observe_beats(classified),
                **observe_polarity(classified),
            }
            readable = classified.has_class
        except InvalidSignalError:
            observed, readable = None, np.zeros(len(classified), dtype=np.bool_)
        counts = score_beats(
            record.annotations,
            detections=classified.r_peaks + start,
            is_v=classified.is_v,
            is_readable=readable,
            fs=fs,
            start_s=start / fs,
            stop_s=(start + length) / fs,
        )
        slices = {"lead": record.choose_lead(), "rate": f"{fs:g} Hz"}
        yield Heard(record.subject, strip_s, observed, counts, slices)
