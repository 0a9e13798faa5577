"""Bodies of requests: what they may hold, and how they become an `ExportRequest`.

Integers are integers here: no booleans, no floats, no strings of digits. Unknown members are refused, so that a
misspelt option is never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.contract.export_request import ExportRequest, default_quality
from service.contract.sizes import COUNTED_UNITS, LARGEST_TARGET, Quality
from service.ground.errors import InvalidRequestError
from service.ground.names import NAME_PATTERN
from service.http.errors import InvalidBudgetError, UnsupportedBudgetError

TARGETS = tuple(f"target_{unit}" for unit in COUNTED_UNITS)

LARGEST_MULTIPLE = 1024
LONGEST_WAIT_SECONDS = 3600.0
SHOWN_CHARACTERS = 60

_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})")


class SizeRequest(BaseModel):
    """What `/export` and `/infer` have in common: a model, a target and how to reach it."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str = Field(pattern=NAME_PATTERN, description="Name of a registered model.", examples=["fashion_resnet"])
    target_params: int | None = Field(
        None, ge=1, le=LARGEST_TARGET, description="Most parameters (elements of float weights).", examples=[250000]
    )
    target_macs: int | None = Field(
        None, ge=1, le=LARGEST_TARGET, description="Most multiply-accumulates for one sample."
    )
    target_bytes: int | None = Field(None, ge=1, le=LARGEST_TARGET, description="Most bytes of the ONNX file.")
    quality: Quality | None = Field(
        None,
        description="`refined` fits weights with calibration samples, `instant` takes milliseconds, `trained` is the "
        "size that was trained, `uniform` samples kernels at a uniform partition; the best that the checkpoint offers "
        "when not given.",
    )
    multiple_of: int = Field(1, ge=1, le=LARGEST_MULTIPLE, description="Make group sizes multiples of this.")
    wait_seconds: float | None = Field(
        None,
        ge=0.0,
        le=LONGEST_WAIT_SECONDS,
        allow_inf_nan=False,
        description="How long to wait before a 202; the hub has a default. `Prefer: wait=N` does the same.",
    )

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """The request in a JSON object.

        Raises:
            InvalidBudgetError: a target is no positive integer, or there is more than one.
            UnsupportedBudgetError: the target is a latency.
            InvalidRequestError: anything else is wrong; names every place.
        """
        if "target_latency_ms" in document:
            raise UnsupportedBudgetError("target_latency_ms", TARGETS)
        try:
            request = cls.model_validate(document)
        except ValidationError as error:
            raise translated(error, cls) from None
        given = [name for name in TARGETS if getattr(request, name) is not None]
        if len(given) > 1:
            raise InvalidBudgetError(
                [{"pointer": f"/{given[1]}", "detail": f"'{given[0]}' is given too; give only one"}]
            )
        return request

    def export_request(self, description: Mapping[str, Any]) -> ExportRequest:
        """The export that is asked for.

        Args:
            description: of the model: `feasible`, for the full size when no target is given, and `qualities`.
        """
        quality = self.quality or default_quality(description)
        for unit in COUNTED_UNITS:
            value = getattr(self, f"target_{unit}")
            if value is not None:
                return ExportRequest(self.model, unit, value, quality, self.multiple_of)
        return ExportRequest(self.model, "params", _full_params(description), quality, self.multiple_of)


class ExportBody(SizeRequest):
    """Body of `POST /export`: exactly one target."""

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Self:
        """As `SizeRequest.parse`; a missing target is an `InvalidBudgetError`."""
        request = super().parse(document)
        if all(getattr(request, name) is None for name in TARGETS):
            raise InvalidBudgetError(
                [{"pointer": "", "detail": f"a target is missing; give one of {', '.join(TARGETS)}"}]
            )
        return request


class InferBody(SizeRequest):
    """Body of `POST /infer`: at most one target, without one the full size; nested numbers for each input."""

    inputs: dict[str, Any] = Field(
        description="Input name to nested lists of numbers, samples first.", examples=[{"x": [[0.0, 1.0]]}]
    )


def wait_seconds(request: SizeRequest | None, prefer: str | None, default: float) -> float:
    """How long a client wants to wait: its `wait_seconds` member, its `Prefer` header (RFC 7240), else the default."""
    if request is not None and request.wait_seconds is not None:
        return request.wait_seconds
    if prefer:
        found = _WAIT.search(prefer)
        if found is not None:
            return min(float(found.group(1)), LONGEST_WAIT_SECONDS)
        if "respond-async" in prefer:
            return 0.0
    return default


def _full_params(description: Mapping[str, Any]) -> int:
    feasible = description.get("feasible")
    full = feasible.get("max") if isinstance(feasible, dict) else None
    return full if isinstance(full, int) else LARGEST_TARGET  # a target above the largest size means the full network


def translated(error: ValidationError, body: type[BaseModel]) -> InvalidRequestError | InvalidBudgetError:
    """What is wrong with a body, by JSON pointer, in words of the API; wrong targets alone are an invalid budget."""
    errors = []
    for entry in error.errors(include_url=False, include_context=False):
        pointer = "".join("/" + str(part)[:64].replace("~", "~0").replace("/", "~1") for part in entry["loc"])
        pointer = pointer.encode(errors="replace").decode()  # a name may be half a surrogate pair
        if entry["type"] == "missing":
            detail = "is missing"
        elif entry["type"] == "extra_forbidden":
            known = f"; the members are {', '.join(body.model_fields)}" if len(entry["loc"]) == 1 else ""
            detail = f"there is no such member{known}"
        else:
            text = entry["msg"].removeprefix("Input ")
            detail = f"{text}; found {_shown(entry['input'])}"
        errors.append({"pointer": pointer, "detail": detail})
    if all(entry["pointer"].removeprefix("/") in TARGETS for entry in errors):
        return InvalidBudgetError(errors)
    return InvalidRequestError(errors)


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**SHOWN_CHARACTERS else "a huge integer"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
