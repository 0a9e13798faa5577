"""What the tests of trust sign: keys of fixed seeds, a release and a probe that are in order."""

from __future__ import annotations

import json
from typing import Any

from service.contract.measurement_order import MeasurementOrder
from service.contract.release import Release
from service.signing.keyring import ACTIVE, RETIRING, REVOKED, Keyring, KeyringEntry
from service.signing.keys import KeyPair, PublicKey
from service.signing.vault import Vault

NOW = 1_790_000_000
DAY = 86_400

ROOT, FIRST, SECOND, THIRD, STRANGER = (KeyPair.from_seed(bytes([number]) * 32) for number in range(1, 6))


class Clock:
    """Seconds since the epoch that a test sets."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def keyring(**changes: Any) -> Keyring:
    fields: dict[str, Any] = {
        "version": 3,
        "issued": NOW,
        "expires": NOW + 900 * DAY,
        "keys": (
            KeyringEntry(FIRST.public, ACTIVE),
            KeyringEntry(SECOND.public, RETIRING),
            KeyringEntry(THIRD.public, REVOKED),
        ),
        "root": ROOT.public,
    }
    return Keyring(**(fields | changes))


def release_content() -> dict[str, Any]:
    return {
        "type": "inn-release/1",
        "node": "kitchen-1",
        "version": 7,
        "issued": NOW,
        "expires": NOW + 30 * DAY,
        "rollback": False,
        "manifest": {
            "model": "fashion_resnet",
            "checkpoint": "sha256:" + "ab" * 32,
            "digest": "sha256:" + "cd" * 32,
            "budget": {"unit": "params", "value": 5000},
            "params": 4982,
            "macs": 359784,
            "bytes": 20914,
            "quality": "refined",
            "method": "one-shot",
            "held_out": 1.4484509858192496e-07,
            "group_sizes": {"stem": 13, "blocks.0.conv1": 36},
            "multiple_of": 1,
            "inputs": [{"name": "image", "dtype": "float32", "shape": [None, 1, 28, 28]}],
            "outputs": [{"name": "logits", "dtype": "float32", "shape": [None, 10]}],
            "opset": 18,
            "parity": 1.0093856717300144e-07,
            "agreement": 1.0,
            "feasible": {"min": 154, "max": 694922},
            "full_size": False,
            "build_key": "sha256:" + "ef" * 32,
            "seconds": {"plan": 0.0018},
        },
        "self_test": {
            "seed": "00ff",
            "rows": 2,
            "outputs": {"logits": {"shape": [2, 10], "values": [0.5, -1e20, 3]}},
            "tolerance": 0.001,
        },
        "policy": {"max_error_share": 0.05, "max_p95_ms": None, "watch_seconds": 30, "watch_requests": 20},
    }


def release(**changes: Any) -> Release:
    return Release.parse(release_content() | changes)


def probe_content() -> dict[str, Any]:
    return {
        "type": "inn-probe/1",
        "node": "kitchen-1",
        "version": 8,
        "issued": NOW,
        "expires": NOW + DAY,
        "ladder": [
            {"digest": "sha256:" + "11" * 32, "bytes": 1000, "params": 200, "macs": 3000},
            {"digest": "sha256:" + "22" * 32, "bytes": 2000, "params": 400, "macs": 6000},
        ],
        "batch": 1,
        "threads": 2,
        "percentile": 95,
        "inputs": [{"name": "image", "dtype": "float32", "shape": [None, 1, 28, 28]}],
    }


def probe(**changes: Any) -> MeasurementOrder:
    return MeasurementOrder.parse(probe_content() | changes)


def node_view(vault: Vault, root: PublicKey) -> Keyring:
    """The keyring as a node takes it: over the wire, against the root key that it pinned."""
    return Keyring.open(json.dumps(vault.keyring_document()).encode(), root)
