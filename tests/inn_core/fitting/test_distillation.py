"""Distillation: closer to the full network on its own samples, repeatable, and only the linear weights move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.discretize.discretize import fit_methods
from inn_core.fitting.distillation import BATCH, EPOCHS, MIXED_COPIES, affordable_epochs, distill, prepare_teacher
from inn_core.fitting.divergence import mean_divergence
from inn_core.fitting.lockstep import SEQUENTIAL
from inn_core.fitting.runtime import LoadedNetwork, run_outputs
from inn_core.graph.program import Program
from tests.inn_core.graph.tiny import model_of, node
from tests.inn_core.trained_networks import CPU, engine_of, integral, smooth_images


@dataclass(frozen=True)
class Setting:
    """A sized network fitted by least squares, ready to be taught."""

    network: Checkpoint
    loaded: LoadedNetwork
    program: Program
    sizes: dict[str, int]
    start: dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def setting() -> Setting:
    pad = [1, 1, 1, 1]
    model = model_of(
        [
            node("Conv", "x w0 b0", "h", pads=pad, strides=[2, 2]),
            node("PRelu", "h slope", "r"),
            node("Conv", "r w1 b1", "g", pads=pad),
            node("Relu", "g", "q"),
            node("Mul", "q gain", "m"),
            node("GlobalAveragePool", "m", "p"),
            node("Flatten", "p", "f"),
            node("Gemm", "f w2 b2", "y"),
        ],
        weights={
            "w0": (12, 3, 3, 3),
            "b0": (12,),
            "slope": (12, 1, 1),
            "w1": (12, 12, 3, 3),
            "b1": (12,),
            "gain": (12, 1, 1),
            "w2": (12, 5),
            "b2": (5,),
        },
        inputs={"x": (3, 8, 8)},
    )
    network = integral(model, {"x": smooth_images(96)})
    loaded = engine_of(network)
    sizes = dict.fromkeys(network.structure.full_sizes(), 3)
    chunks = loaded.chunks(network.calibration)
    fitted, program = fit_methods(network, sizes, loaded, [SEQUENTIAL], chunks)
    return Setting(network, loaded, program, sizes, fitted["sequential"])


def taught(setting: Setting, *, epochs: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    teacher = prepare_teacher(setting.loaded, setting.network.calibration)
    return distill(
        setting.network, setting.loaded, setting.program, setting.start, setting.sizes, teacher,
        epochs=epochs, seed=seed,
    )  # fmt: skip


def test_the_divergence_on_its_own_samples_falls(setting: Setting) -> None:
    teacher = prepare_teacher(setting.loaded, setting.network.calibration)
    chunks = [teacher.inputs]

    def score(weights: dict[str, torch.Tensor]) -> float:
        return mean_divergence(teacher.outputs, run_outputs(setting.program, weights, chunks), teacher.kinds)

    assert score(taught(setting)) < 0.9 * score(setting.start)


def test_equal_arguments_give_equal_weights_and_another_seed_others(setting: Setting) -> None:
    once, again, other = taught(setting), taught(setting), taught(setting, seed=1)
    assert all(torch.equal(once[name], again[name]) for name in once)
    assert any(not torch.equal(once[name], other[name]) for name in once)


def test_only_weights_of_linear_nodes_change_and_the_start_stays(setting: Setting) -> None:
    before = {name: tensor.clone() for name, tensor in setting.start.items()}
    found = taught(setting, epochs=1)
    assert all(torch.equal(setting.start[name], tensor) for name, tensor in before.items())
    changed = {name for name in found if not torch.equal(found[name], before[name])}
    assert changed == {"w0", "b0", "w1", "b1", "w2", "b2"}
    assert all(found[name].shape == before[name].shape for name in found)
    assert not any(tensor.requires_grad for tensor in found.values())


def test_lessons_are_the_samples_and_mixtures_with_the_full_networks_answers(setting: Setting) -> None:
    samples = setting.network.calibration["x"]
    teacher = prepare_teacher(setting.loaded, setting.network.calibration)
    inputs = teacher.inputs["x"].numpy()
    assert len(inputs) == len(samples) * (1 + MIXED_COPIES)
    np.testing.assert_array_equal(inputs[: len(samples)], samples)
    for i in range(len(samples), len(inputs)):
        own = samples[i % len(samples)]
        differs = (inputs[i] != own).any(0)
        rows, columns = np.flatnonzero(differs.any(1)), np.flatnonzero(differs.any(0))
        if len(rows):  # an image may be mixed with itself
            box = (slice(None), slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            assert any(np.array_equal(inputs[i][box], donor[box]) for donor in samples)
    expected = run_outputs(setting.loaded.program, setting.loaded.weights, [{"x": teacher.inputs["x"]}])["y"]
    torch.testing.assert_close(teacher.outputs["y"], expected)
    assert teacher.features is not None
    assert teacher.features.shape == (len(inputs), 12)


def test_small_networks_are_trained_longer_and_large_ones_not_at_all() -> None:
    assert affordable_epochs(1, 100, CPU) == EPOCHS[1]
    assert affordable_epochs(10**12, 1000, CPU) == 0
    found = [affordable_epochs(10**k, 1000, CPU) for k in range(3, 10)]
    assert found == sorted(found, reverse=True)
    assert all(epochs == 0 or EPOCHS[0] <= epochs <= EPOCHS[1] for epochs in found)


def test_progress_rises_to_the_end(setting: Setting) -> None:
    teacher = prepare_teacher(setting.loaded, setting.network.calibration)
    seen: list[float] = []
    distill(
        setting.network, setting.loaded, setting.program, setting.start, setting.sizes, teacher,
        epochs=2, progress=lambda _, share: seen.append(share),
    )  # fmt: skip
    assert len(seen) == 2 * (96 * (1 + MIXED_COPIES) // BATCH)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)
