"""The ground: what packaging, constraints, make and continuous integration promise each other."""

import os
import re
import subprocess
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from inn_core.training.recipes.shipped import shipped_file
from scripts.file_table import DOCUMENT, with_tables

ROOT = Path(__file__).resolve().parents[1]
FULL_FOLDERS = {ROOT / "inn_core" / "graph" / "operators", ROOT / "service" / "hub" / "routes"}
"""With more than a dozen files: one for each kind of operator, one for each kind of route."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_python_implementation": "CPython"}


def requirements(extra: str | None) -> list[Requirement]:
    lines = PROJECT["dependencies"] if extra is None else PROJECT["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


def constraints() -> dict[str, Version]:
    pinned: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, version = line.partition("==")
            pinned[canonicalize_name(name)] = Version(version)
    return pinned


@pytest.mark.parametrize("extra", [None, *PROJECT["optional-dependencies"]])
def test_every_dependency_has_a_known_good_version_in_its_range(extra: str | None) -> None:
    pinned = constraints()
    for requirement in requirements(extra):
        if canonicalize_name(requirement.name) != PROJECT["name"]:
            assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)]), requirement


def test_torch_is_pinned_exactly_for_one_resolver_call() -> None:
    assert constraints()["torch"] == Version("2.13.0")
    assert "--constraint constraints.txt --editable '.[dev]'" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize(("machine", "runtime"), [("x86_64", "onnxruntime-gpu"), ("aarch64", "onnxruntime")])
def test_the_hub_extra_takes_one_runtime(machine: str, runtime: str) -> None:
    environment = LINUX | {"platform_machine": machine}
    taken = [
        requirement.name
        for requirement in requirements("hub")
        if "onnxruntime" in requirement.name
        and (requirement.marker is None or requirement.marker.evaluate(environment))
    ]
    assert taken == [runtime]


def test_the_base_install_is_light() -> None:
    names = {canonicalize_name(requirement.name) for requirement in requirements(None)}
    assert not names & {"torch", "onnx", "onnxruntime", "onnxruntime-gpu", "scipy", "matplotlib"}


def test_every_dependency_has_a_line_in_the_decisions() -> None:
    text = (ROOT / "docs" / "decisions" / "dependencies.md").read_text()
    for extra in (None, *PROJECT["optional-dependencies"]):
        for requirement in requirements(extra):
            if canonicalize_name(requirement.name) != PROJECT["name"]:
                assert re.search(rf"\b{re.escape(requirement.name)}\b", text), requirement.name


def test_every_page_of_the_decisions_is_listed() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = set(re.findall(r"\]\(([a-z-]+\.md)\)", (folder / "README.md").read_text()))
    assert listed == {path.name for path in folder.glob("*.md")} - {"README.md"}


def test_links_between_pages_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} -> {target}"


@pytest.mark.parametrize("script", ["scripts/check", "scripts/test", ".ci/run"])
def test_scripts_are_strict_and_executable(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert "set -euo pipefail" in path.read_text().splitlines()
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_make_knows_the_targets_that_the_readme_names() -> None:
    named = set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert {"demo", "serve", "check", "test"} <= named
    for target in named:
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_licence_is_the_one_that_the_package_names() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_wheel_has_what_ships_of_models_as_data_and_no_package_called_models() -> None:
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert build["packages"] == ["inn_core", "service"]
    copied = (ROOT / "Dockerfile").read_text()
    for source, target in build["force-include"].items():
        assert (ROOT / source).is_file()
        assert f"COPY {Path(source).parent} {Path(source).parent}\n" in copied
        assert target == f"inn_core/data/{Path(source).relative_to('models')}"
        assert shipped_file(str(Path(source).relative_to("models"))) == ROOT / source


def test_every_file_is_placed_by_the_document() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_tables(text) == text, "write it anew: make file-table"


def test_files_that_documents_name_are_there() -> None:
    for document in (DOCUMENT, ROOT / "docs" / "method.md"):
        text = document.read_text(encoding="utf-8")
        named = set(re.findall(r"\b(?:inn_core|service|models|tests)/[\w/]+\.py\b", text))
        assert {name for name in named if not (ROOT / name).is_file()} == set(), document.name


@pytest.mark.parametrize("package", ["inn_core", "service"])
def test_no_import_goes_in_a_circle(package: str) -> None:
    """Between files, and between the rooms of a package."""
    graph = grimp.build_graph(package, include_external_packages=False)
    files = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    rooms: dict[str, set[str]] = {}
    for name, imported in files.items():
        room = ".".join(name.split(".")[:2])
        rooms.setdefault(room, set()).update(".".join(other.split(".")[:2]) for other in imported)
    for which in (files, rooms):
        TopologicalSorter({name: others - {name} for name, others in which.items()}).prepare()


def test_folders_are_small() -> None:
    for package in ("inn_core", "service", "models"):
        for folder in {path.parent for path in (ROOT / package).rglob("*.py")} - FULL_FOLDERS:
            assert len(list(folder.glob("*.py"))) <= 12, folder
