"""What `import inn_core` gives: the way of a network from a module or file to ONNX files of any size, for a notebook.

Each function takes what people have at hand (modules, paths, bytes, arrays) and calls the room that does the work. A
value of another type is refused here, by name, with what would be taken.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from torch import nn

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import checkpoint_digest, load_checkpoint, save_checkpoint
from inn_core.errors import InvalidBudgetError, InvalidTypeError
from inn_core.exporting import curve as curves
from inn_core.exporting.export import export_artifact
from inn_core.importing import pipeline
from inn_core.importing.torch_export import export_module
from inn_core.planning.plan import Budget, Plan, choose_plan
from inn_core.progress import Progress
from inn_core.training.integral_network import IntegralNetwork
from inn_core.training.loop import Batches, train_sizes_
from inn_core.training.settings import SizeTraining
from inn_core.training.step import TaskLoss, unwrapped

Samples: TypeAlias = "Array | torch.Tensor | Mapping[str, Any]"
Source: TypeAlias = "str | Path | bytes | onnx.ModelProto | nn.Module | tuple[nn.Module, Any]"
Network: TypeAlias = "Checkpoint | IntegralNetwork | str | Path"

_EXAMPLES = 2  # rows of the samples that a module is exported with


def import_network(
    source: Source,
    samples: Samples,
    *,
    name: str = "network",
    freeze: Sequence[tuple[str, int]] = (),
    statistics_only: bool = False,
    device: str = "auto",
    progress: Progress | None = None,
) -> Checkpoint:
    """Make a checkpoint, one network in every size, of a trained network.

    Args:
        source: an `.onnx` file, its bytes or its model; a module, exported with rows of the samples, or a pair
            (module, example inputs); `package.module:factory` that returns such a pair.
        samples: unlabelled inputs, samples first: an array or tensor where the network reads one input, else one for
            each input by name. A thousand varied samples are good, 64 are few.
        name, freeze, statistics_only, device, progress: as of `inn_core.importing.pipeline.import_network`.

    Returns:
        The checkpoint; `save` writes it, `plan` and `export` make sizes of it.

    Raises:
        InvalidTypeError: the source or the samples are of another type.
        InnError: see `inn_core.importing.pipeline.import_network`.
    """
    if not isinstance(name, str):
        raise InvalidTypeError("name", name, "a text")
    if isinstance(source, nn.Module):
        source = source, _example(source, samples)
    if isinstance(source, tuple):
        if len(source) != 2 or not isinstance(source[0], nn.Module):
            raise InvalidTypeError("source", source, "a pair of a torch module and its example inputs")
        module, example = source
        source = export_module(module, example, name=type(module).__name__)
    if not isinstance(source, str | Path | bytes | onnx.ModelProto):
        raise InvalidTypeError(
            "source",
            source,
            "a torch module, (module, example inputs), an .onnx file, its bytes or its ModelProto, or "
            "'package.module:factory'",
        )
    return pipeline.import_network(
        source,
        _arrays(samples, "samples") if isinstance(samples, Mapping) else _array(samples, "samples"),
        name=name,
        freeze=freeze,
        statistics_only=statistics_only,
        device=device,
        progress=progress,
    )


def load(path: str | Path) -> Checkpoint:
    """Read an `.inn` file; see `inn_core.checkpoint.storage.load_checkpoint` for errors."""
    return load_checkpoint(_path(path, "of an .inn file"))


def save(network: Network, path: str | Path) -> str:
    """Write an `.inn` file, whole or not at all, and return its digest (`sha256:…`)."""
    return save_checkpoint(_checkpoint(network), _target(path, "of the .inn file to write"))


def plan(
    network: Network,
    budget: Budget | None = None,
    *,
    params: int | None = None,
    macs: int | None = None,
    size_bytes: int | None = None,
    multiple_of: int = 1,
) -> Plan:
    """The size of every group that meets a budget; give exactly one.

    Raises:
        InvalidBudgetError, BudgetUnreachableError: see `inn_core.planning.plan.choose_plan`.
    """
    if budget is None:
        budget = Budget.of(params=params, macs=macs, size_bytes=size_bytes)
    elif not isinstance(budget, Budget):
        raise InvalidTypeError("budget", budget, "a Budget, such as Budget('params', 170_000), or params=170_000")
    elif (params, macs, size_bytes) != (None, None, None):
        raise InvalidBudgetError("give a Budget or one of params, macs and size_bytes, not both")
    return choose_plan(_checkpoint(network, measured=False), budget, multiple_of=multiple_of)


def export(
    network: Network,
    size: Plan | Budget,
    path: str | Path,
    *,
    quality: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write one size as an ONNX file, verified in ONNX Runtime before it gets its name.

    Args:
        network: a checkpoint, the path of one, or an integral network that was measured.
        size: a plan, or a budget to plan for.
        path: the file; it appears whole or not at all.
        quality: by default `trained` of an integral network, else the first of the checkpoint's `qualities`.
        device, threads, progress: as of `inn_core.exporting.export.export_artifact`.

    Returns:
        The manifest; see `inn_core.exporting.export.export_artifact`.

    Raises:
        InvalidTypeError: an argument is of another type.
        InnError: see `inn_core.exporting.export.export_artifact`. FileNotFoundError: there is no such folder.
    """
    path = _target(path, "of the ONNX file to write")
    checkpoint = _checkpoint(network)
    if not isinstance(size, Plan | Budget):
        raise InvalidTypeError("size", size, "a Plan, or a Budget such as Budget('params', 170_000)")
    if threads is not None and not isinstance(threads, int):
        raise InvalidTypeError("threads", threads, "a whole number, or None for as many as PyTorch is set to")
    return export_artifact(
        checkpoint,
        size,
        quality=quality or _best_quality(network, checkpoint),
        path=path,
        checkpoint_digest=checkpoint_digest(checkpoint),
        device=device,
        threads=threads,
        progress=progress,
    )


def curve(
    network: Network,
    data: Mapping[str, Any] | None = None,
    *,
    params: Sequence[int] | None = None,
    quality: str | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Cost against quality at several sizes; see `inn_core.exporting.curve.curve`, and `export` for the quality."""
    if data is not None and not isinstance(data, Mapping):
        raise InvalidTypeError("data", data, "arrays by input name, with 'labels' where accuracy is wanted")
    if params is not None and (isinstance(params, str) or not isinstance(params, Sequence | np.ndarray)):
        raise InvalidTypeError("params", params, "a list of parameter counts, such as [60_000, 170_000]")
    checkpoint = _checkpoint(network)
    return curves.curve(
        checkpoint,
        data=None if data is None else _arrays(data, "data"),
        params=None if params is None else [int(count) for count in params],
        quality=quality or _best_quality(network, checkpoint),
        device=device,
        progress=progress,
    )


def train(
    network: IntegralNetwork,
    batches: Batches,
    *,
    settings: SizeTraining | None = None,
    task_loss: TaskLoss | None = None,
    state_path: Path | None = None,
    progress: Progress | None = None,
) -> IntegralNetwork:
    """Train all sizes of a network in place and measure their statistics; see `inn_core.training.loop.train_sizes_`.

    Returns:
        The network, ready to be exported or saved.
    """
    if not isinstance(network, nn.Module):
        raise InvalidTypeError("network", network, "an IntegralNetwork, made with IntegralNetwork(checkpoint)")
    if not callable(getattr(batches, "epoch", None)):
        raise InvalidTypeError(
            "batches",
            batches,
            "an object whose `epoch(number)` gives pairs (inputs, targets) and whose length counts them",
        )
    options: dict[str, Any] = {} if progress is None else {"progress": progress}
    train_sizes_(
        network, batches, settings=settings or SizeTraining(), task_loss=task_loss, state_path=state_path, **options
    )
    unwrapped(network).measure_()
    return network


def _checkpoint(network: Network, *, measured: bool = True) -> Checkpoint:
    if isinstance(network, Checkpoint):
        return network
    if isinstance(network, IntegralNetwork):
        return network.to_checkpoint() if measured else network.checkpoint
    if isinstance(network, str | Path):
        return load_checkpoint(network)
    raise InvalidTypeError("network", network, "a Checkpoint, an IntegralNetwork, or the path of an .inn file")


def _best_quality(network: Network, checkpoint: Checkpoint) -> str:
    return "trained" if isinstance(network, IntegralNetwork) else next(iter(checkpoint.qualities), "refined")


def _path(path: Any, of: str) -> Path:
    if not isinstance(path, str | Path):
        raise InvalidTypeError("path", path, f"the path {of}")
    return Path(path)


def _target(path: Any, of: str) -> Path:
    target = _path(path, of)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"'{target}' lies in a folder that does not exist; make '{target.parent}' first")
    return target


def _arrays(samples: Mapping[Any, Any], what: str) -> dict[str, Array]:
    return {str(name): _array(value, f"{what}['{name}']") for name, value in samples.items()}


def _array(value: Any, what: str) -> Array:
    if isinstance(value, torch.Tensor):
        return np.asarray(value.detach().cpu().numpy())
    if isinstance(value, np.ndarray):
        return value
    raise InvalidTypeError(
        what, value, "a numpy array or a torch tensor, samples first, or a dict of them by input name"
    )


def _example(module: nn.Module, samples: Any) -> Any:
    """Example inputs to export a module with: the first rows of its samples, with numbers in its own precision."""
    weight = next((each for each in module.parameters() if each.is_floating_point()), torch.zeros(()))

    def rows(array: Array) -> torch.Tensor:
        tensor = torch.as_tensor(array[:_EXAMPLES].copy(), device=weight.device)
        return tensor.to(weight.dtype) if tensor.is_floating_point() else tensor

    if not isinstance(samples, Mapping):
        return rows(_array(samples, "samples"))
    taken = inspect.signature(module.forward).parameters  # labels, say, are no inputs
    return {name: rows(array) for name, array in _arrays(samples, "samples").items() if name in taken}
