"""Where sliding windows lie: padding and output sizes of convolution and pooling.

One place for `auto_pad`, asymmetric padding, dilation and `ceil_mode`, which the two families define alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import refusal


@dataclass(frozen=True)
class Window:
    """Geometry of a sliding window; every list has one entry per spatial axis.

    Attributes:
        kernel, strides, dilations: of the window.
        begin, end: padding before and after the data.
        sizes: number of windows.
    """

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begin: list[int]
    end: list[int]
    sizes: list[int]

    @property
    def is_symmetric(self) -> bool:
        """Whether both sides have the same, non-negative padding."""
        return self.begin == self.end and min(self.begin) >= 0


def per_axis(node: Node, name: str, rank: int, default: int = 1) -> list[int]:
    """A list attribute with one entry per spatial axis; UnsupportedOperatorError when its length differs."""
    values: list[int] | None = node.attributes.get(name)
    if values is None:
        return [default] * rank
    if len(values) != rank:
        raise refusal(node, f"attribute {name}={list(values)} should have {rank} entries")
    return values


def read_padding(
    node: Node, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Padding before and after the data on each spatial axis, from `pads` or `auto_pad`.

    Args:
        node: with `pads` or `auto_pad`, each optional.
        sizes: spatial sizes of the data.
        kernel, strides, dilations: of the window.
    """
    rank = len(kernel)
    auto_pad = node.attributes.get("auto_pad", "NOTSET")
    if auto_pad == "NOTSET":
        return explicit_padding(node, rank)
    begin, end = [0] * rank, [0] * rank
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        for axis in range(rank):
            span = (kernel[axis] - 1) * dilations[axis] + 1
            count = -(-sizes[axis] // strides[axis])
            total = max((count - 1) * strides[axis] + span - sizes[axis], 0)
            small, large = total // 2, total - total // 2
            begin[axis], end[axis] = (small, large) if auto_pad == "SAME_UPPER" else (large, small)
    elif auto_pad != "VALID":
        raise refusal(node, f"auto_pad='{auto_pad}' is unknown")
    return begin, end


def explicit_padding(node: Node, rank: int) -> tuple[list[int], list[int]]:
    """The attribute `pads` as padding before and after; zeros when it is absent."""
    pads: list[int] | None = node.attributes.get("pads")
    if not pads:
        return [0] * rank, [0] * rank
    if len(pads) != 2 * rank:
        raise refusal(node, f"attribute pads={list(pads)} should have {2 * rank} entries")
    return pads[:rank], pads[rank:]


def read_window(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> Window:
    """The window geometry of a pooling node.

    Args:
        node: with `strides`, `dilations`, `pads`, `auto_pad`, `ceil_mode`, each optional.
        sizes: spatial sizes of the data.
        kernel: spatial sizes of the window.

    Returns:
        The geometry. With `ceil_mode` a last window that would start past the data and its leading padding is
        left out.

    Raises:
        UnsupportedOperatorError: the attributes contradict each other, or a window is larger than the data.
    """
    rank = len(sizes)
    strides = per_axis(node, "strides", rank)
    dilations = per_axis(node, "dilations", rank)
    begin, end = read_padding(node, sizes, kernel, strides, dilations)
    ceil_mode = bool(node.attributes.get("ceil_mode", 0))
    counts: list[int] = []
    for axis in range(rank):
        span = (kernel[axis] - 1) * dilations[axis] + 1
        room = sizes[axis] + begin[axis] + end[axis] - span
        if room < 0 and not (ceil_mode and room > -strides[axis]):
            raise refusal(node, f"a window of {span} does not fit into {room + span} elements")
        count = (-(-room // strides[axis]) if ceil_mode else room // strides[axis]) + 1
        if ceil_mode and (count - 1) * strides[axis] >= sizes[axis] + begin[axis]:
            count -= 1
        counts.append(count)
    return Window(list(kernel), strides, dilations, begin, end, counts)


def pad_spatial(value: Tensor, begin: Sequence[int], end: Sequence[int], fill: float = 0.0) -> Tensor:
    """Pads (or, where negative, crops) the trailing axes of a tensor with a constant."""
    pads = [amount for axis in reversed(range(len(begin))) for amount in (begin[axis], end[axis])]
    return functional.pad(value, pads, value=fill) if any(pads) else value
