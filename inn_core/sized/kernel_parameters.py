"""What an integral network learns: kernels at their nodes, and scale and shift of every normalized node.

The kernels at their nodes are the weights of the full network before normalization. Sampled at a size and folded with
the moments of that size, they are the weights of a discrete model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inn_core.graph.axis import Axis, axis_size
from inn_core.graph.structure import Sizes
from inn_core.integral.nested_sampler import Sampler
from inn_core.sized.batch_norm import Moments, NormalizedNode, fold

_WORD_BYTES = 8
_HALF_BITS = 32
_TABLE_WIDTH = 512  # words in a row of the table that a checksum is taken of
_TABLE_ROWS = 64  # that are halved at a time, 256 KiB: what stays in a processor's cache


@dataclass(frozen=True, eq=False)
class Written:
    """What tells that parameters were written since.

    Attributes:
        versions: of every parameter, with its identity: operations in place count up.
        dtypes: of every parameter.
        checksums: of every parameter's bits, for fused optimizers and writes to `.data` do not count up.
    """

    versions: tuple[tuple[int, int], ...]
    dtypes: tuple[torch.dtype, ...]
    checksums: tuple[Tensor, ...]


@dataclass(frozen=True)
class Sampled:
    """Parameters at a size.

    Attributes:
        weights: by initializer name; the biases of normalized nodes are zero.
        scales, shifts: of normalized nodes, by the name of their weight.
    """

    weights: dict[str, Tensor]
    scales: dict[str, Tensor]
    shifts: dict[str, Tensor]


class KernelParameters(nn.Module):
    """The parameters of an integral network.

    Args:
        weights: kernels at their nodes by initializer name, full size.
        scales, shifts: of the normalized nodes, by the name of their weight.
        nodes: the normalized nodes; their biases are no parameters, for the shift does their work.
        axes: of every weight.
        integrated: position of the axis that a weight is integrated over, by name.
        constants: weights that are not trained: bounds, scales of a resize.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        scales: Mapping[str, Tensor],
        shifts: Mapping[str, Tensor],
        *,
        nodes: Sequence[NormalizedNode],
        axes: Mapping[str, tuple[Axis, ...]],
        integrated: Mapping[str, int],
        constants: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.nodes = tuple(nodes)
        self._axes = axes
        self._integrated = integrated
        self._biases = {node.bias: node.weight for node in nodes}
        self._names = _attribute_names(weights)
        self.kernels = nn.ParameterDict()
        self.scales = nn.ParameterDict()
        self.shifts = nn.ParameterDict()
        for name, weight in weights.items():
            if name not in self._biases:
                self.kernels[self._names[name]] = nn.Parameter(weight, requires_grad=name not in constants)
        for node in nodes:
            self.scales[self._names[node.weight]] = nn.Parameter(scales[node.weight])
            self.shifts[self._names[node.weight]] = nn.Parameter(shifts[node.weight])

    def kernel(self, name: str) -> Tensor:
        """The kernel of a weight at its nodes, full size."""
        parameter: Tensor = self.kernels[self._names[name]]
        return parameter

    def scale(self, weight: str) -> Tensor:
        """The scale behind the node of a weight, full size."""
        parameter: Tensor = self.scales[self._names[weight]]
        return parameter

    def shift(self, weight: str) -> Tensor:
        """The shift behind the node of a weight, full size."""
        parameter: Tensor = self.shifts[self._names[weight]]
        return parameter

    def sampled(self, sampler: Sampler, sizes: Sizes) -> Sampled:
        """Everything at a size, in the precision of the parameters even under autocast; gradients reach them."""
        weights: dict[str, Tensor] = {}
        scales: dict[str, Tensor] = {}
        shifts: dict[str, Tensor] = {}
        first = next(iter(self.kernels.values()), torch.zeros(()))
        with torch.autocast(first.device.type, enabled=False):
            for name in self._names:
                if name in self._biases:
                    length = axis_size(self._axes[name][0], sizes)
                    weights[name] = self.kernel(self._biases[name]).new_zeros(length)
                    continue
                sized = sampler.sized(self.kernel(name), self._axes[name], sizes, integrated=self._integrated.get(name))
                weights[name] = sized.contiguous(memory_format=torch.channels_last) if sized.ndim == 4 else sized
            for node in self.nodes:
                axes = self._axes[node.bias]
                scales[node.weight] = sampler.sized(self.scale(node.weight), axes, sizes)
                shifts[node.weight] = sampler.sized(self.shift(node.weight), axes, sizes)
        return Sampled(weights, scales, shifts)

    def folded(self, sampled: Sampled, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
        """Weights of the discrete model that computes what `sampled` does behind the given moments."""
        weights = dict(sampled.weights)
        for node in self.nodes:
            weights[node.weight], weights[node.bias] = fold(
                node,
                weights[node.weight],
                moments[node.weight],
                sampled.scales[node.weight],
                sampled.shifts[node.weight],
            )
        return weights

    def written(self) -> Written:
        """The parameters as they are now, to ask later whether they changed."""
        parameters = list(self.parameters())
        return Written(
            tuple((id(parameter), parameter._version) for parameter in parameters),
            tuple(parameter.dtype for parameter in parameters),
            tuple(_checksum(parameter.detach()) for parameter in parameters),
        )

    def is_unchanged(self, since: Written) -> bool:
        """Whether nothing was written; moving to another device or to a wider precision does not count.

        All bits are read: about a millisecond for a million float32 parameters.
        """
        parameters = list(self.parameters())
        return tuple((id(parameter), parameter._version) for parameter in parameters) == since.versions and all(
            torch.equal(_checksum(parameter.detach().to(dtype)), checksum.to(parameter.device))
            for parameter, dtype, checksum in zip(parameters, since.dtypes, since.checksums, strict=True)
        )


@torch.inference_mode(False)
def _checksum(values: Tensor) -> Tensor:
    """Sums of the bits as integers along the rows and the columns of a table, int64: exact, in any order of adding.

    A change of one number changes a sum, an exchange of two different numbers does, too, and any other change does
    unless its parts cancel in a row and a column.
    """
    content = values.contiguous().flatten()
    if content.storage_offset() * content.element_size() % _WORD_BYTES:
        content = content.clone()  # words lie at multiples of their length
    content = content.view(torch.uint8)
    words = content[: len(content) // _WORD_BYTES * _WORD_BYTES].view(torch.int64)
    rest = content[len(words) * _WORD_BYTES :].to(torch.int64)
    table = words[: len(words) // _TABLE_WIDTH * _TABLE_WIDTH].view(-1, _TABLE_WIDTH)
    # Sums of words wrap, so the flipped signs of two of them vanish; in sums of their upper halves they do not.
    upper = [(part >> _HALF_BITS).sum(1) for part in table.split(_TABLE_ROWS)]
    return torch.cat([table.sum(0), table.sum(1), *upper, words[table.numel() :], rest])


_EMPTY = nn.ParameterDict()


def _attribute_names(names: Mapping[str, object]) -> dict[str, str]:
    """Names that PyTorch accepts for parameters (no dots, no name of a method), by initializer name; unique."""
    result: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        attribute = name.replace(".", "/")
        while attribute in taken or hasattr(nn.ParameterDict, attribute) or hasattr(_EMPTY, attribute):
            attribute += "'"
        taken.add(attribute)
        result[name] = attribute
    return result
