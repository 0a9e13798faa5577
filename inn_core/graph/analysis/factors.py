"""Unification of axis sizes: which sizes of a graph must change together, found as type inference finds types.

Every weight axis starts as one fresh factor. Operator rules unify axes; unifying may refine a factor into a product (a
Reshape splits 384 into 12 x 32) or a sum (a Slice cuts 48 into 24 + 24) everywhere it occurs. What cannot be unified
is frozen with a reason: a constraint is never guessed and never dropped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from inn_core.graph.axis import Axis as NamedAxis

MAX_REPEATS = 64  # copies of a concatenation that a product may write out
MAX_STEPS = 1000  # refinements of one unification; a network needs a handful


class Factor:
    """One resizable count. Bound to an axis once refined; fixed once it has a reason to keep its size."""

    __slots__ = ("binding", "fixed", "hint", "size")

    def __init__(self, size: int, hint: str) -> None:
        self.size = size
        self.hint = hint
        self.binding: FactorAxis | None = None
        self.fixed: str | None = None

    def __repr__(self) -> str:
        state = f" fixed: {self.fixed}" if self.fixed else ""
        return f"<{self.hint} {self.size}{state}>"


FactorSegment = tuple[Factor | int, ...]
FactorAxis = tuple[FactorSegment, ...]


class _UnificationError(Exception):
    """Two axes have no common refinement that an axis can express."""


def fixed_axis(size: int) -> FactorAxis:
    """An axis that never changes."""
    return ((size,),)


def fresh_axis(size: int, hint: str) -> FactorAxis:
    """A new resizable axis; size 0 and 1 are fixed, for there is nothing to resize."""
    return ((Factor(size, hint),),) if size > 1 else ((size,),)


def size_of(axis: FactorAxis) -> int:
    """Full size of the axis."""
    return sum(_segment_size(segment) for segment in axis)


def factors_of(axis: FactorAxis) -> list[Factor]:
    """Free factors of the resolved axis, in order, without repeats."""
    found: dict[int, Factor] = {}
    for segment in resolve(axis):
        for item in segment:
            if isinstance(item, Factor):
                found[id(item)] = item
    return list(found.values())


def reason_of(axis: FactorAxis) -> str | None:
    """Why (a part of) the axis is fixed, or None when no factor in it was ever frozen."""
    for segment in axis:
        for item in segment:
            if isinstance(item, Factor):
                if item.fixed is not None:
                    return item.fixed
                if item.binding is not None and (reason := reason_of(item.binding)) is not None:
                    return reason
    return None


def freeze(axis: FactorAxis, reason: str) -> None:
    """Fix every free factor of the axis at its full size."""
    for factor in factors_of(axis):
        factor.fixed = reason


def sum_of(axes: Iterable[FactorAxis]) -> FactorAxis:
    """The axis of a concatenation."""
    return tuple(segment for axis in axes for segment in axis if segment != (0,))


def product_of(axes: Sequence[FactorAxis], where: str) -> FactorAxis:
    """The axis of dimensions merged by a reshape, outer first.

    A sum to the right of a free factor has no form as a sum of products; its factors are frozen.
    """
    result: FactorAxis = ((),)
    for axis in axes:
        result = _times(result, resolve(axis), where)
    return _normalize(result)


def resolve(axis: FactorAxis) -> FactorAxis:
    """The axis in terms of free factors and integers, in normal form."""
    segments: FactorAxis = ()
    for segment in axis:
        product: FactorAxis = ((),)
        for item in segment:
            if isinstance(item, int):
                part: FactorAxis = ((item,),)
            elif item.fixed is not None:
                part = ((item.size,),)
            elif item.binding is not None:
                part = resolve(item.binding)
            else:
                part = ((item,),)
            product = _times(product, part, f"the product of '{segment}'")
        segments += product
    return _normalize(segments)


def unify(a: FactorAxis, b: FactorAxis, where: str) -> None:
    """Make two axes of equal full size change together; what cannot is frozen, naming `where`."""
    try:
        _unify(a, b, where)
    except _UnificationError as error:
        reason = f"{error} at {where}"
        freeze(a, reason)
        freeze(b, reason)


def name_axis(axis: FactorAxis, names: dict[int, str]) -> NamedAxis:
    """The resolved axis as data, with the name of each free factor looked up by its identity."""
    return tuple(
        tuple(names[id(item)] if isinstance(item, Factor) else item for item in segment) for segment in resolve(axis)
    )


def _segment_size(segment: FactorSegment) -> int:
    size = 1
    for item in segment:
        size *= item if isinstance(item, int) else item.size
    return size


def _times(left: FactorAxis, right: FactorAxis, where: str) -> FactorAxis:
    """Left is outer. (a + b) x c distributes; n x (a + b) repeats; f x (a + b) with a free f does not exist."""
    if len(right) == 1:
        return tuple(segment + right[0] for segment in left)
    result: FactorAxis = ()
    for segment in left:
        repeats = 1
        for item in segment:
            if isinstance(item, Factor) or repeats * item > MAX_REPEATS:
                freeze(right, f"a concatenation cannot be nested inside another resizable axis, {where}")
                result += ((*segment, size_of(right)),)
                break
            repeats *= item
        else:
            result += right * repeats
    return result


def _normalize(axis: FactorAxis) -> FactorAxis:
    """Integers multiplied together, ones dropped, equal neighbours added: (c)+(c) is (2, c), (3)+(5) is (8)."""
    result: list[FactorSegment] = []
    for segment in axis:
        items: list[Factor | int] = []
        for item in segment:
            if isinstance(item, int) and items and isinstance(items[-1], int):
                items[-1] = items[-1] * item
            elif item != 1:
                items.append(item)
        items = [item for item in items if item != 1]
        if 0 in items:
            continue
        count, tail = (items[0], tuple(items[1:])) if items and isinstance(items[0], int) else (1, tuple(items))
        if result:
            last = result[-1]
            last_count, last_tail = (last[0], last[1:]) if last and isinstance(last[0], int) else (1, last)
            if last_tail == tail:
                count, tail = count + last_count, tail
                result.pop()
        result.append(((count,) if count != 1 or not tail else ()) + tail)
    return tuple(result)


def _unify(a: FactorAxis, b: FactorAxis, where: str) -> None:
    left, right = resolve(a), resolve(b)
    for _ in range(MAX_STEPS):
        if left == right:
            return
        if size_of(left) != size_of(right):
            raise _UnificationError(f"sizes {size_of(left)} and {size_of(right)} differ")
        if len(left) == 1 and len(right) == 1:
            _unify_products(left[0], right[0], (a, b), where)
        elif len(left) == 1 and len(left[0]) == 1 and isinstance(left[0][0], Factor):
            _bind(left[0][0], right)
        elif len(right) == 1 and len(right[0]) == 1 and isinstance(right[0][0], Factor):
            _bind(right[0][0], left)
        else:
            _unify_first_segments(left, right, (a, b), where)
        left, right = resolve(a), resolve(b)
    raise _UnificationError(f"no common refinement after {MAX_STEPS} steps")


def _unify_first_segments(
    left: FactorAxis, right: FactorAxis, origin: tuple[FactorAxis, FactorAxis], where: str
) -> None:
    """Make progress on the first segments that differ, then let the caller resolve again."""
    i = next(k for k, (x, y) in enumerate(zip(left, right, strict=False)) if x != y)
    x, y = left[i], right[i]
    size_x, size_y = _segment_size(x), _segment_size(y)
    if size_x == size_y:
        _unify_products(x, y, origin, where)
    elif size_x < size_y:
        _unify_larger(y, x, left[i + 1 :], right[i + 1 :], origin, where)
    else:
        _unify_larger(x, y, right[i + 1 :], left[i + 1 :], origin, where)


def _unify_larger(
    large: FactorSegment,
    small: FactorSegment,
    rest_small: FactorAxis,
    rest_large: FactorAxis,
    origin: tuple[FactorAxis, FactorAxis],
    where: str,
) -> None:
    """Cut the larger first segment where the smaller one ends, so that the two begin alike."""
    cut = _segment_size(small)
    outer, tail = large[0], large[1:]
    unit = _segment_size(tail)
    if cut % unit:
        raise _UnificationError(f"{_segment_size(large)} cannot be cut at {cut}")
    count = cut // unit
    if isinstance(outer, Factor):
        if any(item is outer for item in small):
            raise _UnificationError("an axis would contain itself")
        outer.binding = (
            (Factor(count, outer.hint) if count > 1 else 1,),
            (Factor(outer.size - count, outer.hint) if outer.size - count > 1 else 1,),
        )
        return
    # An integer count of equal parts: count of them face the small segment, the others what follows it.
    _unify(((count, *tail),), (small,), where)
    _unify(((outer - count, *tail), *rest_large), rest_small, where)


def _unify_products(x: FactorSegment, y: FactorSegment, origin: tuple[FactorAxis, FactorAxis], where: str) -> None:
    """Unify two products of equal size, outer factors first."""
    for one, other in ((x, y), (y, x)):
        if len(one) == 1 and isinstance(one[0], Factor):
            if all(isinstance(item, int) for item in other):
                one[0].fixed = _inherited(origin, where)
            else:
                _bind(one[0], (other,))
            return
    for one, other in ((x, y), (y, x)):
        if all(isinstance(item, int) for item in one):
            freeze((other,), _inherited(origin, where))
            return
    outer_x, outer_y = x[0], y[0]
    size_x, size_y = (item if isinstance(item, int) else item.size for item in (outer_x, outer_y))
    if size_x == size_y:
        if outer_x is outer_y or outer_x == outer_y:
            _unify_products(x[1:], y[1:], origin, where)
        else:
            _unify_products((outer_x,), (outer_y,), origin, where)
            if x[1:] and y[1:]:
                _unify((x[1:],), (y[1:],), where)
        return
    if size_x < size_y:
        (outer_x, x, size_x), (outer_y, y, size_y) = (outer_y, y, size_y), (outer_x, x, size_x)
    if size_x % size_y:
        raise _UnificationError(f"factors {size_x} and {size_y} do not divide")
    inner = size_x // size_y
    if isinstance(outer_x, Factor):
        outer_x.binding = ((Factor(size_y, outer_x.hint), Factor(inner, outer_x.hint)),)
    else:
        _unify(((outer_y,),), ((size_y,),), where)
        _unify(((inner, *x[1:]),), (y[1:],), where)


def _inherited(origin: tuple[FactorAxis, FactorAxis], where: str) -> str:
    """Why an axis that meets a fixed one is fixed: that one's reason and the node where they met."""
    reason = reason_of(origin[0]) or reason_of(origin[1])
    if reason is None:
        return f"tied to a fixed size at {where}"
    return reason if where in reason or ", through " in reason else f"{reason}, through {where}"


def _bind(factor: Factor, axis: FactorAxis) -> None:
    if any(item is factor for segment in axis for item in segment):
        raise _UnificationError("an axis would contain itself")
    factor.binding = axis
