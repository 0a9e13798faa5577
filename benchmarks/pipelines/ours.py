"""Rows of this project's own network: what a user exports, run in ONNX Runtime on the images that rivals are judged on.

Two checkpoints are measured. The discrete network is imported with the thousand calibration images that every method
gets, and exported `refined` and `instant`. A checkpoint of trained sizes is exported `trained`, and `refined` on top of
that: what `inn train` wrote for the network, given by the user, or what the same recipe makes of the import here.
Parameters and multiply-accumulates are those of the manifest.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from benchmarks.output import write_text
from benchmarks.pipelines.data import Part
from benchmarks.pipelines.run import AVERAGE, Run
from benchmarks.rows import Json
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.qualities import check_quality
from inn_core.checkpoint.storage import load_checkpoint, save_checkpoint
from inn_core.exporting.export import export_artifact
from inn_core.files import file_digest
from inn_core.importing.pipeline import import_network
from inn_core.planning.plan import Budget, feasible_range
from inn_core.training.recipes.fashion_resnet import recipe_from
from inn_core.training.recipes.images import to_pixels
from inn_core.training.recipes.run import run_recipe
from models.recipes.fashion_resnet import write_onnx

TRAINED = "ours, trained sizes"
REFINED_OF_TRAINED = "ours, refined of trained"
REFINED = "ours, refined"
INSTANT = "ours, instant"

QUALITIES = {TRAINED: "trained", REFINED_OF_TRAINED: "refined", REFINED: "refined", INSTANT: "instant"}
OF_TRAINED = (TRAINED, REFINED_OF_TRAINED)

BATCH = 500


@dataclass(frozen=True)
class Source:
    """A checkpoint, and what it took once for all sizes beside the training of the discrete network.

    Attributes:
        network: the checkpoint.
        digest: of its file.
        shared_seconds, shared_steps: of the import, or of the training of the sizes.
        settings: peak learning rate of that training and how it averaged, as far as the checkpoint says it.
    """

    network: Checkpoint
    digest: str
    shared_seconds: float
    shared_steps: int
    settings: Mapping[str, float] = field(default_factory=dict)


def ours(run: Run, shares: Sequence[float]) -> None:
    """The full size and every share, in every quality that is asked for.

    Methods of a trained checkpoint are left out where none is given, unless they are asked for by name: then it is
    trained, for the most steps asked.

    Raises:
        SystemExit: the trained checkpoint is not one of this network, or does not say what it took.
    """
    options = run.options
    of_trained = [method for method in OF_TRAINED if run.wants(method) and (options.checkpoint or options.methods)]
    if of_trained:
        source = trained(run)
        details = {"checkpoint": source.digest[7:19], "steps": source.shared_steps, **source.settings}
        for method in of_trained:
            for share in (1.0, *shares):
                run.row(method, share, partial(_exported, run, source, QUALITIES[method], share), **details)
    for method in (REFINED, INSTANT):
        if run.wants(method):
            for share in (1.0, *shares):
                run.row(method, share, partial(_of_imported, run, method, share))


def trained(run: Run) -> Source:
    """The checkpoint of trained sizes that the user gave, checked, or the one that is trained here.

    Raises:
        SystemExit: as `ours`.
        InnError: the file is no checkpoint, or it was not trained in its sizes.
    """
    options = run.options
    path = options.checkpoint or train_sizes(run)
    network = load_checkpoint(path)
    check_quality(network, "trained")
    _, largest = feasible_range(network, "params")
    if largest != run.params:
        raise SystemExit(
            f"checkpoint '{path}' has {largest:,} parameters and {options.network} has {run.params:,}; "
            "give a checkpoint of that network"
        )
    training = network.provenance.get("training", {})
    seed = training.get("seed", options.seed)
    if seed != options.seed:
        raise SystemExit(f"checkpoint '{path}' was trained with seed {seed}; measure it with --seeds {seed}")
    return Source(
        network,
        file_digest(path),
        float(_known(training.get("seconds"), options.shared_seconds, "seconds", path)),
        int(_known(training.get("steps"), options.shared_steps, "steps", path)),
        _settings(training.get("settings", {})),
    )


def _settings(recorded: Mapping[str, float]) -> dict[str, float]:
    """What a key says of them, as `Run.settings` has it."""
    found = {"rate": recorded.get("peak_rate"), AVERAGE: recorded.get(AVERAGE)}
    return {name: value for name, value in found.items() if value}


def train_sizes(run: Run) -> Path:
    """Train the sizes of the imported network by the recipe of `inn train fashion_resnet`, unless that was done.

    Returns:
        The checkpoint in the build folder; its provenance has the seconds, those of an earlier, stopped run included.
    """
    n_steps = max(run.options.steps)
    path = run.file(f"trained-sizes-{n_steps}", ".inn")
    if path.is_file():
        return path
    part = run.data.train
    start = imported(run).network
    recipe = recipe_from(lambda: start, part.images, part.labels, name=run.options.network, seed=run.options.seed)
    epochs = max(1, math.ceil(n_steps / len(recipe.batches)))
    state = path.with_suffix(".pt")
    network, seconds = run_recipe(
        replace(recipe, settings=replace(recipe.settings, epochs=epochs)),
        state_path=state,
        device=run.device,
        progress=run.progress(TRAINED),
    )
    training = {**network.provenance["training"], "seconds": round(seconds, 3)}
    save_checkpoint(replace(network, provenance={**network.provenance, "training": training}), path)
    return path


def imported(run: Run) -> Source:
    """The discrete network, imported with the calibration images; from the build folder when it is there."""
    path = run.file("imported", ".inn")
    record = path.with_name(f"{path.name}.seconds")
    if not (path.is_file() and record.is_file()):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "model.onnx"
            write_onnx(run.discrete, source)
            network = import_network(
                source,
                {"image": run.data.calibration_pixels().numpy()},
                name=run.options.network,
                device=run.device.type,
                progress=run.progress("import"),
            )
        save_checkpoint(network, path)
        write_text(record, f"{time.perf_counter() - started:.3f}\n")
    return Source(load_checkpoint(path), file_digest(path), float(record.read_text()), 0)


def _of_imported(run: Run, method: str, share: float) -> Json:
    return _exported(run, imported(run), QUALITIES[method], share)


def _exported(run: Run, source: Source, quality: str, share: float) -> Json:
    """A row of an artifact; `seconds` are those of its export, verified as every artifact is."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        started = time.perf_counter()
        manifest = export_artifact(
            source.network,
            Budget("params", run.target(share)),
            quality=quality,
            path=path,
            checkpoint_digest=source.digest,
            device=run.device.type,
        )
        seconds = time.perf_counter() - started
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return {
            "params": manifest["params"],
            "macs": manifest["macs"],
            "seconds": round(seconds, 3),
            "raw": run.judge(partial(_accuracy, session)),
            "reestimated": None,
            "made_by": manifest["method"],
            "bytes": manifest["bytes"],
            "shared_seconds": source.shared_seconds,
            "shared_steps": source.shared_steps,
        }


def _accuracy(session: onnxruntime.InferenceSession, part: Part) -> float:
    (feed,) = (value.name for value in session.get_inputs())
    correct = 0
    for start in range(0, len(part.images), BATCH):
        (logits,) = session.run(None, {feed: to_pixels(part.images[start : start + BATCH]).numpy()})
        correct += int(np.sum(logits.argmax(1) == part.labels[start : start + BATCH]))
    return correct / len(part.images)


def _known(recorded: float | None, given: float | None, what: str, path: Path) -> float:
    """What training took, by the user or else by the provenance of the checkpoint."""
    value = given if given is not None else recorded
    if value is None:
        raise SystemExit(
            f"checkpoint '{path}' does not say how many {what} its training took; give them with --shared-{what}"
        )
    return value
