"""The command line: what is misuse, what is an error of ours, what goes where, and what is not imported."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from inn_core.checkpoint.storage import save_checkpoint
from service.cli import app
from tests.inn_core.networks import residual_network

MISUSE = 2
OUR_ERROR = 1
HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "inn_core",
    "models",
    "numpy",
    "scipy",
    "fastapi",
    "uvicorn",
    "pydantic",
    "httpx",
    "sqlalchemy",
    "alembic",
)


def inn(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def fresh_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False)


@pytest.fixture
def empty_checkpoint(tmp_path: Path) -> str:
    path = tmp_path / "empty.inn"
    path.write_bytes(b"")
    return str(path)


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import sys
from service.cli import app
try:
    app(["--help"])
except SystemExit as exc:
    assert exc.code == 0
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
"""
    done = fresh_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    for command in ("import", "inspect", "curve", "export", "train", "serve", "verify"):
        assert command in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["shrink"],
        ["inspect"],
        ["inspect", "x.inn", "--colour"],
        ["export", "x.inn", "-o", "y.onnx"],
        ["export", "x.inn", "-o", "y.onnx", "--params", "9", "--macs", "9"],
        ["export", "x.inn", "-o", "y.onnx", "--params", "many"],
        ["export", "x.inn", "-o", "y.onnx", "--params", "1.5"],
        ["export", "x.inn", "--params", "9"],
        ["curve", "x.inn", "--params", "9,ten"],
        ["import", "x.onnx", "-o", "y.inn"],
        ["import", "x.onnx", "--calibration", "c.npz", "-o", "y.inn", "--freeze", "conv1.weight"],
        ["import", "x.onnx", "--calibration", "c.npz", "-o", "y.inn", "--freeze", "conv1.weight:out"],
        ["import", "x.onnx", "--calibration", "c.npz", "-o", "y.inn", "--name", "../up"],
        ["import", "x.onnx", "--calibration", "c.npz", "-o", "a b.inn"],
        ["verify", "x.onnx", "--digest", "sha256:12"],
        ["serve", "--port", "65536"],
    ],
    ids=" ".join,
)
def test_misuse_leaves_with_2_and_prints_to_stderr_only(arguments: list[str]) -> None:
    result = inn(*arguments)
    assert result.exit_code == MISUSE
    assert result.stdout == ""
    assert result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["inspect", "missing.inn"], "file-not-found"),
        (["curve", "missing.inn"], "file-not-found"),
        (["export", "missing.inn", "--params", "9", "-o", "y.onnx"], "file-not-found"),
        (["verify", "missing.onnx"], "file-not-found"),
        (["serve", "--import", "missing.inn"], "file-not-found"),
        (["import", "missing.onnx", "--calibration", "c.npz", "-o", "y.inn"], "file-not-found"),
        (["verify", "/"], "file-not-found"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_missing_file_is_an_error_of_ours_that_names_it(arguments: list[str], code: str) -> None:
    result = inn(*arguments)
    assert result.exit_code == OUR_ERROR
    assert result.stdout == ""
    assert result.stderr.startswith(f"error[{code}]: ")
    assert "/" in arguments or "missing" in result.stderr


@pytest.mark.parametrize("command", ["export", "curve", "import"])
def test_a_missing_output_folder_is_refused_before_any_work(
    command: str, empty_checkpoint: str, tmp_path: Path
) -> None:
    output = str(tmp_path / "nowhere" / "out")
    arguments = {
        "export": ["export", empty_checkpoint, "--params", "9", "-o", output],
        "curve": ["curve", empty_checkpoint, "--plot", output],
        "import": ["import", empty_checkpoint, "--calibration", "c.npz", "-o", output],
    }
    result = inn(*arguments[command])
    assert result.exit_code == OUR_ERROR
    assert result.stderr.startswith("error[invalid-output]: ")
    assert f"mkdir -p '{tmp_path / 'nowhere'}'" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_as_output_is_refused(empty_checkpoint: str, tmp_path: Path) -> None:
    result = inn("export", empty_checkpoint, "--params", "9", "-o", str(tmp_path))
    assert result.exit_code == OUR_ERROR
    assert "is a folder" in result.stderr


def not_an_npz(path: Path) -> None:
    path.write_bytes(b"image,label\n1,2\n")


def unnamed_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def pickled_objects(path: Path) -> None:
    np.savez(path, image=np.array([{"a": 1}], dtype=object))


def cut_short(path: Path) -> None:
    np.savez(path, image=np.zeros((64, 64)))
    path.write_bytes(path.read_bytes()[:-200])


def damaged_inside(path: Path) -> None:
    np.savez(path, image=np.zeros((64, 64)))
    data = bytearray(path.read_bytes())
    data[2000] ^= 0xFF
    path.write_bytes(data)


def nothing_in_it(path: Path) -> None:
    np.savez(path)


@pytest.mark.parametrize(
    "write", [not_an_npz, unnamed_array, pickled_objects, cut_short, damaged_inside, nothing_in_it]
)
def test_a_calibration_file_that_cannot_be_read_is_refused(
    write: Callable[[Path], None], empty_checkpoint: str, tmp_path: Path
) -> None:
    path = tmp_path / "calibration.npz"
    write(path)
    result = inn("import", empty_checkpoint, "--calibration", str(path), "-o", str(tmp_path / "out.inn"))
    assert result.exit_code == OUR_ERROR
    assert result.stderr.startswith("error[invalid-arrays]: ")
    assert "calibration.npz" in result.stderr
    assert not (tmp_path / "out.inn").exists()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("torch", ["export", "residual.inn", "--params", "300", "-o", "out.onnx"]),
        ("onnx", ["inspect", "residual.inn"]),
        ("torch", ["serve", "--port", "0"]),
        ("onnxruntime", ["serve", "--port", "0"]),
        ("alembic", ["serve", "--port", "0"]),
    ],
)
def test_a_missing_extra_is_named(module: str, arguments: list[str], tmp_path: Path) -> None:
    save_checkpoint(residual_network(), tmp_path / "residual.inn")
    code = f"""
import sys
sys.modules[{module!r}] = None  # what an import finds when the package is not installed
from service.cli import app
app({arguments!r})
"""
    done = fresh_python(code, tmp_path)
    assert done.returncode == OUR_ERROR
    assert "error[missing-extra]: " in done.stderr
    assert f"'{module}'" in done.stderr
    assert "pip install 'inn-service[hub]'" in done.stderr


def test_verify_needs_no_extra(tmp_path: Path) -> None:
    artifact = tmp_path / "a.onnx"
    artifact.write_bytes(b"abc")
    # Digest of "abc" from FIPS 180-2, appendix B.1.
    digest = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    code = f"""
import sys
for name in ("torch", "onnx", "onnxruntime", "safetensors", "scipy"):
    sys.modules[name] = None
from service.cli import app
app(["verify", "a.onnx", "--digest", {digest!r}, "--json"])
"""
    done = fresh_python(code, tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"file": "a.onnx", "kind": "artifact", "digest": digest, "checked": ["--digest"]}


def test_an_artifact_with_nothing_to_compare_is_not_called_intact(tmp_path: Path) -> None:
    artifact = tmp_path / "a.onnx"
    artifact.write_bytes(b"abc")
    result = inn("verify", str(artifact))
    assert result.exit_code == OUR_ERROR
    assert result.stdout == ""
    assert result.stderr.startswith("error[nothing-to-compare]: ")
    assert "sha256:ba7816bf" in result.stderr


@pytest.mark.parametrize("text", ["{", "[]", '{"digest": 3}', "{}", "[" * 100_000])
def test_a_manifest_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"abc")
    (tmp_path / "a.onnx.json").write_text(text)
    result = inn("verify", str(tmp_path / "a.onnx"))
    assert result.exit_code == OUR_ERROR
    assert result.stderr.startswith("error[invalid-manifest]: ")


def test_version_is_that_of_the_package() -> None:
    project = Path(__file__).resolve().parents[3] / "pyproject.toml"
    version = next(line for line in project.read_text().splitlines() if line.startswith("version = ")).split('"')[1]
    assert inn("--version").stdout == f"inn {version}\n"
