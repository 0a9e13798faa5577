"""Sandwich training: gradients by hand, falling losses, resumption to the bit, errors that say what to do."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # the name every PyTorch reader knows
from torch import Tensor

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import InvalidTrainingError, TrainingStateError
from inn_core.training import state as training_state
from inn_core.training.integral_network import IntegralNetwork
from inn_core.training.loop import make_optimizer, train_sizes_
from inn_core.training.settings import SizeTraining
from inn_core.training.step import Teacher, random_step, sandwich_step
from tests.inn_core.graph.tiny import model_of, node
from tests.inn_core.sized_networks import (
    Repeated,
    inputs_of,
    own_output,
    shaken_,
    shares,
    small_residual,
    small_transposed,
    smoothed,
    with_kernels,
)
from tests.inn_core.trained_networks import gaussian, integral


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return smoothed(small_residual())


@pytest.fixture(scope="module")
def batches(checkpoint: Checkpoint) -> Repeated:
    """Labels that can be learned: the rank of the mean of an image."""
    inputs = inputs_of(checkpoint)
    return Repeated(inputs, inputs.mean((1, 2, 3)).argsort().argsort() * 5 // len(inputs), 16)


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target)


def kl(full: Tensor, sized: Tensor) -> Tensor:
    """PyTorch's own divergence of two batches of logits."""
    return F.kl_div(sized.log_softmax(1), full.log_softmax(1), reduction="batchmean", log_target=True)


@pytest.mark.parametrize("task_share", [0.0, 0.25])
def test_a_step_adds_the_gradients_of_the_losses_by_hand(
    checkpoint: Checkpoint, batches: Repeated, task_share: float
) -> None:
    settings = SizeTraining(smaller_sizes=3, task_share=task_share)
    network, twin = (shaken_(IntegralNetwork(checkpoint, seed=9)).train() for _ in range(2))
    ((inputs,), labels) = batches.epoch(0)[0]
    value = sandwich_step(network, (inputs,), labels, settings=settings, task_loss=cross_entropy)
    full = twin(inputs, sizes=twin.full_sizes)
    loss = F.cross_entropy(full, labels)
    assert value == pytest.approx(float(loss.detach()), rel=1e-6)
    for each in twin.sandwich(smaller=3):
        sized = twin(inputs, sizes=each)
        loss = loss + (1 - task_share) * kl(full.detach(), sized) + task_share * F.cross_entropy(sized, labels)
    loss.backward()
    assert int(network.draws_taken) == 1
    for parameter, expected in zip(network.parameters(), twin.parameters(), strict=True):
        assert parameter.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("labels", [True, False])
def test_a_step_of_algorithm_1_adds_the_gradient_at_one_random_size(
    checkpoint: Checkpoint, batches: Repeated, labels: bool
) -> None:
    settings = SizeTraining(rule="random")
    network, twin = (shaken_(IntegralNetwork(checkpoint, independent=1.0, seed=9)).train() for _ in range(2))
    ((inputs,), targets) = batches.epoch(0)[0]
    task, teacher = (cross_entropy, None) if labels else (None, Teacher(network))
    value = random_step(network, (inputs,), targets, settings=settings, task_loss=task, teacher=teacher)
    sizes = twin.sample_sizes()
    assert sizes != twin.full_sizes
    sized = twin(inputs, sizes=sizes)
    loss = F.cross_entropy(sized, targets) if labels else kl(own_output(checkpoint, inputs), sized)
    loss.backward()
    assert value == pytest.approx(float(loss.detach()), rel=1e-5)
    assert int(network.draws_taken) == 1
    for parameter, expected in zip(network.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_without_labels_a_step_learns_from_the_checkpoint(checkpoint: Checkpoint, batches: Repeated) -> None:
    settings = SizeTraining(smaller_sizes=2)
    network, twin = (shaken_(IntegralNetwork(checkpoint, seed=9)).train() for _ in range(2))
    ((inputs,), labels) = batches.epoch(0)[0]
    sandwich_step(network, (inputs,), labels, settings=settings, task_loss=None, teacher=Teacher(network))
    reference = own_output(checkpoint, inputs)
    sizes = [twin.full_sizes, *twin.sandwich(smaller=2)]
    torch.stack([kl(reference, twin(inputs, sizes=each)) for each in sizes]).sum().backward()
    for parameter, expected in zip(network.parameters(), twin.parameters(), strict=True):
        assert parameter.grad is not None
        assert expected.grad is not None
        torch.testing.assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize(("kernels", "rule"), [(False, "sandwich"), (True, "sandwich"), (True, "random")])
def test_every_size_learns_the_task(
    checkpoint: Checkpoint, batches: Repeated, optimizer: str, kernels: bool, rule: str
) -> None:
    network = with_kernels(checkpoint) if kernels else IntegralNetwork(checkpoint)

    def losses() -> list[float]:
        with torch.no_grad():
            network.train()
            return [
                float(cross_entropy(network(batches.inputs, sizes=shares(checkpoint, share)), batches.targets))
                for share in (1.0, 0.6, 0.4)
            ]

    before = losses()
    seen: list[tuple[int, float]] = []
    epochs = 8 if rule == "sandwich" else 16  # a step trains one size instead of four
    peak_rate = 0.05 if optimizer == "sgd" else 0.02
    settings = SizeTraining(epochs=epochs, optimizer=optimizer, peak_rate=peak_rate, rule=rule)
    train_sizes_(
        network,
        batches,
        settings=settings,
        task_loss=cross_entropy,
        after_epoch=lambda epoch, loss: seen.append((epoch, loss)),
    )
    assert not network.training
    assert [epoch for epoch, _ in seen] == list(range(1, epochs + 1))
    assert seen[-1][1] < 0.8 * seen[0][1]
    assert all(now < 0.85 * then for now, then in zip(losses(), before, strict=True))


def test_without_labels_sizes_approach_the_network_that_stays_what_it_was(
    checkpoint: Checkpoint, batches: Repeated
) -> None:
    network = IntegralNetwork(checkpoint)
    reference = own_output(checkpoint, batches.inputs)

    def distance(share: float) -> float:
        with torch.no_grad():
            return float(kl(reference, network.train()(batches.inputs, sizes=shares(checkpoint, share))))

    before = distance(0.5)
    train_sizes_(network, batches, settings=SizeTraining(epochs=12, peak_rate=0.02))
    assert distance(0.5) < 0.5 * before
    network.measure_()
    with torch.no_grad():
        assert float(kl(reference, network.eval()(batches.inputs))) < 0.02


def test_images_are_learned_without_labels_and_in_bfloat16() -> None:
    checkpoint = small_transposed()
    network = IntegralNetwork(checkpoint, normalize=False)
    inputs = inputs_of(checkpoint)
    reference = own_output(checkpoint, inputs)

    def error() -> float:
        with torch.no_grad():
            return float(
                F.mse_loss(network(inputs, sizes=shares(checkpoint, 0.5)), reference) / reference.square().mean()
            )

    before = error()
    settings = SizeTraining(epochs=10, optimizer="adam", peak_rate=0.01, bfloat16=True)
    train_sizes_(network, Repeated(inputs, torch.zeros(len(inputs)), 12), settings=settings)
    assert error() < 0.7 * before


class KilledError(Exception):
    """Stands for SIGKILL: nothing is tidied up."""


@pytest.mark.parametrize("save_seconds", [0.0, math.inf])
@pytest.mark.parametrize(("labels", "rule"), [(True, "sandwich"), (False, "sandwich"), (True, "random")])
def test_a_run_that_was_killed_ends_with_the_same_bits(
    checkpoint: Checkpoint,
    batches: Repeated,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save_seconds: float,
    labels: bool,
    rule: str,
) -> None:
    """In the middle of an epoch, twice; states are saved after every step, or only after epochs."""
    monkeypatch.setattr(training_state, "SAVE_SECONDS", save_seconds)
    settings = SizeTraining(epochs=3, optimizer="adam", peak_rate=0.01, rule=rule, average_share=0.5)
    task = cross_entropy if labels else None
    whole = IntegralNetwork(checkpoint)
    train_sizes_(whole, batches, settings=settings, task_loss=task)
    state = tmp_path / "run.state"
    starts = []
    for killed_at in (2, 5, None):
        network = IntegralNetwork(checkpoint)
        shares_seen: list[float] = []

        def progress(_: str, share: float, at: int | None = killed_at, seen: list[float] = shares_seen) -> None:
            seen.append(share)
            if at is not None and round(share * 9) == at:
                raise KilledError

        if killed_at is None:
            train_sizes_(network, batches, settings=settings, task_loss=task, state_path=state, progress=progress)
        else:
            with pytest.raises(KilledError):
                train_sizes_(network, batches, settings=settings, task_loss=task, state_path=state, progress=progress)
        starts.append(round(shares_seen[0] * 9) - 1)
    assert starts == ([0, 1, 4] if save_seconds == 0 else [0, 0, 3])
    for name, tensor in whole.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_run_ends_with_the_average_of_its_steps(checkpoint: Checkpoint, batches: Repeated, share: float) -> None:
    network = IntegralNetwork(checkpoint)
    seen: list[list[Tensor]] = []

    def progress(_: str, __: float) -> None:
        seen.append([parameter.detach().clone() for parameter in network.parameters()])

    settings = SizeTraining(epochs=3, average_share=share)
    train_sizes_(network, batches, settings=settings, task_loss=cross_entropy, progress=progress)
    count = len(seen)
    weights = {
        0.0: [0.0] * (count - 1) + [1.0],
        0.25: [float(k * (k + 1) * (k + 2)) for k in range(1, count + 1)],
        1.0: [1.0] * count,
    }[share]
    for found, *steps in zip(network.parameters(), *seen, strict=True):
        expected = sum(weight * step for weight, step in zip(weights, steps, strict=True)) / sum(weights)
        torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_finished_run_is_not_run_again(
    checkpoint: Checkpoint, batches: Repeated, tmp_path: Path, share: float
) -> None:
    state = tmp_path / "run.state"
    settings = SizeTraining(epochs=1, average_share=share)
    first, second = IntegralNetwork(checkpoint), IntegralNetwork(checkpoint)
    train_sizes_(first, batches, settings=settings, task_loss=cross_entropy, state_path=state)
    steps: list[float] = []
    train_sizes_(
        second,
        batches,
        settings=settings,
        task_loss=cross_entropy,
        state_path=state,
        progress=lambda _, share: steps.append(share),
    )
    assert steps == []
    for name, tensor in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor)


def test_the_state_of_another_run_is_refused(checkpoint: Checkpoint, batches: Repeated, tmp_path: Path) -> None:
    state = tmp_path / "run.state"
    settings = SizeTraining(epochs=1)
    train_sizes_(IntegralNetwork(checkpoint), batches, settings=settings, task_loss=cross_entropy, state_path=state)
    others = [
        (IntegralNetwork(checkpoint), SizeTraining(epochs=2), cross_entropy),
        (IntegralNetwork(checkpoint), SizeTraining(epochs=1, rule="random"), cross_entropy),
        (IntegralNetwork(checkpoint), settings, None),
        (IntegralNetwork(checkpoint, seed=1), settings, cross_entropy),
        (IntegralNetwork(checkpoint, smallest=0.5), settings, cross_entropy),
        (IntegralNetwork(checkpoint, normalize=False), settings, cross_entropy),
        (with_kernels(checkpoint), settings, cross_entropy),
        (IntegralNetwork(small_transposed()), settings, cross_entropy),
    ]
    for network, other, task in others:
        with pytest.raises(TrainingStateError, match=r"run\.state' belongs to another run"):
            train_sizes_(network, batches, settings=other, task_loss=task, state_path=state)


def test_a_cut_state_is_refused(checkpoint: Checkpoint, batches: Repeated, tmp_path: Path) -> None:
    state = tmp_path / "run.state"
    settings = SizeTraining(epochs=1)
    train_sizes_(IntegralNetwork(checkpoint), batches, settings=settings, task_loss=cross_entropy, state_path=state)
    state.write_bytes(state.read_bytes()[:-1000])
    with pytest.raises(TrainingStateError, match="cannot be read"):
        train_sizes_(IntegralNetwork(checkpoint), batches, settings=settings, task_loss=cross_entropy, state_path=state)


def test_a_loss_that_is_not_finite_ends_the_run(checkpoint: Checkpoint, batches: Repeated, tmp_path: Path) -> None:
    def nan(output: Tensor, _: Tensor) -> Tensor:
        return output.sum() * math.nan

    for rule, whose in (("sandwich", "the full network"), ("random", "a random size")):
        network = IntegralNetwork(checkpoint)
        with pytest.raises(
            InvalidTrainingError, match=rf"of {whose} is nan; lower the learning rate \(peak_rate 0.1\)"
        ):
            train_sizes_(
                network, batches, settings=SizeTraining(rule=rule), task_loss=nan, state_path=tmp_path / "run.state"
            )
        assert not (tmp_path / "run.state").exists()


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("optimizer", "lion"),
        ("rule", "largest"),
        ("epochs", 0),
        ("smaller_sizes", -1),
        ("warmup_share", 1.0),
        ("warmup_share", -0.1),
        ("task_share", 1.5),
        ("average_share", 1.5),
        ("average_share", -0.5),
        ("peak_rate", 0.0),
        ("peak_rate", math.nan),
        ("weight_decay", -1.0),
    ],
)
def test_settings_out_of_range_are_named(member: str, value: object) -> None:
    with pytest.raises(InvalidTrainingError, match=member):
        SizeTraining(**{member: value})


def test_the_rate_climbs_and_falls_in_straight_lines() -> None:
    settings = SizeTraining(peak_rate=2.0, warmup_share=0.25)
    assert [settings.rate(p) for p in (0, 0.125, 0.25, 0.625, 1)] == pytest.approx([0, 1, 2, 1, 0])
    assert SizeTraining(peak_rate=2.0, warmup_share=0.0).rate(0.0) == 2.0


def test_matrices_decay_and_vectors_do_not(checkpoint: Checkpoint) -> None:
    network = IntegralNetwork(checkpoint)
    decayed, plain = make_optimizer(network, SizeTraining(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert {parameter.ndim for parameter in plain["params"]} == {1}
    assert sum(len(group["params"]) for group in (decayed, plain)) == len(list(network.parameters()))


def test_an_epoch_without_batches_is_refused(checkpoint: Checkpoint) -> None:
    empty = Repeated(inputs_of(checkpoint)[:3], torch.zeros(3), 16)
    with pytest.raises(InvalidTrainingError, match="no batches"):
        train_sizes_(IntegralNetwork(checkpoint), empty, settings=SizeTraining(), task_loss=cross_entropy)


def test_a_network_with_several_outputs_learns_from_all_of_them() -> None:
    model = model_of(
        [
            node("Gemm", "x w1 b1", "h"),
            node("Relu", "h", "a"),
            node("Gemm", "a w2 b2", "y"),
            node("Gemm", "a w3 b3", "z"),
        ],
        weights={"w1": (6, 12), "b1": (12,), "w2": (12, 4), "b2": (4,), "w3": (12, 3), "b3": (3,)},
        inputs={"x": (6,)},
        outputs=("y", "z"),
    )
    checkpoint = integral(model, {"x": gaussian(48, 6)})
    network = IntegralNetwork(checkpoint)
    inputs = inputs_of(checkpoint)
    reference = network.train()(inputs)
    assert [tuple(output.shape) for output in reference] == [(48, 4), (48, 3)]

    def distances() -> list[float]:
        with torch.no_grad():
            sized = network.train()(inputs, sizes=shares(checkpoint, 0.5))
            return [float(kl(full.detach(), other)) for full, other in zip(reference, sized, strict=True)]

    before = distances()
    batches = Repeated(inputs, torch.zeros(48), 16)
    train_sizes_(network, batches, settings=SizeTraining(epochs=10, peak_rate=0.05))
    assert np.all(np.array(distances()) < 0.7 * np.array(before))


def test_a_state_of_when_distillation_had_a_temperature_goes_on_where_that_was_one(
    checkpoint: Checkpoint, batches: Repeated, tmp_path: Path
) -> None:
    settings, state = SizeTraining(epochs=1, optimizer="adam", peak_rate=0.01), tmp_path / "run.state"
    train_sizes_(IntegralNetwork(checkpoint), batches, settings=settings, state_path=state)
    saved = torch.load(state, weights_only=True)
    assert saved["identity"]["temperature"] == 1.0  # as earlier releases wrote it when it was left alone
    train_sizes_(IntegralNetwork(checkpoint), batches, settings=settings, state_path=state)
    saved["identity"]["temperature"] = 2.0
    torch.save(saved, state)
    with pytest.raises(TrainingStateError):
        train_sizes_(IntegralNetwork(checkpoint), batches, settings=settings, state_path=state)
