"""Budgets: what is one, and the form in which the fleet's routes have it."""

from __future__ import annotations

from typing import Any

import pytest

from service.contract.sizes import Budget, is_budget

LATENCY = {"unit": "latency_ms", "value": 5.5, "batch": 1, "threads": 2, "percentile": 50}


@pytest.mark.parametrize("value", [LATENCY, {"unit": "params", "value": 7}, LATENCY | {"of_a_newer_hub": 1}], ids=str)
def test_what_a_budget_is(value: dict[str, Any]) -> None:
    assert is_budget(value)


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *[("unit", value) for value in ("x", None)],
        *[("value", value) for value in (0, -1, True, "1", 2**53, 10**400, float("nan"), float("inf"))],
        *[("batch", value) for value in (0, 4097, 1.0, True)],
        *[("threads", value) for value in (0, 1025)],
        *[("percentile", value) for value in (90, 95.0, True)],
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_none_is(member: str, value: Any) -> None:
    assert not is_budget(LATENCY | {member: value})


@pytest.mark.parametrize("value", [None, [], {}, "x", {"unit": "params"}], ids=str)
def test_what_is_not_even_a_size(value: Any) -> None:
    assert not is_budget(value)


def test_a_budget_is_written_as_the_routes_have_it() -> None:
    assert Budget("params", 1000.0).to_json() == {"unit": "params", "value": 1000}
    assert isinstance(Budget("params", 1000.0).to_json()["value"], int)
    assert Budget("latency_ms", 2.5, batch=2).to_json() == LATENCY | {
        "value": 2.5,
        "batch": 2,
        "threads": 1,
        "percentile": 95,
    }
