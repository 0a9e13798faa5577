"""What a checkpoint holds, for `inn inspect --json` and the model list of the service."""

from __future__ import annotations

from typing import Any

from inn_core.checkpoint.checkpoint import Checkpoint
from inn_core.graph.cost import UNITS
from inn_core.graph.node import default_opset
from inn_core.planning.plan import feasible_range
from inn_core.planning.tensor_summary import describe_tensors


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Groups, frozen axes, sizes that can be asked for, inputs, outputs and provenance of a network.

    Returns:
        A JSON object: `name`; `feasible` with `min` and `max` in parameters, `feasible_by_unit` with the same for
        `params`, `macs` and `bytes`; `groups` with `name`, `size`, `minimum` and `places` (weight, axis);
        `frozen` with `tensor`, `axis`, `size`, `reason`; `inputs`, `outputs` (`name`, `dtype`, `shape`), `opset`,
        `qualities`, `calibration_samples`, `provenance`.
    """
    graph = checkpoint.template.model.graph
    ranges = {unit: feasible_range(checkpoint, unit) for unit in UNITS}
    by_unit = {unit: {"min": smallest, "max": largest} for unit, (smallest, largest) in ranges.items()}
    samples = [len(array) for array in checkpoint.calibration.values()]
    return {
        "name": checkpoint.name,
        "feasible": dict(by_unit["params"]),
        "feasible_by_unit": by_unit,
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "minimum": group.minimum,
                "places": [[tensor, axis] for tensor, axis in group.places],
            }
            for group in checkpoint.structure.groups
        ],
        "frozen": [
            {"tensor": axis.tensor, "axis": axis.axis, "size": axis.size, "reason": axis.reason}
            for axis in checkpoint.structure.frozen
        ],
        "inputs": describe_tensors(graph.input),
        "outputs": describe_tensors(graph.output),
        "opset": default_opset(checkpoint.template.model),
        "qualities": checkpoint.qualities,
        "calibration_samples": min(samples, default=0),
        "provenance": dict(checkpoint.provenance),
    }
