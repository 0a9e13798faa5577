"""Metrics for Prometheus: one registry for each app, told by the other parts through their observer interfaces.

Names are `inn_<noun>_<unit>`, seconds and bytes. Labels come from short lists: routes of the app, registered models,
stages of a build; never a digest, an id or anything a client makes up.
"""

from __future__ import annotations

import functools
import importlib.metadata

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from service.jobs.observer import BuildOutcome

FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """What the hub counts and measures. Implements `JobObserver`, `StoreObserver` and `RuntimeObserver`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = functools.partial(Counter, registry=self.registry)
        gauge = functools.partial(Gauge, registry=self.registry)
        histogram = functools.partial(Histogram, registry=self.registry)

        Info("inn_build", "Version of the hub.", registry=self.registry).info({"version": version()})
        self._requests = counter("inn_http_requests_total", "Requests answered.", ["route", "code"])
        self._request_seconds = histogram(
            "inn_http_request_duration_seconds",
            "Time from a request to the end of its answer.",
            ["route"],
            buckets=FAST,
        )

        self._infers = counter("inn_infer_requests_total", "Inference requests answered.", ["model", "code"])
        self._infer_seconds = histogram(
            "inn_infer_request_duration_seconds", "Time of an inference request, its build included.", buckets=FAST
        )
        self._queue_seconds = histogram(
            "inn_infer_queue_duration_seconds", "Time an inference request waited for its batch.", buckets=FAST
        )
        self._run_seconds = histogram("inn_infer_run_duration_seconds", "Time of one run of a session.", buckets=FAST)
        self._batch_rows = histogram("inn_infer_batch_rows", "Rows run together.", buckets=ROWS)
        self._infer_pending = gauge("inn_infer_pending_requests", "Inference requests waiting for their batch.")
        self._sessions = gauge("inn_sessions_loaded", "Sessions loaded.")
        self._session_bytes = gauge("inn_sessions_bytes", "Bytes of the artifacts loaded in sessions.")

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
        for result in ("done", "failed", "cancelled"):
            self._exports.labels(result)

    def render(self) -> bytes:
        """All metrics in the text format of Prometheus."""
        return generate_latest(self.registry)

    def request_answered(self, route: str, status: int, seconds: float) -> None:
        """A request to a route (its path template) ended."""
        self._requests.labels(route, str(status)).inc()
        self._request_seconds.labels(route).observe(seconds)

    def infer_answered(self, model: str, status: int, seconds: float) -> None:
        """An inference request ended; `model` must be registered, or `unknown`."""
        self._infers.labels(model, str(status)).inc()
        self._infer_seconds.observe(seconds)

    def artifact_bytes_sent(self, n_bytes: int) -> None:
        """Bytes of an artifact went to a client."""
        self._sent_bytes.inc(n_bytes)

    def request_queued(self) -> None:
        """A request joined the queue of a session."""
        self._infer_pending.inc()

    def request_left(self, queue_seconds: float) -> None:
        """A request left the queue of a session."""
        self._infer_pending.dec()
        self._queue_seconds.observe(queue_seconds)

    def batch_run(self, n_rows: int, seconds: float) -> None:
        """ONNX Runtime ran a batch."""
        self._batch_rows.observe(n_rows)
        self._run_seconds.observe(seconds)

    def sessions_changed(self, n_sessions: int, size_bytes: int) -> None:
        """Sessions were opened or closed."""
        self._sessions.set(n_sessions)
        self._session_bytes.set(size_bytes)

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


def version() -> str:
    """Version of the installed package, `0` when it runs from a folder that is not installed."""
    try:
        return importlib.metadata.version("inn-service")
    except importlib.metadata.PackageNotFoundError:
        return "0"
