"""A baseline of the site: its own traffic, which drift is compared with instead of the reference.

A person accepts it, where traffic that differs from the records of the model is usual and its
labels are good. It holds for the served bundle alone, and the ledger notes it. What labels say, and
the estimate without labels, stay compared with what the bundle promises.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from pyarrow import parquet as pq

from ecg_lib.classifier.bundle import Bundle
from ecg_lib.errors import EcgError
from ecg_lib.operations.drift.observation import (
    OBSERVED_COLUMNS,
    REFERENCE_KEYS,
    ObservedBeats,
    gather_strips,
    read_reference,
)
from ecg_lib.operations.drift.traffic_log import Window, read_volume, sample_traffic
from ecg_lib.operations.prediction_log import PredictionLog
from ecg_lib.operations.releases import Release
from ecg_lib.operations.settings import Settings
from ecg_lib.operations.store.mirror import changing_baselines, mirror_baselines
from ecg_lib.operations.store.objects import StoreError
from ecg_lib.records.atomic_files import replacing
from flows.doors.ledger import append_event
from flows.doors.release_history import EventKind, find_user, make_event

MIN_GROUPS: Final = 10
"""Least number of people, or clients that name none. Fewer are their own habits, not those of the
site; the reference of a model of MIT-BIH has 22."""

MIN_STRIPS: Final = 200
MAX_STRIPS: Final = 10_000

_ABOUT: Final = b"ecg.baseline"

logger = logging.getLogger(__name__)


class BaselineError(EcgError):
    """Traffic cannot be the baseline, or the baseline cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """The traffic that was accepted."""

    since: str
    until: str
    n_strips: int
    n_groups: int
    who: str
    why: str

    @property
    def words(self) -> str:
        """Describe it in a few words."""
        return (
            f"the baseline of this site ({self.n_strips} strips of {self.n_groups} people or "
            f"clients from {self.since[:10]} to {self.until[:10]}: {self.why})"
        )


def accept_baseline(
    settings: Settings,
    release: Release,
    log: PredictionLog,
    *,
    now: datetime,
    days: float,
    why: str,
) -> Baseline:
    """Make the latest traffic to the served bundle what its drift is compared with.

    Args:
        settings: The home.
        release: The release that is served.
        log: The predictions.
        now: The time.
        days: How far back traffic is taken.
        why: Why it is usual at this site, for the ledger.

    Raises:
        BaselineError: If it is too little traffic.
        LedgerError: If the ledger cannot be written; nothing is changed then.
        StoreError: If a store is set and cannot be reached.
    """
    window = Window(since=now - timedelta(days=days), until=now, bundle_hash=release.bundle_hash)
    volume = read_volume(log, window)
    beats = gather_strips(sample_traffic(log, window, volume, max_strips=MAX_STRIPS))
    if beats.n_groups < MIN_GROUPS or beats.n_strips < MIN_STRIPS:
        msg = (
            f"a baseline needs {MIN_STRIPS} strips of {MIN_GROUPS} people (by patient_id) or "
            f"clients, the last {days:g} days have {beats.n_strips} of {beats.n_groups}: wait for "
            "more traffic, or take more days"
        )
        raise BaselineError(msg)
    baseline = Baseline(
        since=window.since.isoformat(timespec="seconds"),
        until=now.isoformat(timespec="seconds"),
        n_strips=beats.n_strips,
        n_groups=beats.n_groups,
        who=find_user(),
        why=why,
    )
    path = _path(settings, release.bundle_hash)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with changing_baselines(settings), replacing(path) as draft:
        pq.write_table(_to_table(beats, baseline), draft)
        _note(settings, release, f"accept {baseline.words}", why=why)
    return baseline


def remove_baseline(settings: Settings, release: Release, *, why: str) -> bool:
    """Compare the drift of the served bundle with its reference again.

    Returns:
        Whether there was a baseline.
    """
    path = _path(settings, release.bundle_hash)
    with changing_baselines(settings):
        if not path.exists():
            return False
        _note(settings, release, "compare drift with the reference of the model again", why=why)
        path.unlink(missing_ok=True)
    return True


def read_baseline(settings: Settings, bundle_hash: str) -> Baseline | None:
    """Read what was accepted for a bundle; None when nothing was.

    Raises:
        BaselineError: If it cannot be read.
    """
    found = _read(settings, bundle_hash)
    return None if found is None else Baseline(**json.loads(found.schema.metadata[_ABOUT]))


def read_compared(settings: Settings, bundle: Bundle) -> ObservedBeats:
    """Read what drift is compared with: the baseline of the site, else the bundle's reference.

    Raises:
        BaselineError: If the baseline cannot be read.
    """
    found = _read(settings, bundle.hash)
    return read_reference(bundle.read_drift_reference() if found is None else found)


def _read(settings: Settings, bundle_hash: str) -> pa.Table | None:
    path = _path(settings, bundle_hash)
    if settings.store_url is not None:
        try:
            mirror_baselines(settings).pull()
        except StoreError as error:
            logger.warning(
                "a baseline of another machine may be newer than the one here: %s", error
            )
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        msg = f"the baseline {path} cannot be read ({error}): accept it again, or reset it"
        raise BaselineError(msg) from error
    if _ABOUT not in (table.schema.metadata or {}):
        msg = f"the baseline {path} must say what it is of: accept it again, or reset it"
        raise BaselineError(msg)
    return table


def _path(settings: Settings, bundle_hash: str) -> Path:
    return settings.home / "baselines" / f"{bundle_hash[:16]}.parquet"


def _to_table(beats: ObservedBeats, baseline: Baseline) -> pa.Table:
    """Write beats as the reference of a bundle has them; people are numbers, not hashes."""
    number = np.unique(beats.group, return_inverse=True)[1]
    keys = (
        [f"person {number[strip]}" for strip in beats.strip],
        [str(strip) for strip in beats.strip],
        beats.strip_s[beats.strip],
    )
    columns = {name: beats.columns[name] for name in OBSERVED_COLUMNS}
    table = pa.table(dict(zip(REFERENCE_KEYS, keys, strict=True)) | columns)
    return table.replace_schema_metadata({_ABOUT: json.dumps(asdict(baseline)).encode()})


def _note(settings: Settings, release: Release, reason: str, *, why: str) -> None:
    event = make_event(EventKind.BASELINE, release, why=why, is_signed=True, who=find_user())
    append_event(settings.ledger_dir, event, reason=reason, metrics={}, model_card="")
