"""What every part of the pipelines shares: options, data, rows, and the trained network that everything starts from.

A row's key says everything that decided it (method, network, seed, the weights it starts from, steps, rate, whether
test images were looked at), so that rows of other settings are never taken for these.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from benchmarks.networks.catalogue import NETWORKS, Network, bare_checkpoint
from benchmarks.pipelines.data import Data, Part
from benchmarks.rivals.fine_tune import FINE_TUNING
from benchmarks.rivals.slimmable import Maker
from benchmarks.rivals.torch_pruning import count_macs, exported_parameters, reestimate_statistics
from benchmarks.rivals.uniform import Widths
from benchmarks.rows import Json, Rows
from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.files import file_digest
from inn_core.progress import Progress, no_progress
from inn_core.training.recipes.images import Schedule, to_pixels
from models.files import write_weights
from models.recipes.classifier import accuracy, train_classifier_, train_steps_

AVERAGE = "average_share"
"""In the key of a row whose training averaged its weights; without it, the last step was kept."""

SHARES = (0.81, 0.64, 0.49, 0.36, 0.25, 0.12, 0.064)
"""Shares of the parameters that sizes are measured at."""


@dataclass(frozen=True)
class Options:
    """What the user asked for.

    Attributes:
        network: name in `NETWORKS`.
        seed: of the training.
        epochs: of the discrete network that everything starts from.
        steps: gradient steps of whatever trains further; several for fine-tuning.
        rate: peak learning rate of those steps.
        slimmable_rate: the same for a slimmable network, whose steps add up the gradients of four widths.
        average_share: of those steps, over which weights are averaged at their end; 0 keeps the last step.
        shares: of the parameters.
        methods: names of the methods to measure; empty for all.
        pruning: names of the settings of Torch-Pruning to measure; empty for all.
        goal: method whose accuracies the part "cost" asks the rival to reach.
        base: weights to start from instead of training the discrete network.
        checkpoint: an integral network with trained sizes, to measure beside the imported one.
        shared_seconds, shared_steps: what training it took; None reads its provenance.
        build: folder of weights and training states.
        bfloat16: compute in bfloat16.
        quick: tiny networks and made-up images.
        with_test: measure on test images, too; without it the run tries settings.
    """

    network: str
    seed: int = 0
    epochs: int = 16
    steps: tuple[int, ...] = (0, 100, 1000)
    rate: float = FINE_TUNING.peak_rate
    slimmable_rate: float = FINE_TUNING.peak_rate
    average_share: float = 0.0
    shares: tuple[float, ...] = SHARES
    methods: tuple[str, ...] = ()
    pruning: tuple[str, ...] = ()
    goal: str = "slimmable"
    base: Path | None = None
    checkpoint: Path | None = None
    shared_seconds: float | None = None
    shared_steps: int | None = None
    build: Path = Path("build/pipelines")
    bfloat16: bool = True
    quick: bool = False
    with_test: bool = True


class Run:
    """One network, one seed: its data, its trained weights and where its rows go."""

    def __init__(self, options: Options, data: Data, rows: Rows) -> None:
        self.options = options
        self.data = data
        self.rows = rows
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def network(self) -> Network:
        """The architecture."""
        return NETWORKS[self.options.network]

    @property
    def make(self) -> Maker:
        """Constructor of the network for any widths."""
        return self.network.make

    @property
    def widths(self) -> Widths:
        """Full widths."""
        return self.network.quick_widths if self.options.quick else self.network.widths

    @cached_property
    def params(self) -> int:
        """Parameters of the full network as an ONNX file counts them."""
        return exported_parameters(self.make(widths=self.widths))

    @cached_property
    def base_name(self) -> str:
        """What the discrete network was made by: part of every key."""
        if self.options.base is not None:
            return file_digest(self.options.base)[7:19]
        return f"{self.options.epochs} epochs"

    @cached_property
    def discrete(self) -> nn.Module:
        """The trained discrete network, in eval mode: given, known from an earlier run, or trained now."""
        path = self.options.base or self.file("discrete", ".safetensors")
        if self.options.base is None and not path.is_file():
            write_weights(self.train_alone(self.widths, state=self.file("discrete", ".pt")), path)
        module = self.make(widths=self.widths)
        module.load_state_dict(load_file(path))
        return module.eval()

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Template, full weights and groups of the discrete network."""
        return bare_checkpoint(self.discrete, name=self.options.network)

    @cached_property
    def untrained(self) -> Checkpoint:
        """The same of random weights of the seed, with BatchNorm statistics taken once, so that a bias is folded in."""
        torch.manual_seed(self.options.seed)
        module = self.make(widths=self.widths).train()
        module(self.data.calibration_pixels())
        return bare_checkpoint(module.eval(), name=self.options.network)

    @property
    def identity(self) -> Json:
        """What every row of this run has in its key."""
        options = self.options
        return {
            "network": options.network,
            "seed": options.seed,
            "base": self.base_name,
            "test": options.with_test,
            "quick": options.quick,
        }

    def target(self, share: float) -> int:
        """Parameters of a share of the full network."""
        return int(share * self.params)

    def schedule(self, *, rate: float | None = None) -> Schedule:
        """Of training further: the run's rate, its seed apart from that of the first training."""
        options = self.options
        return replace(
            FINE_TUNING,
            seed=options.seed + 1000,
            peak_rate=rate or options.rate,
            average_share=options.average_share,
        )

    def settings(self, *, rate: float | None = None) -> dict[str, float]:
        """What the key of a row says of `schedule`."""
        schedule = self.schedule(rate=rate)
        averaged = {AVERAGE: schedule.average_share} if schedule.average_share else {}
        return {"rate": schedule.peak_rate, **averaged}

    def settings_tag(self, *, rate: float | None = None) -> str:
        """The same as part of the name of a file."""
        return "-".join(f"{value:g}" for value in self.settings(rate=rate).values())

    def train_alone(
        self,
        widths: Sequence[int],
        *,
        state: Path | None = None,
        progress: Progress | None = None,
    ) -> nn.Module:
        """A network of the given widths trained from scratch for the run's epochs, as the discrete one is.

        Args:
            widths: of the network.
            state: where the training saves its state, and goes on from.
            progress: of the training; said on the terminal when left out.
        """
        torch.manual_seed(self.options.seed)
        module = self.make(widths=widths)
        train_classifier_(
            module,
            self.data.train.images,
            self.data.train.labels,
            schedule=Schedule(seed=self.options.seed, epochs=self.options.epochs),
            device=self.device,
            bfloat16=self.options.bfloat16,
            state_path=state,
            progress=progress or self.progress("from scratch"),
        )
        return module

    def train_on_(
        self, module: nn.Module, n_steps: int, *, state: Path | None = None, progress: Progress = no_progress
    ) -> None:
        """Train a module further, in place, as every method that is trained on gets it."""
        train_steps_(
            module,
            self.data.train.images,
            self.data.train.labels,
            n_steps=n_steps,
            schedule=self.schedule(),
            device=self.device,
            bfloat16=self.options.bfloat16,
            state_path=state,
            progress=progress,
        )

    def file(self, what: str, ending: str) -> Path:
        """A file in the build folder that belongs to this network, seed and base, and to what was trained on.

        A run that tries settings holds images out, so it must never start from weights of a run that did not.
        """
        options = self.options
        base = self.base_name.replace(" ", "-")
        kind = f"{'quick-' if options.quick else ''}{'' if options.with_test else 'settings-'}"
        name = f"{options.network}-{kind}s{options.seed}-{base}-{what}{ending}"
        options.build.mkdir(parents=True, exist_ok=True)
        return options.build / name

    def wants(self, method: str) -> bool:
        """Whether the user asked for this method."""
        return not self.options.methods or method in self.options.methods

    def row(self, method: str, share: float, measure: Callable[[], Json], **details: Any) -> Json:
        """Measure one row, or take it from an earlier run.

        Args:
            method: name in the tables.
            share: of the parameters.
            measure: makes the row; see `found`.
            details: whatever else decides the row, JSON values.
        """
        found = self.rows.measured({"method": method, "share": share, **self.identity, **details}, measure)
        self.say(f"{method} at {100 * share:g} %: {describe(found)} {details or ''}")
        return found

    @property
    def reported(self) -> Part:
        """The images that this run's accuracies are compared on: test images, or held-out ones to try settings."""
        return self.data.test or self.data.validation

    def judge(self, predict: Callable[[Part], float]) -> dict[str, float | None]:
        """Accuracy on the test images, or on the validation images where settings are tried.

        A run that reports has trained on the validation images, so it is not judged on them.
        """
        share = predict(self.reported)
        return {"validation": None, "test": share} if self.data.test else {"validation": share, "test": None}

    def judge_module(self, module: nn.Module) -> dict[str, float | None]:
        """`judge` of a module."""
        return self.judge(lambda part: accuracy(module, part.images, part.labels))

    def judge_logits(self, logits: Callable[[Tensor], Tensor]) -> dict[str, float | None]:
        """`judge` of a function from pixels, shape `(n, 1, height, width)`, to logits, shape `(n, classes)`."""

        def predict(part: Part) -> float:
            found = logits(to_pixels(part.images)).argmax(1).cpu().numpy()
            return float(np.mean(found == part.labels))

        return self.judge(predict)

    def found(self, module: nn.Module, *, seconds: float, again: bool = True) -> Json:
        """A row of a module: size, accuracy as it comes and, where `again`, with BatchNorm statistics taken again."""
        images = self.data.calibration_pixels()
        return {
            "params": exported_parameters(module),
            "macs": count_macs(module, images[:1]),
            "seconds": round(seconds, 3),
            "raw": self.judge_module(module),
            "reestimated": self.judge_module(reestimate_statistics(module, images)) if again else None,
        }

    def progress(self, what: str) -> Progress:
        """Says every tenth of a training."""
        last = -1
        started = time.perf_counter()

        def report(stage: str, share: float) -> None:
            nonlocal last
            if int(10 * share) > last:
                last = int(10 * share)
                self.say(f"{what}: {stage} ({100 * share:.0f} %, {time.perf_counter() - started:.0f} s)")

        return report

    def say(self, message: str) -> None:
        """One line to the terminal."""
        print(f"[{self.options.network} s{self.options.seed}] {message}", file=sys.stderr, flush=True)


def describe(found: Mapping[str, Any]) -> str:
    """Accuracies of a row in a few words: on the images that its run reports."""
    parts = []
    for name in ("raw", "reestimated"):
        if found.get(name):
            value = found[name]["test"] if found[name]["test"] is not None else found[name]["validation"]
            parts.append(f"{name} {100 * value:.2f} %")
    return ", ".join(parts)
