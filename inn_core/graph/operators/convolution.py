"""Conv and ConvTranspose over one to three spatial axes."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import Inputs, Operator, Outputs, optional, refusal, required, together
from inn_core.graph.operators.strides import without_strides
from inn_core.graph.operators.window import explicit_padding, pad_spatial, per_axis, read_padding

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def _operands(node: Node, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor | None, int]:
    value, weight, bias = required(node, inputs, 0), required(node, inputs, 1), optional(inputs, 2)
    if bias is None:
        value, weight = together(value, weight)
    else:
        value, weight, bias = together(value, weight, bias)
    rank = value.dim() - 2
    if rank not in _CONVOLUTIONS:
        raise refusal(node, f"it has {rank} spatial axes; 1 to 3 are possible")
    return value, weight, bias, rank


def convolve(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Conv: data (batch, in, *sizes), weight (out, in / group, *kernel), optional bias (out,)."""
    value, weight, bias, rank = _operands(node, inputs)
    strides = per_axis(node, "strides", rank)
    dilations = per_axis(node, "dilations", rank)
    begin, end = read_padding(node, value.shape[2:], weight.shape[2:], strides, dilations)
    if begin != end or min(begin) < 0:
        value = pad_spatial(value, begin, end)
        begin = [0] * rank
    group = node.attributes.get("group", 1)
    if not any(begin):
        value, strides = without_strides(value, weight, strides)
    return (_CONVOLUTIONS[rank](value, weight, bias, strides, begin, dilations, group),)


def convolve_transposed(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """ConvTranspose: data (batch, in, *sizes), weight (in, out / group, *kernel), optional bias (out,)."""
    value, weight, bias, rank = _operands(node, inputs)
    strides = per_axis(node, "strides", rank)
    dilations = per_axis(node, "dilations", rank)
    extra = per_axis(node, "output_padding", rank, default=0)
    group = node.attributes.get("group", 1)
    full = [
        (size - 1) * stride + (kernel - 1) * dilation + 1
        for size, stride, kernel, dilation in zip(value.shape[2:], strides, weight.shape[2:], dilations, strict=True)
    ]
    begin, end = _transposed_padding(node, full, extra, list(value.shape[2:]), strides)
    transposed = _TRANSPOSED[rank]
    fits_torch = all(more < max(step, gap) for more, step, gap in zip(extra, strides, dilations, strict=True))
    if fits_torch and begin == end and min(begin) >= 0:
        return (transposed(value, weight, bias, strides, begin, extra, group, dilations),)
    result = transposed(value, weight, None, strides, 0, 0, group, dilations)
    result = pad_spatial(result, [-pad for pad in begin], [more - pad for more, pad in zip(extra, end, strict=True)])
    if bias is not None:
        result = result + bias.reshape(-1, *([1] * rank))
    return (result,)


def _transposed_padding(
    node: Node, full: list[int], extra: list[int], sizes: list[int], strides: list[int]
) -> tuple[list[int], list[int]]:
    """What is cut off the full output, whose sizes are `full`, before `extra` is added at the end."""
    rank = len(full)
    auto_pad = node.attributes.get("auto_pad", "NOTSET")
    wanted: list[int] | None = node.attributes.get("output_shape")
    if wanted is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    if wanted is None:
        if auto_pad == "VALID":
            return [0] * rank, [0] * rank
        if auto_pad != "NOTSET":
            raise refusal(node, f"auto_pad='{auto_pad}' is unknown")
        return explicit_padding(node, rank)
    totals = [size + more - target for size, more, target in zip(full, extra, wanted[-rank:], strict=True)]
    if min(totals) < 0 and auto_pad != "NOTSET":
        raise refusal(node, f"runtimes disagree on auto_pad='{auto_pad}' with strides beyond the kernel")
    small = [total // 2 for total in totals]
    large = [total - total // 2 for total in totals]
    return (small, large) if auto_pad == "SAME_UPPER" else (large, small)


OPERATORS: dict[str, Operator] = {"Conv": convolve, "ConvTranspose": convolve_transposed}
