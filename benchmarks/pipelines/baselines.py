"""Rows of the discrete network itself: as trained, trained on, cut to its largest filters, and trained alone small."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from functools import partial

from benchmarks.pipelines.run import Run
from benchmarks.rivals.channels import ordered_by_norm
from benchmarks.rivals.slimmable import slim, widths_within
from benchmarks.rows import Json
from inn_core.training.state import seconds_taken

DISCRETE = "discrete"
CONTINUED = "discrete, trained on"
LARGEST = "largest filters"
ALONE = "trained alone"

NARROWEST = 0.97
"""A network trained alone has at least this share of the parameters that it may have."""


def discrete(run: Run) -> None:
    """The discrete network at full size, and after as many further steps as other methods get."""
    if run.wants(DISCRETE):
        run.row(DISCRETE, 1.0, lambda: run.found(run.discrete, seconds=0.0, again=False))
    if not run.wants(CONTINUED):
        return
    for n_steps in run.options.steps:
        if n_steps:
            run.row(CONTINUED, 1.0, partial(_continued, run, n_steps), steps=n_steps, **run.settings())


def largest_filters(run: Run, shares: Sequence[float]) -> None:
    """The channels with the largest filters, equal shares everywhere, without training."""
    if run.wants(LARGEST):
        for share in shares:
            run.row(LARGEST, share, partial(_cut, run, share))


def alone(run: Run) -> None:
    """A network of each size trained from scratch as long as the discrete one."""
    if run.wants(ALONE):
        for share in run.options.shares:
            run.row(ALONE, share, partial(train_alone, run, share), epochs=run.options.epochs)


def train_alone(run: Run, share: float) -> Json:
    """Train a network with uniform widths and at most `share` of the parameters from scratch, and measure it.

    Raises:
        ValueError: no uniform widths come within three percent of that size.
    """
    target = run.target(share)
    widths = widths_within(run.make, run.widths, target)
    state = run.file(f"alone-{run.options.epochs}-{100 * share:g}", ".pt")
    module = run.train_alone(widths, state=state, progress=run.progress("from scratch"))
    found = run.found(module, seconds=seconds_taken(state), again=False)
    if found["params"] <= NARROWEST * target and not run.options.quick:
        raise ValueError(f"widths {widths} have {found['params']:,} parameters, too few for {target:,}")
    return {**found, "widths": list(widths)}


def _continued(run: Run, n_steps: int) -> Json:
    module = copy.deepcopy(run.discrete)
    state = run.file(f"trained-on-{n_steps}-{run.settings_tag()}", ".pt")
    run.train_on_(module, n_steps, state=state, progress=run.progress(f"{n_steps} more steps"))
    return {**run.found(module, seconds=seconds_taken(state)), "steps": n_steps}


def _cut(run: Run, share: float) -> Json:
    module = ordered_by_norm(run.discrete, run.checkpoint)
    started = time.perf_counter()
    small = slim(module, run.make, widths_within(run.make, run.widths, run.target(share)))
    return run.found(small, seconds=time.perf_counter() - started)
