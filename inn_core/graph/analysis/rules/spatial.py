"""Rules of operators that pool, resize or reduce: channels pass, what is pooled or reduced keeps its size."""

from __future__ import annotations

from collections.abc import Callable

from inn_core.graph.analysis.factors import FactorAxis, fixed_axis, freeze, fresh_axis, product_of, size_of
from inn_core.graph.analysis.flow import Flow, where
from inn_core.graph.node import Node


def pool(flow: Flow, node: Node) -> None:
    """Pooling passes batch and channels; the pooled axes keep their size."""
    axes = flow.of(node.inputs[0])
    for axis in axes[2:]:
        freeze(axis, f"pooled over at {where(node)}")
    for position, name in enumerate(node.outputs):
        if name:
            shape = flow.shapes[name]
            flow.write(node, position, [axes[0], axes[1], *(fixed_axis(size) for size in shape[2:])])


def resize(flow: Flow, node: Node) -> None:
    """Resize passes the axes it leaves alone; `sizes` of those follow them."""
    for name in node.inputs[1:]:  # one entry an axis of the input
        for axis in flow.of(name) if name else ():
            freeze(axis, f"read axis by axis at {where(node)}")
    axes = flow.of(node.inputs[0])
    shape = flow.shapes[node.outputs[0]]
    sizes = node.inputs[3] if len(node.inputs) > 3 and node.inputs[3] else ""
    values = flow.integers(sizes) if sizes else None
    listed = [int(axis) % len(axes) for axis in node.attributes.get("axes", range(len(axes)))]
    result: list[FactorAxis] = []
    for i, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        resizes = size != size_of(axis) or (sizes and values is None)
        if resizes:
            freeze(axis, f"resized at {where(node)}")
            result.append(fixed_axis(size))
        else:
            result.append(axis)
            if values is not None and i in listed and i > 0:
                flow.size_constants.append((sizes, listed.index(i), axis))
    flow.write(node, 0, result)


def reduce(flow: Flow, node: Node) -> None:
    """A reduced axis goes, or stays as 1; a reduction over a resizable axis keeps that axis at its size."""
    axes = flow.of(node.inputs[0])
    positions = _reduced_positions(flow, node, len(axes))
    if positions is None:
        flow.freeze_node(node, f"axes are computed at run time at {where(node)}")
        return
    keep = bool(node.attributes.get("keepdims", 1))
    result: list[FactorAxis] = []
    for i, axis in enumerate(axes):
        if i in positions:
            freeze(axis, f"reduced over at {where(node)}")
            if keep:
                result.append(fixed_axis(1))
        else:
            result.append(axis)
    flow.write(node, 0, result)


def _reduced_positions(flow: Flow, node: Node, rank: int) -> set[int] | None:
    listed = node.attributes.get("axes")
    if len(node.inputs) > 1 and node.inputs[1]:
        listed = flow.integers(node.inputs[1])
        if listed is None:
            return None
    if not listed:
        return set() if node.attributes.get("noop_with_empty_axes", 0) else set(range(rank))
    return {int(axis) % rank for axis in listed}


def arg_reduce(flow: Flow, node: Node) -> None:
    """ArgMax and ArgMin: the compared axis keeps its size, for its positions have a meaning."""
    axes = flow.of(node.inputs[0])
    position = int(node.attributes.get("axis", 0)) % len(axes)
    freeze(axes[position], f"compared over at {where(node)}")
    result = list(axes)
    if node.attributes.get("keepdims", 1):
        result[position] = fixed_axis(1)
    else:
        del result[position]
    flow.write(node, 0, result)


def top_k(flow: Flow, node: Node) -> None:
    """TopK: the ranked axis keeps its size."""
    axes = flow.of(node.inputs[0])
    position = int(node.attributes.get("axis", -1)) % len(axes)
    freeze(axes[position], f"ranked over at {where(node)}")
    for output, name in enumerate(node.outputs):
        if name:
            result = list(axes)
            result[position] = fixed_axis(flow.shapes[name][position])
            flow.write(node, output, result)


def pad(flow: Flow, node: Node) -> None:
    """Axes without padding pass, padded ones keep their size."""
    axes = flow.of(node.inputs[0])
    pads = flow.integers(node.inputs[1])
    if pads is None:
        flow.freeze_node(node, f"padding is computed at run time at {where(node)}")
        return
    listed = list(range(len(axes)))
    if len(node.inputs) > 3 and node.inputs[3]:
        listed = [axis % len(axes) for axis in flow.integers(node.inputs[3]) or []]
    half = len(pads) // 2
    amounts = {axis: (pads[i], pads[half + i]) for i, axis in enumerate(listed)}
    result: list[FactorAxis] = []
    for i, axis in enumerate(axes):
        if amounts.get(i, (0, 0)) == (0, 0):
            result.append(axis)
        else:
            freeze(axis, f"padded at {where(node)}")
            result.append(fixed_axis(size_of(axis) + sum(amounts[i])))
    flow.write(node, 0, result)


def depth_to_space(flow: Flow, node: Node) -> None:
    """DepthToSpace: channels are blocks x blocks x c (DCR) or c x blocks x blocks (CRD); c goes on."""
    axes = flow.of(node.inputs[0])
    block = int(node.attributes["blocksize"])
    mode = node.attributes.get("mode", "DCR")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    inner = fresh_axis(size_of(axes[1]) // block**2, f"{node.name}:depth")
    blocks = fixed_axis(block**2)
    flow.tie(node, axes[1], product_of([blocks, inner] if mode == "DCR" else [inner, blocks], where(node)))
    for axis in axes[2:]:
        freeze(axis, f"interleaved at {where(node)}")
    flow.write(node, 0, [axes[0], inner, *(fixed_axis(size) for size in flow.shapes[node.outputs[0]][2:])])


def space_to_depth(flow: Flow, node: Node) -> None:
    """SpaceToDepth: the result has blocks x blocks copies of the channels."""
    axes = flow.of(node.inputs[0])
    block = int(node.attributes["blocksize"])
    for axis in axes[2:]:
        freeze(axis, f"interleaved at {where(node)}")
    channels = product_of([fixed_axis(block**2), axes[1]], where(node))
    flow.write(node, 0, [axes[0], channels, *(fixed_axis(size) for size in flow.shapes[node.outputs[0]][2:])])


_POOL = "MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool"
_REDUCE = (
    "ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSum ReduceLogSumExp"
)

RULES: dict[str, Callable[[Flow, Node], None]] = {
    **dict.fromkeys(_POOL.split(), pool),
    **dict.fromkeys(_REDUCE.split(), reduce),
    "Resize": resize,
    "ArgMax": arg_reduce,
    "ArgMin": arg_reduce,
    "TopK": top_k,
    "Pad": pad,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
