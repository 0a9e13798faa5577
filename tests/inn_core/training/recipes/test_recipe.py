"""How a recipe is found, and what is handed to its function."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inn_core.training.recipes.recipe import InvalidRecipeError, find_recipe

MODULE = """
from inn_core.training.settings import SizeTraining
from inn_core.training.recipes.recipe import Recipe


def plain():
    return Recipe("plain", lambda: None, [], lambda output, targets: 0, SizeTraining(), seed=4)


def informed(*, seed=0, labelled=True):
    return Recipe(f"{seed} {labelled}", lambda: None, [], lambda output, targets: 0, SizeTraining(), seed=seed)


def wrong():
    return "a recipe"
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "some_recipes.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "some_recipes"
    sys.modules.pop("some_recipes", None)


def test_a_function_without_parameters_keeps_its_seed_unless_told_otherwise(module: str) -> None:
    assert find_recipe(f"{module}:plain").seed == 4
    assert find_recipe(f"{module}:plain", seed=9).seed == 9


def test_a_function_is_given_the_parameters_that_it_has(module: str) -> None:
    assert find_recipe(f"{module}:informed").name == "0 True"
    assert find_recipe(f"{module}:informed", seed=3, labelled=False).name == "3 False"


@pytest.mark.parametrize("name", ["plain", "informed"])
def test_without_labels_there_is_no_task_loss(module: str, name: str) -> None:
    assert find_recipe(f"{module}:{name}").task_loss is not None
    assert find_recipe(f"{module}:{name}", labelled=False).task_loss is None


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("fashion", "use one of fashion_resnet"),
        (":recipe", "is not of the form"),
        ("some_recipes:", "is not of the form"),
        ("..some_recipes:plain", "is not of the form"),
        ("some_recipes:missing", "has no 'missing'"),
        ("some_recipes:SizeTraining.nothing", "has no"),
        ("no_such_package.recipes:plain", "'no_such_package'"),
        ("some_recipes:wrong", "returned str"),
    ],
)
def test_what_is_no_recipe_is_refused(module: str, reference: str, message: str) -> None:
    with pytest.raises(InvalidRecipeError, match=message):
        find_recipe(reference)
