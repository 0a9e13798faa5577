"""Refinement: walk the full and a sized network in lockstep and fit every linear node of the sized one.

At each weight-bearing node the sized weights are solved for that best reproduce the *full network's pre-activation* of
the kept output channels. What the inputs are makes the methods:

- one-shot: the full network's activations at the kept channels (the D* of Bayesian quadrature);
- sequential: the activations that really reach the node in the sized network, so that later nodes correct earlier ones;
- hybrid: sequential inputs with a strong ridge towards the one-shot weights, safer with few samples.

Source: docs/method.md; GRAIL (arXiv 2602.23795) and CORP (2602.05243) solve related one-layer problems.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from inn_core.graph.axis import IndexArray
from inn_core.graph.program import Program
from inn_core.linear import (
    LinearNode,
    input_rows,
    linear_nodes,
    n_positions,
    output_rows,
    weight_from_matrix,
    weight_matrix,
)
from inn_core.network import IntegralNetwork
from inn_core.progress import Progress, no_progress
from inn_core.resize import resize_template
from inn_core.sampling import axis_selection, sample_weights, take
from inn_core.solve import NormalEquations

Tensors = dict[str, torch.Tensor]
ROWS_PER_UNKNOWN = 32  # rows of the normal equations for each input of a node
LEAST_ROWS = 16_384
MOST_ROWS = 400_000


@dataclass(frozen=True)
class Method:
    """One way to fit: where the inputs come from, how strong the ridge is and what it pulls towards."""

    name: str
    sequential: bool
    ridge: float
    towards: str | None = None  # name of a method earlier in the same walk, or None for the sampled weights


ONE_SHOT = Method("one-shot", sequential=False, ridge=1e-2)
HYBRID = Method("hybrid", sequential=True, ridge=1e-1, towards="one-shot")
SEQUENTIAL = Method("sequential", sequential=True, ridge=1e-3)
METHODS = (ONE_SHOT, HYBRID, SEQUENTIAL)


class Walk:
    """One lockstep walk over all nodes for several methods at once; the full network runs only once.

    Args:
        program: the full network's program.
        weights: full weights.
        kept: kept positions of every group.
        methods: what to fit; a method named in `towards` must come before.
        seed: decides which rows enter the normal equations.
    """

    def __init__(
        self,
        network: IntegralNetwork,
        program: Program,
        weights: Mapping[str, torch.Tensor],
        kept: Mapping[str, IndexArray],
        methods: Sequence[Method],
        *,
        seed: int = 0,
    ) -> None:
        self.structure = network.structure
        self.program = program
        self.weights = weights
        self.kept = kept
        self.methods = methods
        sizes = {name: len(indices) for name, indices in kept.items()}
        self.sized_program = Program(resize_template(network, sizes), device=program.device)
        self.sampled = sample_weights(network, kept, weights)
        self.fitted: dict[str, Tensors] = {method.name: dict(self.sampled) for method in methods}
        self.linear = {entry.index: entry for entry in linear_nodes(program.nodes, weights)}
        self.other_summand = _other_summands(program)
        self.generator = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def run(self, chunks: Sequence[Mapping[str, torch.Tensor]], progress: Progress = no_progress) -> dict[str, Tensors]:
        """Fit all methods on the samples of all chunks; returns `method -> weights` of the sized network."""
        full: list[Tensors] = [dict(chunk) for chunk in chunks]
        sized = {method.name: [dict(chunk) for chunk in chunks] for method in self.methods if method.sequential}
        count = len(self.program.nodes)
        for index in range(count):
            for environment in full:
                self.program.step(index, environment, self.weights)
            entry = self.linear.get(index)
            if entry is not None:
                self._fit(entry, full, sized)
            for name, environments in sized.items():
                for environment in environments:
                    self.sized_program.step(index, environment, self.fitted[name])
            for environment in full:
                self.program.release(index, environment, ())
            for environments in sized.values():
                for environment in environments:
                    self.sized_program.release(index, environment, ())
            progress("refining", (index + 1) / count)
        return self.fitted

    def _fit(self, entry: LinearNode, full: list[Tensors], sized: Mapping[str, list[Tensors]]) -> None:
        if entry.data in self.program.inputs:
            return  # the sized network reads the same samples: the sampled weights are exact
        node = self.sized_program.nodes[entry.index]
        shape = self.sampled[entry.weight].shape
        matrix = weight_matrix(node, self.sampled[entry.weight])
        blocks, n_outputs, n_inputs = matrix.shape
        out_kept = axis_selection(self.structure, self.structure.values[entry.output], self.kept)
        in_kept = axis_selection(self.structure, self.structure.values[entry.data], self.kept)
        for method in self.methods:
            equations = NormalEquations(blocks, n_inputs, n_outputs, device=matrix.device)
            row_positions = self._positions(entry, full, n_inputs)
            for i, (environment, positions) in enumerate(zip(full, row_positions, strict=True)):
                target = take(environment[entry.output], out_kept)
                if method.sequential:
                    own = sized[method.name][i]
                    data = own[entry.data]
                    other = self.other_summand.get(entry.output)
                    if other is not None and other in own and own[other].shape == target.shape:
                        other_kept = axis_selection(self.structure, self.structure.values[other], self.kept)
                        target = target + take(environment[other], other_kept) - own[other]
                else:
                    data = take(environment[entry.data], in_kept)
                equations.add(input_rows(node, shape, data, positions), output_rows(node, target, positions))
            prior = matrix if method.towards is None else weight_matrix(node, self.fitted[method.towards][entry.weight])
            solved, bias = equations.solve(prior, ridge=method.ridge, with_bias=entry.bias is not None)
            fitted = self.fitted[method.name]
            dtype = self.sampled[entry.weight].dtype
            fitted[entry.weight] = weight_from_matrix(node, solved.to(dtype), shape).contiguous()
            if entry.bias is not None and bias is not None:
                fitted[entry.bias] = bias.reshape(-1).to(dtype)

    def _positions(self, entry: LinearNode, full: list[Tensors], n_inputs: int) -> list[torch.Tensor | None]:
        """Random output positions per chunk, so that the rows are about ROWS_PER_UNKNOWN a column; None takes all."""
        wanted = min(max(ROWS_PER_UNKNOWN * n_inputs, LEAST_ROWS), MOST_ROWS)
        is_product = entry.node.operator in ("Gemm", "MatMul")
        available = [n_positions(entry.node, environment[entry.output]) for environment in full]
        rows = sum(
            n if is_product else n * environment[entry.output].shape[0]
            for n, environment in zip(available, full, strict=True)
        )
        if rows <= wanted:
            return [None] * len(full)
        share = wanted / rows
        return [
            torch.randperm(n, generator=self.generator)[: max(1, round(n * share))]
            .sort()
            .values.to(self.program.device)
            for n in available
        ]


def _other_summands(program: Program) -> dict[str, str]:
    """`value -> the other operand` where the value is read by one Add only: a block corrects its shortcut's drift."""
    reads: dict[str, list[int]] = {}
    for index, node in enumerate(program.nodes):
        for name in node.inputs:
            reads.setdefault(name, []).append(index)
    result = {}
    for node in program.nodes:
        if node.operator == "Add" and len(node.inputs) == 2:
            for name, other in (node.inputs, node.inputs[::-1]):
                if len(reads[name]) == 1 and name not in program.outputs:
                    result[name] = other
    return result
