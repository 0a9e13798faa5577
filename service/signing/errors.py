"""What can be wrong with a key, a signed document, a signed request or a token; hub and node report these codes."""

from __future__ import annotations

from service.ground.errors import ServiceError


class InvalidDocumentError(ServiceError, ValueError):
    """A document is not what its type allows: not JSON, too large, a member missing, unknown or of a wrong value."""

    code = "invalid-document"

    def __init__(self, what: str, detail: str) -> None:
        super().__init__(f"{what}: {detail}", place=what)


class UntrustedSignatureError(ServiceError, ValueError):
    """A signature is missing, malformed, or not made by the key it names over these bytes."""

    code = "untrusted-signature"


class UnknownKeyError(ServiceError, ValueError):
    """Whoever signed is none of those that are trusted."""

    code = "unknown-key"


class RevokedKeyError(ServiceError, ValueError):
    """Whoever signed was trusted once and is no longer."""

    code = "revoked-key"


class ExpiredDocumentError(ServiceError, ValueError):
    """A document is older than it says it may become."""

    code = "expired-document"

    def __init__(self, what: str, *, expires: int, trusted_time: int) -> None:
        super().__init__(
            f"{what} expired at {expires}, it is {trusted_time} (seconds since the epoch); "
            "fetch it anew, the hub signs again what is still wanted",
            expires=expires,
            trusted_time=trusted_time,
        )


class ReplayedDocumentError(ServiceError, ValueError):
    """A document is not newer than the one that is trusted already."""

    code = "replayed-document"

    def __init__(self, what: str, *, version: int, trusted_version: int) -> None:
        says = "it differs from that one" if version == trusted_version else "it is older"
        super().__init__(
            f"{what} has version {version}, version {trusted_version} is trusted already and {says}; "
            "going back needs a new version",
            version=version,
            trusted_version=trusted_version,
        )


class InvalidKeyError(ServiceError, ValueError):
    """What should be an Ed25519 key is none."""

    code = "invalid-key"


class InvalidVaultError(ServiceError, RuntimeError):
    """The folder of the hub's keys is damaged or incomplete."""

    code = "invalid-vault"


class RootKeyMissingError(ServiceError, RuntimeError):
    """Something needs the private root key, and it was moved out of the vault."""

    code = "root-key-missing"

    def __init__(self, action: str, root_key_id: str) -> None:
        super().__init__(
            f"{action} needs the private root key {root_key_id}, which is not in the vault; give its file with "
            "--root-key, or put it back as 'root.pem' into the folder of keys",
            key_id=root_key_id,
        )


class KeyStateError(ServiceError, ValueError):
    """A key is not in a state in which this can be done with it."""

    code = "key-state"


class UnsignedRequestError(ServiceError, ValueError):
    """A request that a node must sign has no signature headers, or malformed ones."""

    code = "unsigned-request"


class ClockSkewError(ServiceError, ValueError):
    """The time of a signed request is too far from the hub's; `hub_time` lets the node correct itself."""

    code = "clock-skew"

    def __init__(self, *, request_time: int, hub_time: int, window_seconds: int) -> None:
        super().__init__(
            f"the request says it is {request_time}, the hub says {hub_time} (seconds since the epoch); they may "
            f"differ by {window_seconds} s: set the clock of the node, or sign again with the time of the hub",
            hub_time=hub_time,
            window_seconds=window_seconds,
        )


class ReplayedRequestError(ServiceError, ValueError):
    """A signed request was seen before, or might have been."""

    code = "replayed-request"


class InvalidTokenError(ServiceError, ValueError):
    """An enrolment token is malformed, unknown, used up, expired, or for another node."""

    code = "invalid-token"


class InvalidAdminKeyError(ServiceError, ValueError):
    """A request of an administrator has no key, or a wrong one."""

    code = "invalid-admin-key"
