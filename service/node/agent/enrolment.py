"""How a node comes to its hub: with a one-use token it gives its public key and pins the hub's root key."""

from __future__ import annotations

import asyncio
import logging

from service.ground.errors import ServiceError
from service.node.agent.backoff import Backoff
from service.node.errors import EnrolmentRefusedError, HubRefusedError
from service.node.hub_client import HubClient
from service.node.settings import EdgeSettings
from service.node.status import Status, error_of
from service.node.trust.store import TrustStore
from service.signing.enrolment_tokens import EnrolmentToken
from service.signing.errors import InvalidKeyError, InvalidTokenError, UnknownKeyError
from service.signing.keys import PublicKey

log = logging.getLogger(__name__)

PASSING = (408, 409, 425, 429)
"""Refusals that are worth another attempt; the other ones below 500 stay as they are."""


async def enroll(
    settings: EdgeSettings, identity: TrustStore, hub: HubClient, *, status: Status, backoff: Backoff
) -> None:
    """Enroll, as often as it takes to reach the hub; does nothing when the token was used by this node before.

    Raises:
        EnrolmentRefusedError: the hub refuses, or is not the one that the token is of; not raised when the node is
            enrolled already, since then it can go on as it is.
    """
    if settings.token is None:
        return
    token = EnrolmentToken.parse(settings.token)
    if identity.is_enrolled and identity.token_id == token.id:
        return
    state = status.state
    while True:
        try:
            await _enroll(token, settings, identity, hub, status)
        except (HubRefusedError, UnknownKeyError, InvalidTokenError) as error:
            if not isinstance(error, HubRefusedError) or (error.status < 500 and error.status not in PASSING):
                code = error.problem if isinstance(error, HubRefusedError) else error.code
                refused = EnrolmentRefusedError(settings.node, code, error.message)
                if not identity.is_enrolled:
                    raise refused from error
                log.error("enrolment refused", extra={"code": code, "detail": error.message})
                return
            await _pause(error, status, backoff)
        except ServiceError as error:
            await _pause(error, status, backoff)
        except OSError:  # the disk fails
            log.exception("defect while enrolling")
            await asyncio.sleep(backoff.failed())
        else:
            log.info("enrolled", extra={"node": settings.node, "token": token.id})
            if status.state == "failed":
                status.enter(state)
            return


async def _enroll(
    token: EnrolmentToken, settings: EdgeSettings, identity: TrustStore, hub: HubClient, status: Status
) -> None:
    answer = await hub.enroll(
        {
            "node": settings.node,
            "token": token.text,
            "public_key": identity.key.public.text,
            "labels": dict(settings.labels),
            "capability": status.capability,
        }
    )
    try:
        root = PublicKey.parse(answer.root)
    except InvalidKeyError as error:
        raise UnknownKeyError(f"the hub shows no root key: {error.message}", key_ids=[]) from error
    token.check_root(root)
    await asyncio.to_thread(lambda: identity.pin(root, answer.keyring, token_id=token.id))


async def _pause(error: ServiceError, status: Status, backoff: Backoff) -> None:
    pause = backoff.failed(error)
    log.warning("not enrolled", extra={"code": error.code, "detail": error.message, "attempt": backoff.attempt})
    status.hub_failed(error)
    if status.state in ("idle", "failed"):
        status.fail(error_of(error, None), attempt=backoff.attempt, pause_seconds=pause)
    await asyncio.sleep(pause)
