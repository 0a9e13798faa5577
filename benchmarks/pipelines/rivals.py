"""Rows of the rivals: Torch-Pruning with and without fine-tuning, folding, and a slimmable network."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from safetensors.torch import load_file
from torch import nn

from benchmarks.pipelines.run import Run
from benchmarks.rivals import folding, torch_pruning
from benchmarks.rivals.channels import ordered_by_norm
from benchmarks.rivals.fine_tune import LADDER, fine_tune_to
from benchmarks.rivals.slimmable import slim, train_slimmable_, widths_within
from benchmarks.rivals.torch_pruning import Pruned, Setting
from benchmarks.rows import Json
from inn_core.graph.cost import CostModel
from inn_core.training.recipes.images import Schedule
from inn_core.training.state import seconds_taken
from models.files import write_weights
from models.recipes.classifier import accuracy

FOLDING = "folding"
SLIMMABLE = "slimmable"
SLIMMABLE_SCRATCH = "slimmable from scratch"
PRUNING = "Torch-Pruning"
PRUNING_TO_GOAL = "Torch-Pruning to the goal"

FINE_TUNED = ("LAMP, isomorphic", "LAMP, global", "L2, uniform")
"""Settings that are also fine-tuned: the best without fine-tuning at large sizes, and the usual one."""

GOAL_SETTING = "L2, uniform"

SCRATCH = Schedule()
"""Of a slimmable network trained from scratch; its seed and number of steps are the run's."""

QUICK_LADDER = (2, 4)


def pruning(run: Run, shares: Sequence[float]) -> None:
    """Every setting of Torch-Pruning at every size; some are fine-tuned for each of the run's numbers of steps."""
    if not run.wants(PRUNING):
        return
    chosen = run.options.pruning
    for setting in (setting for setting in torch_pruning.SETTINGS if not chosen or setting.name in chosen):
        for share in shares:
            for n_steps in run.options.steps:
                if n_steps and setting.name not in FINE_TUNED:
                    continue
                details = {"setting": setting.name, "steps": n_steps}
                if n_steps:
                    details |= run.settings()
                run.row(PRUNING, share, partial(_tuned, run, setting, share, n_steps), **details)


def pruning_to_goal(run: Run, goals: dict[float, float]) -> None:
    """What it costs to prune and fine-tune each size until it is as accurate as another method was.

    Args:
        run: the run.
        goals: share of the parameters -> accuracy on the images that the run reports.
    """
    if not run.wants(PRUNING_TO_GOAL):
        return
    setting = next(setting for setting in torch_pruning.SETTINGS if setting.name == GOAL_SETTING)
    for share, goal in goals.items():
        run.row(
            PRUNING_TO_GOAL,
            share,
            partial(_to_goal, run, setting, share, goal),
            setting=setting.name,
            goal=goal,
            goal_method=run.options.goal,
            **run.settings(),
        )


def to_goal(run: Run, pruned: Pruned, goal: float) -> Json:
    """Fine-tune a pruned network for as few steps of the ladder as reach the goal; statistics are taken again first.

    The ladder ends on the very images that are reported, which favours the rival.
    """
    judged = run.reported
    tuned = fine_tune_to(
        torch_pruning.reestimate_statistics(pruned.module, run.data.calibration_pixels()),
        run.data.train.images,
        run.data.train.labels,
        goal=goal,
        judge=lambda module: accuracy(module, judged.images, judged.labels),
        ladder=QUICK_LADDER if run.options.quick else LADDER,
        schedule=run.schedule(),
        device=run.device,
        bfloat16=run.options.bfloat16,
    )
    found = run.found(tuned.module, seconds=pruned.seconds + tuned.seconds, again=False)
    return {**found, "steps": tuned.n_steps, "is_reached": tuned.is_reached, "is_hit": pruned.is_hit}


def fold(run: Run, shares: Sequence[float]) -> None:
    """Folding in equal shares: without data, and with statistics repaired on the calibration images."""
    if run.wants(FOLDING):
        for share in shares:
            run.row(FOLDING, share, partial(_folded, run, share))


def slimmable(run: Run, shares: Sequence[float]) -> None:
    """A slimmable network at every size, trained from the discrete one or from scratch, for the most steps asked."""
    n_steps = max(run.options.steps)
    for method in (SLIMMABLE, SLIMMABLE_SCRATCH):
        if n_steps and run.wants(method):
            settings = run.settings(rate=run.options.slimmable_rate if method == SLIMMABLE else SCRATCH.peak_rate)
            for share in (1.0, *shares):
                run.row(
                    method,
                    share,
                    partial(_slimmed, run, method, share, n_steps, settings["rate"]),
                    steps=n_steps,
                    **settings,
                    smallest=min(run.options.shares),
                )


def _pruned(run: Run, setting: Setting, share: float) -> Pruned:
    return torch_pruning.prune_to(
        run.discrete,
        run.target(share),
        setting=setting,
        images=run.data.calibration_pixels(),
        labels=run.data.calibration_labels(),
        classifier=run.network.head,
    )


def _to_goal(run: Run, setting: Setting, share: float, goal: float) -> Json:
    return to_goal(run, _pruned(run, setting, share), goal)


def _tuned(run: Run, setting: Setting, share: float, n_steps: int) -> Json:
    pruned = _pruned(run, setting, share)
    module = copy.deepcopy(pruned.module)
    started = time.perf_counter()
    if n_steps:
        run.train_on_(module, n_steps)
    seconds = pruned.seconds + time.perf_counter() - started
    return {**run.found(module, seconds=seconds), "steps": n_steps, "is_hit": pruned.is_hit}


def _folded(run: Run, share: float) -> Json:
    network = run.checkpoint
    started = time.perf_counter()
    sizes = folding.uniform_sizes(network, run.target(share))
    folded = folding.fold(network, sizes, seed=run.options.seed)
    seconds = time.perf_counter() - started
    matched = folding.match_statistics(network, folded, run.data.calibration_pixels())
    cost = CostModel.of(network.template, network.structure)
    row = cost.to_row(sizes)
    return {
        "params": int(cost.evaluate("params", row)[0]),
        "macs": int(cost.evaluate("macs", row)[0]),
        "seconds": round(seconds, 3),
        "raw": run.judge_logits(lambda images: folding.folded_outputs(network, folded, images)),
        "reestimated": run.judge_logits(lambda images: folding.folded_outputs(network, matched, images)),
    }


def _slimmed(run: Run, method: str, share: float, n_steps: int, rate: float) -> Json:
    module, shared_seconds = _trained_slimmable(run, method, n_steps, rate)
    started = time.perf_counter()
    widths = widths_within(run.make, run.widths, run.target(share))
    small = slim(module, run.make, widths)
    torch_pruning.reestimate_statistics(small, run.data.calibration_pixels())
    found = run.found(small, seconds=time.perf_counter() - started)
    return {**found, "shared_seconds": shared_seconds, "shared_steps": n_steps, "widths": list(widths)}


def _trained_slimmable(run: Run, method: str, n_steps: int, rate: float) -> tuple[nn.Module, float]:
    """The one trained network behind all sizes, from the build folder when it is there, and the seconds it took."""
    what = f"{method.replace(' ', '-')}-{n_steps}-{run.settings_tag(rate=rate)}-{100 * min(run.options.shares):g}"
    path = run.file(what, ".safetensors")
    record = path.with_name(f"{path.name}.seconds")
    if path.is_file():
        module = run.make(widths=run.widths)
        module.load_state_dict(load_file(path))
        return module.eval(), float(record.read_text())
    if method == SLIMMABLE:
        module, schedule = ordered_by_norm(run.discrete, run.checkpoint), run.schedule(rate=rate)
    else:
        torch.manual_seed(run.options.seed)
        module, schedule = run.make(widths=run.widths), _from_scratch(run, rate)
    smallest = widths_within(run.make, run.widths, run.target(min(run.options.shares)))
    state = path.with_suffix(".pt")
    train_slimmable_(
        module,
        run.make,
        run.widths,
        run.data.train.images,
        run.data.train.labels,
        n_steps=n_steps,
        smallest=min(small / full for small, full in zip(smallest, run.widths, strict=True)),
        schedule=schedule,
        device=run.device,
        bfloat16=run.options.bfloat16,
        state_path=state,
        progress=run.progress(method),
    )
    seconds = round(seconds_taken(state), 3)
    record.write_text(f"{seconds}\n")
    write_weights(module, path)
    return module, seconds


def _from_scratch(run: Run, rate: float) -> Schedule:
    options = run.options
    return replace(SCRATCH, seed=options.seed, peak_rate=rate, average_share=options.average_share)
