"""`instant`: a size in milliseconds, without data, from the refined networks that are stored along the size path.

A plan lies between two anchors. The anchor above is reduced to it in closed form; the anchor below is contained in it.
Both approximate the same pre-activations of the full network in the same channels, so their weights can be mixed: near
the anchor below, where the reduction is largest and worst, the anchor below decides.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from inn_core.arrays import Array, IntArray
from inn_core.checkpoint.checkpoint import AnchorNetwork, Checkpoint
from inn_core.graph.axis import kept_indices
from inn_core.graph.linear_nodes import contracted_position
from inn_core.planning.plan import planner_of
from inn_core.sized.anchors import contains
from inn_core.sized.schur_complement import dense_nodes, reduced_weights, relative_selections, to_tensor


@torch.inference_mode()
def instant_weights(checkpoint: Checkpoint, sizes: Mapping[str, int], *, device: torch.device) -> dict[str, Array]:
    """Weights of a plan from the anchors around it.

    Args:
        checkpoint: keeps anchors.
        sizes: of every group; none above its full size.

    Returns:
        Weights by name, in the dtypes of the checkpoint. At an anchor they are its own.
    """
    anchors = checkpoint.anchors
    index = max(number for number, anchor in enumerate(anchors) if contains(anchor.sizes, sizes))
    above = anchors[index]
    weights = reduced_weights(checkpoint, above, sizes, device=device)
    below = next((anchor for anchor in anchors[index + 1 :] if contains(sizes, anchor.sizes)), None)
    if below is not None and dict(above.sizes) != dict(sizes):
        share = _share_of_above(checkpoint, sizes, above, below)
        common = relative_selections(checkpoint.orders, sizes, below.sizes)
        for name, weight in weights.items():
            _mix_(checkpoint, name, weight, below, sizes, common, share)
    return {
        name: tensor.contiguous().cpu().numpy().astype(checkpoint.weights[name].dtype, copy=False)
        for name, tensor in weights.items()
    }


def _share_of_above(
    checkpoint: Checkpoint, sizes: Mapping[str, int], above: AnchorNetwork, below: AnchorNetwork
) -> float:
    """The square of the plan's place between the anchors in parameters: measured better than the place itself."""
    cost = planner_of(checkpoint).cost
    rows = np.concatenate([cost.to_row(each) for each in (below.sizes, sizes, above.sizes)])
    low, here, high = (int(value) for value in cost.evaluate("params", rows))
    return ((here - low) / max(high - low, 1)) ** 2


def _mix_(
    checkpoint: Checkpoint,
    name: str,
    weight: torch.Tensor,
    below: AnchorNetwork,
    sizes: Mapping[str, int],
    common: Mapping[str, IntArray],
    share: float,
) -> None:
    """Mix in the anchor below. What only the plan has: its producer channels stay, its consumer channels fade."""
    stored = to_tensor(below.weights[name], weight.device).mul_(1 - share)
    dense = dense_nodes(checkpoint)
    contracted = contracted_position(dense[name]) if name in dense else None
    narrow: list[tuple[int, torch.Tensor]] = []  # axes along which only some channels are mixed
    for position, axis in enumerate(checkpoint.structure.weights[name]):
        if stored.shape[position] == weight.shape[position]:
            continue
        chosen = torch.from_numpy(kept_indices(axis, sizes, common)).to(weight.device)
        if position == contracted:
            stored = _spread(stored, position, chosen, weight.shape[position])
        else:
            narrow.append((position, chosen))
    if not narrow:
        weight.mul_(share).add_(stored)
    elif len(narrow) == 1:
        ((position, chosen),) = narrow
        mixed = weight.index_select(position, chosen).mul_(share).add_(stored)
        weight.index_copy_(position, chosen, mixed)
    else:
        places = [torch.arange(size, device=weight.device) for size in weight.shape]
        for position, chosen in narrow:
            places[position] = chosen
        grid = torch.meshgrid(*places, indexing="ij")
        weight[grid] = weight[grid].mul_(share).add_(stored)


def _spread(tensor: torch.Tensor, axis: int, places: torch.Tensor, size: int) -> torch.Tensor:
    """The tensor with its slices along an axis at the given places of a longer axis, zeros elsewhere."""
    count = tensor.shape[axis]
    padded = torch.cat([tensor, torch.zeros_like(tensor.narrow(axis, 0, 1))], dim=axis)
    source = torch.full((size,), count, device=tensor.device)
    source[places] = torch.arange(count, device=tensor.device)
    return padded.index_select(axis, source)
