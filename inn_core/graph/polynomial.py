"""Polynomials of group sizes with non-negative integer coefficients, evaluated exactly for many plans at once.

Every cost of a network (parameters, MACs, bytes) is one: the elements of a tensor are a product over its axes of sums
of products of group sizes. Equal monomials are merged, so a network of hundreds of tensors becomes one small matrix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inn_core.arrays import IntArray
from inn_core.errors import GraphTooLargeError
from inn_core.graph.axis import Axis
from inn_core.graph.structure import Term

MAX_MONOMIALS = 1_000_000
_EXACT_FLOAT = 2**53  # integers up to here are exact in float64, and so is every partial sum of non-negative terms
_INT64_LIMIT = 2**63 - 1

Monomial = tuple[int, ...]  # sorted group indices, with repetition


@dataclass(frozen=True)
class Polynomial:
    """`constant + linear·s + s·quadratic·s + higher monomials` of a vector of group sizes s.

    All numbers are integers. They are kept in float64 when the value at the full sizes is below 2^53 (then float64
    arithmetic is exact and uses fast matrix products) and in int64 otherwise.

    Attributes:
        constant: the part that never changes.
        linear: shape `(n_groups,)`.
        quadratic: shape `(n_groups, n_groups)`, upper triangle with diagonal.
        higher: by degree, `(columns (n_monomials, degree), coefficients (n_monomials,))`.
        maximum: value at the full sizes, the largest there is.
    """

    constant: int
    linear: NDArray[Any]
    quadratic: NDArray[Any]
    higher: tuple[tuple[IntArray, NDArray[Any]], ...]
    maximum: int

    def values(self, sizes: IntArray) -> IntArray:
        """Value for each row.

        Args:
            sizes: shape `(n_plans, n_groups)`, each between 0 and the full size.

        Returns:
            Exact values, shape `(n_plans,)`.
        """
        s = sizes.astype(self.linear.dtype, copy=False)
        result = s @ self.linear + np.einsum("ij,ij->i", s @ self.quadratic, s)
        for columns, coefficients in self.higher:
            result = result + s[:, columns].prod(axis=2) @ coefficients
        values: IntArray = result.astype(np.int64) + self.constant
        return values

    def changes(self, sizes: IntArray, steps: IntArray) -> NDArray[np.float64]:
        """How much the value changes when one group alone changes its size.

        Args:
            sizes: shape `(n_groups,)`, each at least 1.
            steps: what is added to the size of each group, shape `(n_groups, n_steps)`.

        Returns:
            Shape of `steps`. Exact without products of three groups and more, else to float64's precision.
        """
        s, d = sizes.astype(np.float64), steps.astype(np.float64)
        slope = self.linear + self.quadratic @ s + s @ self.quadratic
        result = slope[:, None] * d + self.quadratic.diagonal()[:, None] * d * d
        for columns, coefficients in self.higher:
            values = s[columns].prod(axis=1) * coefficients
            # A group that occurs n times in a product is met n times here, and each time adds one n-th.
            times = (columns[:, :, None] == columns[:, None, :]).sum(axis=2)
            ratio = 1.0 + d / s[:, None]  # shape: (n_groups, n_steps)
            for position in range(columns.shape[1]):
                group, n = columns[:, position], times[:, position, None]
                np.add.at(result, group, values[:, None] * (ratio[group] ** n - 1.0) / n)
        return np.asarray(result, dtype=np.float64)

    def interactions(self, sizes: IntArray) -> NDArray[np.float64]:
        """Mixed second derivatives at one plan, shape `(n_groups, n_groups)`, symmetric with a zero diagonal."""
        result: NDArray[np.float64] = (self.quadratic + self.quadratic.T).astype(np.float64)
        s = sizes.astype(np.float64)
        for columns, coefficients in self.higher:
            factors = s[columns]  # shape: (n_monomials, degree)
            degree = columns.shape[1]
            for i in range(degree):
                for j in range(degree):
                    if i != j:
                        rest = np.delete(factors, (i, j), axis=1).prod(axis=1) * coefficients
                        np.add.at(result, (columns[:, i], columns[:, j]), rest)
        np.fill_diagonal(result, 0.0)
        return result


def compile_polynomial(terms: Iterable[Term], full: Mapping[str, int], *, constant: int = 0) -> Polynomial:
    """The sum of cost terms, with equal monomials merged.

    Args:
        terms: summands with non-negative coefficients.
        full: full size of every group; columns follow its order.
        constant: added to the sum.

    Raises:
        GraphTooLargeError: the value at the full sizes passes 2^63, or there are over a million monomials.
    """
    merged: dict[tuple[Axis, ...], int] = {}
    for term in terms:
        merged[term.axes] = merged.get(term.axes, 0) + term.coefficient
    column = {name: i for i, name in enumerate(full)}
    monomials: dict[Monomial, int] = {}
    for axes, coefficient in merged.items():
        for key, value in _expand(axes, coefficient, column).items():
            monomials[key] = monomials.get(key, 0) + value
        if len(monomials) > MAX_MONOMIALS:
            raise GraphTooLargeError("cost terms", len(monomials), MAX_MONOMIALS)
    sizes = list(full.values())
    maximum = constant + sum(value * math.prod(sizes[i] for i in key) for key, value in monomials.items())
    if maximum > _INT64_LIMIT:
        raise GraphTooLargeError("units of cost", maximum, _INT64_LIMIT)
    dtype: type[Any] = np.float64 if maximum < _EXACT_FLOAT else np.int64
    linear = np.zeros(len(sizes), dtype)
    quadratic = np.zeros((len(sizes), len(sizes)), dtype)
    higher: dict[int, list[Monomial]] = {}
    for key, value in sorted(monomials.items()):
        if len(key) == 0:
            constant += value
        elif len(key) == 1:
            linear[key[0]] = value
        elif len(key) == 2:
            quadratic[key] = value
        else:
            higher.setdefault(len(key), []).append(key)
    blocks = tuple(
        (np.array(keys, dtype=np.int64), np.array([monomials[key] for key in keys], dtype))
        for _, keys in sorted(higher.items())
    )
    return Polynomial(constant, linear, quadratic, blocks, maximum)


def _expand(axes: tuple[Axis, ...], coefficient: int, column: Mapping[str, int]) -> dict[Monomial, int]:
    """The product of sums of products as a sum of monomials."""
    result: dict[Monomial, int] = {(): coefficient}
    for axis in axes:
        if len(result) * len(axis) > MAX_MONOMIALS:
            raise GraphTooLargeError("cost terms", len(result) * len(axis), MAX_MONOMIALS)
        product: dict[Monomial, int] = {}
        for segment in axis:
            number = math.prod(factor for factor in segment if isinstance(factor, int))
            groups = tuple(column[factor] for factor in segment if isinstance(factor, str))
            for key, value in result.items():
                if number * value:
                    grown = tuple(sorted(key + groups))
                    product[grown] = product.get(grown, 0) + number * value
        result = product
    return result
