"""Metrics of this process for Prometheus: one registry, in which each module declares what it counts.

Names are `inn_<noun>_<unit>`, seconds and bytes. Labels come from short lists: routes of the app, models that are
served, status codes; never a digest, an id or anything a client makes up.
"""

from __future__ import annotations

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

from service.ground.version import version

FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets of what takes milliseconds, in seconds."""

SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Buckets of what takes minutes, in seconds."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Of our own: the library's default one adds figures of the interpreter that nobody asked for.
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
Info("inn_build", "Version of the service.", registry=REGISTRY).info({"version": version()})

counter = functools.partial(Counter, registry=REGISTRY)
gauge = functools.partial(Gauge, registry=REGISTRY)
histogram = functools.partial(Histogram, registry=REGISTRY)


def render() -> bytes:
    """All metrics in the text format of Prometheus."""
    return generate_latest(REGISTRY)
