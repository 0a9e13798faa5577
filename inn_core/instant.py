"""`instant`: a size in milliseconds, without data, from refined networks stored at knots of the size path.

A plan lies between two knots. The knot above is reduced to it in closed form; the knot below is contained in it. Both
approximate the same pre-activations of the full network in the same channels, so their weights can be mixed: near the
knot below, where the reduction is largest and worst, the knot below decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from inn_core.graph.axis import axis_groups, kept_indices
from inn_core.network import Array, IntegralNetwork
from inn_core.plan import planner_of
from inn_core.reduction import contracted_position, dense_nodes, reduced_weights, relative_positions
from inn_core.stored_knots import Knot, contains, read_knots


@torch.inference_mode()
def instant_weights(network: IntegralNetwork, sizes: Mapping[str, int], *, device: torch.device) -> dict[str, Array]:
    """Weights of a plan from the knots around it.

    Args:
        network: keeps knots.
        sizes: of every group; none above its full size.

    Returns:
        Weights by name, in the dtypes of the checkpoint. At a knot they are the knot's own.
    """
    knots = read_knots(network)
    above = [knot for knot in knots if contains(knot.sizes, sizes)][-1]
    weights = reduced_weights(network, above, sizes, device=device)
    below = next((knot for knot in knots[above.index + 1 :] if contains(sizes, knot.sizes)), None)
    if below is not None and dict(above.sizes) != dict(sizes):
        share = _share_of_above(network, sizes, above, below)
        for name in weights:
            weights[name] = _mixed(network, name, weights[name], below, sizes, share)
    return {
        name: tensor.contiguous().cpu().numpy().astype(network.weights[name].dtype, copy=False)
        for name, tensor in weights.items()
    }


def _share_of_above(network: IntegralNetwork, sizes: Mapping[str, int], above: Knot, below: Knot) -> float:
    """The square of the plan's place between the knots in parameters: measured better than the place itself."""
    cost = planner_of(network).cost
    rows = np.concatenate([cost.to_row(each) for each in (below.sizes, sizes, above.sizes)])
    low, here, high = (int(value) for value in cost.evaluate("params", rows))
    return ((here - low) / max(high - low, 1)) ** 2


def _mixed(
    network: IntegralNetwork,
    name: str,
    weight: torch.Tensor,
    below: Knot,
    sizes: Mapping[str, int],
    share: float,
) -> torch.Tensor:
    """Mix in the knot below. What only the plan has: its producer channels stay, its consumer channels fade."""
    axes = network.structure.weights[name]
    stored = torch.from_numpy(np.array(below.weight(network, name))).to(weight.device, weight.dtype)
    if not any(axis_groups(axis) for axis in axes):
        return share * weight + (1 - share) * stored
    common = {g: relative_positions(order, sizes[g], below.sizes[g]) for g, order in network.orders.items()}
    places = [torch.from_numpy(kept_indices(axis, sizes, common)).to(weight.device) for axis in axes]
    embedded = torch.zeros_like(weight)
    embedded[_grid(places)] = stored
    dense = dense_nodes(network)
    contracted = contracted_position(dense[name]) if name in dense else None
    scale = torch.full([1] * weight.ndim, share, device=weight.device, dtype=weight.dtype)
    for position, chosen in enumerate(places):
        if position != contracted and len(chosen) != weight.shape[position]:
            shape = [1] * weight.ndim
            shape[position] = weight.shape[position]
            own = torch.ones(weight.shape[position], device=weight.device, dtype=torch.bool)
            own[chosen] = False
            scale = torch.where(own.reshape(shape), torch.ones_like(scale), scale)
    return weight * scale + (1 - share) * embedded


def _grid(places: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Index tensors that select the product of the places."""
    return tuple(
        chosen.reshape([-1 if i == position else 1 for i in range(len(places))])
        for position, chosen in enumerate(places)
    )
