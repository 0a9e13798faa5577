"""Strided 1x1 convolutions of few channels, without their strides: a detour around a fault of oneDNN.

Where channels lie last, its kernel for the gradient of such a weight writes behind its workspace if there are fewer
input channels than a block has, 8 with AVX2 and 16 with AVX-512: the process dies, or the gradient is wrong. This is
issue 6035 of uxlfoundation/oneDNN; oneDNN 3.12, which is in torch 2.13, has it. Look again when torch has a later one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

NARROW = 16
"""Input channels below which the detour is taken."""


def without_strides(value: Tensor, weight: Tensor, strides: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Input and strides of the same convolution: a kernel of size 1 reads one position in each stride, so take those.

    Args:
        value: input without padding to come, shape `(batch, in, *sizes)`.
        weight: of the convolution, shape `(out, in / group, *kernel)`.
        strides: one for each spatial axis.

    Returns:
        Both as they are, unless the kernel is of size 1, strided, learned and narrow.
    """
    unit = [1] * len(strides)
    is_pointwise = list(weight.shape[2:]) == unit and list(strides) != unit
    if not (is_pointwise and weight.requires_grad and value.shape[1] < NARROW):
        return value, list(strides)
    taken: tuple[Any, ...] = (..., *(slice(None, None, step) for step in strides))
    return value[taken], unit
