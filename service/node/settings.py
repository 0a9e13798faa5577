"""What an edge node is told when it starts: its hub, its name, its budget; plain values, checked by `inn edge`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.contract.sizes import Budget

MIB = 1 << 20


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
