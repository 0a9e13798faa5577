"""A structure that lies is found out by running the graph at other sizes, and the node is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from inn_core.graph.analysis.flow import Flow
from inn_core.graph.analysis.rules import RULES
from inn_core.graph.analysis.template import Imported, make_template
from inn_core.graph.analysis.verify import first_disagreement
from inn_core.graph.axis import fixed
from inn_core.graph.node import Node
from inn_core.graph.structure import Structure
from tests.inn_core.graph.tiny import frozen_reasons, model_of, node, weights_as_text

IMAGE = {"x": (3, 4, 4)}


def network() -> Imported:
    model = model_of(
        [
            node("Conv", "x w1", "h"),
            node("Relu", "h", "r"),
            node("Reshape", "r shape", "f"),
            node("Gemm", "f w2", "y"),
        ],
        weights={"w1": (6, 3, 1, 1), "w2": (96, 5)},
        integers={"shape": [0, 96]},
        inputs=IMAGE,
    )
    return make_template(model, IMAGE)


def disagreement(found: Imported, structure: Structure) -> tuple[str, str] | None:
    return first_disagreement(found.template.model, structure, found.weights, {"x": (1, 3, 4, 4)}, set())


def test_the_true_structure_agrees() -> None:
    found = network()
    assert disagreement(found, found.structure) is None


def forget_constant(structure: Structure) -> Structure:
    return replace(structure, constants=())


def keep_a_weight(structure: Structure) -> Structure:
    return replace(structure, weights={**structure.weights, "w2": (fixed(96), fixed(5))})


def wrong_value(structure: Structure) -> Structure:
    return replace(structure, values={**structure.values, "r": (fixed(1), fixed(6), fixed(4), fixed(4))})


@pytest.mark.parametrize(
    ("lie", "culprit", "reason"),
    [
        (forget_constant, "f", "does not run at other sizes"),
        (keep_a_weight, "y", "does not run at other sizes"),
        (wrong_value, "r", "the rule of Relu predicts"),
    ],
)
def test_a_lie_names_its_node(lie: Callable[[Structure], Structure], culprit: str, reason: str) -> None:
    found = network()
    result = disagreement(found, lie(found.structure))
    assert result is not None
    assert result[0] == culprit
    assert reason in result[1]


def test_a_wrong_rule_freezes_instead_of_giving_a_wrong_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule for Softplus that promises fixed channels: its node is distrusted and the analysis repeated."""

    def wrong(flow: Flow, item: Node) -> None:
        flow.write(item, 0, [((size,),) for size in flow.shapes[item.outputs[0]]])

    monkeypatch.setitem(RULES, "Softplus", wrong)
    model = model_of(
        [node("Conv", "x w1", "h"), node("Softplus", "h", "s"), node("Conv", "s w2", "y")],
        weights={"w1": (6, 3, 1, 1), "w2": (5, 6, 1, 1)},
        inputs=IMAGE,
    )
    found = make_template(model, IMAGE)
    assert weights_as_text(found) == {"w1": "6 3 1 1", "w2": "5 6 1 1"}
    for axis in ("w1:0", "w2:1"):
        assert "node 'y' does not run at other sizes" in frozen_reasons(found)[axis]


def test_nothing_to_resize_is_nothing_to_disagree_about() -> None:
    model = model_of([node("Conv", "x w1", "y")], weights={"w1": (6, 3, 1, 1)}, inputs=IMAGE)
    found = make_template(model, IMAGE)
    assert found.structure.groups == ()
    assert disagreement(found, found.structure) is None
