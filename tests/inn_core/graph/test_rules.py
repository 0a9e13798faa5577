"""Each operator rule alone: the expected axes, and ONNX Runtime as the judge of what they promise."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from inn_core.graph.analysis.rules import RULES
from inn_core.graph.analysis.template import make_template
from inn_core.graph.axis import axis_groups
from tests.inn_core.graph.rule_cases import SHAPES_STAY, Case
from tests.inn_core.graph.rule_cases_of_shapes import SHAPES_CHANGE
from tests.inn_core.graph.tiny import feed, frozen_reasons, run, sampled, weights_as_text, with_weights

CASES = {**SHAPES_STAY, **SHAPES_CHANGE}
RELATIVE = 1e-5  # float32 sums in another order


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    """Every graph of the table."""
    return CASES[request.param]


def test_weights_have_the_expected_axes(case: Case) -> None:
    found = make_template(case.model(), case.inputs)
    assert weights_as_text(found) == case.axes
    reasons = frozen_reasons(found)
    for axis, part in case.frozen.items():
        assert part in reasons[axis]


def test_every_frozen_axis_has_a_reason_and_no_group(case: Case) -> None:
    found = make_template(case.model(), case.inputs)
    for entry in found.structure.frozen:
        assert entry.reason
        assert not axis_groups(found.structure.weights[entry.tensor][entry.axis])


def test_the_full_size_computes_what_the_model_computes(case: Case) -> None:
    model = case.model()
    found = make_template(model, case.inputs)
    samples = feed(case.inputs)
    for full, expected in zip(
        run(with_weights(found, found.structure.full_sizes(), found.weights), samples), run(model, samples), strict=True
    ):
        np.testing.assert_allclose(full, expected, atol=RELATIVE * np.abs(expected).max())


def test_sized_graphs_are_valid_and_keep_their_outputs(case: Case) -> None:
    """The smallest size and two random ones, checked by ONNX itself and run by ONNX Runtime."""
    found = make_template(case.model(), case.inputs)
    samples = feed(case.inputs)
    expected = [output.shape for output in run(case.model(), samples)]
    random = np.random.default_rng(0)
    full = found.structure.full_sizes()
    plans = [
        dict.fromkeys(full, 1),
        *({name: int(random.integers(1, n + 1)) for name, n in full.items()} for _ in "ab"),
    ]
    for sizes in plans:
        kept = {name: np.sort(random.permutation(n)[: sizes[name]]) for name, n in full.items()}
        model = with_weights(found, sizes, sampled(found, kept))
        onnx.checker.check_model(model, full_check=True)
        assert [output.shape for output in run(model, samples)] == expected


def test_shuffling_channels_keeps_the_function(case: Case) -> None:
    found = make_template(case.model(), case.inputs)
    random = np.random.default_rng(1)
    full = found.structure.full_sizes()
    shuffled = sampled(found, {name: random.permutation(n) for name, n in full.items()})
    samples = feed(case.inputs)
    for ours, expected in zip(
        run(with_weights(found, full, shuffled), samples), run(case.model(), samples), strict=True
    ):
        np.testing.assert_allclose(ours, expected, atol=RELATIVE * np.abs(expected).max())


def test_every_rule_is_tried() -> None:
    """Rules that share one function share their case; the rest has one of its own."""
    tried = {RULES[node.op_type] for case in CASES.values() for node in case.nodes if node.op_type in RULES}
    assert {name for name, rule in RULES.items() if rule not in tried} == {"Shape", "Size"}  # always folded away
