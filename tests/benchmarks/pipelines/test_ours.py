"""Rows of our own network: exported, run in ONNX Runtime, and beside the rivals in the report and in the cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.pipelines import ours
from benchmarks.pipelines.__main__ import main
from benchmarks.pipelines.data import quick
from benchmarks.pipelines.run import Options, Run
from benchmarks.rivals.torch_pruning import exported_parameters
from benchmarks.rows import Rows
from inn_core.checkpoint.storage import load_checkpoint, save_checkpoint
from inn_core.errors import QualityUnavailableError
from inn_core.files import file_digest
from inn_core.training.integral_network import IntegralNetwork

pytestmark = pytest.mark.slow  # a network is imported and trained first

Row = dict[str, Any]

QUICK = Options("fashion_resnet", quick=True, bfloat16=False, epochs=1, shares=(0.5,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run that imported its discrete network, with a checkpoint of trained sizes made of it."""
    folder = tmp_path_factory.mktemp("ours")
    source = ours.imported(made(folder))
    training = {"steps": 7, "seconds": 20.0, "seed": 0, "settings": {"peak_rate": 0.03, "average_share": 0.2}}
    network = replace(source.network, provenance={"training": training})
    IntegralNetwork(network).save(folder / "trained.inn")
    return folder


def made(folder: Path, **options: Any) -> Run:
    build = {"build": folder / "build"}
    return Run(replace(QUICK, **{**build, **options}), quick(with_test=True), Rows(folder / "none.json"))


def measured(folder: Path, output: Path, *chosen: str) -> list[Row]:
    """Rows of part C."""
    places = ["--build", str(folder / "build"), "--output", str(output)]
    arguments = ["--part", "C", "--quick", "--no-bfloat16", "--epochs", "1", "--shares", "0.5"]
    assert main([*arguments, *places, *chosen]) == 0
    rows: list[Row] = json.loads(output.read_text())["rows"]
    return rows


def test_an_imported_network_is_measured_at_every_size(folder: Path, tmp_path: Path) -> None:
    rows = measured(folder, tmp_path / "rows.json", "--methods", ours.REFINED, ours.INSTANT)
    assert [(row["key"]["method"], row["key"]["share"]) for row in rows] == [
        (method, share) for method in (ours.REFINED, ours.INSTANT) for share in (1.0, 0.5)
    ]
    assert all("checkpoint" not in row["key"] and row["found"]["shared_steps"] == 0 for row in rows)
    run = made(folder)
    full, half = rows[0]["found"], rows[1]["found"]
    assert full["params"] == exported_parameters(run.discrete)
    assert half["params"] <= full["params"] // 2
    assert half["macs"] < full["macs"]
    # another runtime and another arithmetic of BatchNorm: an image on the edge between two classes may tip
    assert abs(full["raw"]["test"] - run.judge_module(run.discrete)["test"]) <= 0.01
    assert full["made_by"] == "full"


def test_a_trained_checkpoint_is_measured_under_its_digest(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder / "trained.inn"
    chosen = ["--methods", *ours.OF_TRAINED, "--checkpoint", str(path)]
    rows = measured(folder, tmp_path / "rows.json", *chosen)
    assert [row["key"]["method"] for row in rows] == [method for method in ours.OF_TRAINED for _ in range(2)]
    sources = {(row["key"]["checkpoint"], row["key"]["rate"], row["key"]["average_share"]) for row in rows}
    assert sources == {(file_digest(path)[7:19], 0.03, 0.2)}
    assert {(row["found"]["shared_steps"], row["found"]["shared_seconds"]) for row in rows} == {(7, 20.0)}
    text = capsys.readouterr().out
    assert "- ours, trained: 1 seed, 7 steps" in text
    assert "| ours, trained sizes, 7 steps | 20 s, 7 |" in text


def test_what_training_took_can_be_given(folder: Path) -> None:
    source = ours.trained(made(folder, checkpoint=folder / "trained.inn", shared_seconds=30.0, shared_steps=9))
    assert (source.shared_seconds, source.shared_steps) == (30.0, 9)


def test_a_checkpoint_that_does_not_say_what_it_took_is_refused(folder: Path, tmp_path: Path) -> None:
    network = replace(load_checkpoint(folder / "trained.inn"), provenance={"training": {"steps": 7}})
    save_checkpoint(network, tmp_path / "silent.inn")
    with pytest.raises(SystemExit, match="give them with --shared-seconds"):
        ours.trained(made(folder, checkpoint=tmp_path / "silent.inn"))


def test_a_checkpoint_of_another_seed_network_or_kind_is_refused(folder: Path) -> None:
    path = folder / "trained.inn"
    with pytest.raises(SystemExit, match="trained with seed 0; measure it with --seeds 0"):
        ours.trained(made(folder, checkpoint=path, seed=1))
    with pytest.raises(SystemExit, match="give a checkpoint of that network"):
        ours.trained(made(folder, checkpoint=path, network="nin"))
    (untrained,) = (folder / "build").glob("*-imported.inn")
    with pytest.raises(QualityUnavailableError, match="not trained in its sizes"):
        ours.trained(made(folder, checkpoint=untrained))


def test_trained_sizes_that_are_asked_for_without_a_checkpoint_are_trained(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once: the weights differ from those of the import, and the second time the checkpoint is there."""
    run = made(folder, methods=(ours.TRAINED,), steps=(0, 4))
    trained = ours.trained(run)
    assert trained.shared_steps == 6  # whole epochs of three batches
    assert trained.shared_seconds > 0
    assert trained.network.provenance["training"]["settings"]["task_share"] > 0
    before = ours.imported(run).network.weights
    assert any(not np.array_equal(before[name], weight) for name, weight in trained.network.weights.items())
    monkeypatch.setattr(ours, "run_recipe", None)
    assert ours.trained(run).digest == trained.digest


def test_a_checkpoint_is_of_one_seed(folder: Path) -> None:
    arguments = ["--part", "C", "--quick", "--seeds", "0", "1", "--checkpoint", str(folder / "trained.inn")]
    with pytest.raises(SystemExit, match="one network and one seed"):
        main(arguments)


def test_a_file_that_is_no_checkpoint_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.inn"
    broken.write_bytes(b"none")
    arguments = ["--part", "C", "--quick", "--methods", ours.TRAINED, "--checkpoint", str(broken)]
    places = ["--build", str(folder / "build"), "--output", str(tmp_path / "rows.json")]
    assert main([*arguments, *places]) == 1
    assert "broken.inn" in capsys.readouterr().err
