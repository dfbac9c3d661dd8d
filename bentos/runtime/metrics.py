"""What Prometheus reads at ``/metrics``, counted over all workers of a host.

Workers write what they count into files of one directory (``PROMETHEUS_MULTIPROC_DIR``, set by
:mod:`bentos.host` before prometheus_client is imported), and whichever is asked adds them up.
Without a host there is one process, and no files.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from time import perf_counter
from typing import Final, NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from ecg_lib.operations.drift.last_check import ACTIONS, LastCheck
from ecg_lib.operations.processes.helper_states import HelperState, HelperStatus

STAGES: Final = ("parse", "prepare", "network", "rules", "answer", "log")
"""The way of a prediction: JSON and its checks; filter, R-peaks and features; the network; rules
and readability; rhythm and JSON; the spool."""

_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_BEATS: Final = (5, 10, 15, 20, 30, 50, 100, 300, 1000, 3000)
_MODEL: Final = ("version", "bento_tag", "bundle_hash", "source", "data")


class RolloutState(NamedTuple):
    """The candidate that this process tries."""

    share: float = 0.0
    stage: int = -1
    is_halted: bool = False


class Metrics:
    """The metrics of one process.

    Parameters
    ----------
    model_info : callable
        Gives the ``model`` object of answers, or None.
    backlog : callable
        Gives the number of rows that wait for the prediction log, and of those that were lost.
    helpers : callable
        Gives the state of each helper of the platform.
    drift : callable
        Gives the latest drift check, or None.
    rollout : callable
        Gives the state of the candidate that is tried.

    """

    def __init__(
        self,
        *,
        model_info: Callable[[], dict[str, str] | None],
        backlog: Callable[[], tuple[int, int]],
        helpers: Callable[[], dict[str, HelperState]],
        drift: Callable[[], LastCheck | None],
        rollout: Callable[[], RolloutState],
    ) -> None:
        self.registry = CollectorRegistry()
        self._model_info = model_info
        self._backlog = backlog
        self._helpers = helpers
        self._drift = drift
        self._rollout = rollout
        self._shown: tuple[str, ...] | None = None
        self._lost = 0
        self._refreshing = threading.Lock()
        self._requests = self._counter(
            "ecg_requests", "Requests by route and status", "route", "method", "status"
        )
        self._durations = self._histogram(
            "ecg_request_seconds", "Time of a request by route", "route"
        )
        self._by_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.in_flight = self._gauge(
            "ecg_requests_in_flight", "Requests that are being answered", mode="livesum"
        )
        stages = self._histogram("ecg_stage_seconds", "Time of a prediction by stage", "stage")
        self._stages = {name: stages.labels(name) for name in STAGES}
        beats = self._counter(
            "ecg_beats", "Beats by class (N, V, paced, unreadable)", "arrhythmia_type"
        )
        self._beats = {name: beats.labels(name) for name in ("N", "V", "paced", "unreadable")}
        self._n_beats = Histogram(
            "ecg_beats_per_prediction",
            "Beats of a prediction, of every class",
            buckets=_BEATS,
            registry=self.registry,
        )
        self.live_leads = self._gauge(
            "ecg_live_leads", "Leads that stream to the service", mode="livesum"
        )
        self._live_beats = self._counter(
            "ecg_live_beats", "Final beats of leads that stream, by class", "arrhythmia_type"
        )
        self._rules = self._counter("ecg_rules", "Classes changed by rule", "rule")
        signal = self._counter("ecg_signal_seconds", "Seconds of ECG by readability", "readable")
        self._signal = {name: signal.labels(name) for name in ("yes", "no")}
        self._refusals = self._counter("ecg_refusals", "Requests refused by problem", "problem")
        self._waiting = self._gauge(
            "ecg_log_backlog_rows", "Rows that wait for the prediction log", mode="livesum"
        )
        self._lost_rows = Counter(
            "ecg_log_lost_rows", "Rows that could be kept nowhere", registry=self.registry
        )
        self._model = self._gauge(
            "ecg_model_info", "The model that answers", *_MODEL, mode="livemax"
        )
        self._helper_up = self._gauge(
            "ecg_helper_up", "Whether a helper of the platform runs", "helper", mode="livemin"
        )
        self._drift_verdict = self._gauge(
            "ecg_drift_verdict", "Whether the latest drift check came to it", "action",
            mode="livemax",
        )  # fmt: skip
        self._drift_found = self._gauge(
            "ecg_drift_found", "Whether the latest check found drift", "bento_tag", mode="livemax"
        )
        self._drift_checked = self._gauge(
            "ecg_drift_check_timestamp_seconds", "Time of the latest drift check", mode="livemax"
        )
        self._drift_tag: str | None = None
        self._compared = self._counter(
            "ecg_rollout_strips", "Strips that champion and candidate were to be compared on, by "
            "what became of it (compared, dropped, refused, failed, champion_refused, "
            "champion_failed)", "result",
        )  # fmt: skip
        self._agreement = self._counter(
            "ecg_rollout_beats", "Beats that both classified, by whether they agree", "agreement"
        )
        self._answered_by = self._counter(
            "ecg_rollout_answers", "Answers while a candidate is tried, by the model", "model"
        )
        self._slow = Counter(
            "ecg_rollout_slow_answers", "Answers for which a candidate took too long",
            registry=self.registry,
        )  # fmt: skip
        self._rollout_share = self._gauge(
            "ecg_rollout_share", "Share of the people whom a candidate answers", mode="livemax"
        )
        self._rollout_stage = self._gauge(
            "ecg_rollout_stage",
            "Stage of the candidate in the slowest worker: 0 is shadow, -1 without one",
            mode="livemin",
        )  # fmt: skip
        self._rollout_halted = self._gauge(
            "ecg_rollout_halted", "Whether the candidate was ended and is not closed yet",
            mode="livemax",
        )  # fmt: skip
        self._process = {
            sample.name: self._gauge(sample.name, metric.documentation, mode="liveall")
            for metric in ProcessCollector(registry=None).collect()
            for sample in metric.samples
        }

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, buckets=_SECONDS, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str, mode: str) -> Gauge:
        return Gauge(name, text, labels, multiprocess_mode=mode, registry=self.registry)  # type: ignore[arg-type]  # a Literal

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        key = (route, method, status)
        found = self._by_request.get(key)  # to look for labels takes longer than to count
        if found is None:
            found = self._by_request[key] = (
                self._requests.labels(route, method, str(status)),
                self._durations.labels(route),
            )
        requests, durations = found
        requests.inc()
        durations.observe(seconds)

    def count_beats(self, *, normal: int, ventricular: int, paced: int, unreadable: int) -> None:
        """Count the beats of a prediction."""
        counts = {"N": normal, "V": ventricular, "paced": paced, "unreadable": unreadable}
        _add(self._beats, counts)
        self._n_beats.observe(sum(counts.values()))

    def count_live_beats(
        self, *, normal: int, ventricular: int, paced: int, unreadable: int
    ) -> None:
        """Count beats of a lead that streams, once they are final."""
        self._live_beats.labels("N").inc(normal)
        self._live_beats.labels("V").inc(ventricular)
        self._live_beats.labels("paced").inc(paced)
        self._live_beats.labels("unreadable").inc(unreadable)

    def count_signal(self, *, readable_s: float, unreadable_s: float) -> None:
        """Count the seconds of a signal."""
        _add(self._signal, {"yes": readable_s, "no": unreadable_s})

    def count_rules(self, rules: Iterable[str]) -> None:
        """Count the rules that changed a class."""
        for rule in rules:
            self._rules.labels(rule).inc()

    def count_compared(self, result: str) -> None:
        """Count a strip that both models were to be compared on."""
        self._compared.labels(result).inc()

    def count_agreement(self, *, same: int, different: int) -> None:
        """Count the beats of a strip that was compared."""
        self._agreement.labels("same").inc(same)
        self._agreement.labels("different").inc(different)

    def count_answered_by(self, *, is_candidate: bool) -> None:
        """Count an answer while a candidate is tried."""
        self._answered_by.labels("candidate" if is_candidate else "champion").inc()

    def count_slow(self) -> None:
        """Count an answer for which a candidate took too long."""
        self._slow.inc()

    def count_refusal(self, problem: str) -> None:
        """Count a request that was answered with a problem."""
        self._refusals.labels(problem).inc()

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Measure one of :data:`STAGES`, unless it raises."""
        return _Timed(self._stages[name])

    def observe_stage(self, name: str, seconds: float) -> None:
        """Note the time of one of :data:`STAGES`."""
        self._stages[name].observe(seconds)

    def refresh(self) -> None:
        """Note what is not counted but read: backlog, model, memory and processor time."""
        # A tick of the server and requests for metrics may come together.
        with self._refreshing:
            self._refresh()

    def _refresh(self) -> None:
        waiting, lost = self._backlog()
        self._waiting.set(waiting)
        self._lost_rows.inc(lost - self._lost)
        self._lost = lost
        info = self._model_info()
        model = tuple(info[name] for name in _MODEL) if info else None
        if self._shown not in {None, model}:
            self._model.labels(*self._shown).set(0)  # no label can be removed from a file
        if model is not None:
            self._model.labels(*model).set(1)
        self._shown = model
        for name, state in self._helpers().items():
            self._helper_up.labels(name).set(state.status is HelperStatus.RUNNING)
        self._show_drift(self._drift())
        rollout = self._rollout()
        self._rollout_share.set(rollout.share)
        self._rollout_stage.set(rollout.stage)
        self._rollout_halted.set(rollout.is_halted)
        for metric in ProcessCollector(registry=None).collect():
            for sample in metric.samples:
                self._process[sample.name].set(sample.value)

    def _show_drift(self, check: LastCheck | None) -> None:
        if check is None:
            return
        for action in ACTIONS:
            self._drift_verdict.labels(action).set(check.action == action)
        if self._drift_tag not in {None, check.bento_tag}:
            self._drift_found.labels(self._drift_tag).set(0)
        self._drift_tag = check.bento_tag
        self._drift_found.labels(check.bento_tag).set(check.is_breach)
        self._drift_checked.set(check.created_at.timestamp())

    def write(self) -> bytes:
        """Write the text that Prometheus reads."""
        self.refresh()
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)


class _Timed(AbstractContextManager[None]):
    """Observes the time in it; a generator would take five times as long."""

    __slots__ = ("_start_s", "_times")

    def __init__(self, times: Histogram) -> None:
        self._times = times

    def __enter__(self) -> None:
        self._start_s = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._times.observe(perf_counter() - self._start_s)


def _add(counters: Mapping[str, Counter], amounts: Mapping[str, float]) -> None:
    for name, amount in amounts.items():
        if amount:
            counters[name].inc(amount)
