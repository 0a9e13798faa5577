"""The pipelines as a user runs them, on made-up images: every part measures, resumes, and says what it needs."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import alone
from benchmarks.pipelines import integral, rivals, run
from benchmarks.pipelines.__main__ import main
from benchmarks.pipelines.data import quick
from benchmarks.pipelines.run import Options, Run
from benchmarks.rivals.torch_pruning import Pruned, exported_parameters
from benchmarks.rows import Rows
from inn_core.progress import Progress
from inn_core.training import state as training_state
from inn_core.training.recipes.images import augmented_batches
from models.recipes import classifier

Row = dict[str, Any]


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    places = ["--build", str(tmp_path / "build"), "--output", str(tmp_path / "pipelines.json")]
    return ["--quick", "--no-bfloat16", *places]


def rows_in(folder: Path) -> list[Row]:
    rows: list[Row] = json.loads((folder / "pipelines.json").read_text())["rows"]
    return rows


@pytest.mark.slow
def test_part_a_measures_the_discrete_network_and_the_same_trained_on(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--part", "A", "--seeds", "0", "1", *arguments]) == 0
    rows = rows_in(tmp_path)
    assert [(row["key"]["method"], row["key"]["seed"]) for row in rows] == [
        (method, seed)
        for seed in (0, 1)
        for method in (
            "discrete",
            "discrete, trained on",
            "integral from discrete",
            "integral from scratch",
            "integral from discrete, Algorithm 1",
            "integral from scratch, Algorithm 1",
        )
    ]
    assert rows[1]["found"]["steps"] == 2
    assert len({row["found"]["params"] for row in rows}) == 1
    assert "### Full size" in capsys.readouterr().out
    assert "### Full size" in (tmp_path / "pipelines.md").read_text()


def test_every_seed_has_weights_of_its_own(arguments: list[str], tmp_path: Path) -> None:
    assert main(["--part", "A", "--methods", "discrete", "--seeds", "0", "1", *arguments]) == 0
    first, second = (tmp_path / "build").glob("*-discrete.safetensors")
    assert first.read_bytes() != second.read_bytes()


@pytest.mark.slow
def test_kernels_learn_from_the_same_batches_as_the_discrete_network(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From scratch for as many epochs, and trained on for as many steps, of the very same images."""
    seen: list[list[bytes]] = []

    def watched(*given: Any, **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
        batches: list[bytes] = []
        seen.append(batches)
        for pixels, labels in augmented_batches(*given, **options):
            batches.append(pixels.numpy().tobytes())
            yield pixels, labels

    for module in (classifier, integral):
        monkeypatch.setattr(module, "augmented_batches", watched)
    main(["--part", "A", "--steps", "4", "--epochs", "2", *arguments])
    # 300 images in batches of 128: two epochs of three, or four steps in two epochs
    discrete, trained_on, *kernels = (seen[first : first + 2] for first in range(0, 12, 2))
    assert [len(batches) for batches in discrete] == [3, 3]
    assert kernels == 2 * [trained_on, discrete]
    assert [len(batches) for batches in trained_on] == [3, 1]
    assert [row["found"].get("steps") for row in rows_in(tmp_path)] == [None, 4, *(2 * [4, 6])]


def test_a_second_run_trains_and_measures_nothing(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["--part", "A", "--methods", "discrete", "discrete, trained on"]
    main([*chosen, *arguments])
    before = (tmp_path / "pipelines.json").read_bytes()
    monkeypatch.setattr(run, "train_classifier_", None)
    monkeypatch.setattr(run, "accuracy", None)
    assert main([*chosen, *arguments]) == 0
    assert (tmp_path / "pipelines.json").read_bytes() == before


@pytest.mark.slow
def test_averaged_training_is_measured_beside_that_which_keeps_its_last_step(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--methods", "discrete, trained on", "slimmable", *arguments]
    for part in ("A", "slimmable"):
        assert main(["--part", part, *chosen]) == 0
        assert main(["--part", part, "--average-share", "0.5", *chosen]) == 0
    rows = rows_in(tmp_path)
    averages = [row["key"].get("average_share") for row in rows if row["key"]["share"] == 1.0]
    assert averages == [None, 0.5, None, 0.5]
    seconds = {row["found"]["shared_seconds"] for row in rows if row["key"]["method"] == "slimmable"}
    assert len(seconds) == 2  # each was trained on its own
    text = capsys.readouterr().out
    for method in ("discrete, trained on", "slimmable"):
        assert f"| {method}, averaged over 50 % |" in text
        assert f"| {method}, the last step |" not in text


def test_a_settings_run_never_looks_at_the_test_images(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--part", "A", "--methods", "discrete", "discrete, trained on", "--settings", *arguments]) == 0
    assert all(row["found"]["raw"]["test"] is None for row in rows_in(tmp_path))
    assert not (tmp_path / "pipelines.md").exists()
    assert capsys.readouterr().out == ""


def test_a_network_trained_alone_is_within_its_size(arguments: list[str], tmp_path: Path) -> None:
    assert alone.main(["--share", "0.5", *arguments]) == 0
    (row,) = rows_in(tmp_path)
    made = Options("fashion_resnet", quick=True)
    module = Run(made, quick(with_test=False), Rows(tmp_path / "none.json"))
    assert row["found"]["params"] <= module.params // 2
    assert row["found"]["params"] == exported_parameters(module.make(widths=row["found"]["widths"]))


@pytest.mark.slow
def test_part_slimmable_trains_once_for_all_sizes(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--part", "slimmable", "--network", "nin", "--methods", "slimmable", *arguments]) == 0
    rows = rows_in(tmp_path)
    assert [row["key"]["share"] for row in rows] == [1.0, 0.5, 0.25]
    assert len({row["found"]["shared_seconds"] for row in rows}) == 1
    sizes = [row["found"]["params"] for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    assert "| slimmable, statistics re-estimated |" in capsys.readouterr().out


@pytest.mark.slow
def test_a_slimmable_network_goes_on_where_it_was_stopped(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = ["--part", "slimmable", "--methods", "slimmable", "--steps", "5", "--shares", "0.5", *arguments]
    monkeypatch.setattr(training_state, "SAVE_SECONDS", 0.0)

    def stopped(_run: Run, what: str) -> Progress:
        def report(_stage: str, share: float) -> None:
            if what == "slimmable" and share > 0.5:
                raise KeyboardInterrupt

        return report

    monkeypatch.setattr(Run, "progress", stopped)
    with pytest.raises(KeyboardInterrupt):
        main(chosen)
    (state,) = (tmp_path / "build").glob("*-slimmable-5-*.pt")
    assert torch.load(state, weights_only=True)["step"] == 3
    reported: list[str] = []
    monkeypatch.setattr(Run, "progress", lambda _run, _what: lambda stage, _share: reported.append(stage))
    assert main(chosen) == 0
    assert reported == ["step 4 of 5", "step 5 of 5"]
    assert len(rows_in(tmp_path)) == 2


@pytest.mark.slow
def test_part_b_cuts_samples_kernels_and_folds(arguments: list[str], tmp_path: Path) -> None:
    assert main(["--part", "B", "--network", "vgg", *arguments]) == 0
    rows = rows_in(tmp_path)
    assert {row["key"]["method"] for row in rows} == {
        "largest filters",
        "folding",
        *(f"integral, {kind} partition, {order}" for kind in ("uniform", "tuned") for order in integral.ORDERS),
    }
    assert sorted({row["key"]["share"] for row in rows}) == [0.5, 0.6, 0.7, 0.8, 0.9]
    full = exported_parameters(run.NETWORKS["vgg"].make(widths=(8,) * 8))
    assert all(row["found"]["params"] <= row["key"]["share"] * full for row in rows)


def test_a_settings_run_shares_no_weights_with_a_run_that_saw_its_held_out_images(
    arguments: list[str], tmp_path: Path
) -> None:
    main(["--part", "A", "--methods", "discrete", *arguments])
    main(["--part", "A", "--methods", "discrete", "--settings", *arguments])
    weights = sorted(path.name for path in (tmp_path / "build").glob("*.safetensors"))
    assert len(weights) == 2
    assert ["settings" in name for name in weights] == [False, True]
    reported, tried = rows_in(tmp_path)
    assert reported["found"]["raw"]["validation"] is None
    assert tried["found"]["raw"]["test"] is None


def test_a_quick_run_leaves_the_results_in_the_documents_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--part", "A", "--methods", "discrete", "--quick", "--no-bfloat16", "--build", "build"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["build"]
    assert (tmp_path / "build" / "quick.md").is_file()


def test_cost_needs_the_method_that_sets_the_goals(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="no row of 'slimmable' with seed 0 was measured"):
        main(["--part", "cost", *arguments])


def test_cost_is_measured_only_at_shares_that_are_asked_for(arguments: list[str]) -> None:
    chosen = ["--methods", "slimmable", "--shares", "0.5", *arguments]
    main(["--part", "slimmable", *chosen])
    with pytest.raises(SystemExit, match=r"'slimmable' was measured at \[0.5\], not at \[0.25\]"):
        main(["--part", "cost", "--shares", "0.25", *arguments])


def test_fine_tuning_to_a_goal_counts_steps_and_says_whether_it_got_there(tmp_path: Path) -> None:
    data = quick(with_test=True)
    made = Run(Options("fashion_resnet", quick=True, bfloat16=False), data, Rows(tmp_path / "rows.json"))
    torch.manual_seed(0)
    module = made.make(widths=(4, 4, 4)).eval()
    before = copy.deepcopy(module.state_dict())
    pruned = Pruned(module, exported_parameters(module), 0, 3.0, True)
    easy, hard = rivals.to_goal(made, pruned, 0.0), rivals.to_goal(made, pruned, 1.1)
    assert (easy["steps"], easy["is_reached"]) == (0, True)
    assert easy["seconds"] == pytest.approx(3.0)
    assert not hard["is_reached"]
    assert hard["seconds"] >= 3.0
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_settings_are_judged_on_images_that_are_not_trained_on() -> None:
    data = quick(with_test=False)
    assert data.test is None
    trained, judged = ({image.tobytes() for image in part.images} for part in (data.train, data.validation))
    assert (len(trained), len(judged)) == (240, 60)
    assert not trained & judged


def test_a_report_trains_on_all_training_images_and_never_on_test_images() -> None:
    data = quick(with_test=True)
    assert data.test is not None
    parts = [{image.tobytes() for image in part.images} for part in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [300, 60, 100]
    assert parts[1] <= parts[0]
    assert not parts[0] & parts[2]
    assert {image.tobytes() for image in data.calibration.images} <= parts[0]
    np.testing.assert_allclose(data.calibration_pixels().numpy()[:, 0] * 255, data.calibration.images, atol=1e-3)
