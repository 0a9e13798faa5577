"""The integral network as a PyTorch module: one set of parameters, a forward pass at any size.

A size is sampled from the parameters inside the forward pass, so gradients of any loss at any size reach the same
parameters, and the module lives in an ordinary training loop; docs/training.md has a whole one.

Source: Solodskikh et al., *Integral Neural Networks*, CVPR 2023.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.checkpoint.storage import load_checkpoint, save_checkpoint
from inn_core.errors import InvalidBudgetError, InvalidInputError, InvalidTypeError
from inn_core.graph.program import Program
from inn_core.graph.program_cache import SizedPrograms
from inn_core.graph.structure import Sizes
from inn_core.integral.nested_sampler import Sampler
from inn_core.planning.plan import Budget, Plan, choose_plan
from inn_core.sized.batch_norm import Moments, normalize_batch
from inn_core.sized.codec import read_parameters, sampler_of, to_checkpoint
from inn_core.sized.kept_statistics import KeptStatistics
from inn_core.sized.measurement import Samples, measure_statistics
from inn_core.sized.sampled_sizes import Chunks, SampledSizes
from inn_core.sized.size_statistics import SizeStatistics
from inn_core.training.size_sampling import SMALLEST_SHARE, SizeSampler


class IntegralNetwork(nn.Module):
    """A network in every size.

    In training mode a forward pass normalizes with the statistics of its batch; in evaluation mode with those that
    `measure_` stored, so that it computes what an artifact of that size computes.

    Args:
        checkpoint: an imported or trained network; its arrays are copied, so it stays as it is.
        sampler: how a size is taken from the parameters; that of the checkpoint by default, and nested where it was
            never trained. Statistics that the checkpoint keeps are used only without this argument.
        normalize: whether convolutions are normalized. Leave it out for networks that were designed without
            BatchNorm, such as super-resolution.
        smallest: share of the parameters of the smallest size that `sample_sizes` and `sandwich` draw.
        independent: share of their draws with an independent size per group; the others follow the size path.
        seed: of those draws.

    Attributes:
        checkpoint: the network that this one was made from.
        sampler: how a size is taken from the parameters.
        parts: the parameters.
        sizes: the current size of every group, which `forward` uses when it is not given any.

    Raises:
        StatisticsMissingError: `normalize`, but the checkpoint keeps neither statistics nor calibration samples.
        InvalidTypeError: it is no checkpoint.
    """

    draws_taken: Tensor

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        sampler: Sampler | None = None,
        normalize: bool = True,
        smallest: float = SMALLEST_SHARE,
        independent: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(checkpoint, Checkpoint):
            raise InvalidTypeError(
                "checkpoint", checkpoint, "a Checkpoint; IntegralNetwork.load(path) reads one from an .inn file"
            )
        self.checkpoint = checkpoint
        self.sampler: Sampler = sampler or sampler_of(checkpoint)
        self._draws = SizeSampler(checkpoint, smallest=smallest, independent=independent, seed=seed)
        self.sizes: Sizes = self._draws.full
        self._programs = SizedPrograms(checkpoint.template, checkpoint.structure)
        self._kept = KeptStatistics()
        self.register_buffer("draws_taken", torch.zeros((), dtype=torch.int64))
        self.parts, statistics = read_parameters(checkpoint, normalize=normalize)
        if statistics is not None and sampler is None:
            self._kept.keep_(statistics, self.parts)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> IntegralNetwork:
        """The network of an `.inn` file; see `load_checkpoint` and the class for errors and options."""
        return cls(load_checkpoint(path), **options)

    def save(self, path: str | Path, *samples: Samples) -> str:
        """Write the network as an `.inn` file that exports any size, and return its digest; see `to_checkpoint`."""
        return save_checkpoint(self.to_checkpoint(*samples), path)

    def to_checkpoint(self, *samples: Samples) -> Checkpoint:
        """The network as a checkpoint; measures the statistics of its sizes if the parameters changed.

        Args:
            samples: as in `measure_`.
        """
        if not self._kept.is_current(self.parts):
            self.measure_(*samples)
        return to_checkpoint(self.checkpoint, self.parts, self.sampler, self.statistics)

    @property
    def full_sizes(self) -> Sizes:
        """Sizes of the full network."""
        return self._draws.full

    @property
    def smallest_sizes(self) -> Sizes:
        """The smallest plan that `sandwich` draws."""
        return self._draws.smallest

    def plan(self, *, params: int | None = None, macs: int | None = None, size_bytes: int | None = None) -> Plan:
        """The plan that meets a budget; give exactly one. Raises what `choose_plan` raises."""
        return choose_plan(self.checkpoint, Budget.of(params=params, macs=macs, size_bytes=size_bytes))

    def resize(
        self,
        *,
        params: int | None = None,
        macs: int | None = None,
        size_bytes: int | None = None,
        sizes: Sizes | None = None,
    ) -> Sizes:
        """Set the current size from a budget, or from sizes, and return it.

        Raises:
            InvalidBudgetError, BudgetUnreachableError: see `choose_plan`.
            InvalidInputError: a size is missing or impossible.
        """
        if sizes is not None and (params, macs, size_bytes) != (None, None, None):
            raise InvalidBudgetError("give sizes or a budget, not both")
        if sizes is None:
            sizes = self.plan(params=params, macs=macs, size_bytes=size_bytes).sizes
        self.sizes = self._checked(sizes)
        return self.sizes

    def sample_sizes(self) -> Sizes:
        """Draw the next random size: on the size path, or independent per group (Algorithm 1).

        Draws depend on the seed and on how many were taken, which the state dict keeps: a resumed run goes on with
        the next, and all processes of a distributed run draw the same.
        """
        return self._draws.draw(self._take_draw())

    def sandwich(self, *, smaller: int = 3) -> list[Sizes]:
        """Draw the sizes that a step trains beside the full one.

        Args:
            smaller: how many. Each is from a part of the size path of its own, or independent per group; the first is
                often the smallest itself.
        """
        return self._draws.step(self._take_draw(), smaller)

    def at(self, size: Plan | Sizes) -> SizedView:
        """The network at a size, sharing its parameters; calling the view runs a forward pass."""
        return SizedView(self, self._checked(size.sizes if isinstance(size, Plan) else size))

    def forward(self, *inputs: Tensor, sizes: Sizes | None = None) -> Any:
        """Run the network at `sizes`, or at the current size.

        Args:
            inputs: in the order of the graph inputs.
            sizes: of every group.

        Returns:
            The graph output, or a tuple of them where there are several.

        Raises:
            StatisticsMissingError: evaluation mode, and the parameters changed since `measure_`.
        """
        chosen = self.sizes if sizes is None else self._checked(sizes)
        program = self.program(chosen)
        if len(inputs) != len(program.inputs):
            raise InvalidInputError(f"{len(inputs)} inputs were given; the graph reads {', '.join(program.inputs)}")
        feeds = dict(zip(program.inputs, inputs, strict=True))
        for name, value in feeds.items():
            if not isinstance(value, Tensor):
                raise InvalidTypeError(f"input '{name}'", value, "a torch tensor, samples first")
        if self.training and self.parts.nodes:
            outputs = self._run_training(program, chosen, feeds)
        else:
            outputs = program.run(self.discrete_weights(chosen), feeds)
        results = tuple(outputs[name] for name in program.outputs)
        return results[0] if len(results) == 1 else results

    def discrete_weights(self, sizes: Sizes) -> dict[str, Tensor]:
        """Weights of the discrete model of a size by initializer name; differentiable.

        Raises:
            StatisticsMissingError: the parameters changed since `measure_`.
        """
        sized = self._sized()
        moments = sized.moments_at(sizes, self.statistics, self._kept.between) if self.parts.nodes else {}
        return sized.weights(sizes, moments)

    @property
    def statistics(self) -> SizeStatistics:
        """Normalization statistics of every size.

        Raises:
            StatisticsMissingError: the parameters changed since they were measured.
        """
        return self._kept.current(self.parts)

    @torch.inference_mode(False)
    @torch.no_grad()
    def measure_(self, *samples: Samples) -> SizeStatistics:
        """Measure the normalization statistics of every size, at knots along the size paths.

        Args:
            samples: representative inputs in the order of the graph inputs or in one mapping by their names, samples
                first; those of the checkpoint when left out. A thousand of them decide where the knots lie, all of them
                what is measured there; more than fit memory are thinned evenly.

        Raises:
            StatisticsMissingError: there are no samples.
            InvalidInputError, InvalidTypeError: they are not one tensor or array for each graph input.
        """
        statistics = measure_statistics(self._sized(), self.smallest_sizes, samples)
        self._kept.keep_(statistics, self.parts)
        return statistics

    def _sized(self) -> SampledSizes:
        return SampledSizes(self.checkpoint, self.sampler, self.parts, self._programs)

    def identity(self) -> dict[str, Any]:
        """What decides a training run besides its settings, plain values: checkpoint, sampler and draws."""
        return {
            "network": self.checkpoint.name,
            "weights": [[name, list(array.shape)] for name, array in self.checkpoint.weights.items()],
            "normalised": [node.weight for node in self.parts.nodes],  # spelt as in the states of earlier runs
            "sampler": self.sampler.describe(),
            "draws": self._draws.identity(),
        }

    def forget_statistics_(self) -> None:
        """Forget what `measure_` found; to be called by whoever changes how sizes are sampled."""
        self._kept.forget_()

    def moments(self, sizes: Sizes, chunks: Chunks) -> dict[str, Moments]:
        """Exact moments of the normalized nodes at a size, over samples in chunks by graph input."""
        return self._sized().moments(sizes, chunks)

    def outputs(self, sizes: Sizes, chunks: Chunks, moments: Mapping[str, Moments]) -> dict[str, Tensor]:
        """Outputs of the discrete model of a size with the given moments, over samples in chunks."""
        return self._sized().outputs(sizes, chunks, moments)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> IntegralNetwork:
        """Moving to another device or precision keeps the statistics, although it may round the parameters."""
        was_current = self._device().type != "meta" and self._kept.is_current(self.parts)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it without types
        if was_current:
            self._kept.stay_current_(self.parts)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> IntegralNetwork:
        """A network with parameters of its own; the checkpoint, which never changes, is shared."""
        memo[id(self.checkpoint)] = self.checkpoint
        memo[id(self._draws)] = self._draws
        twin = self.__class__.__new__(self.__class__)
        memo[id(self)] = twin
        twin.__setstate__(copy.deepcopy(self.__dict__, memo))  # type: ignore[no-untyped-call]
        if self._kept.is_current(self.parts):
            twin._kept.stay_current_(twin.parts)
        return twin

    def _run_training(self, program: Program, sizes: Sizes, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        sampled = self.parts.sampled(self.sampler, sizes)
        by_index = {node.index: node for node in self.parts.nodes}
        environment = program.begin(feeds)
        for index in program.walk([environment], sampled.weights):
            node = by_index.get(index)
            if node is not None:
                scale, shift = sampled.scales[node.weight], sampled.shifts[node.weight]
                environment[node.output] = normalize_batch(environment[node.output], scale, shift)
        return environment

    def program(self, sizes: Sizes | None = None) -> Program:
        """The graph at a size, ready to run; that of the full network by default."""
        return self._programs.at(self.full_sizes if sizes is None else sizes, self._device())

    def _take_draw(self) -> int:
        number = int(self.draws_taken)
        self.draws_taken += 1
        return number

    def _device(self) -> torch.device:
        return self.draws_taken.device

    def _checked(self, sizes: Sizes) -> Sizes:
        if not isinstance(sizes, Mapping):
            raise InvalidTypeError(
                "sizes", sizes, "sizes by group, such as `network.sample_sizes()` or those of a plan"
            )
        if sizes.keys() != self.full_sizes.keys():
            odd = sorted(sizes.keys() ^ self.full_sizes.keys())[0]
            raise InvalidInputError(f"sizes must name every group once; group '{odd}' is missing or unknown")
        for group in self.checkpoint.structure.groups:
            if not 1 <= sizes[group.name] <= self.sampler.largest(group):
                raise InvalidInputError(
                    f"group '{group.name}' cannot have size {sizes[group.name]}; "
                    f"1 to {self.sampler.largest(group)} are possible"
                )
        return {name: int(sizes[name]) for name in self.full_sizes}


class SizedView:
    """An integral network at one size; it shares the network's parameters and mode.

    A call runs the network itself, so under `DistributedDataParallel` it averages no gradients; call the wrapped module
    with `sizes` there.

    Args:
        network: whose parameters.
        sizes: of every group.
    """

    def __init__(self, network: IntegralNetwork, sizes: Sizes) -> None:
        self.network = network
        self.sizes = sizes

    def __call__(self, *inputs: Tensor) -> Any:
        """See `IntegralNetwork.forward`."""
        return self.network(*inputs, sizes=self.sizes)

    def weights(self) -> dict[str, Tensor]:
        """See `IntegralNetwork.discrete_weights`."""
        return self.network.discrete_weights(self.sizes)
