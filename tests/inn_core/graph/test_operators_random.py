"""Windows, padding, resampling, slicing and reducing with random parameters, against ONNX Runtime.

The node tests of ONNX hold a few parameters per operator; the mistakes are in how parameters combine.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument, NotImplemented, RuntimeException

from inn_core.errors import UnsupportedOperatorError
from inn_core.graph.program import Program

RELATIVE, ABSOLUTE = 1e-4, 1e-5
"""float32 sums in another order: a few hundred terms of size 1."""

REFUSALS_OF_ONNX_RUNTIME = (Fail, InvalidArgument, NotImplemented, RuntimeException)

Draw = random.Random
Sample = tuple[str, list[Any], dict[str, Any]]


def _floats(draw: Draw, *shape: int) -> Any:
    return np.random.default_rng(draw.getrandbits(32)).standard_normal(shape).astype(np.float32)


def _whole(draw: Draw, low: int, high: int, *shape: int) -> Any:
    return np.random.default_rng(draw.getrandbits(32)).integers(low, high, shape)


def _long(*values: int) -> Any:
    return np.array(values, dtype=np.int64)


def _each(draw: Draw, count: int, low: int, high: int) -> list[int]:
    return [draw.randint(low, high) for _ in range(count)]


def _padding(draw: Draw, rank: int, limits: list[int]) -> dict[str, Any]:
    kind = draw.choice(["NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])
    if kind == "NOTSET":
        return {"pads": [draw.randint(0, limits[place % rank]) for place in range(2 * rank)]}
    return {"auto_pad": kind}


def convolution(draw: Draw) -> Sample:
    rank, group = draw.choice([1, 2, 2, 3]), draw.choice([1, 1, 2, 3])
    inner, outer, kernel = draw.randint(1, 2), draw.randint(1, 3), _each(draw, rank, 1, 3)
    attributes = {"strides": _each(draw, rank, 1, 3), "group": group} | _padding(draw, rank, [2] * rank)
    if "pads" in attributes:
        attributes["dilations"] = _each(draw, rank, 1, 2)
    data = _floats(draw, 2, group * inner, *_each(draw, rank, 5, 8))
    bias = [_floats(draw, group * outer)] if draw.random() < 0.5 else []
    return "Conv", [data, _floats(draw, group * outer, inner, *kernel), *bias], attributes


def transposed_convolution(draw: Draw) -> Sample:
    rank, group = draw.choice([1, 2, 2, 3]), draw.choice([1, 1, 2])
    inner, outer, kernel = draw.randint(1, 2), draw.randint(1, 3), _each(draw, rank, 1, 4)
    sizes, strides, dilations = _each(draw, rank, 3, 6), _each(draw, rank, 1, 3), _each(draw, rank, 1, 2)
    attributes = {"strides": strides, "dilations": dilations, "group": group} | _padding(draw, rank, [2] * rank)
    choice = draw.random()
    if choice < 0.4:
        attributes["output_padding"] = [draw.randint(0, stride - 1) for stride in strides]
    elif choice < 0.6:
        attributes.pop("pads", None)
        full = [
            (size - 1) * stride + (width - 1) * dilation + 1
            for size, stride, width, dilation in zip(sizes, strides, kernel, dilations, strict=True)
        ]
        attributes["output_shape"] = [max(1, size - draw.randint(-1, 3)) for size in full]
    bias = [_floats(draw, group * outer)] if draw.random() < 0.5 else []
    data = _floats(draw, 2, group * inner, *sizes)
    return "ConvTranspose", [data, _floats(draw, group * inner, outer, *kernel), *bias], attributes


def _pooling(draw: Draw, operator: str) -> Sample:
    rank = draw.choice([1, 2, 2, 3])
    kernel = _each(draw, rank, 1, 3)
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": _each(draw, rank, 1, 3), "opset": 22}
    attributes |= _padding(draw, rank, [width - 1 for width in kernel])
    if "pads" in attributes:
        attributes |= {"dilations": _each(draw, rank, 1, 2), "ceil_mode": draw.randint(0, 1)}
    return operator, [_floats(draw, 2, 2, *_each(draw, rank, 5, 8))], attributes


def max_pooling(draw: Draw) -> Sample:
    operator, inputs, attributes = _pooling(draw, "MaxPool")
    if draw.random() < 0.4:
        attributes |= {"outputs": 2, "storage_order": draw.randint(0, 1)}
    return operator, inputs, attributes


def average_pooling(draw: Draw) -> Sample:
    operator, inputs, attributes = _pooling(draw, "AveragePool")
    return operator, inputs, attributes | {"count_include_pad": draw.randint(0, 1)}


def norm_pooling(draw: Draw) -> Sample:
    operator, inputs, attributes = _pooling(draw, "LpPool")
    return operator, inputs, attributes | {"p": draw.randint(1, 3)}


def padding(draw: Draw) -> Sample:
    rank, mode = draw.randint(1, 4), draw.choice(["constant", "reflect", "edge", "wrap"])
    axes = draw.sample(range(rank), draw.randint(1, rank))
    pads = _each(draw, 2 * len(axes), -2 if mode == "constant" else 0, 2)
    fill = np.array(1.5, dtype=np.float32) if mode == "constant" and draw.random() < 0.5 else None
    signed = [axis - rank * draw.randint(0, 1) for axis in axes]
    return (
        "Pad",
        [_floats(draw, *_each(draw, rank, 3, 5)), _long(*pads), fill, _long(*signed)],
        {"mode": mode, "opset": 19},
    )


def resizing(draw: Draw) -> Sample:
    rank = draw.choice([3, 4, 4, 5])
    mode = draw.choice(["nearest", "linear", "cubic"] if rank == 4 else ["nearest", "linear"])
    modes = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"]
    if mode != "nearest":
        modes += ["tf_crop_and_resize", "half_pixel_symmetric"]
    coordinates = draw.choice(modes)
    attributes: dict[str, Any] = {"mode": mode, "coordinate_transformation_mode": coordinates, "opset": 19}
    if mode == "nearest":
        attributes["nearest_mode"] = draw.choice(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    if mode == "cubic":
        attributes |= {"cubic_coeff_a": draw.choice([-0.5, -0.75]), "exclude_outside": draw.randint(0, 1)}
    elif mode == "linear" and coordinates != "tf_crop_and_resize":
        attributes["antialias"] = draw.randint(0, 1)
    data = _floats(draw, 1, 2, *_each(draw, rank - 2, 2, 6))
    region = None
    if coordinates == "tf_crop_and_resize":
        start, end = ([draw.uniform(*limits) for _ in range(rank - 2)] for limits in ((0, 0.4), (0.6, 1.2)))
        region = np.array([0, 0, *start, 1, 1, *end], dtype=np.float32)
        attributes["extrapolation_value"] = 7.0
    if region is None and draw.random() < 0.5:
        scales = [1, 1] + [draw.choice([0.5, 0.6, 0.8, 1, 1.3, 2, 2.5, 3]) for _ in range(rank - 2)]
        return "Resize", [data, None, np.array(scales, dtype=np.float32)], attributes
    sizes = [1, 2, *_each(draw, rank - 2, 1, 9)]
    if region is None and draw.random() < 0.5:
        policy = draw.choice(["stretch", "not_larger", "not_smaller"])
        attributes |= {"axes": list(range(2, rank)), "keep_aspect_ratio_policy": policy}
        sizes = sizes[2:]
    return "Resize", [data, region, None, _long(*sizes)], attributes


def old_upsampling(draw: Draw) -> Sample:
    scales = np.array([1, 1, draw.choice([1, 1.5, 2, 3]), draw.choice([1, 2, 3])], dtype=np.float32)
    operator, opset = draw.choice([("Upsample", 9), ("Resize", 10)])
    return operator, [_floats(draw, 1, 2, 3, 4), scales], {"mode": draw.choice(["nearest", "linear"]), "opset": opset}


def slicing(draw: Draw) -> Sample:
    rank = draw.randint(1, 3)
    axes = draw.sample(range(rank), draw.randint(1, rank))
    starts = [draw.choice([draw.randint(-8, 8), 2**62, -(2**62)]) for _ in axes]
    ends = [draw.choice([draw.randint(-8, 8), 2**63 - 1, -(2**63)]) for _ in axes]
    steps = [draw.choice([1, 1, 2, 3, -1, -2]) for _ in axes]
    signed = [axis - rank * draw.randint(0, 1) for axis in axes]
    data = _floats(draw, *_each(draw, rank, 1, 6))
    return "Slice", [data, _long(*starts), _long(*ends), _long(*signed), _long(*steps)], {}


def reducing(draw: Draw) -> Sample:
    names = ["Mean", "Sum", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp", "LogSum"]
    operator, rank = f"Reduce{draw.choice(names)}", draw.randint(1, 4)
    shape = _each(draw, rank, 1, 4)
    dtype = draw.choice([np.float32, np.float64, np.int32, np.int64])
    data = (_floats(draw, *shape) * 4).astype(dtype)
    if operator == "ReduceLogSum":
        data = np.abs(data) + dtype(1)
    axes = [axis - rank * draw.randint(0, 1) for axis in draw.sample(range(rank), draw.randint(0, rank))]
    attributes: dict[str, Any] = {"keepdims": draw.randint(0, 1), "opset": draw.choice([13, 18])}
    if attributes["opset"] == 18 or operator == "ReduceSum":
        return operator, [data, _long(*axes)], attributes | {"noop_with_empty_axes": draw.randint(0, 1)}
    return operator, [data], attributes | ({"axes": axes} if axes else {})


def picking(draw: Draw) -> Sample:
    rank = draw.randint(1, 3)
    shape = _each(draw, rank, 1, 5)
    axis = draw.randrange(rank)
    data, limit = _floats(draw, *shape), shape[axis]
    if draw.random() < 0.4:
        return "Gather", [data, _whole(draw, -limit, limit, *_each(draw, draw.randint(0, 2), 1, 3))], {"axis": axis}
    picked = [*shape[:axis], draw.randint(1, limit), *shape[axis + 1 :]]
    indices = _whole(draw, -limit, limit, *picked)
    if draw.random() < 0.5:
        return "GatherElements", [data, indices], {"axis": axis - rank}
    reduction = draw.choice(["add", "mul", "max", "min"])
    return (
        "ScatterElements",
        [data, indices, _floats(draw, *picked)],
        {"axis": axis, "reduction": reduction, "opset": 18},
    )


def normalizing(draw: Draw) -> Sample:
    channels = draw.choice([2, 4])
    shape = [2, channels, *_each(draw, draw.randint(1, 3), 1, 4)]
    data, scale, bias, mean = _floats(draw, *shape), *(_floats(draw, channels) for _ in range(3))
    axis = draw.randint(1, len(shape) - 1)
    affine = [_floats(draw, *shape[axis:]) for _ in range(draw.randint(1, 2))]
    neighbours = {"size": draw.choice([1, 3, 5]), "alpha": 0.5, "beta": 0.6, "bias": 1.5}
    samples: list[Sample] = [
        ("BatchNormalization", [data, scale, bias, mean, np.abs(mean) + np.float32(0.1)], {"epsilon": 1e-3}),
        ("InstanceNormalization", [data, scale, bias], {"epsilon": 1e-2}),
        ("GroupNormalization", [data, scale, bias], {"num_groups": 2, "opset": 21}),
        ("LayerNormalization", [data, *affine], {"axis": axis, "outputs": draw.choice([1, 3])}),
        ("LRN", [_floats(draw, 2, 5, 3, 3)], neighbours),
        ("LpNormalization", [data], {"p": draw.randint(1, 2), "axis": axis}),
    ]
    return draw.choice(samples)


def multiplying(draw: Draw) -> Sample:
    rows, inner, columns = _each(draw, 3, 1, 4)
    first, second = draw.randint(0, 1), draw.randint(0, 1)
    left = _floats(draw, *((inner, rows) if first else (rows, inner)))
    right = _floats(draw, *((columns, inner) if second else (inner, columns)))
    shape: tuple[int, ...] = draw.choice([(columns,), (rows, columns), (1, columns), (rows, 1), (), (1,)])
    addend = [_floats(draw, *shape)] if draw.random() < 0.8 else []
    factors = {"alpha": draw.choice([1.0, 0.5]), "beta": draw.choice([1.0, 2.0])}
    return "Gemm", [left, right, *addend], {"transA": first, "transB": second} | factors


FAMILIES: dict[Callable[[Draw], Sample], int] = {
    convolution: 60,
    transposed_convolution: 100,
    max_pooling: 80,
    average_pooling: 80,
    norm_pooling: 60,
    padding: 80,
    resizing: 250,
    old_upsampling: 30,
    slicing: 80,
    reducing: 120,
    picking: 80,
    normalizing: 80,
    multiplying: 40,
}
"""Family -> number of samples."""


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_operator_equals_onnx_runtime(family: Callable[[Draw], Sample], single_node: Any, run_onnx: Any) -> None:
    draw = random.Random(f"seed of {family.__name__}")
    compared = 0
    for _ in range(FAMILIES[family]):
        operator, arrays, attributes = family(draw)
        model, feed = single_node(operator, arrays, **attributes)
        try:
            wanted = run_onnx(model, feed)
            found = Program(model).run({}, {name: torch.from_numpy(array) for name, array in feed.items()})
        except (UnsupportedOperatorError, *REFUSALS_OF_ONNX_RUNTIME):
            continue
        for array, tensor in zip(wanted, found.values(), strict=True):
            shapes = [None if given is None else given.shape for given in arrays]
            np.testing.assert_allclose(
                tensor.numpy(), array, RELATIVE, ABSOLUTE, err_msg=f"{operator} {shapes} {attributes}"
            )
            assert tensor.numpy().dtype == array.dtype
        compared += 1
    assert compared >= 0.55 * FAMILIES[family], f"only {compared} samples could be compared"


def test_largest_of_many_equal_values_are_the_first_ones(single_node: Any, run_onnx: Any) -> None:
    values = _whole(Draw(1), 0, 3, 4, 500).astype(np.float32)  # long enough for an unstable sort to mix them
    for largest in (0, 1):
        model, feed = single_node("TopK", [values, _long(200)], outputs=2, axis=1, largest=largest)
        wanted = run_onnx(model, feed)
        found = Program(model).run({}, {name: torch.from_numpy(array) for name, array in feed.items()})
        assert np.array_equal(found["output1"].numpy(), wanted[1])


def test_even_local_response_normalization_follows_its_formula(single_node: Any, rng: np.random.Generator) -> None:
    # ONNX Runtime takes odd sizes only; the standard sums channels c - floor((size-1)/2) to c + ceil((size-1)/2)
    values = rng.standard_normal((2, 7, 3))
    model, feed = single_node("LRN", [values], size=4, alpha=0.75, beta=0.5, bias=1.5)
    wanted = np.empty_like(values)
    for channel in range(7):
        squares = (values[:, max(channel - 1, 0) : channel + 3] ** 2).sum(1)
        wanted[:, channel] = values[:, channel] / (1.5 + 0.75 / 4 * squares) ** 0.5
    found = Program(model).run({}, {"input0": torch.from_numpy(feed["input0"])})
    np.testing.assert_allclose(found["output0"].numpy(), wanted, rtol=1e-12)


GRADIENTS: list[tuple[str, list[tuple[int, ...]], dict[str, Any]]] = [
    ("Conv", [(1, 2, 5, 5), (3, 2, 2, 3), (3,)], {"pads": [1, 0, 0, 2], "strides": [2, 1]}),
    ("ConvTranspose", [(1, 2, 3, 3), (2, 2, 2, 2), (2,)], {"pads": [1, 0, 0, 0], "strides": [2, 2]}),
    ("MaxPool", [(1, 2, 6, 5)], {"kernel_shape": [3, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1}),
    ("AveragePool", [(1, 2, 6, 5)], {"kernel_shape": [3, 2], "dilations": [2, 1], "opset": 19}),
    ("LpPool", [(1, 2, 6, 5)], {"kernel_shape": [3, 2], "p": 3, "opset": 18}),
    ("LRN", [(1, 5, 2, 2)], {"size": 4, "alpha": 0.5}),
    ("GroupNormalization", [(2, 4, 3), (4,), (4,)], {"num_groups": 2, "opset": 21}),
    ("InstanceNormalization", [(2, 3, 4), (3,), (3,)], {}),
    ("LayerNormalization", [(2, 3, 4), (3, 4), (3, 4)], {"axis": 1, "outputs": 3}),
    ("RMSNormalization", [(2, 3, 4), (4,)], {"opset": 23}),
    ("PRelu", [(2, 3, 4), (3, 1)], {}),
    ("Trilu", [(2, 3, 4)], {"upper": 0}),
    ("Gemm", [(3, 2), (3, 4), (1, 4)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    ("Attention", [(1, 2, 3, 4), (1, 2, 5, 4), (1, 2, 5, 4)], {"is_causal": 1, "softcap": 2.0, "opset": 23}),
]


@pytest.mark.parametrize(("operator", "shapes", "attributes"), GRADIENTS, ids=[sample[0] for sample in GRADIENTS])
def test_gradient_equals_finite_differences(
    operator: str, shapes: list[tuple[int, ...]], attributes: dict[str, Any], single_node: Any, rng: np.random.Generator
) -> None:
    arrays = [rng.standard_normal(shape) for shape in shapes]
    model, feed = single_node(operator, arrays, **attributes)
    program = Program(model)
    tensors = [torch.from_numpy(array).requires_grad_() for array in feed.values()]

    def run(*values: torch.Tensor) -> torch.Tensor:
        return program.run({}, dict(zip(feed, values, strict=True)))[program.outputs[0]]

    assert torch.autograd.gradcheck(run, tensors)
