"""The probe: sizes that a node is asked to measure, signed like a release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from service.contract.manifest import check_tensors
from service.signing.envelope import Document, check_plain, sign
from service.signing.errors import ExpiredDocumentError, InvalidDocumentError, ReplayedDocumentError
from service.signing.fields import array, choice, digest, integer, lifetime, members, name, number
from service.signing.keyring import Keyring
from service.signing.keys import KeyPair

PROBE_TYPE = "inn-probe/1"
MAX_RUNGS = 32
MAX_BATCH = 65_536
MAX_THREADS = 4096

_MEMBERS = ("type", "node", "version", "issued", "expires", "ladder", "batch", "threads", "percentile", "inputs")


@dataclass(frozen=True)
class Rung:
    """One artifact to measure: its digest, size of the file in bytes, parameters and multiply-adds."""

    digest: str
    bytes: int
    params: int
    macs: int


@dataclass(frozen=True)
class MeasurementOrder:
    """The content of a probe document.

    Args:
        node: for whom it is.
        version: generation of the desired state that needs the measurements.
        issued: when it was signed, seconds since the epoch.
        expires: until when it may be measured.
        ladder: the artifacts, no two alike.
        batch: rows of each run.
        threads: threads of each run.
        percentile: of the latencies that the budget is about, above 0, at most 100.
        inputs: graph inputs, as in a manifest.
    """

    node: str
    version: int
    issued: int
    expires: int
    ladder: tuple[Rung, ...]
    batch: int
    threads: int
    percentile: float
    inputs: Sequence[Mapping[str, Any]]

    @classmethod
    def parse(cls, signed: Mapping[str, Any]) -> MeasurementOrder:
        """Read the content of a probe whose signature was checked already.

        Raises:
            InvalidDocumentError: a member is missing, unknown, of the wrong type or out of range.
        """
        where = PROBE_TYPE
        check_plain(dict(signed), where)
        fields = members(dict(signed), where, required=_MEMBERS)
        choice(fields["type"], f"{where}/type", allowed=(PROBE_TYPE,))
        issued, expires = lifetime(fields["issued"], fields["expires"], where)
        check_tensors(fields["inputs"], f"{where}/inputs")
        percentile = number(fields["percentile"], f"{where}/percentile", minimum=0, maximum=100)
        if percentile == 0:
            raise InvalidDocumentError(f"{where}/percentile", "0 is not allowed; expected a number above 0, up to 100")
        return cls(
            node=name(fields["node"], f"{where}/node"),
            version=integer(fields["version"], f"{where}/version", minimum=1),
            issued=issued,
            expires=expires,
            ladder=_ladder(fields["ladder"], f"{where}/ladder"),
            batch=integer(fields["batch"], f"{where}/batch", minimum=1, maximum=MAX_BATCH),
            threads=integer(fields["threads"], f"{where}/threads", minimum=1, maximum=MAX_THREADS),
            percentile=percentile,
            inputs=tuple(fields["inputs"]),
        )

    @classmethod
    def open(cls, document: bytes | Mapping[str, Any], keyring: Keyring) -> MeasurementOrder:
        """Verify a probe document against a keyring and read it; errors as of `Keyring.verify` and `parse`."""
        return cls.parse(keyring.verify(document, PROBE_TYPE))

    def to_signed(self) -> dict[str, Any]:
        """The content, ready to be signed."""
        return {
            "type": PROBE_TYPE,
            "node": self.node,
            "version": self.version,
            "issued": self.issued,
            "expires": self.expires,
            "ladder": [asdict(rung) for rung in self.ladder],
            "batch": self.batch,
            "threads": self.threads,
            "percentile": self.percentile,
            "inputs": [dict(tensor) for tensor in self.inputs],
        }

    def to_document(self, keys: Sequence[KeyPair]) -> Document:
        """The document, signed; a probe that a node would refuse is not.

        Raises:
            InvalidDocumentError: a member is wrong.
        """
        return sign(MeasurementOrder.parse(self.to_signed()).to_signed(), keys)

    def check_node(self, node: str) -> None:
        """Check that the probe is for this node.

        Raises:
            InvalidDocumentError: it is for another one.
        """
        if self.node != node:
            raise InvalidDocumentError(f"{PROBE_TYPE}/node", f"the probe is for node '{self.node}', not '{node}'")

    def check_current(self, trusted_time: int) -> None:
        """Check that the probe may still be measured.

        Raises:
            ExpiredDocumentError: it may not any more.
        """
        if trusted_time >= self.expires:
            raise ExpiredDocumentError(
                f"probe {self.version} of node '{self.node}'", expires=self.expires, trusted_time=trusted_time
            )

    def check_follows(self, version: int) -> None:
        """Check that the probe belongs to a generation that is not older than the trusted release.

        Raises:
            ReplayedDocumentError: it does.
        """
        if self.version < version:
            raise ReplayedDocumentError(
                f"the probe of node '{self.node}'", version=self.version, trusted_version=version
            )


def _ladder(value: Any, where: str) -> tuple[Rung, ...]:
    rungs: list[Rung] = []
    for position, entry in enumerate(array(value, where, minimum=1, maximum=MAX_RUNGS)):
        place = f"{where}/{position}"
        fields = members(entry, place, required=("digest", "bytes", "params", "macs"))
        rung = Rung(
            digest=digest(fields["digest"], f"{place}/digest"),
            bytes=integer(fields["bytes"], f"{place}/bytes", minimum=1),
            params=integer(fields["params"], f"{place}/params"),
            macs=integer(fields["macs"], f"{place}/macs"),
        )
        if any(rung.digest == other.digest for other in rungs):
            raise InvalidDocumentError(f"{place}/digest", f"{rung.digest} is there twice")
        rungs.append(rung)
    return tuple(rungs)
