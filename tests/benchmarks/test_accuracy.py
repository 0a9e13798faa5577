"""The accuracy benchmark counts as it says, and its tables show what was measured."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.accuracy.report import best_rows, tables
from benchmarks.rivals.torch_pruning import count_macs, exported_parameters, reestimate_statistics


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Flatten(),
        nn.Linear(6 * 2 * 2, 5),
    ).eval()


def row(params: int, raw: float, again: float, *, is_hit: bool = True) -> dict[str, Any]:
    return {
        "params": params,
        "macs": 1_000_000,
        "seconds": 1.0,
        "is_hit": is_hit,
        "accuracy": raw,
        "accuracy_reestimated": again,
    }


@pytest.fixture
def results() -> dict[str, Any]:
    environment = {"torch": "2", "cores": 2, "threads": 1}
    settings = {"A": [row(500, 0.5, 0.7), row(250, 0.4, 0.45)], "B": [row(490, 0.6, 0.65), row(200, 0.1, 0.5)]}
    full = {"params": 1000, "macs": 4_000_000, "accuracy": 0.9}
    ours = {"full": full, "calibration_images": 8, "refined": [row(499, 0.89, 0), row(249, 0.8, 0)]}
    return {
        "ours": {**ours, "environment": environment},
        "rival": {"full": full, "settings": settings, "environment": environment},
    }


def test_parameters_are_counted_with_normalization_folded(module: nn.Module) -> None:
    assert exported_parameters(module) == (4 * 9 + 4) + (6 * 2 * 9 + 6) + (24 * 5 + 5)


def test_macs_are_weights_times_positions(module: nn.Module) -> None:
    image = torch.zeros(1, 1, 8, 8)
    assert count_macs(module, image) == 16 * 36 + 4 * 108 + 120


def test_reestimated_statistics_are_those_of_the_images(module: nn.Module) -> None:
    images = torch.rand(32, 1, 8, 8)
    again = reestimate_statistics(module, images)
    outputs = module[0](images).detach().numpy()
    np.testing.assert_allclose(again[1].running_mean.numpy(), outputs.mean((0, 2, 3)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(again[1].running_var.numpy(), outputs.var((0, 2, 3), ddof=1), rtol=1e-5)
    assert not again.training
    assert torch.equal(module[1].running_mean, torch.zeros(4))


def test_the_best_setting_is_picked_for_each_size(results: dict[str, Any]) -> None:
    assert [best["accuracy"] for best in best_rows(results["rival"], "accuracy_reestimated")] == [0.7, 0.5]
    assert [best["params"] for best in best_rows(results["rival"], "accuracy_reestimated")] == [500, 200]
    assert [best["accuracy"] for best in best_rows(results["rival"], "accuracy")] == [0.6, 0.4]


def test_tables_show_accuracy_points_lost_and_shares(results: dict[str, Any]) -> None:
    text = tables(results, (0.5, 0.25))
    assert "|  | 50 % | 25 % |" in text
    assert "| refined (default) | 89.00 | 80.00 |" in text
    assert "| refined (default) | 1.00 | 10.00 |" in text
    assert "| refined (default): % of parameters | 49.90 | 24.90 |" in text
    assert "| Torch-Pruning, BN re-estimated | 20.00 | 40.00 |" in text


def test_a_missed_size_is_marked(results: dict[str, Any]) -> None:
    results["rival"]["settings"]["B"][1]["is_hit"] = False
    assert "| B | 60.0 → 65.0 | 10.0 → 50.0* |" in tables(results, (0.5, 0.25))


def test_one_half_alone_makes_a_report(results: dict[str, Any]) -> None:
    assert "Torch-Pruning" not in tables({"ours": results["ours"]}, (0.5, 0.25))
    assert "refined" not in tables({"rival": results["rival"]}, (0.5, 0.25))
