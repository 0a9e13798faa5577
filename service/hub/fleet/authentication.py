"""Who may talk to the fleet: administrators with the key, nodes with their signature, newcomers with a token."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from service.hub.fleet import tables as store
from service.hub.fleet.coordination import GroupWriter
from service.hub.fleet.errors import FleetFullError, NodeConflictError, UnknownTokenError
from service.hub.fleet.records import Node, Token
from service.hub.fleet.registry import NodeRegistry
from service.signing.admin_key import AdminKey
from service.signing.enrolment_tokens import EnrolmentToken, TokenRecord, unknown_token
from service.signing.keys import PublicKey
from service.signing.node_requests import RequestVerifier
from service.signing.vault import Vault
from service.store.database import Database

log = logging.getLogger(__name__)

TOKENS_MAX = 10_000
USED_TOKENS_KEPT_SECONDS = 7 * 86_400


class Authenticator:
    """Lets in. Belongs to one event loop.

    Args:
        database: of the fleet.
        writer: of that database.
        registry: the nodes.
        vault: the keys of the hub.
        admin_key: of administrators.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        database: Database,
        writer: GroupWriter,
        registry: NodeRegistry,
        *,
        vault: Vault,
        admin_key: AdminKey,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._writer = writer
        self._registry = registry
        self._vault = vault
        self._admin_key = admin_key
        self._clock = clock
        self._tokens = {token.id: token for token in store.load_tokens(database)}
        # Nonces of an earlier process are forgotten: what was signed before this one began does not count.
        self._verifier = RequestVerifier(clock=clock, not_before=int(clock()))
        self._keys: dict[str, PublicKey] = {}

    def check_admin(self, authorization: str | None) -> None:
        """Whether a request comes from an administrator.

        Raises:
            InvalidAdminKeyError: it does not.
        """
        self._admin_key.check(authorization)

    def check_node(self, headers: Mapping[str, str], *, method: str, target: str, body: bytes) -> Node:
        """The node that signed a request.

        Args:
            headers: of the request.
            method: of the request.
            target: raw path and query.
            body: all of it.

        Raises:
            ServiceError: of `RequestVerifier.check`.
        """
        name = self._verifier.check(headers, method=method, target=target, body=body, key_of=self._key_of)
        node = self._registry.get(name)
        self._registry.seen(node)
        return node

    # Tokens

    def tokens(self) -> list[Token]:
        """All tokens, oldest first; used and expired ones for a while."""
        return list(self._tokens.values())

    async def create_token(self, *, node: str | None, seconds: int) -> tuple[Token, str]:
        """A new token.

        Args:
            node: who may use it; None for any name that is not taken.
            seconds: how long it is good.

        Returns:
            The record, and the token as text, which is not kept.

        Raises:
            FleetFullError: there are too many that could still be used.
        """
        await self._forget_old()
        if len(self._tokens) >= TOKENS_MAX:
            raise FleetFullError("tokens", TOKENS_MAX)
        secret = EnrolmentToken.generate(self._vault.root)
        now = self._clock()
        token = Token(secret.id, secret.secret_hash, node, now, int(now) + seconds)

        def apply() -> None:
            self._tokens[token.id] = token

        await self._writer.commit(store.put_token(token), then=apply)
        log.info("token created", extra={"token": token.id, "node": node})
        return token, secret.text

    async def delete_token(self, token_id: str) -> None:
        """Makes a token worthless.

        Raises:
            UnknownTokenError: there is none of this id.
        """
        if token_id not in self._tokens:
            raise UnknownTokenError(token_id)

        def apply() -> None:
            self._tokens.pop(token_id, None)

        await self._writer.commit(store.delete_token(token_id), then=apply)

    async def enroll(
        self, name: str, token_text: str, public_key: str, *, labels: Mapping[str, str], capability: Mapping[str, Any]
    ) -> tuple[Node, bool]:
        """Lets a node in; the same node with the same key again is answered as the first time.

        Args:
            name: that the node wants.
            token_text: its token.
            public_key: its key as text.
            labels, capability: what it says of itself.

        Returns:
            The node, and whether it was enrolled just now.

        Raises:
            InvalidTokenError: the token does not let this node in.
            InvalidKeyError: the key is none.
            NodeConflictError: the name is taken by another key, and the token is not for this very name.
        """
        token = EnrolmentToken.parse(token_text)
        key = PublicKey.parse(public_key)
        known = self._tokens.get(token.id)
        if known is None:
            raise unknown_token(token.id)
        record = TokenRecord(known.id, known.secret_hash, known.node, known.expires, known.used_at)
        node = self._registry.find(name)
        is_again = known.used_by == name and node is not None and node.public_key == key.text
        if node is not None and is_again and record.is_of(token):
            return node, False
        now = int(self._clock())
        record.check(token, node=name, now=now)
        if node is not None and node.public_key != key.text and known.node != name:
            raise NodeConflictError(name)
        # From here on the token is used up, so that a second request at the same time finds it so.
        self._tokens[token.id] = replace(known, used_at=now, used_by=name)
        try:
            enrolled = await self._registry.enroll(
                name,
                key.text,
                labels=labels,
                capability=capability,
                also=[store.use_token(token.id, now=now, node=name)],
            )
        except Exception:
            self._tokens[token.id] = known
            raise
        self.forget(name)
        return enrolled, True

    def forget(self, name: str) -> None:
        """Drops what is remembered of the key of a node."""
        self._keys.pop(name, None)
        self._verifier.forget(name)

    def _key_of(self, name: str) -> PublicKey | None:
        node = self._registry.find(name)
        if node is None:
            return None
        key = self._keys.get(name)
        if key is None or key.text != node.public_key:
            key = self._keys[name] = PublicKey.parse(node.public_key)
        return key

    async def _forget_old(self) -> None:
        """Forgets tokens that can no longer be used, after a while in which people may want to see them."""
        now = self._clock()
        old = [
            token.id
            for token in self._tokens.values()
            if now - (token.expires if token.used_at is None else token.used_at) > USED_TOKENS_KEPT_SECONDS
        ]
        if old:
            await self._writer.commit(*(store.delete_token(token_id) for token_id in old))
            for token_id in old:
                self._tokens.pop(token_id, None)
