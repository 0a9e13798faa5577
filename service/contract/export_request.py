"""What a client may ask for, and the keys by which equal requests are known."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from service.contract.sizes import CountedUnit

BEST_QUALITY = "refined"

# Part of every key: raise it when the same request may lead to another manifest or artifact than before.
REQUEST_FORMAT = 1


@dataclass(frozen=True)
class ExportRequest:
    """A request for one artifact.

    Attributes:
        model: name of a registered model.
        unit: what the budget counts.
        value: the budget, a positive integer.
        quality: name of a quality of the builder.
        multiple_of: group sizes are multiples of this.
    """

    model: str
    unit: CountedUnit
    value: int
    quality: str = "refined"
    multiple_of: int = 1


def default_quality(description: Mapping[str, Any]) -> str:
    """The best quality that a model offers: the first of its `qualities`."""
    offered = description.get("qualities")
    return str(offered[0]) if isinstance(offered, list) and offered else BEST_QUALITY


def export_key(checkpoint_digest: str, request: ExportRequest) -> str:
    """Key of an export: equal for all requests that must get equal manifests (up to the model's name)."""
    return _key(
        ["export", REQUEST_FORMAT, checkpoint_digest, request.unit, request.value, request.quality, request.multiple_of]
    )


def curve_key(checkpoint_digest: str, params: Sequence[int] | None, quality: str) -> str:
    """Key of a curve: equal for all requests that must get equal curves."""
    return _key(["curve", REQUEST_FORMAT, checkpoint_digest, None if params is None else list(params), quality])


def _key(parts: list[Any]) -> str:
    return f"sha256:{hashlib.sha256(orjson.dumps(parts)).hexdigest()}"
