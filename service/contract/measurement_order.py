"""The probe: sizes that a node is asked to measure, signed like a release."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from service.contract.manifest import Tensors
from service.contract.reading import Count, Digest, Name, Positive, Time, check_lifetime, check_type, read
from service.signing.envelope import Document, check_plain, sign
from service.signing.errors import ExpiredDocumentError, InvalidDocumentError, ReplayedDocumentError
from service.signing.keyring import Keyring
from service.signing.keys import KeyPair

PROBE_TYPE = "inn-probe/1"
MAX_RUNGS = 32
MAX_BATCH = 65_536
MAX_THREADS = 4096


class Rung(Struct, frozen=True, forbid_unknown_fields=True):
    """One artifact to measure: its digest, size of the file in bytes, parameters and multiply-adds."""

    digest: Digest
    bytes: Positive
    params: Count
    macs: Count


class MeasurementOrder(Struct, frozen=True, forbid_unknown_fields=True, tag_field="type", tag=PROBE_TYPE):
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

    node: Name
    version: Positive
    issued: Time
    expires: Time
    ladder: Annotated[tuple[Rung, ...], Meta(min_length=1, max_length=MAX_RUNGS)]
    batch: Annotated[int, Meta(ge=1, le=MAX_BATCH)]
    threads: Annotated[int, Meta(ge=1, le=MAX_THREADS)]
    percentile: Annotated[float, Meta(gt=0, le=100)]
    inputs: list[dict[str, Any]]

    @classmethod
    def parse(cls, signed: Mapping[str, Any]) -> MeasurementOrder:
        """Read the content of a probe whose signature was checked already.

        Raises:
            InvalidDocumentError: a member is missing, unknown, of the wrong type or out of range.
        """
        check_plain(dict(signed), PROBE_TYPE)
        check_type(dict(signed), PROBE_TYPE)
        order: MeasurementOrder = read(dict(signed), cls, PROBE_TYPE)
        check_lifetime(order.issued, order.expires, PROBE_TYPE)
        read(order.inputs, Tensors, f"{PROBE_TYPE}/inputs")
        seen: set[str] = set()
        for position, rung in enumerate(order.ladder):
            if rung.digest in seen:
                raise InvalidDocumentError(f"{PROBE_TYPE}/ladder/{position}/digest", f"{rung.digest} is there twice")
            seen.add(rung.digest)
        return order

    @classmethod
    def open(cls, document: bytes | Mapping[str, Any], keyring: Keyring) -> MeasurementOrder:
        """Verify a probe document against a keyring and read it; errors as of `Keyring.verify` and `parse`."""
        return cls.parse(keyring.verify(document, PROBE_TYPE))

    def to_signed(self) -> dict[str, Any]:
        """The content, ready to be signed.

        Raises:
            InvalidDocumentError: a member is wrong, and nodes would refuse the probe.
        """
        fields: dict[str, Any] = msgspec.to_builtins(self)
        content = fields | {"ladder": list(fields["ladder"])}
        MeasurementOrder.parse(content)
        return content

    def to_document(self, keys: Sequence[KeyPair]) -> Document:
        """The document, signed; errors as of `to_signed` and `sign`."""
        return sign(self.to_signed(), keys)

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
