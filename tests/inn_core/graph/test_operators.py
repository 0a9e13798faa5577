"""Every operator against the node tests that ship with ONNX: values, shapes on the meta device, gradients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from torch import Tensor

from inn_core.errors import InvalidOnnxError, UnsupportedOperatorError
from inn_core.graph.operators import OPERATORS
from inn_core.graph.operators.dtypes import DTYPES, tensor_from_array
from inn_core.graph.program import Program

EXCLUDED = {
    "test_batchnorm_epsilon_training_mode": "training mode",
    "test_batchnorm_example_training_mode": "training mode",
    "test_training_dropout": "training mode",
    "test_training_dropout_default": "training mode",
    "test_training_dropout_default_mask": "training mode",
    "test_training_dropout_mask": "training mode",
    "test_not_2d": "operator set 1",
    "test_not_3d": "operator set 1",
    "test_not_4d": "operator set 1",
    "test_resize_downsample_scales_cubic_align_corners": "ONNX Runtime gives other values than this case",
    "test_resize_downsample_scales_linear_align_corners": "ONNX Runtime gives other values than this case",
}
"""Cases that are refused, and why."""

ABSOLUTE = 1e-6
"""Cases ask for 1e-7, which is below the rounding of float32 sums around zero."""

HALF_RELATIVE = {torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Four units in the last place: reference and torch round intermediate results at different points."""

DATA_DEPENDENT = {"Dropout", "NonZero", "OneHot", "Range", "Resize", "Upsample"}
"""Operators whose output shape depends on floating-point inputs (Dropout: whose training mode at ratio 0 does)."""

NOT_DIFFERENTIABLE = {
    *("And", "ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual"),
    *("NonZero", "Not", "Or", "Shape", "Size", "Xor", "Hardmax"),  # give integers, truth values, or steps
    *("Constant", "ConstantOfShape", "Range", "OneHot"),  # read no data, or use its values as positions
    "Trilu",  # has cases of integers only; test_operators_random.py checks its gradient
}


class Cases:
    """The node tests whose operators are all implemented and whose element types torch computes with."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the cases overflow and divide by zero on purpose
            loaded: list[TestCase] = load_model_tests(kind="node")
        runnable = [case for case in loaded if _operators(case) <= set(OPERATORS) and _is_typed(case)]
        self.excluded = [case for case in runnable if case.name in EXCLUDED]
        self.by_operator: dict[str, list[TestCase]] = {operator: [] for operator in OPERATORS}
        for case in runnable:
            if case.name not in EXCLUDED:
                for operator in _operators(case):
                    self.by_operator[operator].append(case)
        self._outcomes: dict[str, str] = {}

    def outcome(self, case: TestCase) -> str:
        """Empty when the case passes, else what is wrong; each case runs once."""
        if case.name not in self._outcomes:
            try:
                _check_values(case)
                self._outcomes[case.name] = ""
            except Exception as exc:
                self._outcomes[case.name] = f"{case.name}: {type(exc).__name__}: {exc}"
        return self._outcomes[case.name]


@pytest.fixture(scope="module")
def cases() -> Cases:
    return Cases()


def _operators(case: TestCase) -> set[str]:
    return {f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in case.model.graph.node}


def _is_typed(case: TestCase) -> bool:
    values = [*case.model.graph.input, *case.model.graph.output]
    return all(value.type.HasField("tensor_type") and value.type.tensor_type.elem_type in DTYPES for value in values)


def _tensors(values: Sequence[Any]) -> list[Tensor]:
    arrays = [onnx.numpy_helper.to_array(value) if isinstance(value, TensorProto) else value for value in values]
    return [tensor_from_array(np.asarray(array)) for array in arrays]


def _check_values(case: TestCase) -> None:
    program = Program(case.model)
    for given, expected in case.data_sets:
        inputs = dict(zip(program.inputs, _tensors(given), strict=True))
        before = {name: tensor.clone() for name, tensor in inputs.items()}
        results = program.run({}, inputs)
        for name, wanted in zip(program.outputs, _tensors(expected), strict=True):
            relative = max(case.rtol, HALF_RELATIVE.get(wanted.dtype, 0.0))
            torch.testing.assert_close(results[name], wanted, rtol=relative, atol=ABSOLUTE, equal_nan=True)
        for name, tensor in inputs.items():
            assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num()), f"input {name} was changed"


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_operator_passes_the_node_tests_of_onnx(operator: str, cases: Cases) -> None:
    outcomes = [cases.outcome(case) for case in cases.by_operator[operator]]
    assert [outcome for outcome in outcomes if outcome] == []
    assert outcomes, f"no node test of ONNX uses {operator}"


def test_excluded_node_tests_are_refused(cases: Cases) -> None:
    assert cases.excluded
    for case in cases.excluded:
        with pytest.raises((UnsupportedOperatorError, InvalidOnnxError)):
            _check_values(case)


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_operator_gives_true_shapes_on_the_meta_device(operator: str, cases: Cases) -> None:
    # the shortest cases of each operator; long ones expand other operators into the same few
    shortest = sorted(cases.by_operator[operator], key=lambda case: len(case.model.graph.node))[:12]
    checked = [_has_true_meta_shapes(case) for case in shortest]
    assert any(checked) or operator in DATA_DEPENDENT


def _has_true_meta_shapes(case: TestCase) -> bool:
    """Whether shapes could be checked; they cannot where they depend on data."""
    program = Program(case.model)
    given, expected = case.data_sets[0]
    environment = {
        name: tensor.to("meta") if tensor.is_floating_point() else tensor
        for name, tensor in zip(program.inputs, _tensors(given), strict=True)
    }
    try:
        for index in range(len(program.nodes)):
            program.step(index, environment, {})
    except UnsupportedOperatorError as exc:
        if exc.fields["operator"] not in DATA_DEPENDENT:
            raise
        return False
    for name, wanted in zip(program.outputs, _tensors(expected), strict=True):
        found = program.value(name, environment, {})
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype), case.name
    return True


@pytest.mark.parametrize("operator", sorted(set(OPERATORS) - NOT_DIFFERENTIABLE))
def test_operator_is_differentiable(operator: str, cases: Cases) -> None:
    checked = 0
    for case in cases.by_operator[operator]:
        if len(case.model.graph.node) > 1:
            continue
        program = Program(case.model)
        inputs = dict(zip(program.inputs, _tensors(case.data_sets[0][0]), strict=True))
        first = program.nodes[0].inputs[1 if operator == "Where" else 0]
        if not inputs[first].is_floating_point() or inputs[first].numel() == 0:
            continue
        inputs[first].requires_grad_()
        result = program.run({}, inputs)[program.outputs[0]]
        if result.is_floating_point():
            (gradient,) = torch.autograd.grad(result.sum(), inputs[first])
            assert gradient.shape == inputs[first].shape
            checked += 1
    assert checked
