"""The body of a node's `/infer`: that of the hub's, with a target that only has to be one.

A node serves one size, so the target is ignored and the model may be left out. What the hub would refuse is refused
here with the same codes: a client moves from one to the other without a change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from service.contract.sizes import LARGEST_MULTIPLE, LARGEST_TARGET, QUALITIES
from service.ground.errors import InvalidRequestError, UnknownModelError
from service.ground.names import check_name
from service.http.errors import InvalidBudgetError, UnsupportedBudgetError

TARGETS = ("target_params", "target_macs", "target_bytes")
LATENCY_TARGET = "target_latency_ms"
MEMBERS = ("model", *TARGETS, "quality", "multiple_of", "wait_seconds", "inputs")

LONGEST_WAIT_SECONDS = 3600.0


def check_body(members: Mapping[str, Any], *, model: str) -> None:
    """Check the members of a request.

    Args:
        members: of its JSON object.
        model: what this node serves.

    Raises:
        InvalidBudgetError: a target is no positive integer, or there is more than one.
        UnsupportedBudgetError: the target is a latency.
        InvalidRequestError: anything else is wrong; names every place.
        UnknownModelError: it asks for another model.
    """
    if LATENCY_TARGET in members:
        raise UnsupportedBudgetError(LATENCY_TARGET, TARGETS)
    errors = [*_budget_errors(members), *_other_errors(members)]
    if errors:
        if all(entry["pointer"].removeprefix("/") in TARGETS for entry in errors):
            raise InvalidBudgetError(errors)
        raise InvalidRequestError(errors)
    given = [name for name in TARGETS if members.get(name) is not None]
    if len(given) > 1:
        raise InvalidBudgetError([{"pointer": f"/{given[1]}", "detail": f"'{given[0]}' is given too; give only one"}])
    if "model" in members and check_name(members["model"]) != model:
        raise UnknownModelError(members["model"], [model])


def _budget_errors(members: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {"pointer": f"/{name}", "detail": f"a target is an integer from 1 to 2^62, not {_shown(members[name])}"}
        for name in TARGETS
        if members.get(name) is not None and not _is_integer(members[name], LARGEST_TARGET)
    ]


def _other_errors(members: Mapping[str, Any]) -> list[dict[str, str]]:
    errors = [
        {"pointer": _pointer(name), "detail": f"there is no such member; the members are {', '.join(MEMBERS)}"}
        for name in members
        if name not in MEMBERS
    ]

    def refuse(name: str, wanted: str) -> None:
        errors.append({"pointer": f"/{name}", "detail": f"{wanted} is wanted, not {_shown(members[name])}"})

    if "inputs" not in members:
        errors.append({"pointer": "/inputs", "detail": "is missing"})
    elif not isinstance(members["inputs"], dict):
        refuse("inputs", "an object of inputs by name")
    quality = members.get("quality")
    if quality is not None and quality not in QUALITIES:
        refuse("quality", f"one of {', '.join(QUALITIES)}")
    if "multiple_of" in members and not _is_integer(members["multiple_of"], LARGEST_MULTIPLE):
        refuse("multiple_of", f"an integer from 1 to {LARGEST_MULTIPLE}")
    wait = members.get("wait_seconds")
    if wait is not None and not _is_wait(wait):
        refuse("wait_seconds", f"a number from 0 to {LONGEST_WAIT_SECONDS:g}")
    return errors


def _is_integer(value: Any, largest: int) -> bool:
    return type(value) is int and 1 <= value <= largest


def _is_wait(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0.0 <= value <= LONGEST_WAIT_SECONDS


def _pointer(name: str) -> str:
    return "/" + name[:64].replace("~", "~0").replace("/", "~1")


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**60 else "a huge integer"
    return text if len(text) <= 60 else f"{text[:60]}…"
