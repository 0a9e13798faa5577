"""Rules of operators that rearrange: concatenate, cut, reshape, transpose. Their integers become size expressions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inn_core.graph.analysis.factors import FactorAxis, fixed_axis, freeze, fresh_axis, product_of, size_of, sum_of
from inn_core.graph.analysis.flow import Flow, where
from inn_core.graph.analysis.rules.elementwise import broadcast_axes
from inn_core.graph.node import Node

RUN_TIME = "sizes are computed at run time"


def concat(flow: Flow, node: Node) -> None:
    """The joined axis is a sum; the others change together."""
    operands = [flow.of(name) for name in node.inputs if name]
    position = int(node.attributes["axis"]) % len(operands[0])
    for i in range(len(operands[0])):
        if i != position:
            for other in operands[1:]:
                flow.tie(node, operands[0][i], other[i])
    result = list(operands[0])
    result[position] = sum_of([axes[position] for axes in operands]) or fixed_axis(0)
    flow.write(node, 0, result)


def split(flow: Flow, node: Node) -> None:
    """The cut axis is refined into a sum, one part an output; the sizes of the parts follow them."""
    axes = flow.of(node.inputs[0])
    position = int(node.attributes.get("axis", 0)) % len(axes)
    parts = [fresh_axis(flow.shapes[name][position], f"{node.name}:{i}") for i, name in enumerate(node.outputs)]
    sizes = node.inputs[1] if len(node.inputs) > 1 else ""
    if not sizes or flow.integers(sizes) is None:
        flow.freeze_node(node, f"{RUN_TIME} at {where(node)}")
        return
    flow.tie(node, axes[position], sum_of(parts))
    for output, part in enumerate(parts):
        flow.size_constants.append((sizes, output, part))
        result = list(axes)
        result[position] = part
        flow.write(node, output, result)


def slice_(flow: Flow, node: Node) -> None:
    """A cut with step 1 refines the axis into before + kept + after; other steps keep the axis at its size."""
    axes = list(flow.of(node.inputs[0]))
    starts, ends = flow.integers(node.inputs[1]), flow.integers(node.inputs[2])
    if starts is None or ends is None:
        flow.freeze_node(node, f"{RUN_TIME} at {where(node)}")
        return
    listed = flow.integers(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else list(range(len(starts)))
    steps = flow.integers(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] else [1] * len(starts)
    if listed is None or steps is None:
        flow.freeze_node(node, f"{RUN_TIME} at {where(node)}")
        return
    for i, (start, end, position, step) in enumerate(zip(starts, ends, listed, steps, strict=True)):
        axis = axes[position]
        size = size_of(axis)
        first, last, _ = slice(start, end, step).indices(size)
        if step == 1 and (first, last) == (0, size):
            if end == size and end > 0:
                flow.size_constants.append((node.inputs[2], i, axis))
            elif -size <= start < 0:
                freeze(axis, f"cut from its end at {where(node)}")
            continue
        if step != 1 or start < 0 or end < 0:
            freeze(axis, f"cut with step {step} from {start} to {end} at {where(node)}")
            axes[position] = fixed_axis(flow.shapes[node.outputs[0]][position])
            continue
        before = fresh_axis(first, f"{node.name}:before")
        kept = fresh_axis(max(last - first, 0), f"{node.name}:kept")
        after = fresh_axis(size - max(last, first), f"{node.name}:after")
        flow.tie(node, axis, sum_of([before, kept, after]))
        flow.size_constants.append((node.inputs[1], i, before))
        if end <= size:
            flow.size_constants.append((node.inputs[2], i, sum_of([before, kept])))
        axes[position] = kept
    flow.write(node, 0, axes)


def reshape(flow: Flow, node: Node) -> None:
    """Runs of axes with equal products are merged or split; the target shape follows the result."""
    axes = flow.of(node.inputs[0])
    target = flow.integers(node.inputs[1])
    if target is None:
        flow.freeze_node(node, f"{RUN_TIME} at {where(node)}")
        return
    result = _regroup(flow, node, axes, flow.shapes[node.outputs[0]])
    flow.write(node, 0, result)
    for i, value in enumerate(target):
        if value > 0 and i < len(result):
            flow.size_constants.append((node.inputs[1], i, result[i]))


def flatten(flow: Flow, node: Node) -> None:
    """Flatten is a reshape to two axes."""
    flow.write(node, 0, _regroup(flow, node, flow.of(node.inputs[0]), flow.shapes[node.outputs[0]]))


def _regroup(flow: Flow, node: Node, axes: Sequence[FactorAxis], shape: Sequence[int]) -> list[FactorAxis]:
    """Axes of the new shape: walk both shapes, closing a block whenever the products agree."""
    result: list[FactorAxis] = []
    i = j = 0
    while i < len(axes) or j < len(shape):
        taken, sizes = [], []
        if i < len(axes):
            taken.append(axes[i])
            i += 1
        if j < len(shape):
            sizes.append(shape[j])
            j += 1
        left, right = _product([size_of(axis) for axis in taken]), _product(sizes)
        while left != right:
            if left < right and i < len(axes):
                taken.append(axes[i])
                left *= size_of(axes[i])
                i += 1
            elif j < len(shape):
                sizes.append(shape[j])
                right *= shape[j]
                j += 1
            else:
                flow.freeze_node(node, f"no rule for this reshape at {where(node)}")
                return [fixed_axis(size) for size in shape]
        result += _close_block(flow, node, taken, sizes)
    return result


def _close_block(flow: Flow, node: Node, taken: list[FactorAxis], sizes: list[int]) -> list[FactorAxis]:
    wide = [axis for axis in taken if size_of(axis) != 1]
    merged = product_of(wide, where(node)) if wide else fixed_axis(1)
    count = sum(size != 1 for size in sizes)
    if count <= 1:
        return [merged if size != 1 else fixed_axis(1) for size in sizes]
    parts = [fresh_axis(size, f"{node.name}:{i}") for i, size in enumerate(sizes)]
    flow.tie(node, merged, product_of([part for part in parts if size_of(part) != 1], where(node)))
    return parts


def _product(values: Sequence[int]) -> int:
    product = 1
    for value in values:
        product *= value
    return product


def transpose(flow: Flow, node: Node) -> None:
    """Axes change places."""
    axes = flow.of(node.inputs[0])
    order = node.attributes.get("perm") or list(range(len(axes)))[::-1]
    flow.write(node, 0, [axes[int(i)] for i in order])


def squeeze(flow: Flow, node: Node) -> None:
    """Axes of size 1 go."""
    axes = flow.of(node.inputs[0])
    listed = flow.integers(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    gone = {i % len(axes) for i in listed} if listed is not None else {i for i, a in enumerate(axes) if size_of(a) == 1}
    flow.write(node, 0, [axis for i, axis in enumerate(axes) if i not in gone])


def unsqueeze(flow: Flow, node: Node) -> None:
    """Axes of size 1 come."""
    axes = list(flow.of(node.inputs[0]))
    listed = flow.integers(node.inputs[1]) or []
    rank = len(axes) + len(listed)
    new = {i % rank for i in listed}
    rest = iter(axes)
    flow.write(node, 0, [fixed_axis(1) if i in new else next(rest) for i in range(rank)])


def expand(flow: Flow, node: Node) -> None:
    """Axes of size 1 stretch to fixed sizes, the others pass and their target follows them."""
    axes = flow.of(node.inputs[0])
    target = flow.integers(node.inputs[1])
    if target is None:
        flow.freeze_node(node, f"{RUN_TIME} at {where(node)}")
        return
    result = broadcast_axes(flow, node, [axes, [fixed_axis(1)] * len(target)])
    shape = flow.shapes[node.outputs[0]]
    result = [axis if size_of(axis) == size else fixed_axis(size) for axis, size in zip(result, shape, strict=True)]
    flow.write(node, 0, result)
    for i, value in enumerate(target):
        if value > 1:
            flow.size_constants.append((node.inputs[1], i, result[i - len(target) + len(result)]))


def tile(flow: Flow, node: Node) -> None:
    """Axes repeated once pass, others are n copies of themselves."""
    axes = flow.of(node.inputs[0])
    repeats = flow.integers(node.inputs[1])
    if repeats is None:
        flow.freeze_node(node, f"{RUN_TIME} at {where(node)}")
        return
    pairs = zip(axes, repeats, strict=True)
    flow.write(node, 0, [a if n == 1 else product_of([fixed_axis(n), a], where(node)) for a, n in pairs])


def gather(flow: Flow, node: Node) -> None:
    """Positions have a meaning on the gathered axis, so it keeps its size; the width of an embedding passes."""
    data, indices = flow.of(node.inputs[0]), flow.of(node.inputs[1])
    position = int(node.attributes.get("axis", 0)) % len(data)
    freeze(data[position], f"indexed at {where(node)}")
    for axis in indices:
        freeze(axis, f"counts indices at {where(node)}")
    flow.write(node, 0, [*data[:position], *indices, *data[position + 1 :]])


def shape_of(flow: Flow, node: Node) -> None:
    """Shape and Size read true sizes at run time; who uses them to build shapes is frozen by its own rule."""
    for position, name in enumerate(node.outputs):
        flow.write(node, position, [fixed_axis(size) for size in flow.shapes[name]])


RULES: dict[str, Callable[[Flow, Node], None]] = {
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Reshape": reshape,
    "Flatten": flatten,
    "Transpose": transpose,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Expand": expand,
    "Tile": tile,
    "Gather": gather,
    "Shape": shape_of,
    "Size": shape_of,
}
