"""What a checkpoint holds, for `inn inspect --json` and the model list of the service."""

from __future__ import annotations

from typing import Any

from inn_core.cost import UNITS
from inn_core.graph.source import default_opset
from inn_core.manifest import describe_tensors
from inn_core.network import Checkpoint
from inn_core.plan import feasible_range
from inn_core.quality import available_qualities


def describe(network: Checkpoint) -> dict[str, Any]:
    """Groups, frozen axes, sizes that can be asked for, inputs, outputs and provenance of a network.

    Returns:
        A JSON object: `name`; `feasible` with `min` and `max` in parameters, `feasible_by_unit` with the same for
        `params`, `macs` and `bytes`; `groups` with `name`, `size`, `minimum` and `places` (weight, axis);
        `frozen` with `tensor`, `axis`, `size`, `reason`; `inputs`, `outputs` (`name`, `dtype`, `shape`), `opset`,
        `qualities`, `calibration_samples`, `provenance`.
    """
    graph = network.template.model.graph
    ranges = {unit: feasible_range(network, unit) for unit in UNITS}
    by_unit = {unit: {"min": smallest, "max": largest} for unit, (smallest, largest) in ranges.items()}
    samples = [len(array) for array in network.calibration.values()]
    return {
        "name": network.name,
        "feasible": dict(by_unit["params"]),
        "feasible_by_unit": by_unit,
        "groups": [
            {
                "name": group.name,
                "size": group.size,
                "minimum": group.minimum,
                "places": [[tensor, axis] for tensor, axis in group.places],
            }
            for group in network.structure.groups
        ],
        "frozen": [
            {"tensor": axis.tensor, "axis": axis.axis, "size": axis.size, "reason": axis.reason}
            for axis in network.structure.frozen
        ],
        "inputs": describe_tensors(graph.input),
        "outputs": describe_tensors(graph.output),
        "opset": default_opset(network.template.model),
        "qualities": available_qualities(network),
        "calibration_samples": min(samples, default=0),
        "provenance": dict(network.provenance),
    }
