"""ONNX operators in PyTorch, one small function each, in one table."""

from __future__ import annotations

from inn_core.graph.operators import (
    activation,
    attention,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    padding,
    pooling,
    reduction,
    resize,
    shape,
    source,
)
from inn_core.graph.operators.arguments import Operator

OPERATORS: dict[str, Operator] = {
    **activation.OPERATORS,
    **attention.OPERATORS,
    **convolution.OPERATORS,
    **elementwise.OPERATORS,
    **indexing.OPERATORS,
    **linear.OPERATORS,
    **normalization.OPERATORS,
    **padding.OPERATORS,
    **pooling.OPERATORS,
    **reduction.OPERATORS,
    **resize.OPERATORS,
    **shape.OPERATORS,
    **source.OPERATORS,
}
"""ONNX operator type -> function; see `arguments` for what such a function promises."""

__all__ = ["OPERATORS", "Operator"]
