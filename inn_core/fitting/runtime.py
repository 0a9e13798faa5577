"""A network made ready to compute: its program and weights on a device, its calibration samples in chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import DeviceError
from inn_core.graph.axis import axis_size
from inn_core.graph.program import Program
from inn_core.graph.resized import resize_template
from inn_core.graph.structure import Structure, Template

CHUNK_ELEMENTS = 2**24  # largest activation of a chunk: 64 MiB in float32
MAX_CHUNK = 256
WALK_BYTES = 4 * 2**30  # activations that a walk may keep; more samples than fit are left out, evenly
FLOAT_BYTES = 4
SPLIT_BLOCKS = 16  # neighbours in the calibration set often share a source, so whole blocks are held out

Chunk = dict[str, torch.Tensor]


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU.

    Raises:
        DeviceError: the device is unknown or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device '{name}' is unknown; use auto, cpu or cuda", device=name) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError("device 'cuda' was asked for, but PyTorch finds no CUDA device; use auto or cpu", device=name)
    return device


def chunk_samples(structure: Structure) -> int:
    """How many samples to run at a time, so that the largest activation stays bounded."""
    full = structure.full_sizes()
    largest = max((math.prod(axis_size(axis, full) for axis in axes) for axes in structure.values.values()), default=1)
    return max(1, min(MAX_CHUNK, CHUNK_ELEMENTS // max(largest, 1)))


def peak_elements(program: Program, structure: Structure) -> int:
    """Most elements of activations that are alive at one time while one sample runs at full size."""
    full = structure.full_sizes()
    elements = {name: math.prod(axis_size(axis, full) for axis in axes) for name, axes in structure.values.items()}
    alive = {name: elements[name] for name in program.inputs}
    peak = sum(alive.values())
    for index, node in enumerate(program.nodes):
        alive |= {name: elements.get(name, 0) for name in node.outputs if name}
        peak = max(peak, sum(alive.values()))
        alive = {name: size for name, size in alive.items() if program.last_use[name] > index}
    return peak


def affordable_samples(program: Program, structure: Structure, networks: int) -> int:
    """How many samples a lockstep walk of so many networks may hold: it keeps every sample's live activations."""
    return max(1, WALK_BYTES // (FLOAT_BYTES * networks * max(peak_elements(program, structure), 1)))


def spread(count: int, wanted: int) -> Array:
    """Positions of at most `wanted` of `count` samples, evenly over the set."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).astype(np.int64))


def to_chunks(samples: Mapping[str, Array], size: int, device: torch.device) -> list[Chunk]:
    """Samples as tensors, `size` at a time."""
    count = len(next(iter(samples.values())))
    return [
        {
            name: torch.from_numpy(np.ascontiguousarray(array[i : i + size])).to(device)
            for name, array in samples.items()
        }
        for i in range(0, count, size)
    ]


def split_blocks(count: int, held_out: float = 0.25) -> tuple[Array, Array]:
    """Positions to fit on and positions to hold out: whole blocks of neighbours, spread over the set."""
    period = max(2, round(1 / held_out))
    block = np.arange(count) * SPLIT_BLOCKS // max(count, SPLIT_BLOCKS) if count >= SPLIT_BLOCKS else np.arange(count)
    is_held = block % period == period - 1
    return np.flatnonzero(~is_held), np.flatnonzero(is_held)


@dataclass(frozen=True)
class LoadedNetwork:
    """Everything to run one network at full size.

    Attributes:
        program: of the full template.
        weights: on the device.
        chunk: samples to run at a time.
    """

    template: Template
    structure: Structure
    program: Program
    weights: Mapping[str, torch.Tensor]
    chunk: int
    device: torch.device

    @classmethod
    def build(
        cls, template: Template, structure: Structure, weights: Mapping[str, Array], device: torch.device
    ) -> LoadedNetwork:
        """Load a network's weights."""
        tensors = {name: torch.from_numpy(np.array(array)).to(device) for name, array in weights.items()}
        program = Program(template.model, device=device)
        return cls(template, structure, program, tensors, chunk_samples(structure), device)

    @classmethod
    def of(cls, checkpoint: Checkpoint, device: torch.device) -> LoadedNetwork:
        """Load an integral network."""
        return cls.build(checkpoint.template, checkpoint.structure, checkpoint.weights, device)

    @classmethod
    def build_sized(
        cls, checkpoint: Checkpoint, sizes: Mapping[str, int], weights: Mapping[str, Array], device: torch.device
    ) -> LoadedNetwork:
        """Load a discrete model of a network; its structure has the groups at the given sizes."""
        groups = tuple(replace(group, size=sizes[group.name]) for group in checkpoint.structure.groups)
        template = Template(
            resize_template(checkpoint.template, checkpoint.structure, sizes), checkpoint.template.weights
        )
        return cls.build(template, replace(checkpoint.structure, groups=groups), weights, device)

    def chunks(self, samples: Mapping[str, Array]) -> list[Chunk]:
        """Samples as tensors on the device."""
        return to_chunks(samples, self.chunk, self.device)


@torch.inference_mode()
def run_outputs(
    program: Program, weights: Mapping[str, torch.Tensor], chunks: Sequence[Chunk]
) -> dict[str, torch.Tensor]:
    """Outputs of a program over all chunks, joined along the batch."""
    results = [program.run(weights, chunk) for chunk in chunks]
    return {name: torch.cat([result[name] for result in results]) for name in program.outputs}
