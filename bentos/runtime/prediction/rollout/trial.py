"""A candidate as requests meet it: who is answered by it, and what is compared afterwards."""

from __future__ import annotations

import logging
from collections.abc import Callable

from bentos.runtime.live_model import LiveModel, LoadedModel
from bentos.runtime.metrics import Metrics
from bentos.runtime.prediction.answer import Answer, Canary, Question, RefusedSignalError
from bentos.runtime.prediction.rollout.candidate_model import CandidateModel, OpenCandidate
from bentos.runtime.prediction.rollout.shadow import Shadow, is_error
from bentos.runtime.spool import decode_row
from ecg_lib.operations.learning.rollout.comparison import ComparisonRow
from ecg_lib.operations.prediction_rows import RequestRow
from ecg_lib.operations.releases import is_same_release
from ecg_lib.operations.settings import Settings

_logger = logging.getLogger(__name__)


class Trial:
    """The candidate of this process, its comparisons, and their counts.

    Parameters
    ----------
    settings : Settings
    live : LiveModel
    metrics : Metrics
    store : callable
        Stores a comparison.

    """

    def __init__(
        self,
        settings: Settings,
        live: LiveModel,
        *,
        metrics: Metrics,
        store: Callable[[ComparisonRow], object],
    ) -> None:
        self.candidate = CandidateModel(settings, live, count_slow=metrics.count_slow)
        self._metrics = metrics
        self._store = store
        self._shadow = Shadow(
            settings,
            note=self._note,
            note_failure=self.candidate.note_failure,
            count_uncompared=metrics.count_compared,
        )

    def find(self, model: LoadedModel) -> OpenCandidate | None:
        """Return the candidate that is tried beside a model."""
        opened = self.candidate.current
        if opened is None or not is_same_release(model.release, opened.candidate.champion):
            return None
        return opened

    def find_canary(self, opened: OpenCandidate) -> Canary | None:
        """Return what a request needs of a candidate that answers; None in shadow."""
        candidate = opened.candidate
        if candidate.share == 0:
            return None
        return Canary(
            model=opened.model,
            candidate_id=candidate.id,
            share=candidate.share,
            watch=lambda duration_s: self.candidate.pace.watch(candidate, duration_s),
        )

    def note_time(self, made: Answer) -> None:
        """Note what the served model takes for a short strip, also before a candidate is tried."""
        duration_s = made.counts.readable_s + made.counts.unreadable_s
        if not made.is_by_candidate and duration_s > 0:
            self.candidate.pace.note_champion(made.seconds, duration_s=duration_s)

    def follow(
        self,
        opened: OpenCandidate,
        model: LoadedModel,
        question: Question,
        made: Answer,
        *,
        is_long: bool,
    ) -> None:
        """Note who answered, and let the other model be asked too; long strips are not compared.

        The request is answered already, so that nothing here may fail it.
        """
        try:
            self._metrics.count_answered_by(is_candidate=made.is_by_candidate)
            self._note_failure(opened, made.failure, is_slow=made.is_slow)
            if not is_long:
                self._shadow.offer(opened, model, question, made)
        except Exception:
            _logger.exception("an answer cannot be followed up")

    def follow_refused(
        self,
        opened: OpenCandidate,
        model: LoadedModel,
        question: Question,
        refused: RefusedSignalError,
    ) -> None:
        """Let the candidate be asked for a short strip that the champion refused.

        It is not asked again where it was asked first, and its error counts as one. Nothing here
        may take the place of the refusal.
        """
        try:
            self._note_failure(opened, refused.failure, is_slow=refused.is_slow)
            request = decode_row(refused.row)
            if isinstance(request, RequestRow):
                self._shadow.offer_refused(
                    opened, model, question, request, failure=refused.failure
                )
        except Exception:
            _logger.exception("a refusal cannot be followed up")

    def start(self) -> None:
        """Begin to look for a candidate."""
        self.candidate.start()

    def close(self) -> None:
        """End the threads and the other process."""
        self.candidate.close()
        self._shadow.close()

    def _note_failure(self, opened: OpenCandidate, failure: str | None, *, is_slow: bool) -> None:
        if failure is not None and is_error(failure) and not is_slow:
            self.candidate.note_failure(opened.candidate, failure)  # one strip is one error

    def _note(self, row: ComparisonRow) -> None:
        if row.champion_refused:
            self._metrics.count_compared("champion_refused")
        elif row.comparison is None:
            self._metrics.count_compared((row.failure or "").partition(":")[0])
        else:
            found = row.comparison
            self._metrics.count_compared("compared")
            self._metrics.count_agreement(
                same=found.n_beats - found.n_disagreements, different=found.n_disagreements
            )
        self._store(row)
