"""Equal shares for every width: the largest uniform widths whose cost is not over a target.

Slimmable networks, folding and networks trained alone all take one ratio for every layer. Rounded widths leave a gap to
the target; single channels close it where they fit, so that no rival is measured at a smaller size than it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Widths = tuple[int, ...]

MOST_EXTRA = 2
"""Channels that a width may have beyond its rounded share."""

BISECTIONS = 40


def scaled_widths(full: Sequence[int], ratio: float) -> Widths:
    """Every width times `ratio`, rounded, at least 1 and at most its full size."""
    return tuple(min(max(1, int(ratio * width + 0.5)), width) for width in full)


def uniform_widths(full: Sequence[int], target: int, *, cost: Callable[[Widths], int]) -> Widths:
    """The largest widths in equal shares that cost at most `target`.

    Args:
        full: full widths.
        target: in the unit of `cost`.
        cost: of widths; never smaller for larger widths.

    Returns:
        Rounded equal shares, with up to two more channels where they still fit.

    Raises:
        ValueError: even widths of one cost more than `target`.
    """
    if cost(tuple(full)) <= target:
        return tuple(full)
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(scaled_widths(full, middle)) <= target else (low, middle)
    widths = scaled_widths(full, low)
    if cost(widths) > target:
        raise ValueError(f"the narrowest network costs {cost(widths):,}, which is over the target of {target:,}")
    return _filled(widths, full, target, low, cost)


def _filled(widths: Widths, full: Sequence[int], target: int, ratio: float, cost: Callable[[Widths], int]) -> Widths:
    """Add channels one at a time, first where rounding took most."""
    limits = [min(width + MOST_EXTRA, most) for width, most in zip(widths, full, strict=True)]
    while True:
        behind = sorted(range(len(full)), key=lambda index: widths[index] - ratio * full[index])
        wider = ((*widths[:i], widths[i] + 1, *widths[i + 1 :]) for i in behind if widths[i] < limits[i])
        fitting = next((candidate for candidate in wider if cost(candidate) <= target), None)
        if fitting is None:
            return widths
        widths = fitting
