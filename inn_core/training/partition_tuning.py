"""Partition tuning: the points at which frozen kernels are sampled, learned from a few samples (pipeline B).

No weight changes; what is learned is a few hundred numbers, the widths of the cells of every group's partition. They
are tuned at the given plans and carried to the sizes between these.

Source: Solodskikh et al., CVPR 2023, sections 3.3 and 4.2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from inn_core.errors import InvalidTrainingError
from inn_core.graph.structure import Sizes
from inn_core.integral.kernel_sampler import KernelSampler
from inn_core.progress import Progress, no_progress
from inn_core.training.integral_network import IntegralNetwork
from inn_core.training.loop import Batch, Batches
from inn_core.training.step import TaskLoss, Teacher, divergences, named_outputs

STEPS = 150
RATE = 0.01
"""Of Adam, on cell widths that are 1 on average."""


def tune_partitions_(
    network: IntegralNetwork,
    plans: Sequence[Sizes],
    batches: Batches,
    *,
    steps: int = STEPS,
    rate: float = RATE,
    task_loss: TaskLoss | None = None,
    bfloat16: bool = False,
    progress: Progress = no_progress,
) -> None:
    """Tune the partitions of a network with kernel sampling at some plans, its weights frozen.

    It ends in evaluation mode, with the statistics of its sizes yet to be measured. It runs in one process:
    partitions are no parameters that a wrapper would average.

    Args:
        network: samples kernels.
        plans: sizes to tune at.
        batches: a few hundred samples are enough.
        steps: of each plan.
        rate: highest learning rate; it falls to zero on a cosine.
        task_loss: what to tune on; None takes the outputs of the full network of the checkpoint, so that no labels
            are read.
        bfloat16: compute in bfloat16 where autocast does.
        progress: told the plan and the finished share.

    Raises:
        InvalidTrainingError: the network samples nested sizes, or the loss is not finite.
        PartitionError: the grid cannot be tuned.
    """
    sampler = network.sampler
    if not isinstance(sampler, KernelSampler):
        raise InvalidTrainingError(
            "partitions can be tuned only where kernels are sampled; make the network with a KernelSampler"
        )
    teacher = Teacher(network)
    frozen = [parameter for parameter in network.parts.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    network.train()
    try:
        for number, sizes in enumerate(plans):
            deltas = sampler.tune_(sizes)
            if not deltas:
                continue
            optimizer = torch.optim.Adam(deltas, lr=rate)
            stream = _endless(batches)
            for step in range(steps):
                for group in optimizer.param_groups:
                    group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
                inputs, targets = next(stream)
                with torch.autocast(inputs[0].device.type, torch.bfloat16, enabled=bfloat16):
                    output = network(*inputs, sizes=sizes)
                if task_loss is not None:
                    loss = task_loss(output, targets)
                else:
                    loss = divergences(teacher(*inputs), named_outputs(network, output), teacher.kinds)
                if not math.isfinite(float(loss.detach())):
                    raise InvalidTrainingError(f"the loss is {float(loss.detach())}; lower the rate of {rate}")
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                optimizer.step()
                progress(f"partition {number + 1} of {len(plans)}", (number + (step + 1) / steps) / len(plans))
            sampler.settle_()
    finally:
        sampler.end_tuning_()
        network.forget_statistics_()
        network.eval()
        for parameter in frozen:
            parameter.requires_grad_(True)


def _endless(batches: Batches) -> Iterator[Batch]:
    epoch = 0
    while True:
        yield from batches.epoch(epoch)
        epoch += 1
