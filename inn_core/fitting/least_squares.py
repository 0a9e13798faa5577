"""Ridge least squares for the linear nodes of a network, from accumulated normal equations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

ROW_CHUNK = 16_384  # rows multiplied at a time: bounds the float32 copy, long enough for a fast product
TILE = 512  # columns of the symmetric product taken at a time: only the tiles on and above its diagonal are computed


class NormalEquations:
    """Sums over rows of inputs Z and targets T, from which `T = Z W^T + b` is solved for any prior and ridge.

    Products are taken in float32 on data shifted by the mean of the first rows, and summed in float64; covariances do
    not depend on the shift, and without a large common mean little is lost to cancellation.
    """

    def __init__(self, blocks: int, n_inputs: int, n_outputs: int, *, device: torch.device) -> None:
        self.rows = 0
        self._shift_z: torch.Tensor | None = None
        self._shift_t: torch.Tensor | None = None
        self._sum_z = torch.zeros(blocks, n_inputs, dtype=torch.float64, device=device)
        self._sum_t = torch.zeros(blocks, n_outputs, dtype=torch.float64, device=device)
        self._zz = torch.zeros(blocks, n_inputs, n_inputs, dtype=torch.float64, device=device)
        self._tz = torch.zeros(blocks, n_outputs, n_inputs, dtype=torch.float64, device=device)

    def add(
        self,
        inputs: torch.Tensor,  # shape: (blocks, rows, n_inputs)
        targets: torch.Tensor,  # shape: (blocks, rows, n_outputs)
    ) -> None:
        """Accumulate rows."""
        if self._shift_z is None or self._shift_t is None:
            self._shift_z, self._shift_t = inputs.mean(1, keepdim=True), targets.mean(1, keepdim=True)
        for start in range(0, inputs.shape[1], ROW_CHUNK):
            z = inputs[:, start : start + ROW_CHUNK] - self._shift_z
            t = targets[:, start : start + ROW_CHUNK] - self._shift_t
            self._sum_z += z.sum(1).double()
            self._sum_t += t.sum(1).double()
            for left in range(0, z.shape[2], TILE):
                right = left + TILE
                self._zz[:, left:right, left:] += torch.bmm(z[:, :, left:right].transpose(1, 2), z[:, :, left:])
            self._tz += torch.bmm(t.transpose(1, 2), z)
        self.rows += inputs.shape[1]

    def solve(
        self,
        prior: torch.Tensor,  # shape: (blocks, n_outputs, n_inputs)
        *,
        ridge: float,
        with_bias: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The weights nearest to `prior` that reproduce the targets.

        Minimises mean squared error + ridge x mean(diagonal) x |W - prior|^2; the bias is not penalised.

        Args:
            prior: what the ridge pulls towards.
            ridge: relative to the mean variance of the inputs.
            with_bias: whether the node has a bias; without one the fit goes through the origin.

        Returns:
            Weights as `prior`, and the bias of shape `(blocks, n_outputs)` or None; both float64.

        Source:
            Ridge regression in closed form; W' = (W C + ridge W_0)(C + ridge I)^-1.
        """
        assert self._shift_z is not None, "no rows were added"
        assert self._shift_t is not None
        n = float(self.rows)
        mean_z, mean_t = self._sum_z / n, self._sum_t / n
        shift_z, shift_t = self._shift_z[:, 0].double(), self._shift_t[:, 0].double()
        if with_bias:
            czz = _mirrored(self._zz).div_(n).sub_(_cross(mean_z, mean_z))
            ctz = self._tz / n - mean_t.unsqueeze(2) * mean_z.unsqueeze(1)
        else:  # undo the shift: second moments about zero
            czz = _mirrored(self._zz).div_(n).add_(_cross(shift_z, mean_z)).add_(_cross(mean_z + shift_z, shift_z))
            ctz = self._tz / n + _cross(shift_t, mean_z) + _cross(mean_t + shift_t, shift_z)
        prior = prior.double()
        diagonal = czz.diagonal(dim1=1, dim2=2)
        scale = diagonal.mean(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        residual = torch.baddbmm(ctz, prior, czz, alpha=-1)
        diagonal += ridge * scale
        update = _solve_positive(czz, residual.transpose(1, 2)).transpose(1, 2)
        weights = prior + update
        if not with_bias:
            return weights, None
        means = (mean_t + shift_t) - torch.bmm(weights, (mean_z + shift_z).unsqueeze(2)).squeeze(2)
        return weights, means

    def moments(self) -> PartMoments:
        """Sums about zero, without the shift; on the CPU or wherever the rows were."""
        assert self._shift_z is not None, "no rows were added"
        assert self._shift_t is not None
        n = float(self.rows)
        shift_z, shift_t = self._shift_z[:, 0].double(), self._shift_t[:, 0].double()
        zz = _mirrored(self._zz) + _cross(shift_z, self._sum_z) + _cross(self._sum_z + n * shift_z, shift_z)
        tz = self._tz + _cross(shift_t, self._sum_z) + _cross(self._sum_t + n * shift_t, shift_z)
        return PartMoments(n, self._sum_z + n * shift_z, self._sum_t + n * shift_t, zz, tz)


@dataclass(frozen=True)
class PartMoments:
    """Sums over rows: z, t, z zᵀ and t zᵀ, each with the blocks first."""

    rows: float
    z: torch.Tensor
    t: torch.Tensor
    zz: torch.Tensor
    tz: torch.Tensor


def solve_with_shared_bias(
    parts: Sequence[NormalEquations],
    priors: Sequence[torch.Tensor],  # shapes: (blocks, n_outputs, n_inputs of the part)
    *,
    ridge: float,
    with_bias: bool,
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """Solve for several parts with weights of their own and one bias, as one system of all rows would be solved.

    A row of one part is a row of that system with zeros in the columns of all others, so the system's second moments
    about zero are block diagonal. With moments A_p (ridge added), B_p and means s_p, t over all rows, the part's
    weights are `W_p = (B_p - b s_pᵀ) A_p⁻¹`, and `b = t - Σ W_p s_p` gives the bias:
    `b (1 - Σ s_pᵀ A_p⁻¹ s_p) = t - Σ B_p A_p⁻¹ s_p`.

    Args:
        parts: rows and targets of each part.
        priors: what the ridge pulls towards.
        ridge, with_bias: as in `NormalEquations.solve`, which gives the same for one part.

    Returns:
        Weights of each part, and the bias of shape `(blocks, n_outputs)` or None; all float64.
    """
    moments = [part.moments() for part in parts]
    rows = sum(part.rows for part in moments)
    means = [part.z / rows for part in moments]
    squares = [part.zz.diagonal(dim1=1, dim2=2) / rows for part in moments]
    if with_bias:
        squares = [square - mean.square() for square, mean in zip(squares, means, strict=True)]
    scale = torch.cat(squares, 1).mean(1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    target = torch.stack([part.t for part in moments]).sum(0) / rows
    free, pulls = [], []  # B_p A_p⁻¹ and A_p⁻¹ s_p
    share = torch.ones_like(scale)
    for part, prior, mean in zip(moments, priors, means, strict=True):
        matrix = part.zz / rows
        matrix.diagonal(dim1=1, dim2=2).add_(ridge * scale)
        right = part.tz / rows + prior.double() * (ridge * scale).unsqueeze(2)
        columns = torch.cat([right.transpose(1, 2), mean.unsqueeze(2)], 2)
        solved = _solve_positive(matrix, columns)
        free.append(solved[:, :, :-1].transpose(1, 2))
        pulls.append(solved[:, :, -1])
        share = share - (mean * pulls[-1]).sum(1, keepdim=True)
    if not with_bias:
        return free, None
    left = target - torch.stack(
        [torch.bmm(weights, mean.unsqueeze(2)).squeeze(2) for weights, mean in zip(free, means, strict=True)]
    ).sum(0)
    bias = left / share.clamp_min(torch.finfo(torch.float64).eps)
    return [weights - _cross(bias, pull) for weights, pull in zip(free, pulls, strict=True)], bias


def _cross(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.unsqueeze(2) * b.unsqueeze(1)


def _mirrored(upper: torch.Tensor) -> torch.Tensor:
    """A symmetric matrix from what is on and above its diagonal; tiles below the diagonal are ignored."""
    return torch.triu(upper).add_(torch.triu(upper, 1).transpose(1, 2))


def _solve_positive(matrix: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve by Cholesky; on a singular matrix (dead channels, ridge 0) add the smallest jitter that lets it pass."""
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    scale = diagonal.mean(1, keepdim=True).clamp_min(torch.finfo(matrix.dtype).tiny)
    jitter = 0.0
    for _ in range(12):
        jittered = matrix + torch.diag_embed((jitter * scale).expand_as(diagonal)) if jitter else matrix
        factor, info = torch.linalg.cholesky_ex(jittered)
        if not info.any():
            return torch.cholesky_solve(right, factor)
        jitter = max(jitter * 10, 1e-12)
    raise AssertionError("normal equations are not positive semi-definite")
