"""A node refuses what the hub refuses, with the same codes."""

from __future__ import annotations

from typing import Any

import pytest

from service.ground.errors import ServiceError, UnknownModelError
from service.hub.routes.bodies import InferBody
from service.node.body import check_body

GOOD: list[dict[str, Any]] = [
    {},
    {"target_params": 1},
    {"target_params": 2**62, "quality": "refined", "multiple_of": 1024, "wait_seconds": 0},
    {"target_bytes": 5, "wait_seconds": 3600.0},
    {"target_macs": 5, "target_params": None, "quality": None, "wait_seconds": None},
]
BAD: list[dict[str, Any]] = [
    *({"target_params": value} for value in (0, -1, 2**62 + 1, True, 1.0, "5", [], {}, 10**400)),
    {"target_macs": "x"},
    {"target_bytes": False},
    {"target_params": 1, "target_bytes": 1},
    {"target_latency_ms": 5},
    {"target_latency_ms": 5, "target_params": "x"},
    {"target_params": 0, "quality": "best"},
    *({"multiple_of": value} for value in (0, 1025, True, "8", None, 2.0)),
    *({"wait_seconds": value} for value in (-1, 3600.1, "1", True, float("nan"), float("inf"))),
    *({"quality": value} for value in ("", "best", 5, ["refined"], {})),
    *({"inputs": value} for value in (None, [], 5, "x")),
    {"unknown": 1},
    {"Model": "toy"},
    *({"model": value} for value in ("", "../toy", "toy\n", 5, None, "a" * 65)),
]


def code_of(check: Any, body: dict[str, Any]) -> str | None:
    try:
        check(body)
    except ServiceError as error:
        return error.code
    return None


@pytest.mark.parametrize(
    ("members", "is_good"),
    [(one, True) for one in GOOD] + [(one, False) for one in BAD],
    ids=lambda one: repr(one)[:60],
)
def test_the_codes_are_those_of_the_hub(members: dict[str, Any], is_good: bool) -> None:
    body = {"model": "toy", "inputs": {"x": [[1.0]]}, **members}
    hub = code_of(InferBody.parse, body)
    assert code_of(lambda found: check_body(found, model="toy"), body) == hub
    assert (hub is None) == is_good


def test_inputs_may_not_be_left_out_and_the_model_may() -> None:
    check_body({"inputs": {}}, model="toy")
    assert code_of(lambda body: check_body(body, model="toy"), {"model": "toy"}) == "invalid-request"


def test_another_model_is_unknown() -> None:
    with pytest.raises(UnknownModelError, match="known models: toy"):
        check_body({"model": "other", "inputs": {}}, model="toy")
