"""The graph of a network at its sizes, ready to run; those that ran last are kept."""

from __future__ import annotations

import torch

from inn_core.caches import MostRecent
from inn_core.graph.program import Program
from inn_core.graph.resized import resize_template
from inn_core.graph.structure import Sizes, Structure, Template

PROGRAMS_KEPT = 64


class SizedPrograms:
    """Programs by size and device, so that a training step does not rewrite the graph.

    A template without constants and attributes that follow a size has one program for all of them.

    Args:
        template: the graph without weights.
        structure: how its sizes follow the groups.
    """

    def __init__(self, template: Template, structure: Structure) -> None:
        self._template = template
        self._structure = structure
        self._names = () if not (structure.constants or structure.attributes) else tuple(structure.full_sizes())
        self._kept = MostRecent[tuple[object, ...], Program](PROGRAMS_KEPT)

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._kept)

    def at(self, sizes: Sizes, device: torch.device) -> Program:
        """The program of a size."""

        def make() -> Program:
            with torch.inference_mode(False):  # it is kept, and training may need it next
                return Program(resize_template(self._template, self._structure, sizes), device=device)

        return self._kept.get((device, *(sizes[name] for name in self._names)), make)

    def __reduce__(self) -> tuple[type[SizedPrograms], tuple[Template, Structure]]:
        """Copied and pickled without programs, which are made again where they are needed."""
        return SizedPrograms, (self._template, self._structure)
