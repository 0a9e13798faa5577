"""Train the demo network on Fashion-MNIST and make its checkpoint: `python -m models.recipes.fashion_resnet`.

Writes into the output folder:
    fashion_resnet.safetensors  the trained weights of `models.fashion_resnet.FashionResNet`
    model.onnx                  the same network; input "image", output "logits", any batch size
    calibration.npz             `image`: 1,024 training images, float32 pixels in [0, 1], shape (1024, 1, 28, 28)
    evaluation.npz              `image` and `labels`: the 10,000 test images
    fashion_resnet.inn          the imported network, shipped as fashion_resnet_imported.inn (not with `--skip-import`)
    training.pt                 the state after the last finished epoch; a run that was stopped continues from it

No setting was tuned on the test images: `--validation 5000` holds out training images to try settings on, and then the
test images are not looked at. The data is Debian's package `dataset-fashion-mnist`. The run is as repeatable as torch
is: equal on one machine with one number of threads and one precision.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn

from inn_core.training.recipes.fashion_mnist import DEFAULT_FOLDER, fashion_mnist
from inn_core.training.recipes.images import Schedule, is_bfloat16_faster, to_pixels
from models.fashion_resnet import FashionResNet
from models.files import write_arrays, write_graph, write_weights
from models.recipes.classifier import accuracy, train_classifier_
from models.recipes.command import import_written, reported

CALIBRATION_IMAGES = 1024
CHECKPOINT_NAME = "fashion_resnet"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, measure, write; returns the exit code."""
    options = _parser().parse_args(arguments)
    return reported(_run, options)


def write_onnx(module: nn.Module, path: Path) -> None:
    """Export a network for images to ONNX with input "image", output "logits" and a dynamic batch.

    Args:
        module: in eval mode; takes shape `(batch, 1, 28, 28)`.
        path: the file to write.
    """
    free = {0: torch.export.Dim("batch")}
    write_graph(module, torch.zeros(2, 1, 28, 28), path, input_name="image", output_name="logits", free=free)


def pick_calibration(n_images: int, *, seed: int) -> NDArray[np.int64]:
    """Positions of the calibration images among the training images: a sorted random subset without repetition."""
    chosen = np.random.default_rng([seed, 1]).choice(n_images, size=min(CALIBRATION_IMAGES, n_images), replace=False)
    return np.sort(chosen)


def _run(options: argparse.Namespace, console: Console) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, labels = fashion_mnist("train", folder=options.data)
    test_images, test_labels = fashion_mnist("test", folder=options.data)
    calibration = pick_calibration(len(images), seed=options.seed)
    order = np.random.default_rng([options.seed, 2]).permutation(len(images))
    held_out, trained_on = order[: options.validation], order[options.validation :]

    schedule = Schedule(seed=options.seed, epochs=options.epochs)
    torch.manual_seed(options.seed)
    module = FashionResNet()
    batch = to_pixels(images[: schedule.batch_images])
    bfloat16 = is_bfloat16_faster(FashionResNet, batch, device=device)
    console.print(f"training on {len(trained_on):,} images in {'bfloat16' if bfloat16 else 'float32'} on {device.type}")
    started = time.monotonic()

    def report(epoch: int, loss: float) -> None:
        line = f"epoch {epoch}: loss {loss:.4f}, {time.monotonic() - started:.0f} s"
        if len(held_out):
            line += f", held-out accuracy {100 * accuracy(module, images[held_out], labels[held_out]):.2f} %"
        console.print(line, highlight=False)

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("training", total=1.0)
        train_classifier_(
            module,
            images[trained_on],
            labels[trained_on],
            schedule=schedule,
            device=device,
            bfloat16=bfloat16,
            state_path=options.output / "training.pt",
            progress=lambda stage, fraction: bar.update(task, description=stage, completed=fraction),
            after_epoch=report,
        )
    seconds = time.monotonic() - started
    if options.validation:
        console.print("settings run: the test images are not looked at and nothing is written")
        return
    share = accuracy(module, test_images, test_labels)
    print(f"test accuracy {100 * share:.2f} % on {len(test_images):,} images, trained in {seconds:.0f} s")

    write_weights(module, options.output / f"{CHECKPOINT_NAME}.safetensors")
    write_onnx(module, options.output / "model.onnx")
    samples = to_pixels(images[calibration]).numpy()
    write_arrays(options.output / "calibration.npz", image=samples)
    write_arrays(
        options.output / "evaluation.npz", image=to_pixels(test_images).numpy(), labels=test_labels.astype(np.int64)
    )
    if not options.skip_import:
        import_written(options.output / "model.onnx", {"image": samples}, name=CHECKPOINT_NAME, console=console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m models.recipes.fashion_resnet", description="Train the demo network and make its checkpoint."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=Schedule.epochs)
    parser.add_argument("--data", type=Path, default=DEFAULT_FOLDER, help="folder of the *-ubyte.gz files")
    parser.add_argument("--output", type=Path, default=Path("build/fashion_resnet"), help="folder to write into")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 keeps its own choice")
    parser.add_argument(
        "--validation", type=int, default=0, help="hold out this many training images, report on them, write nothing"
    )
    parser.add_argument("--skip-import", action="store_true", help="stop before the `.inn` checkpoint")
    return parser


if __name__ == "__main__":
    sys.exit(main())
