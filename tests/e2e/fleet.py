"""Questions that the tests ask a running fleet, and waiting for its nodes."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import httpx
import numpy as np

from tests.e2e.engine import Compose, eventually

COMMIT_SECONDS = 900.0
"""For first builds of three sizes on a machine that does other work; an idle one with two cores takes a minute."""

Images: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]


def status(fleet: Compose, node: str) -> dict[str, Any]:
    """What a node reports, asked directly."""
    answer = httpx.get(f"{fleet.url(node)}/status", timeout=10)
    answer.raise_for_status()
    found = answer.json()
    assert isinstance(found, dict)
    return found


def committed(fleet: Compose, node: str, *, digest: str | None = None, other_than: str | None = None) -> dict[str, Any]:
    """The state of a node once it has committed a size: any, this one, or another than that."""

    def look() -> dict[str, Any] | None:
        try:
            found = status(fleet, node)
        except httpx.HTTPError:
            return None
        active = found["active"]
        if found["state"] != "committed" or active is None:
            return None
        fits = digest in (None, active["digest"]) and active["digest"] != other_than
        return found if fits else None

    try:
        return eventually(look, seconds=COMMIT_SECONDS, what=f"{node} commits")
    except AssertionError:
        print(fleet.logs([node, "hub", "tokens"]))
        raise


def infer(fleet: Compose, node: str, images: Images) -> dict[str, Any]:
    """What a node answers."""
    answer = httpx.post(f"{fleet.url(node)}/infer", json={"inputs": {"image": images.tolist()}}, timeout=30)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert isinstance(found, dict)
    return found


def shown(fleet: Compose, node: str) -> dict[str, Any]:
    """What the hub knows of a node, by the command that people use."""
    found = json.loads(fleet.hub_command("fleet", "show", node))
    assert isinstance(found, dict)
    return found


def seen(fleet: Compose, node: str) -> bool | None:
    """True when the hub has heard of a node lately, else None."""
    return None if shown(fleet, node)["stale"] else True
