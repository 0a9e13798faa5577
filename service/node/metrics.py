"""Metrics of a node for Prometheus."""

from __future__ import annotations

from service.http.serving_metrics import ServingMetrics


class EdgeMetrics(ServingMetrics):
    """What a node counts and measures. Implements `RuntimeObserver`."""

    def __init__(self) -> None:
        super().__init__("node")
