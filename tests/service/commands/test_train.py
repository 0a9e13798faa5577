"""`inn train`: labels or none, stops and resumptions, what it refuses, and exports of what it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from typer.testing import CliRunner, Result

import inn_core.checkpoint.storage
import inn_core.exporting.curve
import inn_core.training.recipes.run
import inn_core.training.state
from inn_core.checkpoint.storage import load_checkpoint, save_checkpoint
from inn_core.graph.cost import CostModel
from inn_core.training.integral_network import IntegralNetwork
from service.cli import app
from tests.service.training import samples, small_checkpoint, write_desk

ROOT = Path(__file__).resolve().parents[3]
PARITY = 1e-4
SIGKILL_STATUS = -9


def inn(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> str:
    result = inn(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def inn_process(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a network, samples and a recipe; threads and modules are as before afterwards."""
    write_desk(tmp_path)
    monkeypatch.chdir(tmp_path)
    # The recipe changes it.
    monkeypatch.setattr(inn_core.training.state, "SAVE_SECONDS", inn_core.training.state.SAVE_SECONDS)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)
    sys.modules.pop("stoppable", None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with `out.inn`, trained with labels, and what the command printed."""
    folder = tmp_path_factory.mktemp("trained")
    write_desk(folder)
    data = folder / "data.npz"
    arguments = ("--data", data, "--evaluate", data, "--epochs", 3, "--curve", folder / "curve.json", "--json")
    return folder, json.loads(done("train", folder / "small.inn", "-o", folder / "out.inn", *arguments))


def test_a_trained_checkpoint_says_how_it_was_trained(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, result = trained
    description = json.loads(done("inspect", folder / "out.inn", "--json"))
    assert description["checkpoint"] == result["checkpoint"]
    assert description["qualities"] == ["refined", "instant", "trained", "uniform"]
    training = description["provenance"]["training"]
    assert training == result["training"]
    assert result["seconds"] > 0
    assert training["labels"] is True
    assert training["settings"]["epochs"] == 3
    assert training["steps"] == 3 * 2  # 64 samples in batches of 32
    assert not (folder / "out.inn.state").exists()


def test_the_final_curve_is_that_of_the_written_file(trained: tuple[Path, dict[str, Any]]) -> None:
    folder, result = trained
    assert json.loads((folder / "curve.json").read_text()) == result["curve"]
    sizes = ",".join(str(point["params"]) for point in result["curve"]["points"])
    again = json.loads(
        done(
            "curve",
            folder / "out.inn",
            "--data",
            folder / "data.npz",
            "--params",
            sizes,
            "--quality",
            "trained",
            "--json",
        )
    )
    for old, new in zip(result["curve"]["points"], again["points"], strict=True):
        assert {**old, "seconds": 0} == {**new, "seconds": 0}
    assert result["curve"]["full"]["accuracy"] is not None


def test_the_final_curve_goes_from_the_smallest_size_that_was_trained_to_the_full_network(
    trained: tuple[Path, dict[str, Any]],
) -> None:
    """Below, trained sizes fall off, and every point there would say so."""
    folder, result = trained
    network = IntegralNetwork.load(folder / "out.inn", smallest=result["training"]["smallest"])
    cost = CostModel.of(network.checkpoint.template, network.checkpoint.structure)
    found = [point["params"] for point in result["curve"]["points"]]
    assert found[0] <= int(cost.evaluate("params", cost.to_row(network.smallest_sizes))[0]) <= found[1]
    assert found[-1] == result["curve"]["full"]["params"]
    assert found == sorted(found)


@pytest.mark.parametrize("quality", ["trained", "uniform", "instant", "refined"])
def test_every_quality_of_a_trained_checkpoint_can_be_exported(
    quality: str, trained: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, result = trained
    target = result["curve"]["full"]["params"] // 3
    output = tmp_path / "a.onnx"
    text = done("export", folder / "out.inn", "--params", target, "--quality", quality, "-o", output, "--json")
    manifest = json.loads(text)
    counted = sum(int(np.prod(tensor.dims)) for tensor in onnx.load(output).graph.initializer if tensor.data_type == 1)
    assert counted == manifest["params"] <= target
    assert manifest["quality"] == quality
    assert manifest["parity"] <= PARITY


def test_a_recipe_imports_a_package_called_models_of_its_own(tmp_path: Path) -> None:
    """People call theirs so; none of ours may be found in its place."""
    write_desk(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("START = 'small.inn'\n")
    (tmp_path / "rec.py").write_text(
        "import stoppable\n"
        "from inn_core.checkpoint.storage import load_checkpoint\n"
        "from models import START\n"
        "from dataclasses import replace\n"
        "def recipe():\n"
        "    return replace(stoppable.recipe(), start=lambda: load_checkpoint(START))\n"
    )
    finished = inn_process("train", "rec:recipe", "-o", "out.inn", "--epochs", "1", folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "out.inn").is_file()


def test_without_labels_none_are_read(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Which precision is faster is measured, and two measurements may come out differently.
    monkeypatch.setattr(inn_core.training.recipes.run, "is_bfloat16_faster", lambda *arguments, **options: False)
    plain = samples()["x"]
    np.savez("bare.npz", x=plain)
    np.savez("wrong.npz", x=plain, labels=np.full(7, 1e9))
    digests = []
    for data in ("bare.npz", "wrong.npz"):
        arguments = ("--data", data, "--unlabelled", "--epochs", 2, "--threads", 1, "--json")
        result = json.loads(done("train", "small.inn", "-o", "out.inn", *arguments))
        assert result["training"]["labels"] is False
        assert result["curve"]["full"]["accuracy"] is None
        digests.append(result["checkpoint"])
    assert digests[0] == digests[1]


def test_the_start_is_loaded_once_and_runs_over_the_samples_only_when_it_is_trained(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curve is that of the trained sizes; what it would say of the samples is known from the graph before."""
    loads: list[str] = []
    curves: list[bool] = []
    load, curve = inn_core.checkpoint.storage.load_checkpoint, inn_core.exporting.curve.curve

    def counted_load(path: Any, *arguments: Any, **options: Any) -> Any:
        loads.append(str(path))
        return load(path, *arguments, **options)

    def counted_curve(network: Any, **options: Any) -> Any:
        curves.append(network.trained is not None)
        return curve(network, **options)

    monkeypatch.setattr(inn_core.checkpoint.storage, "load_checkpoint", counted_load)
    monkeypatch.setattr(inn_core.exporting.curve, "curve", counted_curve)
    assert inn("train", "stoppable:recipe", "-o", "once.inn", "--epochs", 1).exit_code == 0
    assert loads == ["small.inn"]
    assert curves == [True]


def test_a_log_has_one_line_per_epoch_and_a_table_goes_to_stdout(desk: Path) -> None:
    result = inn("train", "stoppable:recipe", "-o", "out.inn")
    assert result.exit_code == 0, result.output
    lines = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines if "epoch" in line] == [f"epoch {epoch} of 3" for epoch in (1, 2, 3)]
    assert result.stdout.splitlines()[0].split()[:3] == ["params", "of", "full"]


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(desk: Path) -> None:
    (desk / "stop").write_text("SIGKILL")
    arguments = ("train", "stoppable:recipe", "--threads", "1", "-o")
    killed = inn_process(*arguments, "out.inn", folder=desk)
    assert killed.returncode == SIGKILL_STATUS, killed.stderr
    assert not (desk / "out.inn").exists()
    assert (desk / "out.inn.state").exists()

    other = inn(*arguments, "out.inn", "--seed", 7)
    assert other.exit_code == 1
    assert "error[training-state-mismatch]: " in other.stderr
    assert "going on" not in other.stderr

    resumed = inn_process(*arguments, "out.inn", folder=desk)
    assert resumed.returncode == 0, resumed.stderr
    assert "going on after step 6 of 12" in resumed.stderr
    assert sorted(path.name for path in desk.glob("*out.inn*")) == ["out.inn"]
    assert inn_process(*arguments, "whole.inn", folder=desk).returncode == 0
    assert (desk / "out.inn").read_bytes() == (desk / "whole.inn").read_bytes()


@pytest.fixture
def keyboard() -> Iterator[None]:
    """SIGINT as in a foreground process; those in the background of a shell ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("keyboard")
def test_a_stop_from_the_keyboard_keeps_the_state(desk: Path) -> None:
    (desk / "stop").write_text("SIGINT")
    stopped = inn("train", "stoppable:recipe", "-o", "out.inn", "--state", "elsewhere")
    assert stopped.exit_code == 130
    assert stopped.stdout == ""
    assert "error[interrupted]: stopped from the keyboard; the state is in 'elsewhere'" in stopped.stderr
    assert not (desk / "out.inn").exists()
    resumed = inn("train", "stoppable:recipe", "-o", "out.inn", "--state", "elsewhere")
    assert resumed.exit_code == 0, resumed.output
    assert "going on after step 6 of 12 with the state 'elsewhere'" in resumed.stderr
    assert not (desk / "elsewhere").exists()


@pytest.mark.usefixtures("keyboard")
def test_a_state_of_other_data_is_refused(desk: Path) -> None:
    """The recipe has no digest of its data, but the first batch tells."""
    (desk / "stop").write_text("SIGINT")
    inn("train", "stoppable:recipe", "-o", "out.inn")
    module = desk / "other.py"
    module.write_text((desk / "stoppable.py").read_text().replace("manual_seed(10 *", "manual_seed(11 + 10 *"))
    other = inn("train", "other:recipe", "-o", "out.inn")
    sys.modules.pop("other", None)
    assert other.exit_code == 1
    assert "error[training-state-mismatch]: " in other.stderr


def test_a_state_that_is_cut_is_refused(desk: Path) -> None:
    (desk / "out.inn.state").write_bytes(b"PK\x03\x04 no state")
    result = inn("train", "stoppable:recipe", "-o", "out.inn")
    assert result.exit_code == 1
    assert "error[training-state-mismatch]: " in result.stderr


def test_samples_of_the_run_stand_in_for_calibration_that_must_not_travel(desk: Path) -> None:
    save_checkpoint(replace(small_checkpoint(), calibration={}), desk / "quiet.inn")
    arguments = ("train", "quiet.inn", "--data", "data.npz", "--epochs", 1, "-o", "out.inn")
    refused = inn(*arguments)
    assert refused.exit_code == 1
    assert "error[invalid-evaluation]: " in refused.stderr
    done(*arguments, "--evaluate", "data.npz")
    written = load_checkpoint(desk / "out.inn")
    assert not written.calibration
    manifest = json.loads(done("export", "out.inn", "--params", 700, "-o", "a.onnx", "--json"))
    assert manifest["quality"] == "instant"
    assert manifest["method"] == "trained"


@pytest.mark.parametrize(
    "arguments",
    [
        ("small.inn", "-o", "out.inn"),
        ("fashion_resnet", "--data", "data.npz", "-o", "out.inn"),
        ("small.inn", "--data", "data.npz"),
        ("small.inn", "--data", "data.npz", "-o", "out.inn", "--epochs", "0"),
        ("small.inn", "--data", "data.npz", "-o", "out.inn", "--seed", "-1"),
        ("small.inn", "--data", "data.npz", "-o", "out.inn", "--threads", "0"),
    ],
    ids=" ".join,
)
def test_misuse_leaves_with_2(arguments: tuple[str, ...], desk: Path) -> None:
    result = inn("train", *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("missing.inn", "--data", "data.npz", "-o", "out.inn"), "file-not-found"),
        (("small.inn", "--data", "missing.npz", "-o", "out.inn"), "file-not-found"),
        (("data.npz", "-o", "out.inn"), "invalid-recipe"),
        (("unheard_of", "-o", "out.inn"), "invalid-recipe"),
        (("nowhere_at_all:recipe", "-o", "out.inn"), "invalid-recipe"),
        (("stoppable:missing", "-o", "out.inn"), "invalid-recipe"),
        (("stoppable:nothing", "-o", "out.inn"), "invalid-recipe"),
        (("stoppable:STOP", "-o", "out.inn"), "invalid-recipe"),
        (("stoppable:recipe", "-o", "nowhere/out.inn"), "invalid-output"),
        (("stoppable:recipe", "-o", "out.inn", "--state", "nowhere/state"), "invalid-output"),
        (("stoppable:recipe", "-o", "out.inn", "--curve", "nowhere/c.json"), "invalid-output"),
        (("stoppable:recipe", "-o", "out.inn", "--device", "abacus"), "device-unavailable"),
        (("stoppable:recipe", "-o", "out.inn", "--evaluate", "other.npz"), "invalid-evaluation"),
        (("small.inn", "--data", "other.npz", "-o", "out.inn"), "invalid-training-data"),
        (("data.inn", "--data", "data.npz", "-o", "out.inn"), "invalid-checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_training(arguments: tuple[str, ...], code: str, desk: Path) -> None:
    np.savez("other.npz", y=np.zeros((8, 3)))
    (desk / "data.inn").write_bytes(b"no checkpoint")
    result = inn("train", *arguments)
    assert result.exit_code == 1, result.output
    assert f"error[{code}]: " in result.stderr
    assert result.stdout == ""
    assert not list(desk.glob("*out.inn*"))


def test_quality_trained_of_an_imported_checkpoint_is_unavailable(desk: Path) -> None:
    result = inn("export", "small.inn", "--params", 700, "--quality", "trained", "-o", "a.onnx")
    assert result.exit_code == 1
    assert "error[quality-unavailable]: " in result.stderr
    assert "inn train" in result.stderr
