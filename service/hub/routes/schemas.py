"""JSON schemas of what the API answers, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

from service.contract.sizes import QUALITIES
from service.ground.names import DIGEST_PATTERN

TEXT = {"type": "string"}
COUNT = {"type": "integer", "minimum": 0}
DIGEST = {"type": "string", "pattern": DIGEST_PATTERN}
FILE = {"type": "string", "format": "binary"}


def object_schema(properties: dict[str, Any], required: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """Schema of an object; all its properties are required unless told otherwise."""
    return {"type": "object", "properties": properties, "required": required or list(properties), **more}


RANGE = object_schema({"min": COUNT, "max": COUNT})
TENSOR = {"type": "object", "additionalProperties": True}
SCHEMAS: dict[str, dict[str, Any]] = {
    "Manifest": object_schema(
        {
            "model": TEXT,
            "checkpoint": DIGEST,
            "digest": DIGEST,
            "budget": {"type": "object", "additionalProperties": True},
            "params": COUNT,
            "macs": COUNT,
            "bytes": COUNT,
            "quality": {"type": "string", "enum": list(QUALITIES)},
            "group_sizes": {"type": "object", "additionalProperties": COUNT},
            "inputs": {"type": "array", "items": TENSOR},
            "outputs": {"type": "array", "items": TENSOR},
            "opset": COUNT,
            "parity": {"type": "number"},
            "agreement": {"type": ["number", "null"]},
            "feasible": RANGE,
            "full_size": {"type": "boolean"},
        },
        ["model", "checkpoint", "digest", "params", "macs", "bytes", "quality"],
        additionalProperties=True,
    ),
    "Job": object_schema(
        {
            "id": TEXT,
            "kind": {"type": "string", "enum": ["export", "curve"]},
            "model": TEXT,
            "state": {"type": "string", "enum": ["queued", "running", "done", "failed", "cancelled"]},
            "stage": TEXT,
            "progress": {"type": "number", "minimum": 0, "maximum": 1},
            "created": {"type": "number"},
            "finished": {"type": ["number", "null"]},
            "url": TEXT,
            "result": {"type": "object"},
            "problem": {"$ref": "#/components/schemas/Problem"},
        },
        ["id", "kind", "model", "state", "stage", "progress", "created", "finished", "url"],
    ),
    "Model": object_schema(
        {"name": TEXT, "checkpoint": DIGEST, "size_bytes": COUNT, "added": {"type": "number"}, "feasible": RANGE},
        ["name", "checkpoint", "size_bytes", "added"],
        additionalProperties=True,
    ),
}
