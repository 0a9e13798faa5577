"""Train a network for super-resolution on patches of photographs: Adam, L1 loss, resumable every few hundred steps.

Patches of a step depend only on the seed and the step's number, and the learning rate only on the step, so that a run
that was stopped and resumed equals one that was not (on the same machine).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.super_resolution.photographs import halved
from benchmarks.super_resolution.upscaling import SCALE, to_pixels
from inn_core.progress import Progress, no_progress
from inn_core.training.recipes.images import lay_out_
from inn_core.training.state import RunState

ByteArray = NDArray[np.uint8]


@dataclass(frozen=True)
class PatchSchedule:
    """Everything that decides a training run besides the photographs.

    Attributes:
        seed: of the initial weights and of the patches.
        steps: of gradient descent.
        batch_patches: patches in a step.
        side: of a small patch, in pixels; the network sees it whole and gives twice the side.
        peak_rate: learning rate after the warm-up; it then falls to zero along a cosine.
        warmup_share: share of all steps in which the rate climbs linearly from zero.
        state_steps: steps between two saved states.
    """

    seed: int = 0
    steps: int = 4000
    batch_patches: int = 16
    side: int = 24
    peak_rate: float = 1e-3
    warmup_share: float = 0.05
    state_steps: int = 250

    def rate(self, progress: float) -> float:
        """Learning rate when `progress` (0 to 1) of all steps are done."""
        if progress < self.warmup_share:
            return self.peak_rate * progress / self.warmup_share
        fall = (progress - self.warmup_share) / (1.0 - self.warmup_share)
        return self.peak_rate * 0.5 * (1.0 + float(np.cos(np.pi * fall)))


def train_upscaler_(
    module: nn.Module,
    images: Sequence[ByteArray],  # shapes: (height, width, 3), both even
    *,
    schedule: PatchSchedule,
    state_path: Path | None = None,
    progress: Progress = no_progress,
    after_state: Callable[[int, float], None] | None = None,
) -> None:
    """Train `module` in place on the CPU or wherever its weights are; it ends in eval mode.

    Args:
        module: takes float32 RGB in [0, 1], `(batch, 3, side, side)`, and gives `(batch, 3, 2 side, 2 side)`.
        images: the large photographs; the small ones are their halves.
        schedule: the run.
        state_path: written every `state_steps`; when it exists the run continues behind it.
        progress: told the step and the finished share of the run.
        after_state: called every `state_steps` with the finished steps and the mean loss since the last call.

    Raises:
        TrainingStateError: `state_path` was written by a run with another schedule.
    """
    device = next(module.parameters()).device
    pairs = [(halved(image), image) for image in images]
    optimizer = torch.optim.Adam(module.parameters(), lr=0.0, betas=(0.9, 0.99))
    identity = {"kind": "super-resolution", **asdict(schedule)}
    state = RunState(state_path, module, optimizer, identity)
    lay_out_(module, torch.channels_last)  # a step takes a third less on processors
    module.train()
    losses: list[float] = []
    for step in range(state.steps, schedule.steps):
        batch = training_batch(pairs, schedule, step)
        small, large = (tensor.to(device, memory_format=torch.channels_last) for tensor in batch)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate((step + 0.5) / schedule.steps)
        loss = functional.l1_loss(module(small), large)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
        progress(f"step {step + 1} of {schedule.steps}", (step + 1) / schedule.steps)
        done = step + 1
        if done % schedule.state_steps == 0 or done == schedule.steps:
            state.save(done)
            if after_state is not None:
                after_state(done, float(np.mean(losses)))
            losses = []
    lay_out_(module, torch.contiguous_format)
    module.eval()


def training_batch(
    pairs: Sequence[tuple[ByteArray, ByteArray]], schedule: PatchSchedule, step: int
) -> tuple[Tensor, Tensor]:
    """Random patches of random photographs, turned and mirrored at random.

    Args:
        pairs: small and large versions of each photograph.
        schedule: seed and sizes.
        step: number of the step; equal numbers give equal patches.

    Returns:
        Small patches `(batch, 3, side, side)` and large ones `(batch, 3, 2 side, 2 side)`, float32 in [0, 1].
    """
    random = np.random.default_rng([schedule.seed, step])
    side = schedule.side
    chosen = []
    for _ in range(schedule.batch_patches):
        small, large = pairs[int(random.integers(len(pairs)))]
        top, left = (int(random.integers(size - side + 1)) for size in small.shape[:2])
        turns, is_mirrored = int(random.integers(4)), bool(random.integers(2))
        cut = (
            small[top : top + side, left : left + side],
            large[SCALE * top : SCALE * (top + side), SCALE * left : SCALE * (left + side)],
        )
        turned = [np.rot90(patch, turns) for patch in cut]
        chosen.append([patch[:, ::-1] if is_mirrored else patch for patch in turned])
    stacked = (np.stack([pair[index] for pair in chosen]).transpose(0, 3, 1, 2) for index in range(2))
    small_batch, large_batch = (torch.from_numpy(np.ascontiguousarray(to_pixels(batch))) for batch in stacked)
    return small_batch, large_batch
