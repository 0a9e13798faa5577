"""One network in every size: import it once, plan, export and train any size of it. Names load when they are used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inn_core.checkpoint.checkpoint import Checkpoint as Checkpoint
    from inn_core.errors import InnError as InnError
    from inn_core.face import curve as curve
    from inn_core.face import export as export
    from inn_core.face import import_network as import_network
    from inn_core.face import load as load
    from inn_core.face import plan as plan
    from inn_core.face import save as save
    from inn_core.face import train as train
    from inn_core.planning.plan import Budget as Budget
    from inn_core.planning.plan import Plan as Plan
    from inn_core.planning.summary import describe as describe
    from inn_core.training.integral_network import IntegralNetwork as IntegralNetwork
    from inn_core.training.recipes.recipe import Recipe as Recipe
    from inn_core.training.settings import SizeTraining as SizeTraining

_HOMES = {
    "Budget": "planning.plan",
    "Checkpoint": "checkpoint.checkpoint",
    "InnError": "errors",
    "IntegralNetwork": "training.integral_network",
    "Plan": "planning.plan",
    "Recipe": "training.recipes.recipe",
    "SizeTraining": "training.settings",
    "describe": "planning.summary",
    **dict.fromkeys(("curve", "export", "import_network", "load", "plan", "save", "train"), "face"),
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Load the room that a name comes from; PEP 562."""
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'inn_core' has no attribute '{name}'; it has: {', '.join(sorted(_HOMES))}")
    value = getattr(importlib.import_module(f"inn_core.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(_HOMES)
