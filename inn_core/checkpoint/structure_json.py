"""The structure of a network as JSON, for the header of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inn_core.graph.axis import Axis, axis_from_json, axis_to_json
from inn_core.graph.structure import FrozenAxis, Group, SizeAttribute, SizeConstant, Structure, Term


def structure_to_json(structure: Structure) -> dict[str, Any]:
    """The structure as a JSON object; lists keep their order."""
    return {
        "groups": [
            {"name": g.name, "size": g.size, "minimum": g.minimum, "places": [list(place) for place in g.places]}
            for g in structure.groups
        ],
        "weights": [[name, _axes_to_json(axes)] for name, axes in structure.weights.items()],
        "values": [[name, _axes_to_json(axes)] for name, axes in structure.values.items()],
        "constants": [[c.initializer, c.position, axis_to_json(c.axis)] for c in structure.constants],
        "attributes": [[a.node, a.attribute, axis_to_json(a.axis)] for a in structure.attributes],
        "macs": [[t.coefficient, _axes_to_json(t.axes)] for t in structure.macs],
        "frozen": [[f.tensor, f.axis, f.size, f.reason] for f in structure.frozen],
    }


def structure_from_json(value: Mapping[str, Any]) -> Structure:
    """Inverse of `structure_to_json`.

    Raises:
        ValueError, TypeError, KeyError: the value is no structure: a member is missing, has the wrong type, or a
            count is negative. Whether names refer to anything is not checked here.
    """
    return Structure(
        groups=tuple(
            Group(
                _text(g["name"]),
                _count(g["size"]),
                _count(g["minimum"]),
                tuple((_text(tensor), _count(axis)) for tensor, axis in g["places"]),
            )
            for g in value["groups"]
        ),
        weights={_text(name): _axes_from_json(axes) for name, axes in value["weights"]},
        values={_text(name): _axes_from_json(axes) for name, axes in value["values"]},
        constants=tuple(
            SizeConstant(_text(name), _count(position), axis_from_json(axis))
            for name, position, axis in value["constants"]
        ),
        attributes=tuple(
            SizeAttribute(_text(node), _text(attribute), axis_from_json(axis))
            for node, attribute, axis in value["attributes"]
        ),
        macs=tuple(Term(_count(coefficient), _axes_from_json(axes)) for coefficient, axes in value["macs"]),
        frozen=tuple(
            FrozenAxis(_text(tensor), _count(axis), _count(size), _text(reason))
            for tensor, axis, size, reason in value["frozen"]
        ),
    )


def _axes_to_json(axes: tuple[Axis, ...]) -> list[list[list[str | int]]]:
    return [axis_to_json(axis) for axis in axes]


def _axes_from_json(value: Any) -> tuple[Axis, ...]:
    return tuple(axis_from_json(axis) for axis in value)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no name")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value
