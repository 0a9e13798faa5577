"""The graph of a network at its sizes, ready to run; those that ran last are kept."""

from __future__ import annotations

import torch

from inn_core.graph.program import Program
from inn_core.network import Checkpoint, Sizes
from inn_core.resize import resize_template

PROGRAMS_KEPT = 64


class SizedPrograms:
    """Programs by size and device, so that a training step does not rewrite the graph.

    A template without constants and attributes that follow a size has one program for all of them.

    Args:
        checkpoint: whose template.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        structure = checkpoint.structure
        self._names = () if not (structure.constants or structure.attributes) else tuple(structure.full_sizes())
        self._kept: dict[tuple[object, ...], Program] = {}  # the most recently used last

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def at(self, sizes: Sizes, device: torch.device) -> Program:
        """The program of a size."""
        key = (device, *(sizes[name] for name in self._names))
        program = self._kept.pop(key, None)
        if program is None:
            with torch.inference_mode(False):  # it is kept, and training may need it next
                program = Program(resize_template(self._checkpoint, sizes), device=device)
        self._kept[key] = program
        while len(self._kept) > PROGRAMS_KEPT:
            del self._kept[next(iter(self._kept))]
        return program

    def __deepcopy__(self, memo: dict[int, object]) -> SizedPrograms:
        """Programs of the same checkpoint, which never changes; they are made again where they are needed."""
        return SizedPrograms(self._checkpoint)

    def __reduce__(self) -> tuple[type[SizedPrograms], tuple[Checkpoint]]:
        """As for a copy: the checkpoint alone is pickled."""
        return SizedPrograms, (self._checkpoint,)
