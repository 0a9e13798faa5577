"""The states of a node: what it says of itself, and what the hub adds."""

from __future__ import annotations

from typing import Literal

STATES = (
    "idle",
    "downloading",
    "verifying",
    "staged",
    "warming",
    "active",
    "committed",
    "rolled-back",
    "failed",
)
STALE, NEW = "stale", "new"
"""States that the hub adds: not seen for too long, and never reported."""

ALL_STATES = (*STATES, STALE, NEW)
"""Every state that a node may be shown in."""

State = Literal["idle", "downloading", "verifying", "staged", "warming", "active", "committed", "rolled-back", "failed"]
