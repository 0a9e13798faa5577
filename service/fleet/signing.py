"""Signed documents for nodes, from generations, and when one has to be signed anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from service.fleet.records import Generation
from service.trust.fields import MAX_SECONDS
from service.trust.keyring import REVOKED
from service.trust.probe import Probe, Rung
from service.trust.release import Policy, Release
from service.trust.vault import Vault

DAY_SECONDS = 86_400


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

    def document(self, node: str, generation: Generation) -> dict[str, Any]:
        """The document of a generation whose content is known, issued now.

        Raises:
            InvalidDocumentError: nodes would refuse it.
        """
        assert generation.content is not None, "the content is known"
        issued = int(self._clock())
        expires = min(issued + self._life_seconds, MAX_SECONDS)
        if generation.kind == "probe":
            budget = generation.desired.budget
            return self._vault.sign_probe(
                Probe(
                    node=node,
                    version=generation.number,
                    issued=issued,
                    expires=expires,
                    ladder=tuple(Rung(**rung) for rung in generation.content["ladder"]),
                    batch=budget.batch,
                    threads=budget.threads,
                    percentile=budget.percentile,
                    inputs=generation.content["inputs"],
                )
            )
        return self._vault.sign_release(
            Release(
                node=node,
                version=generation.number,
                issued=issued,
                expires=expires,
                rollback=generation.rollback,
                manifest=generation.content["manifest"],
                self_test=generation.content["self_test"],
                policy=Policy(**generation.desired.policy.model_dump()),
            )
        )

    def is_fresh(self, document: Mapping[str, Any]) -> bool:
        """Whether a document may be sent as it is: less than half of its life is over and its key still counts."""
        signed = document["signed"]
        signers = {signature["key_id"] for signature in document["signatures"]}
        keyring = self._vault.keyring()
        counting = {entry.key_id for entry in keyring.keys if entry.state != REVOKED}
        return bool(signers & counting) and 2 * self._clock() < signed["issued"] + signed["expires"]
