"""What a body may say: each mistake is named with its place."""

from __future__ import annotations

from typing import Any

import pytest

from service.contract.export_request import ExportRequest
from service.ground.errors import InvalidRequestError, ServiceError
from service.http.errors import InvalidBudgetError, UnsupportedBudgetError
from service.hub.routes.bodies import ExportBody, InferBody, wait_seconds

DESCRIPTION = {"feasible": {"min": 7, "max": 77}, "qualities": ["refined", "instant"]}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"model": "m", "target_params": 5}, ExportRequest("m", "params", 5)),
        ({"model": "m", "target_macs": 5}, ExportRequest("m", "macs", 5)),
        ({"model": "m", "target_bytes": 2**62}, ExportRequest("m", "bytes", 2**62)),
        (
            {"model": "A.b-c_9", "target_params": 5, "quality": "instant", "multiple_of": 8},
            ExportRequest("A.b-c_9", "params", 5, "instant", 8),
        ),
        ({"model": "m", "target_params": 5, "quality": "trained"}, ExportRequest("m", "params", 5, "trained")),
        ({"model": "m", "target_params": 5, "quality": "uniform"}, ExportRequest("m", "params", 5, "uniform")),
        ({"model": "m", "target_params": 5, "target_macs": None, "wait_seconds": 0}, ExportRequest("m", "params", 5)),
    ],
)
def test_a_good_body_becomes_an_export_request(document: dict[str, Any], expected: ExportRequest) -> None:
    assert ExportBody.parse(document).export_request(DESCRIPTION) == expected


@pytest.mark.parametrize(
    ("change", "error", "pointer"),
    [
        ({"target_params": 0}, InvalidBudgetError, "/target_params"),
        ({"target_params": -5}, InvalidBudgetError, "/target_params"),
        ({"target_params": 1.0}, InvalidBudgetError, "/target_params"),
        ({"target_params": True}, InvalidBudgetError, "/target_params"),
        ({"target_params": "5"}, InvalidBudgetError, "/target_params"),
        ({"target_params": float("nan")}, InvalidBudgetError, "/target_params"),
        ({"target_params": 2**62 + 1}, InvalidBudgetError, "/target_params"),
        ({"target_params": 10**5000}, InvalidBudgetError, "/target_params"),
        ({"target_params": [5]}, InvalidBudgetError, "/target_params"),
        ({"target_params": None}, InvalidBudgetError, ""),
        ({"target_macs": 5}, InvalidBudgetError, "/target_macs"),
        ({"target_latency_ms": 5, "device": "pi"}, UnsupportedBudgetError, "/target_latency_ms"),
        ({"quality": "best"}, InvalidRequestError, "/quality"),
        ({"quality": 3}, InvalidRequestError, "/quality"),
        ({"multiple_of": 0}, InvalidRequestError, "/multiple_of"),
        ({"multiple_of": True}, InvalidRequestError, "/multiple_of"),
        ({"multiple_of": 1025}, InvalidRequestError, "/multiple_of"),
        ({"wait_seconds": -1}, InvalidRequestError, "/wait_seconds"),
        ({"wait_seconds": float("inf")}, InvalidRequestError, "/wait_seconds"),
        ({"wait_seconds": "5"}, InvalidRequestError, "/wait_seconds"),
        ({"model": "../etc"}, InvalidRequestError, "/model"),
        ({"model": "m\n"}, InvalidRequestError, "/model"),
        ({"model": ""}, InvalidRequestError, "/model"),
        ({"model": "m" * 65}, InvalidRequestError, "/model"),
        ({"model": None}, InvalidRequestError, "/model"),
        ({"target_parms": 5}, InvalidRequestError, "/target_parms"),
        ({"a/b~c": 5}, InvalidRequestError, "/a~1b~0c"),
    ],
)
def test_each_mistake_is_named_with_its_place(change: dict[str, Any], error: type[ServiceError], pointer: str) -> None:
    with pytest.raises(error) as caught:
        ExportBody.parse({"model": "m", "target_params": 5, **change})
    assert [entry["pointer"] for entry in caught.value.fields["errors"]] == [pointer]
    assert len(caught.value.message) < 400


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        ExportBody.parse({"target_params": 0, "quality": "x", "extra": 1})
    assert {entry["pointer"] for entry in caught.value.fields["errors"]} == {
        "/model",
        "/target_params",
        "/quality",
        "/extra",
    }


def test_without_a_quality_the_best_that_the_checkpoint_offers_is_taken() -> None:
    body = ExportBody.parse({"model": "m", "target_params": 5})
    assert body.export_request(DESCRIPTION).quality == "refined"
    assert body.export_request({"qualities": ["instant"]}).quality == "instant"
    assert body.export_request({}).quality == "refined"
    asked = ExportBody.parse({"model": "m", "target_params": 5, "quality": "refined"})
    assert asked.export_request({"qualities": ["instant"]}).quality == "refined"  # and the builder refuses it


def test_inference_without_a_target_means_the_full_size() -> None:
    body = InferBody.parse({"model": "m", "inputs": {}})
    assert body.export_request(DESCRIPTION) == ExportRequest("m", "params", 77)
    assert body.export_request({}).value == 2**62  # more than any network has: its full size
    for inputs in (None, [], "x", 5):
        with pytest.raises(InvalidRequestError) as caught:
            InferBody.parse({"model": "m", "inputs": inputs})
        assert caught.value.fields["errors"][0]["pointer"] == "/inputs"


@pytest.mark.parametrize(
    ("member", "prefer", "expected"),
    [
        (None, None, 30.0),
        (None, "wait=5", 5.0),
        (None, "respond-async, wait=10", 10.0),
        (None, "respond-async", 0.0),
        (None, 'wait="7"', 7.0),
        (None, "wait=999999", 3600.0),
        (None, "handling=lenient", 30.0),
        (None, "await=3", 30.0),
        (2.5, "wait=5", 2.5),
        (0, None, 0.0),
    ],
)
def test_how_long_to_wait(member: float | None, prefer: str | None, expected: float) -> None:
    body = ExportBody.parse({"model": "m", "target_params": 5, "wait_seconds": member})
    assert wait_seconds(body, prefer, 30.0) == expected
