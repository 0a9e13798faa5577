"""What an edge node is told when it starts: its hub, its name, its budget; plain values, checked by `inn edge`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from service.contract.sizes import LARGEST_BATCH, LARGEST_THREADS, LARGEST_VALUE, MEASURED_UNITS, PERCENTILES, UNITS

MIB = 1 << 20


@dataclass(frozen=True)
class Budget:
    """What the network of this node may need.

    Attributes:
        unit: one of `contract.sizes.UNITS`.
        value: at most this much.
        batch, threads, percentile: how latency and memory are measured; they mean nothing for the other units.
    """

    unit: str
    value: float
    batch: int = 1
    threads: int = 1
    percentile: int = 95

    def to_json(self) -> dict[str, Any]:
        """As the fleet's routes have it."""
        whole = self.value.is_integer() if isinstance(self.value, float) else True
        document: dict[str, Any] = {"unit": self.unit, "value": int(self.value) if whole else self.value}
        if self.unit in MEASURED_UNITS:
            document |= {"batch": self.batch, "threads": self.threads, "percentile": self.percentile}
        return document


def is_budget(value: Any) -> bool:
    """Whether a JSON value is a budget, as `Budget.to_json` gives it, that this device can keep to and measure."""

    def is_whole(name: str, largest: int) -> bool:
        found = value.get(name, 1)
        return type(found) is int and 1 <= found <= largest

    if not isinstance(value, dict) or value.get("unit") not in UNITS:
        return False
    limit, percentile = value.get("value", 0), value.get("percentile", 95)
    return (
        type(limit) in (int, float)
        and 0 < limit <= LARGEST_VALUE
        and is_whole("batch", LARGEST_BATCH)
        and is_whole("threads", LARGEST_THREADS)
        and type(percentile) is int
        and percentile in PERCENTILES
    )


@dataclass(frozen=True)
class EdgeSettings:
    """Settings of a node.

    Attributes:
        hub: base URL of the hub.
        node: name of this node.
        model: the model it serves.
        budget: what the network may need.
        store: folder of artifacts, pointers and trusted state.
        token: enrolment token; needed once.
        quality: how weights are made; the hub's default when None.
        labels: for the selectors of rollouts.
        threads: of one run.
        poll_seconds: how long one question for something new may wait at the hub; also the pace of reports.
        retry_seconds: longest first pause after something failed; pauses grow from there.
        stall_seconds: longest silence of the hub in the middle of an answer.
        download_grace_seconds: see `download.Pace`.
        max_body_bytes, max_inflated_bytes: of an inference request.
    """

    hub: str
    node: str
    model: str
    budget: Budget
    store: Path
    token: str | None = None
    quality: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    threads: int = 1
    poll_seconds: float = 30.0
    retry_seconds: float = 1.0
    stall_seconds: float = 30.0
    download_grace_seconds: float = 60.0
    max_body_bytes: int = 64 * MIB
    max_inflated_bytes: int = 256 * MIB
