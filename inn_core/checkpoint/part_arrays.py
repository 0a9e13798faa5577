"""How the typed parts of a checkpoint lie in its file: arrays by name.

    instant/<k>/sizes                                   of the groups, at anchor k; 0 is the full network
    instant/<k>/weights/<weight>                        from anchor 1 on
    instant/<k>/correlation/<weight>, …/scale/…, …/mean/…
    smooth/<group>                                      channel permutation
    levels/<input>                                      of calibration samples
    trained/scale/<weight>, trained/shift/<weight>      full size
    trained/<unit>/<k>/sizes                            of the groups, at measured size k of a size path
    trained/<unit>/<k>/mean/<weight>, …/variance/<weight>
    trained/partition/<group>/<cells>                   edges of a tuned partition

Names that begin otherwise are kept as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from inn_core.arrays import Array
from inn_core.checkpoint.checkpoint import (
    AnchorNetwork,
    Checkpoint,
    InconsistentCheckpointError,
    InputStatistics,
    MeasuredSize,
    StoredMoments,
    TrainedSizes,
)
from inn_core.graph.cost import PATH_UNITS
from inn_core.graph.structure import Group, Sizes

_PARTS = ("instant", "smooth", "levels", "trained")

Arrays = dict[str, Array]


def part_arrays(checkpoint: Checkpoint) -> Arrays:
    """The parts of a checkpoint by array name, in the order in which its header lists them."""
    arrays: Arrays = {}
    for number, anchor in enumerate(checkpoint.anchors):
        prefix = f"instant/{number}"
        arrays[f"{prefix}/sizes"] = _row(anchor.sizes)
        arrays |= {f"{prefix}/weights/{name}": weight for name, weight in anchor.weights.items()}
        for name, inputs in anchor.inputs.items():
            arrays |= {f"{prefix}/{kind}/{name}": getattr(inputs, kind) for kind in ("correlation", "scale", "mean")}
    arrays |= {f"smooth/{group}": order for group, order in checkpoint.channel_permutations.items()}
    arrays |= {f"levels/{name}": levels for name, levels in checkpoint.levels.items()}
    if checkpoint.trained is not None:
        arrays |= _trained_arrays(checkpoint.trained)
    return arrays | dict(checkpoint.unknown)


def _trained_arrays(trained: TrainedSizes) -> Arrays:
    arrays: Arrays = {}
    for name, scale in trained.scales.items():
        arrays |= {f"trained/scale/{name}": scale, f"trained/shift/{name}": trained.shifts[name]}
    for unit, path in trained.paths.items():
        for number, size in enumerate(path):
            prefix = f"trained/{unit}/{number}"
            arrays[f"{prefix}/sizes"] = _row(size.sizes)
            for name, moments in size.moments.items():
                arrays |= {f"{prefix}/mean/{name}": moments.mean, f"{prefix}/variance/{name}": moments.variance}
    for group, partitions in trained.partitions.items():
        arrays |= {f"trained/partition/{group}/{cells}": edges for cells, edges in partitions.items()}
    return arrays


def read_parts(arrays: Mapping[str, Array], groups: tuple[Group, ...], sampling: Mapping[str, str]) -> dict[str, Any]:
    """The typed parts of a checkpoint as members of `Checkpoint`. No array is read but those of sizes.

    Args:
        arrays: by name, those that no part knows included.
        groups: of the network.
        sampling: of the header; empty when the network was never trained.

    Raises:
        InconsistentCheckpointError: an array is missing or belongs to nothing.
    """
    parts: dict[str, Arrays] = {part: {} for part in _PARTS}
    unknown: Arrays = {}
    for name, array in arrays.items():
        part, separator, rest = name.partition("/")
        if separator and part in parts:
            parts[part][rest] = array
        else:
            unknown[name] = array
    if parts["trained"] and not sampling:
        raise _stray("trained", parts["trained"])
    return {
        "levels": parts["levels"],
        "anchors": _read_anchors(parts["instant"], groups),
        "channel_permutations": parts["smooth"],
        "trained": _read_trained(parts["trained"], groups, sampling) if sampling else None,
        "unknown": unknown,
    }


def _read_anchors(arrays: Arrays, groups: tuple[Group, ...]) -> tuple[AnchorNetwork, ...]:
    found = []
    for number, kinds in _numbered("instant", arrays):
        sizes = _sizes(kinds, groups, f"the sizes of knot {number}")
        statistics = _joined(kinds, ("correlation", "scale", "mean"), f"at knot {number}")
        inputs = {name: InputStatistics(*each) for name, each in statistics.items()}
        found.append(AnchorNetwork(sizes, kinds.pop("weights", {}), inputs))
        _check_empty(f"instant/{number}", kinds)
    return tuple(found)


def _read_trained(arrays: Arrays, groups: tuple[Group, ...], sampling: Mapping[str, str]) -> TrainedSizes:
    kinds = _by_head(arrays)
    scales, shifts = kinds.pop("scale", {}), kinds.pop("shift", {})
    paths = {}
    for unit in PATH_UNITS:
        measured = []
        for number, own in _numbered(f"trained/{unit}", kinds.pop(unit, {})):
            sizes = _sizes(own, groups, f"the sizes of knot {number} for {unit}")
            moments = _joined(own, ("mean", "variance"), f"at knot {number} for {unit}")
            measured.append(MeasuredSize(sizes, {name: StoredMoments(*each) for name, each in moments.items()}))
            _check_empty(f"trained/{unit}/{number}", own)
        paths[unit] = tuple(measured)
    partitions: dict[str, dict[int, Array]] = {}
    for name, edges in kinds.pop("partition", {}).items():
        group, _, cells = name.rpartition("/")
        if not re.fullmatch("[1-9][0-9]{0,9}", cells):
            raise _stray("trained/partition", [name])
        partitions.setdefault(group, {})[int(cells)] = edges
    _check_empty("trained", kinds)
    return TrainedSizes(sampling, scales, shifts, paths, partitions)


def _by_head(arrays: Arrays) -> dict[str, Arrays]:
    """`head/rest -> array` as `head -> rest -> array`; the rest is empty where there is none."""
    heads: dict[str, Arrays] = {}
    for name, array in arrays.items():
        head, _, rest = name.partition("/")
        heads.setdefault(head, {})[rest] = array
    return heads


def _numbered(what: str, arrays: Arrays) -> Iterator[tuple[int, dict[str, Arrays]]]:
    """What lies below 0, 1, 2, … by kind; the numbers must have no gap."""
    numbers = _by_head(arrays)
    for number in range(len(numbers)):
        if str(number) not in numbers:
            raise _stray(what, numbers)
        yield number, _by_head(numbers[str(number)])


def _joined(kinds: dict[str, Arrays], wanted: tuple[str, ...], where: str) -> dict[str, tuple[Array, ...]]:
    """The arrays of several kinds by name; takes them out of `kinds`."""
    parts = [kinds.pop(kind, {}) for kind in wanted]
    for kind, part in zip(wanted, parts, strict=True):
        missing = sorted(set().union(*parts) - part.keys())
        if missing:
            raise InconsistentCheckpointError(f"the statistics of '{missing[0]}' {where} are not complete: no {kind}")
    return {name: tuple(part[name] for part in parts) for name in parts[0]}


def _sizes(kinds: dict[str, Arrays], groups: tuple[Group, ...], what: str) -> Sizes:
    row = kinds.pop("sizes", {}).pop("", None)
    if row is None:
        raise InconsistentCheckpointError(f"{what} are missing")
    if row.shape != (len(groups),) or row.dtype != np.int64:
        raise InconsistentCheckpointError(f"{what} are not {len(groups)} integers")
    return {group.name: int(size) for group, size in zip(groups, row, strict=True)}


def _row(sizes: Sizes) -> Array:
    return np.array(list(sizes.values()), dtype=np.int64)


def _check_empty(what: str, left: Mapping[str, Any]) -> None:
    if left:
        raise _stray(what, left)


def _stray(what: str, names: Iterable[str]) -> InconsistentCheckpointError:
    return InconsistentCheckpointError(
        f"'{what}/{min(names)}' belongs to no group, node or knot, or the network was never trained"
    )
