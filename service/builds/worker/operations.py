"""What a builder process can do: describe and open checkpoints, choose plans, export artifacts, measure curves.

inn_core is imported inside the operations, so that a process that only plans never loads PyTorch.
"""

from __future__ import annotations

import importlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service.builds.worker.limits import chosen_threads
from service.builds.worker.loop import Handler, Report
from service.ground.settings import BuilderSettings

if TYPE_CHECKING:
    from inn_core.checkpoint.checkpoint import Checkpoint


class Operations:
    """The operations of a builder process. Not thread-safe: one request at a time.

    Args:
        settings: device, threads, and how many checkpoints stay open.
    """

    def __init__(self, settings: BuilderSettings) -> None:
        self._settings = settings
        self._threads = chosen_threads(settings.threads)
        self._open: OrderedDict[str, Checkpoint] = OrderedDict()

    def handlers(self) -> dict[str, Handler]:
        """The operations by name."""
        return {
            "ping": lambda params, report: {},
            "warm": self._warm,
            "describe": self._describe,
            "plan": self._plan,
            "export": self._export,
            "curve": self._curve,
        }

    def _warm(self, params: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Loads what the first build would otherwise wait for."""
        importlib.import_module("inn_core.discretize.discretize")
        importlib.import_module("inn_core.exporting.export")
        return {}

    def _describe(self, params: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Params: `checkpoint`, a path. The file is read and checked in full, and not kept open."""
        from inn_core.checkpoint.storage import load_checkpoint
        from inn_core.planning.summary import describe

        return describe(load_checkpoint(Path(params["checkpoint"])))

    def _plan(self, params: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Params as `_export`, without a path. Returns what decides a build, and the members of a manifest that
        depend on the request and not on the plan."""
        from inn_core.checkpoint.qualities import check_quality
        from inn_core.exporting.export import build_key, numeric_options
        from inn_core.planning.plan import Budget, choose_plan, feasible_range

        network = self._network(params)
        budget = Budget(params["unit"], params["value"])
        multiple_of = params["multiple_of"]
        check_quality(network, params["quality"])
        plan = choose_plan(network, budget, multiple_of=multiple_of)
        minimum, maximum = feasible_range(network, budget.unit, multiple_of)
        options = numeric_options(device=self._settings.device, threads=self._threads)
        return {
            "build_key": build_key(params["digest"], plan, params["quality"], options),
            "bytes": plan.bytes,
            "manifest": {
                "budget": asdict(budget),
                "feasible": {"min": minimum, "max": maximum},
                "multiple_of": multiple_of,
                "quality": params["quality"],
            },
        }

    def _export(self, params: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Params: `checkpoint` (path), `digest` (its own), `unit`, `value`, `quality`, `multiple_of`, and `path`, the
        file to write."""
        from inn_core.exporting.export import export_artifact
        from inn_core.planning.plan import Budget

        return export_artifact(
            self._network(params),
            Budget(params["unit"], params["value"]),
            quality=params["quality"],
            multiple_of=params["multiple_of"],
            path=Path(params["path"]),
            checkpoint_digest=params["digest"],
            device=self._settings.device,
            threads=self._threads,
            progress=report,
        )

    def _curve(self, params: Mapping[str, Any], report: Report) -> dict[str, Any]:
        """Params: `checkpoint` (path), `digest`, `params` (list or null), `quality`."""
        from inn_core.exporting.curve import curve

        return curve(
            self._network(params),
            data=None,
            params=params["params"],
            quality=params["quality"],
            device=self._settings.device,
            progress=report,
        )

    def _network(self, params: Mapping[str, Any]) -> Checkpoint:
        """The checkpoint of a request, opened at most once while it is among the last few used."""
        from inn_core.checkpoint.storage import load_checkpoint

        digest = params["digest"]
        network = self._open.get(digest)
        if network is None:
            while len(self._open) >= self._settings.open_checkpoints:
                self._open.popitem(last=False)
            network = self._open[digest] = load_checkpoint(Path(params["checkpoint"]))
        self._open.move_to_end(digest)
        return network
