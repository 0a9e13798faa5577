"""Metrics of the hub for Prometheus: one registry for each app, told by the other parts through their observers."""

from __future__ import annotations

import functools
from collections.abc import Mapping

from prometheus_client import Counter, Gauge, Histogram

from service.builds.observer import BuildOutcome
from service.contract.node_states import ALL_STATES
from service.http.serving_metrics import ServingMetrics

SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)


class Metrics(ServingMetrics):
    """What the hub counts and measures.

    Implements `JobObserver`, `StoreObserver`, `RuntimeObserver` and `FleetObserver`.
    """

    def __init__(self) -> None:
        super().__init__("hub")
        counter = functools.partial(Counter, registry=self.registry)
        gauge = functools.partial(Gauge, registry=self.registry)
        histogram = functools.partial(Histogram, registry=self.registry)

        self._exports = counter("inn_exports_total", "Builds that ended.", ["result"])
        self._stage_seconds = histogram(
            "inn_export_duration_seconds", "Time of a build: each stage, and `total`.", ["stage"], buckets=SLOW
        )
        self._joined = counter("inn_exports_joined_total", "Requests that shared a build with an earlier one.")
        self._exports_pending = gauge("inn_exports_pending", "Different exports that wait or run.")
        self._restarts = counter("inn_builder_restarts_total", "Builder processes that died or were killed.")

        self._hits = counter("inn_cache_hits_total", "Exports answered by an artifact that was there.")
        self._misses = counter("inn_cache_misses_total", "Exports that needed a plan, and perhaps a build.")
        self._evictions = counter("inn_cache_evictions_total", "Artifacts evicted to make room.")
        self._store_bytes = gauge("inn_cache_bytes", "Bytes of all artifacts in the store.")
        self._sent_bytes = counter("inn_artifact_bytes_sent_total", "Bytes of artifacts sent.")
        self._nodes = gauge("inn_fleet_nodes", "Nodes of the fleet.", ["state"])
        for result in ("done", "failed", "cancelled"):
            self._exports.labels(result)

    def artifact_bytes_sent(self, n_bytes: int) -> None:
        """Bytes of an artifact went to a client."""
        self._sent_bytes.inc(n_bytes)

    def export_cached(self) -> None:
        """A request was answered by an artifact that is there."""
        self._hits.inc()

    def export_missed(self) -> None:
        """A request needs a plan, and perhaps a build."""
        self._misses.inc()

    def export_joined(self) -> None:
        """A request shares a build that was asked for before."""
        self._joined.inc()

    def build_finished(self, outcome: BuildOutcome, seconds: float) -> None:
        """A build ended."""
        self._exports.labels(outcome).inc()
        self._stage_seconds.labels("total").observe(seconds)

    def stage_finished(self, stage: str, seconds: float) -> None:
        """A stage of a build ended."""
        self._stage_seconds.labels(stage).observe(seconds)

    def pending_changed(self, pending: int) -> None:
        """The number of different exports that wait or run changed."""
        self._exports_pending.set(pending)

    def builder_restarted(self) -> None:
        """A builder process died or was killed."""
        self._restarts.inc()

    def artifact_evicted(self, size_bytes: int) -> None:
        """An artifact was removed to make room."""
        self._evictions.inc()

    def used_bytes_changed(self, used_bytes: int) -> None:
        """The bytes of all artifacts changed."""
        self._store_bytes.set(used_bytes)

    def fleet_changed(self, counts: Mapping[str, int]) -> None:
        """How many nodes are in each state."""
        for state in ALL_STATES:
            self._nodes.labels(state).set(counts.get(state, 0))
