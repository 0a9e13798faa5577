"""Sizes of kernels that are no knots: measured with samples, interpolated with a warning without."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.fitting.divergence import OutputKind, divergence
from inn_core.sized import between_knots
from inn_core.sized.batch_norm import Moments
from inn_core.sized.between_knots import BetweenKnots
from inn_core.training.integral_network import IntegralNetwork
from tests.inn_core.sized_networks import close, inputs_of, shaken_, small_residual, smoothed, with_kernels


@pytest.fixture(scope="module")
def trained() -> Checkpoint:
    """Kernels of eight channels in random order: the least smooth there are."""
    return shaken_(with_kernels(smoothed(small_residual()), seed=2), amount=0.3).to_checkpoint()


def distance(network: IntegralNetwork, sizes: dict[str, int]) -> float:
    """Divergence of a size in evaluation from itself with the statistics of all samples as one batch."""
    inputs = inputs_of(small_residual())
    with torch.no_grad():
        exact: Tensor = network.train()(inputs, sizes=sizes)
        found: Tensor = network.eval()(inputs, sizes=sizes)
    return float(divergence(exact, found, OutputKind.LOGITS).mean())


def draws(network: IntegralNetwork) -> list[dict[str, int]]:
    """Independent sizes of both groups, most of them far from the paths."""
    return [dict(zip(network.full_sizes, pair, strict=True)) for pair in ((8, 2), (2, 8), (7, 3), (3, 6), (1, 5))]


def test_with_samples_every_size_of_kernels_has_its_own_statistics(
    trained: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    network = IntegralNetwork(trained)
    assert max(distance(network, sizes) for sizes in draws(network)) < 1e-6
    assert not caplog.records


def test_without_samples_they_are_interpolated_and_a_warning_says_so(
    trained: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    network = IntegralNetwork(replace(trained, calibration={}))
    with caplog.at_level(logging.WARNING):
        far = [distance(network, sizes) for sizes in draws(network)]
    assert max(far) > 0.01
    knots = [knot.sizes for knots in network.statistics.paths.values() for knot in knots]
    n_between = sum(sizes not in knots for sizes in draws(network))
    assert len(caplog.records) == n_between > 2
    assert "'small' keeps no calibration samples" in caplog.text
    for sizes in knots:
        assert distance(network, dict(sizes)) < 1e-6
    assert len(caplog.records) == n_between


def test_statistics_of_other_parameters_are_not_kept(trained: Checkpoint) -> None:
    network = IntegralNetwork(trained).eval()
    inputs, sizes = inputs_of(trained), draws(network)[0]
    with torch.inference_mode():
        before = network(inputs, sizes=sizes)
    shaken_(network)
    network.measure_()
    assert distance(network, sizes) < 1e-6
    twin = copy.deepcopy(IntegralNetwork(trained)).eval()
    output = twin(inputs, sizes=sizes)
    close(output.detach(), before)
    output.sum().backward()  # what inference measured is good for training, too


def test_the_sizes_asked_for_last_are_kept(trained: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(between_knots, "SIZES_KEPT", 2)
    kept = BetweenKnots()
    measured: list[int] = []

    def ask(size: int) -> None:
        def measure() -> dict[str, Moments]:
            measured.append(size)
            return {}

        kept.moments(trained, {"a": size}, measure=measure, interpolate=dict)

    for size in (1, 2, 1, 3, 1, 2):
        ask(size)
    assert measured == [1, 2, 3, 2]
    kept.clear()
    ask(2)
    assert measured == [1, 2, 3, 2, 2]
