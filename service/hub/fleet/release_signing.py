"""Signed documents for nodes, from generations, and when one has to be signed anew.

A node judges expiry by the latest time it has proof of. The clock of a hub that was far ahead for a while leaves nodes
with such a time in the future: they say so, and what is signed for them is good beyond it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from service.contract.measurement_order import MeasurementOrder, Rung
from service.contract.release import Policy, Release
from service.hub.fleet.records import Generation, Node
from service.signing.fields import MAX_SECONDS
from service.signing.vault import Vault

DAY_SECONDS = 86_400
SLACK_SECONDS = 300
"""A document that was issued so far in the future is still of this clock, which may have been set back a little."""


class Signer:
    """Signs what nodes are told.

    Args:
        vault: the keys.
        release_days: life of a document.
        clock: seconds since the epoch.
    """

    def __init__(self, vault: Vault, *, release_days: float, clock: Callable[[], float] = time.time) -> None:
        self._vault = vault
        self._life_seconds = max(60, int(release_days * DAY_SECONDS))
        self._clock = clock

    def document(self, node: Node, generation: Generation) -> dict[str, Any]:
        """The document of a generation whose content is known, issued now.

        Raises:
            InvalidDocumentError: nodes would refuse it.
        """
        assert generation.content is not None, "the content is known"
        issued = self._now()
        expires = min(max(issued, self._time_of(node)) + self._life_seconds, MAX_SECONDS)
        if generation.kind == "probe":
            budget = generation.desired.budget
            return self._vault.sign(
                MeasurementOrder(
                    node=node.name,
                    version=generation.number,
                    issued=issued,
                    expires=expires,
                    ladder=tuple(Rung(**rung) for rung in generation.content["ladder"]),
                    batch=budget.batch,
                    threads=budget.threads,
                    percentile=budget.percentile,
                    inputs=generation.content["inputs"],
                ).to_signed()
            )
        return self._vault.sign(
            Release(
                node=node.name,
                version=generation.number,
                issued=issued,
                expires=expires,
                rollback=generation.rollback,
                manifest=generation.content["manifest"],
                self_test=generation.content["self_test"],
                policy=Policy(**generation.desired.policy.model_dump()),
            ).to_signed()
        )

    def is_fresh(self, node: Node, document: Mapping[str, Any]) -> bool:
        """Whether a document may be sent to its node as it is.

        That is so when its key counts, the node will take it for at least half of its life, it was not issued by a
        clock that was ahead of the one of now, and not before the keyring was: where a key was revoked, nodes want to
        hear again what is left.
        """
        signed = document["signed"]
        signers = {signature["key_id"] for signature in document["signatures"]}
        now, keyring = self._now(), self._vault.keyring()
        left_seconds = signed["expires"] - max(now, self._time_of(node))
        return (
            not signers.isdisjoint(keyring.trusted)
            and 2 * left_seconds > self._life_seconds
            and keyring.issued <= signed["issued"] <= now + SLACK_SECONDS
        )

    def _time_of(self, node: Node) -> int:
        """The time of a node, within the life of the keyring: beyond that it believes nothing whatever is signed."""
        return min(node.trusted_time, self._vault.keyring().expires)

    def _now(self) -> int:
        """The time, but not before the keyring was issued: a clock that was set back since is wrong."""
        return max(int(self._clock()), self._vault.keyring().issued)
