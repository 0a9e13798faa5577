"""Training of an upscaler: it learns, it repeats, and a stopped run continues as if it had not been stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.super_resolution.edsr import SmallEdsr
from benchmarks.super_resolution.photographs import doubled, halved
from benchmarks.super_resolution.training import PatchSchedule, train_upscaler_, training_batch
from benchmarks.super_resolution.upscaling import psnr, upscale
from inn_core.errors import TrainingStateError

SCHEDULE = PatchSchedule(seed=3, steps=60, batch_patches=4, side=12, peak_rate=3e-3, state_steps=20)


class StopHereError(Exception):
    """Stands for a run that is killed between two states."""


@pytest.fixture
def images() -> list[np.ndarray]:
    """Waves of six to eight pixels, which halving weakens: a network can learn to give them back."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :70]
    result = []
    for _ in range(3):
        angle, length = random.uniform(0, np.pi), random.uniform(6, 8)
        phase = (rows * np.sin(angle) + columns * np.cos(angle)) * 2 * np.pi / length
        image = 128 + random.uniform(60, 110, 3) * np.sin(phase)[:, :, None]
        result.append(np.rint(image).astype(np.uint8))
    return result


def small_network() -> SmallEdsr:
    torch.manual_seed(0)
    return SmallEdsr(width=8, blocks=1)


def trained(images: list[np.ndarray], state: Path | None = None, *, stop_after: int = 0) -> SmallEdsr:
    def after_state(step: int, loss: float) -> None:
        if step == stop_after:
            raise StopHereError

    module = small_network()
    train_upscaler_(module, images, schedule=SCHEDULE, state_path=state, after_state=after_state)
    return module


def test_training_beats_bicubic_interpolation(images: list[np.ndarray]) -> None:
    module = small_network()
    train_upscaler_(module, images, schedule=replace(SCHEDULE, steps=100))
    assert not module.training
    image = images[0]
    small = halved(image)

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            output: np.ndarray = module(torch.from_numpy(pixels)).numpy()
        return output

    assert psnr(image, upscale(run, small)) > psnr(image, doubled(small)) + 0.5


def test_a_stopped_run_continues_to_the_same_weights(images: list[np.ndarray], tmp_path: Path) -> None:
    state = tmp_path / "deep" / "training.pt"
    with pytest.raises(StopHereError):
        trained(images, state, stop_after=40)
    resumed, whole = trained(images, state), trained(images)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    assert [path.name for path in state.parent.iterdir()] == ["training.pt"]


def test_the_state_of_another_run_is_refused(images: list[np.ndarray], tmp_path: Path) -> None:
    state = tmp_path / "training.pt"
    trained(images, state)
    with pytest.raises(TrainingStateError, match="another run"):
        train_upscaler_(small_network(), images, schedule=replace(SCHEDULE, seed=4), state_path=state)


def test_progress_rises_to_one_and_states_come_in_steps(images: list[np.ndarray]) -> None:
    fractions: list[float] = []
    steps: list[int] = []
    train_upscaler_(
        small_network(),
        images,
        schedule=replace(SCHEDULE, steps=50),
        progress=lambda stage, fraction: fractions.append(fraction),
        after_state=lambda step, loss: steps.append(step),
    )
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert steps == [20, 40, 50]


def test_batches_pair_what_belongs_together(images: list[np.ndarray]) -> None:
    pairs = [(halved(image), image) for image in images]
    small, large = training_batch(pairs, SCHEDULE, 7)
    assert small.shape == (4, 3, 12, 12)
    assert large.shape == (4, 3, 24, 24)
    means = large.reshape(4, 3, 12, 2, 12, 2).mean((3, 5))
    # a small pixel weighs more than its four, so they differ; a patch of another place would not follow it at all
    for i in range(4):
        assert np.corrcoef(small[i].flatten().numpy(), means[i].flatten().numpy())[0, 1] > 0.98
    again, other = training_batch(pairs, SCHEDULE, 7)[0], training_batch(pairs, SCHEDULE, 8)[0]
    assert torch.equal(small, again)
    assert not torch.equal(small, other)


def test_rate_climbs_to_its_peak_and_falls_to_zero() -> None:
    schedule = PatchSchedule(peak_rate=0.4, warmup_share=0.2)
    assert schedule.rate(0.0) == 0.0
    assert schedule.rate(0.1) == pytest.approx(0.2)
    assert schedule.rate(0.2) == pytest.approx(0.4)
    assert schedule.rate(0.6) == pytest.approx(0.2)
    assert schedule.rate(1.0) == pytest.approx(0.0, abs=1e-12)
