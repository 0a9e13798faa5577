"""The operations of the command line, run in this process: import, inspect, curve, export, train and verify.

`inn serve` builds in child processes; a person with a file and a terminal needs none. These functions are what the
commands call: paths and plain values in, JSON-ready values out. They are the only way from the command line to
inn_core, which is imported inside them, so that `inn --help` stays instant and says which extra is missing when one is.
"""

from __future__ import annotations

import contextlib
import glob
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from service.ground.errors import CoreError, DigestMismatchError
from service.ground.extras import HUB_MODULES, is_installed, missing_extra

if TYPE_CHECKING:
    from inn_core.checkpoint.checkpoint import Checkpoint

Arrays = Mapping[str, NDArray[Any]]
Report = Callable[[str, float], None]


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Turn errors of inn_core, and a missing optional module (`missing-extra`), into `CoreError`."""
    # inn_core.errors imports nothing, so that it is there in an environment without the extras, too.
    from inn_core.errors import InnError

    try:
        yield
    except InnError as exc:
        raise CoreError(exc.code, exc.message, exc.fields) from exc
    except ImportError as exc:
        module = (exc.name or "").partition(".")[0]
        if module in HUB_MODULES and not is_installed(module):
            raise missing_extra(module) from exc
        raise


@translated_errors()
def import_checkpoint(
    source: str,
    calibration: Arrays,
    *,
    name: str,
    output: Path,
    freeze: Sequence[tuple[str, int]] = (),
    statistics_only: bool = False,
    device: str = "auto",
    progress: Report,
) -> dict[str, Any]:
    """Turn a network into a checkpoint file.

    Args:
        source: path of an `.onnx` file, or `package.module:factory`, looked up in the working directory too.
        calibration: samples by graph input, samples first; arrays of other names are kept out.
        name: name of the checkpoint.
        output: file to write; it appears whole or not at all.
        freeze: `(tensor, axis)` pairs that keep their size.
        statistics_only: keep no samples in the checkpoint; quality `refined` is not offered then.
        device: `auto`, `cpu` or `cuda`.
        progress: called with a stage and the finished share.

    Returns:
        What `inspect_checkpoint` returns for the new file.

    Raises:
        CoreError: the network, the samples or an option is refused, or the extra `hub` is not installed.
    """
    from inn_core.checkpoint.storage import save_checkpoint
    from inn_core.importing.pipeline import import_network

    with _working_directory_importable():
        network = import_network(
            source,
            calibration,
            name=name,
            freeze=freeze,
            statistics_only=statistics_only,
            device=device,
            progress=progress,
        )
    save_checkpoint(network, output)
    return inspect_checkpoint(output)


@translated_errors()
def inspect_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint holds: groups, frozen axes, feasible sizes, inputs, outputs, qualities, provenance.

    Returns:
        The object of `inn inspect --json`: that of `inn_core.planning.summary.describe`, with the file's
        `checkpoint` digest and its `file_bytes`.

    Raises:
        CoreError: the file is no valid checkpoint.
    """
    from inn_core.checkpoint.storage import file_digest, load_checkpoint
    from inn_core.planning.summary import describe

    description = describe(load_checkpoint(path))
    return {**description, "checkpoint": file_digest(path), "file_bytes": path.stat().st_size}


@translated_errors()
def size_quality_curve(
    path: Path,
    *,
    data: Arrays | None,
    params: Sequence[int] | None,
    quality: str | None = None,
    quadrature: str | None = None,
    device: str = "auto",
    progress: Report,
) -> dict[str, Any]:
    """Sizes of a network against how well they do.

    Args:
        path: checkpoint.
        data: samples by graph input and, for accuracy, `labels`; without it the samples in the checkpoint are used.
        params: parameter counts to measure; without it ten over the feasible range.
        quality: how each size is made; None takes the best that the checkpoint offers.
        quadrature: how quality `uniform` samples kernels.
        device: `auto`, `cpu` or `cuda`.
        progress: called with a stage and the finished share.

    Returns:
        `{"full": {…}, "points": [{"params", "macs", "bytes", "accuracy", "agreement", "seconds"}]}`.

    Raises:
        CoreError: the checkpoint, the data or a target is refused.
    """
    from inn_core.checkpoint.storage import load_checkpoint
    from inn_core.exporting.curve import curve

    network = load_checkpoint(path)
    chosen = quality or _best_quality(network, quadrature)
    return dict(
        curve(
            network,
            data=data,
            params=params,
            quality=chosen,
            quadrature=quadrature,
            device=device,
            progress=progress,
        )
    )


def _best_quality(checkpoint: Checkpoint, quadrature: str | None) -> str:
    """The first quality that a checkpoint offers; one that offers none is told so by whoever asks for `refined`.

    A quadrature is chosen for `uniform` alone.
    """
    if quadrature is not None:
        return "uniform"
    from inn_core.checkpoint.checkpoint import QUALITIES

    return next(iter(checkpoint.qualities), QUALITIES[0])


@translated_errors()
def export(
    path: Path,
    *,
    unit: Literal["params", "macs", "bytes"],
    value: int,
    output: Path,
    quality: str | None = None,
    quadrature: str | None = None,
    multiple_of: int = 1,
    device: str = "auto",
    progress: Report,
) -> dict[str, Any]:
    """Make one artifact of a checkpoint.

    Args:
        path: checkpoint.
        unit: `params`, `macs` or `bytes`.
        value: what the artifact may have of it at most.
        output: ONNX file to write; it appears whole or not at all.
        quality: one of `inn_core.checkpoint.checkpoint.QUALITIES`; None takes the best that the checkpoint offers.
        quadrature: how quality `uniform` samples kernels.
        multiple_of: group sizes are multiples of this.
        device: `auto`, `cpu` or `cuda`.
        progress: called with a stage and the finished share.

    Returns:
        The manifest.

    Raises:
        CoreError: the checkpoint or the budget is refused.
    """
    from inn_core.checkpoint.storage import file_digest, load_checkpoint
    from inn_core.exporting.export import export_artifact
    from inn_core.planning.plan import Budget

    network = load_checkpoint(path)
    budget = Budget(unit, value)
    return dict(
        export_artifact(
            network,
            budget,
            quality=quality or _best_quality(network, quadrature),
            quadrature=quadrature,
            multiple_of=multiple_of,
            path=output,
            checkpoint_digest=file_digest(path),
            device=device,
            progress=progress,
        )
    )


@translated_errors()
def train_sizes(
    reference: str,
    *,
    output: Path,
    data: Arrays | None = None,
    evaluation: Arrays | None = None,
    epochs: int | None = None,
    labelled: bool = True,
    seed: int | None = None,
    threads: int | None = None,
    device: str = "auto",
    state: Path,
    progress: Report,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Train all sizes of a network and write the checkpoint; a run that was stopped goes on from its state.

    Args:
        reference: a built-in recipe, `package.module:function`, looked up in the working directory too, or the path of
            an `.inn` file, with `data`.
        output: checkpoint to write; it appears whole or not at all.
        data: training samples by graph input, and `labels` where there are any.
        evaluation: samples and labels for the final curve; those of the recipe when left out.
        epochs: passes over the data; those of the recipe when left out.
        labelled: whether labels may be read.
        seed: of the run; that of the recipe when left out.
        threads: that PyTorch computes with; its own choice when left out.
        device: `auto`, `cpu` or `cuda`.
        state: where the run saves its state; removed when the checkpoint is written.
        progress: called with a stage and the finished share.
        note: called with lines for people: where the run goes on, how each epoch went.

    Returns:
        `{"recipe", "model", "checkpoint" (digest), "file_bytes", "training" (see provenance), "seconds" (of the
        training, those before a stop included), "curve"}`; the curve is that of `size_quality_curve` in quality
        `trained`.

    Raises:
        CoreError: the recipe, the samples or an option is refused.
    """
    from dataclasses import replace

    import torch

    from inn_core.checkpoint.storage import load_checkpoint, save_checkpoint
    from inn_core.exporting.curve import check_samples, curve
    from inn_core.fitting.runtime import choose_device
    from inn_core.progress import scaled
    from inn_core.training.recipes.recipe import find_recipe
    from inn_core.training.recipes.run import run_recipe
    from inn_core.training.recipes.samples import sizes_recipe

    if threads is not None:
        torch.set_num_threads(threads)
    place = choose_device(device)
    if data is not None:
        recipe = sizes_recipe(load_checkpoint(Path(reference)), data, seed=seed or 0, labelled=labelled)
    else:
        with _working_directory_importable():
            recipe = find_recipe(reference, seed=seed, labelled=labelled)
    if epochs is not None:
        recipe = replace(recipe, settings=replace(recipe.settings, epochs=epochs))
    judged = recipe.evaluation if evaluation is None else evaluation
    start = recipe.start()
    check_samples(start, judged)  # what does not fit must be found before the training and not after it
    recipe = replace(recipe, start=lambda: start)
    trained, seconds = run_recipe(
        recipe, state_path=state, device=place, progress=scaled(progress, 0.0, 0.95), note=note
    )
    digest = save_checkpoint(trained, output)
    for leftover in (state, *state.parent.glob(f".{glob.escape(state.name)}.*.part")):  # of runs that were killed
        leftover.unlink(missing_ok=True)
    measured = curve(trained, data=judged, quality="trained", device=device, progress=scaled(progress, 0.95, 1.0))
    return {
        "recipe": recipe.name,
        "model": trained.name,
        "checkpoint": digest,
        "file_bytes": output.stat().st_size,
        "training": trained.provenance["training"],
        "seconds": round(seconds, 3),
        "curve": measured,
    }


@translated_errors()
def verify_checkpoint(path: Path, *, digest: str | None) -> dict[str, Any]:
    """Read a whole checkpoint, compare every digest inside it, and the file's own with `digest` when given.

    Returns:
        `{"file", "kind": "checkpoint", "digest", "checked": [what was compared]}`.

    Raises:
        CoreError: the file is damaged or no checkpoint.
        DigestMismatchError: the file is another than the one asked for.
    """
    from inn_core.checkpoint.storage import file_digest, load_checkpoint

    found = file_digest(path)
    if digest is not None and digest != found:
        raise DigestMismatchError(f"checkpoint '{path}'", expected=digest, found=found)
    load_checkpoint(path, verify=True)
    checked = ["digests inside the file"] + (["--digest"] if digest is not None else [])
    return {"file": str(path), "kind": "checkpoint", "digest": found, "checked": checked}


@contextlib.contextmanager
def _working_directory_importable() -> Iterator[None]:
    """Let `package.module:factory` name a module beside the user, as `python -m` does."""
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
