"""What Prometheus reads at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """The metrics of one process, in a registry of their own.

    Parameters
    ----------
    model_info : callable
        Gives the ``model`` object of answers, or None.
    backlog : callable
        Gives the number of rows that wait for the prediction log, and of those that were lost.

    """

    def __init__(
        self,
        *,
        model_info: Callable[[], dict[str, str] | None],
        backlog: Callable[[], tuple[int, int]],
    ) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.registry.register(_State(model_info, backlog))
        self._requests = Counter(
            "ecg_requests",
            "Requests by route and status",
            ["route", "method", "status"],
            registry=self.registry,
        )
        self._stages = Histogram(
            "ecg_stage_seconds",
            "Time of a prediction by stage",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._durations = Histogram(
            "ecg_request_seconds",
            "Time of a request by route",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._beats = Counter(
            "ecg_beats",
            "Beats by class (N, V, unreadable)",
            ["arrhythmia_type"],
            registry=self.registry,
        )
        self._rules = Counter(
            "ecg_rules", "Classes changed by rule", ["rule"], registry=self.registry
        )
        self._refusals = Counter(
            "ecg_refusals", "Requests refused by problem", ["problem"], registry=self.registry
        )

    def count_request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(route, method, str(status)).inc()
        self._durations.labels(route).observe(seconds)

    def count_beats(self, *, normal: int, ventricular: int, unreadable: int) -> None:
        """Count the beats of a prediction."""
        self._beats.labels("N").inc(normal)
        self._beats.labels("V").inc(ventricular)
        self._beats.labels("unreadable").inc(unreadable)

    def count_rules(self, rules: Iterable[str]) -> None:
        """Count the rules that changed a class."""
        for rule in rules:
            self._rules.labels(rule).inc()

    def count_refusal(self, problem: str) -> None:
        """Count a request that was answered with a problem."""
        self._refusals.labels(problem).inc()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage of a prediction."""
        start = perf_counter()
        yield
        self._stages.labels(name).observe(perf_counter() - start)

    def write(self) -> bytes:
        """Write the text that Prometheus reads."""
        return generate_latest(self.registry)


class _State(Collector):
    """Gauges that are asked for when they are read."""

    def __init__(
        self,
        model_info: Callable[[], dict[str, str] | None],
        backlog: Callable[[], tuple[int, int]],
    ) -> None:
        self._model_info = model_info
        self._backlog = backlog

    def collect(self) -> Iterator[Metric]:
        waiting, lost = self._backlog()
        yield GaugeMetricFamily(
            "ecg_log_backlog_rows", "Rows that wait for the prediction log", value=waiting
        )
        yield GaugeMetricFamily("ecg_log_lost_rows", "Rows that could be kept nowhere", value=lost)
        info = self._model_info()
        labels = ("version", "bento_tag", "bundle_hash", "source", "data")
        model = GaugeMetricFamily("ecg_model_info", "The model that answers", labels=labels)
        if info is not None:
            model.add_metric([info[label] for label in labels], 1)
        yield model
