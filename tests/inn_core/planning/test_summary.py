"""What a checkpoint says of itself."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.cost import UNITS
from inn_core.planning.plan import Budget, choose_plan
from inn_core.planning.summary import describe
from tests.inn_core.networks import SAMPLES


def test_the_description_is_plain_json(real_network: Checkpoint) -> None:
    description = describe(real_network)
    assert json.loads(json.dumps(description, allow_nan=False)) == description


def test_groups_frozen_axes_and_tensors_are_listed(residual: Checkpoint) -> None:
    description = describe(residual)
    assert description["name"] == "residual"
    assert description["groups"][1] == {
        "name": "b",
        "size": 6,
        "minimum": 1,
        "places": [["conv2.weight", 0], ["conv2.bias", 0], ["conv3.weight", 1]],
    }
    assert description["frozen"] == [{"tensor": "fc.weight", "axis": 0, "size": 5, "reason": "graph output"}]
    assert description["inputs"] == [{"name": "x", "dtype": "float32", "shape": [None, 3, 8, 8]}]
    assert description["outputs"] == [{"name": "y", "dtype": "float32", "shape": [None, 5]}]
    assert description["qualities"] == ["refined", "instant"]
    assert description["calibration_samples"] == SAMPLES
    assert description["provenance"] == residual.provenance


def test_feasible_sizes_are_those_that_plans_reach(residual: Checkpoint) -> None:
    description = describe(residual)
    assert description["feasible"] == description["feasible_by_unit"]["params"]
    for unit in UNITS:
        low, high = description["feasible_by_unit"][unit].values()
        assert asdict(choose_plan(residual, Budget(unit, low)))[unit] == low
        assert choose_plan(residual, Budget(unit, high)).full_size


def test_a_network_without_samples_offers_what_is_left(residual: Checkpoint) -> None:
    assert describe(replace(residual, calibration={}))["qualities"] == ["instant"]
    assert describe(replace(residual, calibration={}))["calibration_samples"] == 0
    assert describe(replace(residual, anchors=()))["qualities"] == ["refined"]
