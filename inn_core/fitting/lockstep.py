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

from inn_core.arrays import IntArray
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.fitting.least_squares import NormalEquations, solve_with_shared_bias
from inn_core.fitting.polyphase import Phase, output_phases, phase_positions
from inn_core.graph.linear_nodes import (
    LinearNode,
    input_rows,
    linear_nodes,
    n_positions,
    output_rows,
    weight_from_matrix,
    weight_matrix,
)
from inn_core.graph.program import Program
from inn_core.graph.resized import resize_template
from inn_core.integral.selection import axis_selection, sample_weights, take
from inn_core.progress import Progress, no_progress

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
    towards: str | None = None  # name of a candidate earlier in the same walk, or None for the sampled weights


ONE_SHOT = Method("one-shot", sequential=False, ridge=1e-2)
HYBRID = Method("hybrid", sequential=True, ridge=1e-1, towards="one-shot")
SEQUENTIAL = Method("sequential", sequential=True, ridge=1e-3)
METHODS = (ONE_SHOT, HYBRID, SEQUENTIAL)


class SizedModel:
    """A sized network that a walk fits: its plan, its method, its weights so far and what has reached it.

    Args:
        key: unique in the walk.
        kept: kept positions of every group.
        method: how to fit.
    """

    def __init__(
        self,
        key: str,
        checkpoint: Checkpoint,
        weights: Mapping[str, torch.Tensor],
        kept: Mapping[str, IntArray],
        method: Method,
        *,
        device: torch.device,
    ) -> None:
        self.key = key
        self.method = method
        self.kept = kept
        sizes = {name: len(indices) for name, indices in kept.items()}
        self.program = Program(resize_template(checkpoint.template, checkpoint.structure, sizes), device=device)
        self.sampled = sample_weights(checkpoint, kept, weights)
        self.fitted: Tensors = dict(self.sampled)
        self.environments: list[Tensors] = []


class LockstepFit:
    """One lockstep walk over all nodes for several candidates at once; the full network runs only once.

    Args:
        program: the full network's program.
        weights: full weights.
        candidates: what to fit; one whose method pulls `towards` another comes after it, with the same plan.
        seed: decides which rows enter the normal equations.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        program: Program,
        weights: Mapping[str, torch.Tensor],
        candidates: Sequence[SizedModel],
        *,
        seed: int = 0,
    ) -> None:
        self.structure = checkpoint.structure
        self.program = program
        self.weights = weights
        self.candidates = {candidate.key: candidate for candidate in candidates}
        self.linear = {entry.index: entry for entry in linear_nodes(program.nodes, weights)}
        self.other_summand = _other_summands(program)
        self.seed = seed

    @torch.inference_mode()
    def run(self, chunks: Sequence[Mapping[str, torch.Tensor]], progress: Progress = no_progress) -> dict[str, Tensors]:
        """Fit all candidates on the samples of all chunks; returns `key -> weights` of the sized network."""
        full: list[Tensors] = [self.program.begin(chunk) for chunk in chunks]
        walking = [candidate for candidate in self.candidates.values() if candidate.method.sequential]
        for candidate in walking:
            candidate.environments = [dict(environment) for environment in full]
        count = len(self.program.nodes)
        for index in self.program.walk(full, self.weights):
            entry = self.linear.get(index)
            for candidate in self.candidates.values():
                if entry is not None and entry.data not in self.program.inputs:
                    self._fit(entry, full, candidate)
            for candidate in walking:
                for environment in candidate.environments:
                    candidate.program.step(index, environment, candidate.fitted)
                    candidate.program.release(index, environment)
            progress("refining", (index + 1) / count)
        return {key: candidate.fitted for key, candidate in self.candidates.items()}

    def _fit(self, entry: LinearNode, full: list[Tensors], candidate: SizedModel) -> None:
        """Solve one node of one candidate. A node that reads the samples themselves is exact and never comes here."""
        node = candidate.program.nodes[entry.index]
        method, kept = candidate.method, candidate.kept
        shape = candidate.sampled[entry.weight].shape
        matrix = weight_matrix(node, candidate.sampled[entry.weight])
        blocks, n_outputs, n_inputs = matrix.shape
        values = self.structure.values
        out_kept = axis_selection(self.structure, values[entry.output], kept)
        in_kept = axis_selection(self.structure, values[entry.data], kept)
        other = self.other_summand.get(entry.output)
        phases = output_phases(node, shape)
        parts = [matrix if phase.columns is None else matrix[:, :, phase.columns] for phase in phases]
        equations = [NormalEquations(blocks, part.shape[2], n_outputs, device=matrix.device) for part in parts]
        for i, (environment, positions) in enumerate(zip(full, self._positions(entry, full, n_inputs), strict=True)):
            target = take(environment[entry.output], out_kept)
            if method.sequential:
                own = candidate.environments[i]
                data = own[entry.data]
                if other is not None and other in own and own[other].shape == target.shape:
                    other_kept = axis_selection(self.structure, values[other], kept)
                    target = target + take(environment[other], other_kept) - own[other]
            else:
                data = take(environment[entry.data], in_kept)
            for phase, system in zip(phases, equations, strict=True):
                chosen = phase_positions(node, phase, target.shape[2:], positions, target.device)
                rows = input_rows(node, shape, data, chosen, taps=phase.taps)
                system.add(rows, output_rows(node, target, chosen))
        prior = matrix
        if method.towards is not None:
            prior = weight_matrix(node, self.candidates[method.towards].fitted[entry.weight])
        solved, bias = _solve(phases, equations, prior, ridge=method.ridge, with_bias=entry.bias is not None)
        dtype = candidate.sampled[entry.weight].dtype
        candidate.fitted[entry.weight] = weight_from_matrix(node, solved.to(dtype), shape).contiguous()
        if entry.bias is not None and bias is not None:
            candidate.fitted[entry.bias] = bias.reshape(-1).to(dtype)

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
        generator = torch.Generator().manual_seed(self.seed + entry.index)
        return [
            torch.randperm(n, generator=generator)[: max(1, round(n * share))].sort().values.to(self.program.device)
            for n in available
        ]


def _solve(
    phases: Sequence[Phase],
    equations: Sequence[NormalEquations],
    prior: torch.Tensor,
    *,
    ridge: float,
    with_bias: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if len(phases) == 1:
        return equations[0].solve(prior, ridge=ridge, with_bias=with_bias)
    priors = [prior[:, :, phase.columns] for phase in phases]
    parts, bias = solve_with_shared_bias(equations, priors, ridge=ridge, with_bias=with_bias)
    solved = torch.zeros_like(prior, dtype=torch.float64)
    for phase, part in zip(phases, parts, strict=True):
        solved[:, :, phase.columns] = part
    return solved, bias


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
