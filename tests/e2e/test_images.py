"""What is in the two images, and what is not: sizes, users, packages, tools."""

from __future__ import annotations

import json

import pytest

from tests.e2e.engine import BASE_IMAGE, in_image, inspect_image

pytestmark = pytest.mark.e2e

MB = 1_000_000
EDGE_LIMIT_BYTES = 150 * MB
"""Of the edge image, beyond the base image and what ONNX Runtime itself takes."""

NOT_ON_A_NODE = (
    "torch",
    "onnx",
    "onnxscript",
    "onnx_ir",
    "safetensors",
    "scipy",
    "inn_core",
)
NOT_IN_ANY_IMAGE = ("models", "pip", "setuptools", "wheel", "ensurepip", "tests", "pytest", "mypy")
TOOLS = ("pip", "pip3", "gcc", "cc", "c++", "make", "ld", "git")

FOUND_MODULES = (
    "import importlib.util, json, sys; "
    "print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name) is not None]))"
)
RUNTIME_BYTES = (
    "import pathlib, onnxruntime; "
    "folder = pathlib.Path(onnxruntime.__file__).parent; "
    "print(sum(file.lstat().st_size for file in folder.rglob('*') if file.is_file()))"
)


def modules(image: str, names: tuple[str, ...]) -> list[str]:
    """Which of these top-level modules an image has."""
    found = json.loads(in_image(image, "python", "-c", FOUND_MODULES, *names))
    assert isinstance(found, list)
    return found


def test_a_node_has_nothing_that_only_the_hub_needs(images: dict[str, str]) -> None:
    assert modules(images["edge"], NOT_ON_A_NODE) == []
    assert modules(images["edge"], ("onnxruntime", "service")) == ["onnxruntime", "service"]


def test_the_edge_image_is_small(images: dict[str, str], findings: list[str]) -> None:
    whole, base = inspect_image(images["edge"])["Size"], inspect_image(BASE_IMAGE)["Size"]
    runtime = int(in_image(images["edge"], "python", "-c", RUNTIME_BYTES))
    rest = whole - base - runtime
    findings.append(
        f"edge image {whole / MB:.0f} MB: base image {base / MB:.0f}, ONNX Runtime {runtime / MB:.0f}, "
        f"all else {rest / MB:.0f}"
    )
    hub = inspect_image(images["hub"])["Size"]
    findings.append(f"hub image {hub / MB:.0f} MB, {(hub - base) / MB:.0f} beyond the base image")
    assert 0 < runtime < whole - base
    assert rest < EDGE_LIMIT_BYTES


@pytest.mark.parametrize("target", ["hub", "edge"])
def test_no_installer_and_no_compiler_is_left(images: dict[str, str], target: str) -> None:
    image = images[target]
    assert modules(image, NOT_IN_ANY_IMAGE) == []
    found = in_image(image, "sh", "-c", f"for tool in {' '.join(TOOLS)}; do command -v $tool || true; done")
    assert found == ""
    # The interpreter of the base image has none either.
    base = in_image(image, "/bin/sh", "-c", "PATH=/usr/local/bin:/usr/bin:/bin python3 -m pip --version 2>&1 || true")
    assert "No module named pip" in base


@pytest.mark.parametrize("target", ["hub", "edge"])
def test_runs_as_a_user_without_rights_who_can_write_only_the_store(images: dict[str, str], target: str) -> None:
    settings = inspect_image(images[target])["Config"]
    assert settings["User"] == "10001:10001"
    assert settings["Healthcheck"]["Test"][0] == "CMD"
    assert list(settings["Volumes"]) == ["/var/lib/inn"]
    script = (
        "id -u; for folder in / /opt /opt/inn /etc /usr/bin; do [ -w $folder ] && echo can write $folder; done; "
        "[ -w /var/lib/inn ] && echo store; true"
    )
    assert in_image(images[target], "sh", "-c", script).split("\n") == ["10001", "store", ""]


@pytest.mark.parametrize("target", ["hub", "edge"])
def test_everything_is_compiled_since_nothing_can_be_later(images: dict[str, str], target: str) -> None:
    script = (
        "import importlib.util, pathlib, service; "
        "folder = pathlib.Path(service.__file__).parent; "
        "compiled = lambda f: pathlib.Path(importlib.util.cache_from_source(str(f))).is_file(); "
        "print([str(f) for f in folder.rglob('*.py') if not compiled(f)])"
    )
    assert in_image(images[target], "python", "-c", script).strip() == "[]"


def test_the_hub_image_has_the_demo_network_and_no_cuda(images: dict[str, str]) -> None:
    script = (
        "import json, pathlib, inn_core, torch, onnxruntime; "
        "print(json.dumps([torch.version.cuda, onnxruntime.get_available_providers(), "
        "sorted(f.name for f in (pathlib.Path(inn_core.__file__).parent / 'data' / 'checkpoints').iterdir())]))"
    )
    cuda, providers, checkpoints = json.loads(in_image(images["hub"], "python", "-c", script))
    assert cuda is None, "the CUDA build of torch was installed: put the CPU build into wheels/ (see the Dockerfile)"
    assert "CUDAExecutionProvider" not in providers
    assert checkpoints == ["fashion_resnet.inn", "fashion_resnet_imported.inn"]  # served; where training starts
