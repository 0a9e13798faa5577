"""Phase by phase, a transposed convolution has the same least squares solution as all at once."""

from __future__ import annotations

import pytest
import torch

from inn_core.fitting.least_squares import NormalEquations, solve_with_shared_bias
from inn_core.fitting.polyphase import output_phases, phase_positions
from inn_core.graph.linear_nodes import input_rows, linear_nodes, n_positions, output_rows, weight_matrix
from inn_core.graph.program import Program
from tests.inn_core.graph.test_linear_nodes import CASES, program_of

CPU = torch.device("cpu")
TOLERANCE = 1e-9  # float64 throughout
STRIDED = {
    name: case for name, case in CASES.items() if case[0] == "ConvTranspose" and max(case[3].get("strides", [1])) > 1
} | {
    "mixed strides": ("ConvTranspose", (2, 4, 5, 6), (4, 3, 3, 5), {"strides": [1, 3], "pads": [1, 0, 0, 2]}),
    "dilated": ("ConvTranspose", (2, 4, 5, 6), (4, 3, 3, 2), {"strides": [2, 1], "dilations": [3, 1]}),
    "one axis, two groups": ("ConvTranspose", (3, 4, 7), (4, 2, 4), {"strides": [2], "group": 2}),
}


def rows_of(case: str) -> tuple[Program, torch.Tensor, torch.Tensor, torch.Tensor]:
    operator, data_shape, weight_shape, attributes = STRIDED[case]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(data_shape, generator=generator, dtype=torch.float64) + 1.0
    w = torch.randn(weight_shape, generator=generator, dtype=torch.float64)
    program = program_of(operator, data_shape, weight_shape, attributes)
    return program, x, w, program.run({"w": w}, {"x": x})["y"]


@pytest.mark.parametrize("case", STRIDED)
def test_every_position_sees_only_the_columns_of_its_phase(case: str) -> None:
    program, x, w, y = rows_of(case)
    (entry,) = linear_nodes(program.nodes, {"w": w})
    phases = output_phases(entry.node, w.shape)
    assert len(phases) == torch.tensor(entry.node.attributes["strides"]).prod()
    seen: list[int] = []
    for phase in phases:
        assert phase.columns is not None
        positions = phase_positions(entry.node, phase, y.shape[2:], None, CPU)
        assert positions is not None
        seen += positions.tolist()
        rows = input_rows(entry.node, w.shape, x, positions)
        few = input_rows(entry.node, w.shape, x, positions, taps=phase.taps)
        assert torch.equal(few, rows[:, :, phase.columns])
        assert int((rows != 0).sum()) == int((few != 0).sum())
    assert sorted(seen) == list(range(n_positions(entry.node, y)))


@pytest.mark.parametrize("case", STRIDED)
@pytest.mark.parametrize("ridge", [1e-3, 1.0])
@pytest.mark.parametrize("with_bias", [True, False])
def test_phases_with_one_bias_give_the_solution_of_all_rows_at_once(case: str, ridge: float, with_bias: bool) -> None:
    program, x, w, y = rows_of(case)
    generator = torch.Generator().manual_seed(1)
    target = y + 0.3 * torch.randn(y.shape, generator=generator, dtype=torch.float64) + 2.0
    (entry,) = linear_nodes(program.nodes, {"w": w})
    matrix = weight_matrix(entry.node, w)
    prior = matrix + 0.1
    positions = torch.randperm(n_positions(entry.node, y), generator=generator)[:25].sort().values

    whole = NormalEquations(*matrix.shape[:1], matrix.shape[2], matrix.shape[1], device=CPU)
    whole.add(input_rows(entry.node, w.shape, x, positions), output_rows(entry.node, target, positions))
    expected, expected_bias = whole.solve(prior, ridge=ridge, with_bias=with_bias)

    phases = output_phases(entry.node, w.shape)
    parts = []
    for phase in phases:
        assert phase.columns is not None
        chosen = phase_positions(entry.node, phase, y.shape[2:], positions, CPU)
        part = NormalEquations(matrix.shape[0], len(phase.columns), matrix.shape[1], device=CPU)
        rows = input_rows(entry.node, w.shape, x, chosen, taps=phase.taps)
        part.add(rows, output_rows(entry.node, target, chosen))
        parts.append(part)
    priors = [prior[:, :, phase.columns] for phase in phases]
    solved, bias = solve_with_shared_bias(parts, priors, ridge=ridge, with_bias=with_bias)
    for phase, found in zip(phases, solved, strict=True):
        assert (found - expected[:, :, phase.columns]).abs().max() < TOLERANCE
    if with_bias:
        assert bias is not None
        assert expected_bias is not None
        assert (bias - expected_bias).abs().max() < TOLERANCE
    else:
        assert bias is None


@pytest.mark.parametrize("case", ["conv", "transposed grouped", "gemm"])
def test_other_nodes_have_one_phase_with_everything(case: str) -> None:
    operator, data_shape, weight_shape, attributes = CASES[case]
    w = torch.zeros(weight_shape, dtype=torch.float64)
    (entry,) = linear_nodes(program_of(operator, data_shape, weight_shape, attributes).nodes, {"w": w})
    (phase,) = output_phases(entry.node, w.shape)
    assert phase.columns is None
    assert phase.taps == ()
    positions = torch.tensor([0, 1])
    assert phase_positions(entry.node, phase, (3, 3), positions, CPU) is positions


def test_a_kernel_smaller_than_its_stride_is_fitted_whole() -> None:
    w = torch.zeros(4, 3, 2, 2, dtype=torch.float64)
    program = program_of("ConvTranspose", (2, 4, 5, 5), (4, 3, 2, 2), {"strides": [3, 3]})
    (entry,) = linear_nodes(program.nodes, {"w": w})
    (phase,) = output_phases(entry.node, w.shape)
    assert phase.columns is None
