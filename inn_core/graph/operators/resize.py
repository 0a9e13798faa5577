"""Resize (and Upsample): nearest, linear and cubic resampling along any axes.

Resampling is separable, so each axis is resampled by itself with a short list of taps (`resampling.py`). Where the
standard leaves room and runtimes differ, the node is refused: the artifact would not compute what was calibrated.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from inn_core.graph.node import Node
from inn_core.graph.operators.arguments import (
    Inputs,
    Operator,
    Outputs,
    axis_of,
    compute_dtype,
    integers,
    optional,
    refusal,
    required,
)
from inn_core.graph.operators.resampling import (
    Method,
    Positions,
    Stretch,
    Weights,
    nearest_positions,
    source_coordinates,
    taps,
)

_LINEAR_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}
_COORDINATES = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_crop_and_resize",
)
_NEAREST_MODES = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


def resize(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Resize of any axes to given sizes or by given scales."""
    value = required(node, inputs, 0)
    method = _read_method(node, opset)
    stretches = _read_stretches(node, inputs, opset, method, list(value.shape))
    if method.mode != "nearest" and not value.is_floating_point():
        raise refusal(node, f"mode='{method.mode}' on data of type {value.dtype} is not possible")
    if value.numel() == 0 or any(stretch.target == 0 for stretch in stretches):
        raise refusal(node, f"data of shape {tuple(value.shape)} or its result is empty")
    if opset < 11 and method.mode == "nearest" and any(stretch.scale < 1 for stretch in stretches):
        raise refusal(node, "operator sets before 11 do not say which neighbour is nearest when sizes shrink")
    if method.mode == "nearest" and method.coordinates in ("half_pixel_symmetric", "tf_crop_and_resize"):
        raise refusal(node, f"runtimes round coordinates of '{method.coordinates}' to different neighbours")
    idle = [stretch.target == stretch.size for stretch in stretches]
    if stretches and (any(idle) if method.antialias else all(idle)):
        raise refusal(node, "runtimes disagree on scales that change no size")
    if method.antialias and method.excludes_outside:
        raise refusal(node, "runtimes disagree on antialias with exclude_outside")
    if method.coordinates == "align_corners" and any(not stretch.is_exact for stretch in stretches):
        raise refusal(node, "align_corners with scales that give no whole sizes means different things to runtimes")
    if _torch_knows(method, stretches, value):
        sizes = list(value.shape[2:])
        for stretch in stretches:
            sizes[stretch.axis - 2] = stretch.target
        corners = True if method.coordinates == "align_corners" else None
        mode = _LINEAR_MODES[value.dim()]
        return (functional.interpolate(value, size=sizes, mode=mode, align_corners=corners),)
    for stretch in stretches:
        value = _resample(node, value, stretch, method)
    return (value,)


def upsample(node: Node, inputs: Inputs, opset: int) -> Outputs:
    """Upsample, which operator set 10 renamed to Resize."""
    return resize(node, inputs, opset)


def _read_method(node: Node, opset: int) -> Method:
    attributes = node.attributes
    method = Method(
        mode=attributes.get("mode", "nearest"),
        coordinates=attributes.get("coordinate_transformation_mode", "half_pixel" if opset >= 11 else "asymmetric"),
        nearest=attributes.get("nearest_mode", "round_prefer_floor" if opset >= 11 else "floor"),
        cubic_a=attributes.get("cubic_coeff_a", -0.75),
        excludes_outside=bool(attributes.get("exclude_outside", 0)),
        antialias=bool(attributes.get("antialias", 0)),
        extrapolation=attributes.get("extrapolation_value", 0.0),
    )
    if method.mode not in ("nearest", "linear", "cubic"):
        raise refusal(node, f"mode='{method.mode}' is unknown")
    if method.coordinates not in _COORDINATES:
        raise refusal(node, f"coordinate_transformation_mode='{method.coordinates}' is not possible")
    if method.nearest not in _NEAREST_MODES:
        raise refusal(node, f"nearest_mode='{method.nearest}' is unknown")
    return method


def _read_stretches(node: Node, inputs: Inputs, opset: int, method: Method, shape: list[int]) -> list[Stretch]:
    rank = len(shape)
    axes = [axis_of(node, axis, rank) for axis in node.attributes.get("axes", range(rank))]
    scales_input = optional(inputs, 1 if opset < 11 else 2)
    sizes_input = optional(inputs, 3) if opset >= 11 else None
    scales: list[Any] = node.attributes.get("scales", [])
    if scales_input is not None:
        scales = integers(node, scales_input)
    sizes = [] if sizes_input is None else integers(node, sizes_input)
    given = sizes or scales
    if len(given) != len(axes):
        raise refusal(node, f"{len(given)} scales or sizes do not fit {len(axes)} axes")
    crops = method.coordinates == "tf_crop_and_resize"
    region: list[Any] = [0.0] * len(axes) + [1.0] * len(axes)
    if crops:
        if not sizes:
            raise refusal(node, "coordinate_transformation_mode='tf_crop_and_resize' needs sizes, not scales")
        region = integers(node, required(node, inputs, 1))
    ratios = [
        np.float32(size) / np.float32(shape[axis]) for size, axis in zip(sizes, axes, strict=False) if shape[axis]
    ]
    policy = node.attributes.get("keep_aspect_ratio_policy", "stretch")
    if sizes and policy != "stretch":
        if policy not in ("not_larger", "not_smaller"):
            raise refusal(node, f"keep_aspect_ratio_policy='{policy}' is unknown")
        common = min(ratios) if policy == "not_larger" else max(ratios)
        ratios = [common] * len(axes)
        sizes = [math.floor(float(common) * shape[axis] + 0.5) for axis in axes]
    stretches = []
    for place, axis in enumerate(axes):
        scale = ratios[place] if sizes else np.float32(scales[place])
        target = sizes[place] if sizes else math.floor(shape[axis] * float(scale))
        if crops or target != shape[axis] or scale != 1:
            start, end = float(region[place]), float(region[place + len(axes)])
            if crops and target == shape[axis] and (start, end) != (0, 1):
                raise refusal(node, f"runtimes disagree on cropping axis {axis}, which keeps its size")
            stretches.append(Stretch(axis, shape[axis], target, scale, start, end))
    return stretches


def _torch_knows(method: Method, stretches: list[Stretch], value: Tensor) -> bool:
    """Whether torch's own linear interpolation gives the same: a scale that is exactly the ratio of the sizes."""
    return (
        method.mode == "linear"
        and method.coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners")
        and not method.antialias
        and value.dim() in _LINEAR_MODES
        and bool(stretches)
        and all(stretch.axis >= 2 for stretch in stretches)
        and not (method.coordinates == "pytorch_half_pixel" and any(stretch.target == 1 for stretch in stretches))
        and all(stretch.is_exact for stretch in stretches)
    )


def _resample(node: Node, value: Tensor, stretch: Stretch, method: Method) -> Tensor:
    """One axis to its new size."""
    places = source_coordinates(stretch, method)
    if method.mode == "nearest":
        nearest = nearest_positions(places, stretch, method)
        result = value.index_select(stretch.axis, torch.from_numpy(nearest).to(value.device))
    else:
        result = _weighted(value, stretch, *taps(places, stretch, method))
    if method.coordinates == "tf_crop_and_resize":
        shape = [-1 if axis == stretch.axis else 1 for axis in range(value.dim())]
        inside = torch.from_numpy((places >= 0) & (places <= stretch.size - 1)).to(value.device)
        filler = torch.tensor(method.extrapolation, dtype=value.dtype, device=value.device)
        result = torch.where(inside.reshape(shape), result, filler)
    return result


def _weighted(value: Tensor, stretch: Stretch, positions: Positions, weights: Weights) -> Tensor:
    """Sum over taps of picked elements times their weights."""
    wide = value.to(compute_dtype(value))
    shape = [-1 if axis == stretch.axis else 1 for axis in range(value.dim())]
    total: Tensor | None = None
    for position, weight in zip(positions, weights, strict=True):
        factor = torch.from_numpy(weight).to(dtype=wide.dtype, device=wide.device).reshape(shape)
        part = wide.index_select(stretch.axis, torch.from_numpy(position).to(wide.device)) * factor
        total = part if total is None else total + part
    assert total is not None
    return total.to(value.dtype)


OPERATORS: dict[str, Operator] = {"Resize": resize, "Upsample": upsample}
