"""What `import inn_core` gives: the way of a network from a module or file to ONNX files of any size, for a notebook.

Each function takes what people have at hand (modules, paths, bytes, arrays) and calls the room that does the work. A
value of another type is refused here, by name, with what would be taken.
"""

from __future__ import annotations

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
from inn_core.training.step import TaskLoss

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
    if isinstance(source, nn.Module):
        source = source, _example(samples)
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
        arrays if (arrays := _arrays(samples, "samples")) is not None else _array(samples, "samples"),
        name=name,
        freeze=freeze,
        statistics_only=statistics_only,
        device=device,
        progress=progress,
    )


def load(path: str | Path) -> Checkpoint:
    """Read an `.inn` file; see `inn_core.checkpoint.storage.load_checkpoint` for errors."""
    if not isinstance(path, str | Path):
        raise InvalidTypeError("path", path, "the path of an .inn file")
    return load_checkpoint(path)


def save(network: Network, path: str | Path) -> str:
    """Write an `.inn` file, whole or not at all, and return its digest (`sha256:…`)."""
    return save_checkpoint(_checkpoint(network), path)


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
    return choose_plan(
        _checkpoint(network, measured=False), _budget(budget, params, macs, size_bytes), multiple_of=multiple_of
    )


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
        quality: by default `trained` of an integral network, else `refined` where samples are kept and `instant`
            where not.
        device, threads, progress: as of `inn_core.exporting.export.export_artifact`.

    Returns:
        The manifest; see `inn_core.exporting.export.export_artifact`.
    """
    checkpoint = _checkpoint(network)
    if not isinstance(size, Plan | Budget):
        raise InvalidTypeError("size", size, "a Plan, or a Budget such as Budget('params', 170_000)")
    if quality is None:
        quality = (
            "trained" if isinstance(network, IntegralNetwork) else "refined" if checkpoint.calibration else "instant"
        )
    return export_artifact(
        checkpoint,
        size,
        quality=quality,
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
    quality: str = "refined",
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Cost against quality at several sizes; see `inn_core.exporting.curve.curve`."""
    arrays = None if data is None else _arrays(data, "data")
    if data is not None and arrays is None:
        raise InvalidTypeError("data", data, "arrays by input name, with 'labels' where accuracy is wanted")
    return curves.curve(
        _checkpoint(network), data=arrays, params=params, quality=quality, device=device, progress=progress
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
    options: dict[str, Any] = {} if progress is None else {"progress": progress}
    train_sizes_(
        network, batches, settings=settings or SizeTraining(), task_loss=task_loss, state_path=state_path, **options
    )
    network.measure_()
    return network


def _checkpoint(network: Network, *, measured: bool = True) -> Checkpoint:
    if isinstance(network, Checkpoint):
        return network
    if isinstance(network, IntegralNetwork):
        return network.to_checkpoint() if measured else network.checkpoint
    if isinstance(network, str | Path):
        return load_checkpoint(network)
    raise InvalidTypeError("network", network, "a Checkpoint, an IntegralNetwork, or the path of an .inn file")


def _budget(budget: Budget | None, params: int | None, macs: int | None, size_bytes: int | None) -> Budget:
    if budget is not None and not isinstance(budget, Budget):
        raise InvalidTypeError("budget", budget, "a Budget, such as Budget('params', 170_000), or params=170_000")
    given = [] if budget is None else [budget]
    values = {"params": params, "macs": macs, "bytes": size_bytes}
    given += [Budget(unit, value) for unit, value in values.items() if value is not None]  # type: ignore[arg-type]
    if len(given) != 1:
        raise InvalidBudgetError(f"give exactly one budget of params, macs and size_bytes; {len(given)} were given")
    return given[0]


def _arrays(samples: Any, what: str) -> dict[str, Array] | None:
    """Arrays by name, or None where the samples are one array."""
    if isinstance(samples, Mapping):
        return {str(name): _array(value, f"{what}['{name}']") for name, value in samples.items()}
    return None


def _array(value: Any, what: str) -> Array:
    if isinstance(value, torch.Tensor):
        return np.asarray(value.detach().cpu().numpy())
    if isinstance(value, np.ndarray):
        return value
    raise InvalidTypeError(
        what, value, "a numpy array or a torch tensor, samples first, or a dict of them by input name"
    )


def _example(samples: Any) -> Any:
    """Example inputs for the export of a module: the first rows of its samples, as float32 where they are numbers."""
    arrays = _arrays(samples, "samples")
    if arrays is None:
        return torch.as_tensor(_array(samples, "samples")[:_EXAMPLES].copy())
    return {name: torch.as_tensor(array[:_EXAMPLES].copy()) for name, array in arrays.items()}
