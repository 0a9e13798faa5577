"""Pooling over windows and over all spatial axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import Inputs, Operator, Outputs, compute_dtype, refusal, required
from inn_core.graph.operators.window import Window, pad_spatial, read_window

_MAX: dict[int, Callable[..., Tensor]] = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}
_AVERAGE: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def _window(node: Node, value: Tensor) -> Window:
    kernel: list[int] | None = node.attributes.get("kernel_shape")
    if kernel is None or len(kernel) != value.dim() - 2 or value.dim() - 2 not in _MAX:
        raise refusal(node, f"kernel_shape={kernel} does not fit {value.dim() - 2} spatial axes; 1 to 3 are possible")
    window = read_window(node, value.shape[2:], kernel)
    auto_pad = node.attributes.get("auto_pad", "NOTSET")
    if auto_pad != "NOTSET" and node.attributes.get("ceil_mode", 0):
        raise refusal(node, f"runtimes disagree on ceil_mode with auto_pad='{auto_pad}'")
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        if max(window.dilations) > 1:
            raise refusal(node, f"runtimes disagree on dilations with auto_pad='{auto_pad}'")
        if min(_end_padding(window, value.shape[2:])) < 0:
            raise refusal(node, f"runtimes disagree on strides beyond the window with auto_pad='{auto_pad}'")
    return window


def _end_padding(window: Window, sizes: Sequence[int]) -> list[int]:
    """Padding at the end that the last window reaches into; negative where it leaves data out."""
    return [
        (count - 1) * stride + (kernel - 1) * dilation + 1 - size - begin
        for count, stride, kernel, dilation, size, begin in zip(
            window.sizes, window.strides, window.kernel, window.dilations, sizes, window.begin, strict=True
        )
    ]


def _fits_torch(window: Window, sizes: Sequence[int]) -> bool:
    """Whether torch itself pads and counts like this: both sides alike, at most half the window, no overhang."""
    reach = _end_padding(window, sizes)
    return (
        window.is_symmetric
        and all(begin <= kernel // 2 for begin, kernel in zip(window.begin, window.kernel, strict=True))
        and all(0 <= end - last < stride for end, last, stride in zip(window.end, reach, window.strides, strict=True))
    )


def max_pool(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """MaxPool; the optional second output holds positions in the flattened data."""
    value = required(node, inputs, 0)
    window = _window(node, value)
    rank = value.dim() - 2
    dtype = value.dtype
    if not value.is_floating_point():
        if dtype not in (torch.int8, torch.uint8):
            raise refusal(node, f"data of type {dtype} is not possible")
        value = value.float()  # exact: 8-bit integers fit
    sizes = list(value.shape[2:])
    padding, shift = window.begin, [0] * rank
    if not _fits_torch(window, sizes):
        value = pad_spatial(value, window.begin, _end_padding(window, sizes), float("-inf"))
        padding, shift = shift, window.begin
    wants_indices = len(node.outputs) > 1 and node.outputs[1] != ""
    if not wants_indices:
        return (_MAX[rank](value, window.kernel, window.strides, padding, window.dilations).to(dtype),)
    pooled, indices = _MAX[rank](value, window.kernel, window.strides, padding, window.dilations, return_indices=True)
    positions = _flat_positions(node, indices, list(value.shape[2:]), sizes, shift)
    return (pooled.to(dtype), positions)


def _flat_positions(node: Node, indices: Tensor, padded: list[int], sizes: list[int], shift: list[int]) -> Tensor:
    """Positions in one padded plane, made positions in the whole unpadded tensor."""
    coordinates: list[Tensor] = []
    for size, begin in zip(reversed(padded), reversed(shift), strict=True):
        coordinates.append(indices % size - begin)
        indices = indices // size
    coordinates.reverse()
    order = list(range(len(sizes)))
    if node.attributes.get("storage_order", 0):
        order.reverse()
    flat = torch.zeros_like(indices)
    for axis in order:
        flat = flat * sizes[axis] + coordinates[axis]
    plane = math.prod(sizes)
    batch, channels = flat.shape[:2]
    planes = torch.arange(batch * channels, device=flat.device).reshape(batch, channels, *([1] * len(sizes)))
    return flat + planes * plane


def average_pool(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """AveragePool; padding counts as elements only with `count_include_pad`."""
    value = required(node, inputs, 0)
    window = _window(node, value)
    rank = value.dim() - 2
    include = bool(node.attributes.get("count_include_pad", 0))
    if _fits_torch(window, value.shape[2:]) and all(dilation == 1 for dilation in window.dilations):
        return (_AVERAGE[rank](value, window.kernel, window.strides, window.begin, False, include),)
    total = _window_sum(value, window)
    for axis in range(rank):
        counts = _element_counts(window, axis, value.shape[2 + axis], include)
        shape = [-1 if other == axis else 1 for other in range(rank)]
        total = total / torch.tensor(counts, dtype=total.dtype, device=total.device).reshape(shape)
    return (total.to(value.dtype),)


def _window_sum(value: Tensor, window: Window) -> Tensor:
    """Sum over every window, in at least float32."""
    value = value.to(compute_dtype(value))
    padded = pad_spatial(value, window.begin, _end_padding(window, value.shape[2:]))
    planes = padded.flatten(0, 1).unsqueeze(1)
    ones = torch.ones(1, 1, *window.kernel, dtype=value.dtype, device=value.device)
    total = _CONVOLUTIONS[len(window.kernel)](planes, ones, None, window.strides, 0, window.dilations)
    return total.reshape(*value.shape[:2], *total.shape[2:])


def _element_counts(window: Window, axis: int, size: int, include: bool) -> list[int]:
    """Elements of each window along one axis: of the data, or with `include` of the data and its padding."""
    first, last = (-window.begin[axis], size + window.end[axis]) if include else (0, size)
    counts: list[int] = []
    for position in range(window.sizes[axis]):
        start = position * window.strides[axis] - window.begin[axis]
        offsets = range(start, start + window.kernel[axis] * window.dilations[axis], window.dilations[axis])
        counts.append(sum(first <= offset < last for offset in offsets))
    return counts


def lp_pool(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """LpPool: the p-norm of every window."""
    value = required(node, inputs, 0)
    window = _window(node, value)
    order = node.attributes.get("p", 2)
    powers = value.to(compute_dtype(value)).abs().pow(order)
    total = _window_sum(powers, window)
    return (total.pow(1.0 / order).to(value.dtype),)


def global_average_pool(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """GlobalAveragePool: mean over all spatial axes, kept with size 1."""
    value = required(node, inputs, 0)
    return (value.mean(list(range(2, value.dim())), keepdim=True),)


def global_max_pool(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """GlobalMaxPool: maximum over all spatial axes, kept with size 1."""
    value = required(node, inputs, 0)
    return (value.amax(list(range(2, value.dim())), keepdim=True),)


OPERATORS: dict[str, Operator] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalMaxPool": global_max_pool,
    "LpPool": lp_pool,
    "MaxPool": max_pool,
}
