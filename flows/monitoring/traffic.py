"""Requests for the service: one for show, and many for the drift check."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from enum import StrEnum
from typing import Any, Final, NamedTuple

import httpx
import numpy as np
from numpy.typing import NDArray

from ecg_lib.errors import DatasetError, EcgError
from ecg_lib.operations.settings import Settings
from ecg_lib.records.record import Record
from ecg_lib.records.simulation.patients import draw_patient
from ecg_lib.records.simulation.simulator import StripKind, simulate_record, simulate_strip
from ecg_lib.training.views import View, view_signal
from flows.data.databases import PUBLISHED, SITE, Role
from flows.data.dataset_versions import DatasetVersion, load_version
from flows.data.records.preparation import read_development
from flows.data.records.sources import find_directory
from flows.release.load_released import load_bundle_to_use
from flows.release.switch_service import key_header, service_url

STRIP_S: Final = 10.0
_NOISY_DB: Final = 6
_TIMEOUT_S: Final = 30.0


_logger = logging.getLogger(__name__)


class Traffic(StrEnum):
    """Kinds of traffic."""

    REPLAYED = "replayed"
    """Strips of the records that the served model was made for, and its drift reference of."""
    NOISY = "noisy"
    """The same strips under muscle noise at 6 dB."""
    SIMULATED = "simulated"
    """Strips of simulated patients."""


class ServiceError(EcgError):
    """The service does not answer."""


class Strip(NamedTuple):
    """A request."""

    name: str
    patient: str
    signal_mv: NDArray[np.floating]
    fs: float


def demo_strip(settings: Settings) -> Strip:
    """Cut the first strip with a ventricular beat out of the development records.

    Where none can be read it is a simulated one, whose name says so.
    """
    try:
        return _cut_first_v(load_version(settings.datasets_dir))
    except EcgError as error:
        _logger.info("no strip of a record: %s", error)
    record = simulate_strip(StripKind.RUN, seed=1)
    return Strip(
        name="a simulated strip",
        patient=record.subject,
        signal_mv=record.signal_mv(),
        fs=record.fs,
    )


def _cut_first_v(version: DatasetVersion) -> Strip:
    for prepared in version.records_of(Role.DEVELOPMENT):
        record = version.read_source(prepared)
        annotations = record.annotations
        if annotations is None or not (annotations.beat_classes == "V").any():
            continue
        first_v = annotations.beat_samples[annotations.beat_classes == "V"][0]
        start = max(0, int(first_v - STRIP_S / 2 * record.fs))
        return _cut(record, start)
    msg = "there must be a development record with V beats to show, there is none"
    raise ServiceError(msg)


def _cut(record: Record, start: int) -> Strip:
    length = round(STRIP_S * record.fs)
    start = min(start, len(record.signals_mv) - length)
    return Strip(
        name=f"record {record.name} from {start / record.fs:.1f} s on",
        patient=record.subject,
        signal_mv=record.signal_mv()[start : start + length],
        fs=record.fs,
    )


def make_strips(traffic: Traffic, *, count: int, seed: int, settings: Settings) -> Iterator[Strip]:
    """Make strips of the patients in turn, at random places."""
    rng = np.random.default_rng(seed)
    if traffic is Traffic.SIMULATED:
        for number in range(count):
            patient = int(rng.integers(1_000_000))
            record = simulate_record(
                f"sim{number}", patient=draw_patient(patient), duration_s=STRIP_S, seed=patient
            )
            yield _cut(record, 0)
        return
    records = find_records_of_model(settings)
    if traffic is Traffic.NOISY:
        records = [_add_noise(record) for record in records]
    for number in range(count):
        record = records[number % len(records)]
        yield _cut(record, int(rng.integers(len(record.signals_mv) - round(STRIP_S * record.fs))))


def find_records_of_model(settings: Settings) -> list[Record]:
    """Find the records that the drift reference of the served model was made of.

    Those of its dataset version when that is here, else of the archives, as for the model that
    ships.

    Raises:
        ServiceError: If records of a person are missing: traffic of the others would be another
            population than that of the reference.
    """
    model, bundle = load_bundle_to_use(settings)
    people = set(bundle.read_drift_reference()["subject"].to_pylist())
    try:
        version = load_version(settings.datasets_dir, bundle.provenance.dataset_version)
        return [
            version.read_source(record)
            for record in version.records_of(Role.DEVELOPMENT)
            if record.subject in people and record.database != SITE.name
        ]
    except DatasetError as error:
        _logger.info("the dataset version of model %s is not here: %s", model, error)
    records, missing = [], set(people)
    for database in PUBLISHED.values():
        directory = find_directory(database, settings)
        if directory is None:
            continue
        for found in read_development(database, directory, people=people):
            records.append(found)
            missing.discard(found.subject)
    if missing:
        trained_on = bundle.metrics.get("databases", [bundle.provenance.data_source.value])
        variables = " and ".join(f"ECG_{name.upper()}_DIR" for name in trained_on)
        msg = (
            f"replayed traffic needs the records that model {model} was made for "
            f"({', '.join(trained_on)}), those of {len(missing)} of {len(people)} people are not "
            f"here; set {variables}, or send simulated traffic, which differs from them"
        )
        raise ServiceError(msg)
    return records


def _add_noise(record: Record) -> Record:
    signals = record.signals_mv.copy()
    own = record.leads.index(record.choose_lead())
    signals[:, own] = view_signal(record, View(noise_db=_NOISY_DB))
    return replace(record, signals_mv=signals)


def send(strip: Strip, *, client: httpx.Client, settings: Settings) -> httpx.Response:
    """Post a strip as a prediction request.

    Raises:
        ServiceError: If no service answers.
    """
    body = {
        "signal_data": [round(float(sample), 4) for sample in strip.signal_mv],
        "sampling_rate": strip.fs,
        "patient_id": strip.patient,
    }
    headers = key_header(settings)
    try:
        return client.post(
            f"{service_url(settings)}/api/v1/predictions/", json=body, headers=headers
        )
    except httpx.HTTPError as error:
        msg = f"the service must answer at {service_url(settings)}, it does not: {error}"
        raise ServiceError(msg) from error


def send_many(
    strips: Iterator[Strip], *, settings: Settings, report: Callable[[str], None]
) -> Counter[str]:
    """Send strips one after the other and count the answers by what they say."""
    outcomes: Counter[str] = Counter()
    with httpx.Client(timeout=_TIMEOUT_S) as client:
        for number, strip in enumerate(strips, start=1):
            outcomes[describe_outcome(send(strip, client=client, settings=settings))] += 1
            if number % 100 == 0:
                report(f"{number} strips sent")
    return outcomes


def describe_outcome(response: httpx.Response) -> str:
    """Say in a word what an answer is."""
    body: dict[str, Any] = response.json()
    if response.status_code == httpx.codes.CREATED:
        return f"answered {body['overall_arrhythmia_type']}"
    return f"{response.status_code} {body['type'].rpartition('/')[2]}"
