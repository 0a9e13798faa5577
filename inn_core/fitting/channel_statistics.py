"""Calibration statistics of the full network: how the inputs of every linear node vary, and what its outputs matter.

One pass over the samples gives, per linear node, mean and covariance of its input channels (over samples and positions)
and the Fisher information of its outputs: how much the divergence of the network's result grows with an error there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from inn_core.fitting.divergence import OutputKind, log_probabilities, output_kind
from inn_core.graph.axis import Axis, axis_size
from inn_core.graph.linear_nodes import LinearNode, linear_nodes
from inn_core.graph.program import Program
from inn_core.graph.structure import Structure
from inn_core.progress import Progress, no_progress

Chunk = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class PointStatistics:
    """What the calibration samples say about one linear node.

    Attributes:
        entry: the node.
        layout: `(outer, units, inner)`: how the input axis is read. Where one group is a factor among fixed ones
            (a flattened map), units are the group's channels and statistics are pooled over the other factors;
            otherwise units are the whole axis.
        mean: mean of each unit, shape `(units,)`, float64.
        covariance: of the units, shape `(units, units)`, float64.
        fisher: mean over samples of the summed squared gradient of the divergence at each output channel, shape
            `(outputs,)`, or empty when not asked for: half of it times a mean squared error is the divergence that
            the error causes, to second order.
    """

    entry: LinearNode
    layout: tuple[int, int, int]
    mean: torch.Tensor
    covariance: torch.Tensor
    fisher: torch.Tensor


def channel_axis(structure: Structure, entry: LinearNode) -> Axis:
    """The axis of a linear node's input that is contracted with the weight."""
    return structure.values[entry.data][-1 if entry.node.operator in ("Gemm", "MatMul") else 1]


def output_kinds(program: Program, outputs: Mapping[str, torch.Tensor]) -> dict[str, OutputKind]:
    """The kind of every float output of a program."""
    writers = {name: node.operator for node in program.nodes for name in node.outputs}
    return {
        name: output_kind(tensor.shape, writers.get(name, ""))
        for name, tensor in outputs.items()
        if tensor.is_floating_point()
    }


def axis_layout(axis: Axis, full: Mapping[str, int]) -> tuple[int, int, int]:
    """`(outer, units, inner)` of an axis: a single segment with one group is read by that group, all else whole."""
    places = [i for i, item in enumerate(axis[0]) if isinstance(item, str)] if len(axis) == 1 else []
    if len(places) == 1:
        (segment,), (place,) = axis, places
        outer, units, inner = segment[:place], segment[place : place + 1], segment[place + 1 :]
        return axis_size((outer,), full), axis_size((units,), full), axis_size((inner,), full)
    return 1, axis_size(axis, full), 1


class _Sums:
    def __init__(self, layout: tuple[int, int, int]) -> None:
        self.layout = layout
        self.rows = 0
        self.total: torch.Tensor | float = 0.0
        self.product: torch.Tensor | float = 0.0
        self.fisher: torch.Tensor | float = 0.0
        self.shift: torch.Tensor | None = None


def collect_statistics(
    program: Program,
    structure: Structure,
    weights: Mapping[str, torch.Tensor],
    chunks: Sequence[Chunk],
    *,
    fisher: bool = True,
    seed: int = 0,
    progress: Progress = no_progress,
) -> list[PointStatistics]:
    """Statistics of every linear node, in the order of the program.

    Args:
        structure: of the program's template.
        chunks: calibration samples by graph input, a few hundred samples a chunk.
        fisher: also run backwards; without it the Fisher information is empty.
        seed: draws the targets of the Fisher information.
    """
    entries = linear_nodes(program.nodes, weights)
    full = structure.full_sizes()
    sums = {e.index: _Sums(axis_layout(channel_axis(structure, e), full)) for e in entries}
    generator = torch.Generator().manual_seed(seed)
    samples = 0
    for number, chunk in enumerate(chunks):
        samples += len(next(iter(chunk.values())))
        _add_chunk(program, weights, chunk, entries, sums, generator if fisher else None)
        progress("statistics", (number + 1) / len(chunks))
    result = []
    for entry in entries:
        s = sums[entry.index]
        assert isinstance(s.total, torch.Tensor)
        assert isinstance(s.product, torch.Tensor)
        information = s.fisher / samples if isinstance(s.fisher, torch.Tensor) else torch.zeros(0)
        assert s.shift is not None
        mean = s.total / s.rows
        covariance = s.product / s.rows - torch.outer(mean, mean)
        result.append(PointStatistics(entry, s.layout, mean + s.shift.double(), covariance, information))
    return result


def _add_chunk(
    program: Program,
    weights: Mapping[str, torch.Tensor],
    chunk: Chunk,
    entries: Sequence[LinearNode],
    sums: Mapping[int, _Sums],
    generator: torch.Generator | None,
) -> None:
    by_index = {entry.index: entry for entry in entries}
    environment = program.begin(chunk)
    written: dict[int, torch.Tensor] = {}
    with torch.set_grad_enabled(generator is not None):
        for index in program.walk([environment], weights):
            entry = by_index.get(index)
            if entry is not None:
                _add_inputs(sums[index], environment[entry.data].detach(), entry)
            if entry is not None and generator is not None:
                output = environment[entry.output]
                if not output.requires_grad:
                    environment[entry.output] = output = output.detach().requires_grad_()
                output.retain_grad()
                written[index] = output
        if generator is None:
            return
        outputs = {name: environment[name] for name in program.outputs}
        loss = _sampled_loss(outputs, output_kinds(program, outputs), generator)
        if loss.requires_grad:
            loss.backward()
    for index, output in written.items():
        gradient = output.grad if output.grad is not None else torch.zeros_like(output)
        axis = gradient.ndim - 1 if by_index[index].node.operator in ("Gemm", "MatMul") else 1
        others = [i for i in range(gradient.ndim) if i != axis]
        sums[index].fisher = sums[index].fisher + gradient.double().square().sum(others)


def _add_inputs(s: _Sums, data: torch.Tensor, entry: LinearNode) -> None:
    axis = data.ndim - 1 if entry.node.operator in ("Gemm", "MatMul") else 1
    rows = data.movedim(axis, -1).reshape(-1, *s.layout).transpose(2, 3).reshape(-1, s.layout[1])
    if s.shift is None:
        s.shift = rows.mean(0)
    rows = rows - s.shift
    s.rows += rows.shape[0]
    s.total = s.total + rows.sum(0).double()
    s.product = s.product + (rows.T @ rows).double()


def _sampled_loss(
    outputs: Mapping[str, torch.Tensor], kinds: Mapping[str, OutputKind], generator: torch.Generator
) -> torch.Tensor:
    """A loss whose squared gradient has the Fisher information as its mean: targets drawn from the network itself.

    Source: Amari 1998; for values, a Gaussian with mean power x elements of a sample / 2 as variance, whose Fisher
    information makes half of it times a squared error the divergence of `divergence`: error relative to mean power.
    """
    loss = torch.zeros(())
    for name, kind in kinds.items():
        output = outputs[name]
        if kind is OutputKind.VALUES:
            noise = torch.randn(output.shape, generator=generator).to(output.device)
            power = output.detach().square().mean().clamp_min(torch.finfo(output.dtype).tiny)
            per_sample = output[0].numel()
            loss = loss + (output * noise).sum() * (2 / (power * per_sample)).sqrt()
        else:
            log_p = log_probabilities(output, kind)
            drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=generator).to(output.device)
            loss = loss - log_p.gather(1, drawn).sum()
    return loss
