"""A recipe: everything that a training run of a network's sizes needs, under a name that `inn train` takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.errors import InnError
from inn_core.importing.torch_export import resolve
from inn_core.training.loop import Batches
from inn_core.training.settings import SizeTraining
from inn_core.training.size_sampling import SMALLEST_SHARE
from inn_core.training.step import TaskLoss

STATISTICS_SAMPLES = 4096
"""Of the training data, for the statistics of the sizes; twice as many were not worth more."""

BUILT_IN: Mapping[str, str] = {"fashion_resnet": "inn_core.training.recipes.fashion_resnet:recipe"}
"""Recipes that ship with the package."""


class InvalidRecipeError(InnError, ValueError):
    """A recipe is unknown, cannot be loaded, or is none."""

    code = "invalid-recipe"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained in all its sizes.

    Attributes:
        name: what the run is called.
        start: loads the network that training starts from, imported or trained.
        batches: training data on the CPU; an epoch depends on its number alone.
        task_loss: what the full network is trained on; None trains without labels, on its own outputs.
        settings: of the run.
        evaluation: arrays for the final curve, one per graph input and `labels` where accuracy is wanted; None takes
            the samples that the checkpoint keeps.
        statistics: arrays that the normalization statistics of the sizes are measured on, one per graph input, in the
            graph's own types; None takes the samples that the checkpoint keeps. Several thousand are better than one.
        is_fastest: compute in bfloat16 where a step takes less time so, whatever the settings say; decided once a
            run, for networks of one input and one output.
        normalize, smallest, independent, seed: options of `IntegralNetwork`.
        data: digest or version of the training data, plain text; a run that was stopped goes on only with the same.
        description: one line for people.
    """

    name: str
    start: Callable[[], Checkpoint]
    batches: Batches
    task_loss: TaskLoss | None
    settings: SizeTraining
    evaluation: Mapping[str, Array] | None = None
    statistics: Mapping[str, Array] | None = None
    is_fastest: bool = False
    normalize: bool = True
    smallest: float = SMALLEST_SHARE
    independent: float = 0.5
    seed: int = 0
    data: str = ""
    description: str = ""


def find_recipe(reference: str, *, seed: int | None = None, labelled: bool = True) -> Recipe:
    """The recipe of a name.

    Args:
        reference: a built-in name, or `package.module:function` of a function that returns a `Recipe`.
        seed: of the run; that of the recipe when left out. A function with a parameter `seed` is given it, too.
        labelled: whether labels may be read; a function with a parameter `labelled` is given it, and no task loss
            is left without.

    Raises:
        InvalidRecipeError: there is no such recipe, or the function returns something else.
    """
    function = _function(reference)
    options: dict[str, Any] = {} if seed is None else {"seed": seed}
    if not labelled:
        options["labelled"] = False
    known = inspect.signature(function).parameters
    recipe = function(**{name: value for name, value in options.items() if name in known})
    if not isinstance(recipe, Recipe):
        raise InvalidRecipeError(
            f"'{reference}' returned {type(recipe).__name__}; a recipe function returns inn_core.Recipe",
            reference=reference,
        )
    return replace(recipe, seed=recipe.seed if seed is None else seed, task_loss=recipe.task_loss if labelled else None)


def _function(reference: str) -> Callable[..., Any]:
    if ":" not in reference:
        if reference not in BUILT_IN:
            raise InvalidRecipeError(
                f"there is no recipe '{reference}'; use one of {', '.join(sorted(BUILT_IN))}, "
                "package.module:function, or a .inn file together with --data",
                reference=reference,
            )
        reference = BUILT_IN[reference]
    function = resolve(reference, form="package.module:function", refuse=InvalidRecipeError)
    if not callable(function):
        raise InvalidRecipeError(f"'{reference}' is no function", reference=reference)
    found: Callable[..., Any] = function
    return found
