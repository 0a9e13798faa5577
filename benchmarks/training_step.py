"""What a training step of an integral network costs beside the plain network: `python -m benchmarks.training_step`.

A sandwich step runs the demo network at four sizes. The plain step runs, at the same four sizes, ordinary PyTorch
networks of exactly those widths with BatchNorm. Both compute the same convolutions on the same batch, in the same
precision and with the same loss, so the ratio is the price of sampling weights and of running the graph through
`Program`. Rounds alternate and the smallest time of each part counts. The share of sampling inside the step is measured
in the same run. Writes docs/results/training_step.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.output import write_text
from inn_core.integral.kernel_sampler import KernelSampler
from inn_core.sized.codec import kernel_sampler
from inn_core.training.integral_network import IntegralNetwork
from inn_core.training.recipes.images import lay_out_
from models.fashion_resnet import BasicBlock, FashionResNet

CHECKPOINT = Path("models/checkpoints/fashion_resnet_imported.inn")
RESULTS = Path("docs/results/training_step.md")
TARGET = 1.3
SAMPLING_TARGET = 0.10
BATCH = 128


def plain_network(sizes: Mapping[str, int]) -> FashionResNet:
    """The demo network at the sizes of a plan, freshly initialised."""
    network = FashionResNet(widths=[sizes[group] for group in ("stem", "blocks.2.conv2", "blocks.4.conv2")])
    for number, block in enumerate(network.blocks):
        assert isinstance(block, BasicBlock)
        network.blocks[number] = BasicBlock(
            block.conv1.in_channels,
            block.conv2.out_channels,
            int(block.conv1.stride[0]),
            inner=sizes[f"blocks.{number}.conv1"],
        )
    return network


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    lines = [
        "# Cost of a training step",
        "",
        f"One sandwich step of the demo network (four sizes, batch {BATCH}, forwards and backwards) over the same",
        "step of plain PyTorch networks of those widths. Targets: ratio at most "
        f"{TARGET}, sampling at most {100 * SAMPLING_TARGET:.0f} % of the step.",
        f"Made by `python -m benchmarks.training_step`, torch {torch.__version__.partition('+')[0]}, "
        f"{options.threads} threads, smallest of {options.rounds} alternating rounds.",
        "",
        "| sampler | precision | plain, ms | integral, ms | ratio | sampling, ms | share of the step |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind in ("nested", "kernel"):
        for bfloat16 in (False, True):
            lines.append(_measure(options.checkpoint, kind, bfloat16=bfloat16, rounds=options.rounds))
            print(lines[-1], flush=True)
    text = "\n".join(lines) + "\n"
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_text(options.output, text)
    return 0


def _measure(checkpoint: Path, kind: str, *, bfloat16: bool, rounds: int) -> str:
    network = IntegralNetwork.load(checkpoint)
    if kind == "kernel":
        sampler: KernelSampler = kernel_sampler(network.checkpoint)
        network = IntegralNetwork(network.checkpoint, sampler=sampler)
    lay_out_(network.train(), torch.channels_last)
    sizes = [network.full_sizes, *network.sandwich()]
    plain = [plain_network(each).train() for each in sizes]
    for module in plain:
        lay_out_(module, torch.channels_last)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 1, 28, 28, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (BATCH,), generator=generator)

    def step(run: Callable[[int], Tensor]) -> None:
        for index in range(len(sizes)):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                logits = run(index)
            torch.autograd.backward(functional.cross_entropy(logits.float(), labels))

    def sample() -> None:
        for each in sizes:
            sampled = network.parts.sampled(network.sampler, each)
            tensors = [*sampled.weights.values(), *sampled.scales.values(), *sampled.shifts.values()]
            torch.autograd.backward(
                [tensor for tensor in tensors if tensor.requires_grad],
                [torch.ones_like(tensor) for tensor in tensors if tensor.requires_grad],
            )

    seconds = _alternate(
        {
            "plain": lambda: step(lambda index: plain[index](images)),
            "integral": lambda: step(lambda index: network(images, sizes=sizes[index])),
            "sampling": sample,
        },
        rounds=rounds,
    )
    ours, theirs, sampling = seconds["integral"], seconds["plain"], seconds["sampling"]
    return (
        f"| {kind} | {'bfloat16' if bfloat16 else 'float32'} | {1e3 * theirs:.0f} | {1e3 * ours:.0f} | "
        f"{ours / theirs:.2f} | {1e3 * sampling:.1f} | {100 * sampling / ours:.1f} % |"
    )


def _alternate(parts: Mapping[str, Callable[[], None]], *, rounds: int) -> dict[str, float]:
    """Smallest seconds of each part, after one unmeasured round."""
    best = dict.fromkeys(parts, float("inf"))
    for number in range(rounds + 1):
        for name, part in parts.items():
            start = time.perf_counter()
            part()
            if number:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_step", description=__doc__.partition(":")[0])
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
