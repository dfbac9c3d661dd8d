"""The model that answers, and how another one takes its place while requests go on.

A thread looks at ``serving/current.json``. A release with the code of this process is loaded and
asked its golden requests beside the traffic; then one assignment makes it live. One that could not
be loaded is tried again as long as the file names it, less and less often: its files may have been
repaired. Releases with other code are started by the host (:mod:`bentos.host`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ecg_lib.classifier.beat_classifier import BeatClassifier
from ecg_lib.classifier.bundle import Bundle, read_bundle
from ecg_lib.classifier.golden import check_golden
from ecg_lib.operations.keys.signatures import check_signature
from ecg_lib.operations.releases import (
    CURRENT,
    Release,
    ReleaseError,
    model_directory,
    read_release,
)
from ecg_lib.operations.settings import Settings
from ecg_lib.records.atomic_files import state_of

UNREGISTERED: Final = "unregistered"

_POLL_S: Final = 0.2
_FIRST_RETRY_S: Final = 1.0
_LONGEST_RETRY_S: Final = 30.0
_MAX_REASON: Final = 500

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LoadedModel:
    """A bundle that is ready to answer."""

    classifier: BeatClassifier
    bundle: Bundle
    info: dict[str, str]
    """The ``model`` object of every answer."""
    release: Release | None = None
    """The release that it is of; None for a bundle that was served without one."""

    @property
    def bento_tag(self) -> str:
        """The bento that it is part of."""
        return self.info["bento_tag"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A release that was not taken, and why."""

    bento_tag: str
    reason: str


def load_model(
    stored: Path, *, bento_tag: str, version: str, bundle_hash: str | None = None
) -> LoadedModel:
    """Load the bundle in a directory of BentoML's model store and ask it its golden requests.

    Raises
    ------
    ReleaseError
        If it cannot be loaded, is not the one that is wanted, or answers otherwise than it should.

    """
    try:
        bundle = read_bundle(stored / "bundle")
        problem = ""
        if bundle_hash not in {None, bundle.hash}:
            problem = f"the bundle must have the hash {bundle_hash}, got {bundle.hash}"
        else:  # only now its network runs
            classifier = BeatClassifier.load(bundle)
            failures = check_golden(classifier, bundle.golden.read_text(encoding="utf-8"))
            if failures:
                problem = f"{len(failures)} golden request(s) failed: {'; '.join(failures)}"
    except Exception as error:  # whatever a broken release raises, the old one must go on
        msg = f"{type(error).__name__}: {error}"
        raise ReleaseError(msg, bento_tag=bento_tag) from error
    if problem:
        raise ReleaseError(problem, bento_tag=bento_tag)
    provenance = bundle.provenance
    return LoadedModel(
        classifier=classifier,
        bundle=bundle,
        info={
            "name": "ecg",
            "version": version,
            "bento_tag": bento_tag,
            "bundle_hash": bundle.hash,
            "run_id": provenance.run_id,
            "dataset_version": provenance.dataset_version,
            "git_commit": provenance.git_commit,
            "source": provenance.source.value,
            "data": provenance.data_source.value,
        },
    )


class LiveModel:
    """Holds the model that answers; one read of :attr:`current` serves one request.

    Parameters
    ----------
    settings : Settings
    code_hash : str
        Hash of the code of this process.
    has_host : bool
        True when a host starts other processes for releases with other code; without one they
        are refused.

    """

    def __init__(self, settings: Settings, *, code_hash: str, has_host: bool) -> None:
        self.current: LoadedModel | None = None
        self.refusal: Refusal | None = None
        self.code_hash = code_hash
        self.slowest: dict[str, str] | None = None
        """The model that the last of the workers to switch still serves; the host tells it."""
        self.when_used: Callable[[], object] = lambda: None
        """Called, from another thread maybe, when another model is live."""
        self._has_host = has_host
        self._settings = settings
        self._path = settings.serving_dir / CURRENT
        self._seen: tuple[int, ...] | None = None
        self._retry_s = 0.0
        self._retry_at = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="release-watcher", daemon=True)

    def take(self, release: Release) -> None:
        """Load a release and make it live.

        Raises
        ------
        ReleaseError
            If it is not signed, or is not taken; the model before it stays.

        """
        if release.code_hash != self.code_hash:
            msg = (
                f"the release has other code ({release.code_hash[:12]}) than this process "
                f"({self.code_hash[:12]}); python -m bentos.host can change it"
            )
            raise ReleaseError(msg, bento_tag=release.bento_tag)
        check_signature(self._settings, release)
        model = load_model(
            model_directory(self._settings.bentoml_home, release),
            bento_tag=release.bento_tag,
            version=release.model_version,
            bundle_hash=release.bundle_hash,
        )
        self.refusal = None
        self.use(replace(model, release=release))

    def use(self, model: LoadedModel) -> None:
        """Make a loaded model live."""
        self.current = model
        self.when_used()
        _logger.info("serving %s, bundle %s", model.bento_tag, model.bundle.hash[:12])

    @property
    def info(self) -> dict[str, str] | None:
        """The ``model`` object of what all workers serve; None without a model."""
        return self.slowest or (self.current.info if self.current else None)

    def refuse(self, bento_tag: str, reason: str) -> None:
        """Note that a release was not taken."""
        refusal = Refusal(bento_tag, reason[:_MAX_REASON])
        if refusal != self.refusal:
            _logger.error("refused %s: %s", bento_tag, reason)
        self.refusal = refusal

    def apply_current(self) -> None:
        """Take what ``current.json`` says if it has changed, or could not be taken before."""
        state = state_of(self._path)
        if state is None:
            return
        if state != self._seen:
            self._seen, self._retry_s = state, 0.0
        elif not self._retry_s or time.monotonic() < self._retry_at:
            return
        try:
            release = read_release(self._path)
            if release is None or self._is_served(release):
                self._retry_s = 0.0
                return
            if release.code_hash != self.code_hash and self._has_host:
                self._retry_s = 0.0
                return
            self.take(release)
            self._retry_s = 0.0
        except ReleaseError as error:
            self._retry_later()
            self.refuse(error.bento_tag, str(error))

    def _retry_later(self) -> None:
        self._retry_s = min(_LONGEST_RETRY_S, 2 * self._retry_s or _FIRST_RETRY_S)
        self._retry_at = time.monotonic() + self._retry_s

    def start(self) -> None:
        """Begin to look at ``current.json``."""
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)

    def _is_served(self, release: Release) -> bool:
        """Return whether a release is live already; it may have come with the process."""
        model = self.current
        if model is None or model.info["version"] != release.model_version:
            return False
        is_same = (model.bento_tag, model.bundle.hash) == (release.bento_tag, release.bundle_hash)
        if is_same:
            self.refusal = None
        return is_same

    def _watch(self) -> None:
        while not self._stop.wait(_POLL_S):
            try:
                self.apply_current()
            except Exception:  # whatever a look raises, later releases must be taken
                self._retry_later()
                _logger.exception("%s is looked at again in %g s", CURRENT, self._retry_s)
