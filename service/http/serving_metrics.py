"""Metrics of any process that answers inference requests, hub or node: requests, runs, sessions.

Names are `inn_<noun>_<unit>`, seconds and bytes. Labels come from short lists: routes of the app, models that are
served, status codes; never a digest, an id or anything a client makes up.
"""

from __future__ import annotations

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from service.ground.version import version

FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class ServingMetrics:
    """What every such process counts and measures; each adds its own in a child. Implements `RuntimeObserver`.

    Args:
        process: "hub" or "node", for the description of the version.
    """

    def __init__(self, process: str) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        counter = functools.partial(Counter, registry=self.registry)
        gauge = functools.partial(Gauge, registry=self.registry)
        histogram = functools.partial(Histogram, registry=self.registry)

        Info("inn_build", f"Version of the {process}.", registry=self.registry).info({"version": version()})
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
