"""A slimmable network: its widths are its first channels, and training makes all of them work."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.pipelines.data import quick
from benchmarks.rivals.slimmable import slim, train_slimmable_, widths_within
from benchmarks.rivals.torch_pruning import exported_parameters, reestimate_statistics
from inn_core.training import state as training_state
from inn_core.training.recipes.images import Schedule
from models.fashion_resnet import FashionResNet
from models.recipes.classifier import accuracy
from tests.benchmarks.conftest import SMALL_WIDTHS

NARROW = (5, 3, 7)
LOGIT_TOLERANCE = 1e-5


def test_all_widths_are_the_module(small: nn.Module) -> None:
    images = torch.rand(4, 1, 28, 28)
    with torch.inference_mode():
        assert torch.equal(slim(small, FashionResNet, SMALL_WIDTHS)(images), small(images))


def test_a_width_is_the_network_whose_other_channels_are_silent(small: nn.Module) -> None:
    """A channel whose BatchNorm has scale and shift 0 is 0 behind the ReLU, so nothing reads it."""
    silent = copy.deepcopy(small)
    layers = [(silent.stem_norm, NARROW[0])]
    for index, block in enumerate(silent.blocks):
        norms = [block.norm1, block.norm2, *[layer for layer in block.shortcut.modules() if hasattr(layer, "eps")]]
        layers += [(norm, NARROW[index // 2]) for norm in norms]
    for norm, width in layers:
        norm.weight.data[width:] = 0
        norm.bias.data[width:] = 0
    images = torch.rand(4, 1, 28, 28)
    with torch.inference_mode():
        found = slim(small, FashionResNet, NARROW)(images)
        torch.testing.assert_close(found, silent(images), rtol=0, atol=LOGIT_TOLERANCE)


def test_widths_within_a_target_have_at_most_that_many_parameters() -> None:
    target = exported_parameters(FashionResNet(widths=SMALL_WIDTHS)) // 2
    widths = widths_within(FashionResNet, SMALL_WIDTHS, target)
    assert exported_parameters(FashionResNet(widths=widths)) <= target
    with pytest.raises(ValueError, match="narrowest network"):
        widths_within(FashionResNet, SMALL_WIDTHS, 10)


@pytest.mark.slow
def test_training_makes_every_width_good() -> None:
    data = quick(with_test=True)
    torch.manual_seed(0)
    module = FashionResNet(widths=SMALL_WIDTHS)
    train_slimmable_(
        module,
        FashionResNet,
        SMALL_WIDTHS,
        data.train.images,
        data.train.labels,
        n_steps=140,  # of 90, one seed in five has not learned two of the classes
        smallest=0.5,
        schedule=replace(Schedule(), batch_images=40, shift_pixels=0),
        device=torch.device("cpu"),
        bfloat16=False,
    )
    assert data.test is not None
    for widths in (SMALL_WIDTHS, (6, 6, 9), (4, 4, 6)):
        sized = reestimate_statistics(slim(module, FashionResNet, widths), data.calibration_pixels())
        assert accuracy(sized, data.test.images, data.test.labels) >= 0.9


def test_one_step_moves_the_channels_of_the_smallest_width_most() -> None:
    """With soft targets of its own full width the smallest width adds gradients to its own channels only."""
    data = quick(with_test=False)
    torch.manual_seed(0)
    module = FashionResNet(widths=SMALL_WIDTHS)
    before = module.head.weight.detach().clone()
    schedule = replace(Schedule(), warmup_share=0.0, weight_decay=0.0)
    arguments = {"n_steps": 1, "smallest": 0.5, "schedule": schedule, "device": torch.device("cpu"), "bfloat16": False}
    train_slimmable_(module, FashionResNet, SMALL_WIDTHS, data.train.images, data.train.labels, **arguments)
    moved = (module.head.weight.detach() - before).norm(dim=0)
    assert moved[:6].mean() > moved[6:].mean()
    assert (moved > 0).all()


class StoppedError(Exception):
    """Raised in the middle of a training."""


def test_a_stopped_training_ends_with_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The random widths of the steps after the stop, too, are those of a training that was not stopped."""
    monkeypatch.setattr(training_state, "SAVE_SECONDS", 0.0)
    data = quick(with_test=False)

    def train(state: Path | None, *, stop_after: float = 2.0) -> dict[str, torch.Tensor]:
        def progress(_stage: str, share: float) -> None:
            if share >= stop_after:
                raise StoppedError

        torch.manual_seed(0)
        module = FashionResNet(widths=SMALL_WIDTHS)
        train_slimmable_(
            module,
            FashionResNet,
            SMALL_WIDTHS,
            data.train.images,
            data.train.labels,
            n_steps=6,
            smallest=0.5,
            schedule=replace(Schedule(), batch_images=16),
            device=torch.device("cpu"),
            bfloat16=False,
            state_path=state,
            progress=progress,
        )
        return module.state_dict()

    expected = train(None)
    with pytest.raises(StoppedError):
        train(tmp_path / "run.pt", stop_after=0.5)
    resumed = train(tmp_path / "run.pt")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.items())
