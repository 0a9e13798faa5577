"""The public face: what a notebook calls, what it takes, and what it says to anything else."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import inn_core as inn
from inn_core.importing.torch_export import export_module

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval()


SAMPLES = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float32)


@pytest.fixture(scope="module")
def checkpoint() -> inn.Checkpoint:
    return inn.import_network(network(), SAMPLES)


def test_the_page_runs_as_it_is_written_and_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block, shown in re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)
        # Other releases of PyTorch draw other weights, which may get other sizes.
        printed = capsys.readouterr().out
        assert re.sub(r"\d+", "0", printed) == re.sub(r"\d+", "0", shown)
    assert names["manifest"]["params"] <= 2_000
    listed = PAGE.split("Members of a manifest:")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(names["manifest"])
    assert names["trained"]["quality"] == "trained"
    assert names["trained"]["params"] <= 2_000
    assert {path.name for path in tmp_path.iterdir()} == {"half.onnx", "network.inn", "trained.onnx"}
    assert inn.load(tmp_path / "network.inn").name == "network"


def test_importing_the_package_loads_no_engine_and_every_name_is_there() -> None:
    code = (
        "import sys, inn_core; early = set(sys.modules); "
        "[getattr(inn_core, name) for name in inn_core.__all__]; "
        "print(sorted({'torch', 'onnx', 'numpy'} & early), dir(inn_core) == sorted(inn_core.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[] True"


def test_an_unknown_name_is_an_attribute_error_that_lists_the_others() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'exports'; it has: .*export, import_network"):
        inn.exports  # noqa: B018  # reading it is what fails


@pytest.mark.parametrize("kind", ["pair", "model", "bytes", "file", "factory"])
def test_a_source_in_any_form_is_the_same_network(
    kind: str, checkpoint: inn.Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = exported()
    path = tmp_path / "network.onnx"
    onnx.save(model, path)
    (tmp_path / "made_here.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef factory():\n    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)).eval(), torch.zeros(2, 6)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sources: dict[str, Any] = {
        "pair": (network(), torch.zeros(2, 6)),
        "model": model,
        "bytes": model.SerializeToString(),
        "file": path,
        "factory": "made_here:factory",
    }
    found = inn.import_network(sources[kind], torch.from_numpy(SAMPLES))
    for one, other in zip(found.weights.values(), checkpoint.weights.values(), strict=True):
        np.testing.assert_array_equal(one, other)


def exported() -> onnx.ModelProto:
    return export_module(network(), torch.zeros(2, 6), name="network")


def test_samples_by_name_and_a_budget_in_place_of_a_plan(checkpoint: inn.Checkpoint, tmp_path: Path) -> None:
    (name,) = checkpoint.calibration
    again = inn.import_network((network(), torch.zeros(2, 6)), {name: SAMPLES}, name="again")
    path = tmp_path / "again.inn"
    digest = inn.save(again, path)
    manifest = inn.export(path, inn.Budget("params", 80), tmp_path / "small.onnx")
    assert manifest["checkpoint"] == digest
    assert manifest["params"] <= 80
    assert manifest["budget"] == {"unit": "params", "value": 80}
    session = onnxruntime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {name: SAMPLES})[0].shape == (64, 3)


def test_a_plan_is_exported_as_it_is(checkpoint: inn.Checkpoint, tmp_path: Path) -> None:
    plan = inn.plan(checkpoint, macs=80)
    manifest = inn.export(checkpoint, plan, tmp_path / "planned.onnx", quality="instant")
    assert manifest["group_sizes"] == dict(plan.sizes)
    assert manifest["budget"] == {"unit": "params", "value": plan.params}


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c: inn.import_network(7, SAMPLES), "source is of type int; give a torch module"),
        (lambda c: inn.import_network((1, 2, 3), SAMPLES), "source is of type tuple; give a pair of a torch module"),
        (lambda c: inn.import_network(network(), [1, 2]), "samples is of type list; give a numpy array"),
        (lambda c: inn.import_network(network(), {"x": "no"}), r"samples\['x'\] is of type str"),
        (lambda c: inn.load(None), "path is of type NoneType; give the path of an .inn file"),
        (lambda c: inn.plan(3, params=80), "network is of type int; give a Checkpoint, an IntegralNetwork"),
        (lambda c: inn.plan(c, 80), "budget is of type int; give a Budget"),
        (lambda c: inn.export(c, 80, "x.onnx"), "size is of type int; give a Plan, or a Budget"),
        (lambda c: inn.curve(c, SAMPLES), "data is of type ndarray; give arrays by input name"),
        (lambda c: inn.train(c, []), "network is of type Checkpoint; give an IntegralNetwork"),
        (lambda c: inn.train(inn.IntegralNetwork(c), [1]), "batches is of type list; give an object whose `epoch"),
        (lambda c: inn.curve(c, params=80), "params is of type int; give a list of parameter counts"),
        (lambda c: inn.export(c, inn.plan(c, params=80), None), "path is of type NoneType; give the path of the ONNX"),
        (lambda c: inn.import_network(network(), SAMPLES, name=3), "name is of type int; give a text"),
        (
            lambda c: inn.export(c, inn.plan(c, params=80), "x.onnx", threads="2"),
            "threads is of type str; give a whole",
        ),
        (lambda c: inn.IntegralNetwork(c)(SAMPLES), "input '.*' is of type ndarray; give a torch tensor"),
        (lambda c: inn.IntegralNetwork(c).resize(sizes=inn.plan(c, params=80)), "sizes is of type Plan; give sizes by"),
        (lambda c: inn.save(c, 3), "path is of type int; give the path of the .inn file to write"),
        (lambda c: inn.IntegralNetwork("n.inn"), r"checkpoint is of type str; give .*IntegralNetwork.load\(path\)"),
    ],
)
def test_a_wrong_type_is_an_error_of_ours_with_a_way_out(call: Any, says: str, checkpoint: inn.Checkpoint) -> None:
    with pytest.raises(inn.InnError, match=says) as caught:
        call(checkpoint)
    assert caught.value.code == "invalid-type"
    assert isinstance(caught.value, TypeError)


class Sum(nn.Module):
    """Two inputs by name; in training mode its dropout is at work."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.drop, self.head = nn.Linear(4, 8), nn.Linear(3, 8), nn.Dropout(), nn.Linear(8, 2)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Logits, shape `(batch, 2)`."""
        logits: torch.Tensor = self.head(torch.relu(self.drop(self.left(first) + self.right(second))))
        return logits


def test_a_module_takes_samples_by_argument_in_any_precision_and_stays_in_its_mode(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    samples = {"first": random.standard_normal((16, 4)), "second": torch.rand(16, 3), "labels": np.zeros(16, np.int64)}
    module = Sum().train()
    module.head.eval()
    checkpoint = inn.import_network(module, samples)
    assert [part.training for part in (module, module.drop, module.head)] == [True, True, False]
    manifest = inn.export(checkpoint, inn.plan(checkpoint, params=np.int64(60)), tmp_path / "a.onnx")
    assert [tensor["name"] for tensor in manifest["inputs"]] == ["first", "second"]
    assert manifest["params"] <= 60


def test_samples_are_measured_in_order_or_by_name_and_nothing_else(checkpoint: inn.Checkpoint) -> None:
    network = inn.IntegralNetwork(checkpoint)
    (name,) = network.program().inputs
    sizes = network.plan(params=80).sizes
    outputs = []
    for samples in (SAMPLES, {name: torch.from_numpy(SAMPLES)}):
        network.measure_(samples)
        outputs.append(network.eval()(torch.from_numpy(SAMPLES), sizes=sizes))
    assert torch.equal(*outputs)
    with pytest.raises(inn.InnError, match=f"samples of input '{name}' are missing; found: image"):
        network.measure_({"image": SAMPLES})
    with pytest.raises(inn.InnError, match="samples is of type str; give one tensor or array for each of: "):
        network.measure_("samples")  # type: ignore[arg-type]


def test_a_folder_that_is_missing_is_named_before_anything_is_computed(
    checkpoint: inn.Checkpoint, tmp_path: Path
) -> None:
    for write in (inn.save, lambda network, path: inn.export(network, inn.plan(network, params=80), path)):
        with pytest.raises(FileNotFoundError, match=r"lies in a folder that does not exist; make '.*none' first"):
            write(checkpoint, tmp_path / "none" / "file")


def test_exactly_one_budget_is_taken(checkpoint: inn.Checkpoint) -> None:
    for budgets in ({}, {"params": 80, "macs": 80}):
        with pytest.raises(inn.InnError, match="give exactly one of params, macs and size_bytes"):
            inn.plan(checkpoint, **budgets)  # type: ignore[arg-type]
    with pytest.raises(inn.InnError, match="give a Budget or one of params, macs and size_bytes, not both"):
        inn.plan(checkpoint, inn.Budget("params", 80), macs=80)


def test_a_checkpoint_shows_itself_in_one_line(checkpoint: inn.Checkpoint) -> None:
    shown = repr(checkpoint)
    assert "\n" not in shown
    assert len(shown) < 200
    assert "'network'" in shown
    assert "123 parameters" in shown  # 6 x 12 + 12 + 12 x 3 + 3
    assert "1 group" in shown
