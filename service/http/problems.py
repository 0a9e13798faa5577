"""Errors as RFC 9457 problems: one table of status and title for every code, and the answer made from it.

A problem's `type` is `/problems/<code>`, which can be fetched. `detail` is the error's message, its fields become extra
members, and `instance` names the request as in the log. What is no error of ours is a 500 without any detail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

from service.ground.errors import ServiceError

MEDIA_TYPE = "application/problem+json"

# code -> (status, title). The titles never change with the request; details do.
PROBLEMS: Mapping[str, tuple[int, str]] = {
    # of the service
    "service-error": (500, "Error inside the hub"),
    "remote-error": (500, "Error inside the builder"),
    "unknown-model": (404, "Unknown model"),
    "unknown-artifact": (404, "Unknown artifact"),
    "unknown-job": (404, "Unknown job"),
    "invalid-request": (422, "Invalid request"),
    "unreadable-body": (400, "Unreadable body"),
    "body-too-large": (413, "Body too large"),
    "name-conflict": (409, "Name taken by another checkpoint"),
    "digest-mismatch": (400, "Digest differs"),
    "queue-full": (503, "Too many builds waiting"),
    "not-ready": (503, "Not ready"),
    "build-timeout": (504, "Build took too long"),
    "store-full": (507, "Store full"),
    "builder-failed": (500, "Build failed"),
    "job-cancelled": (409, "Job cancelled"),
    "invalid-catalogue": (500, "Catalogue not usable"),
    "store-in-use": (500, "Store in use by another hub"),
    # of trust between hub and nodes
    "invalid-document": (422, "Invalid signed document"),
    "untrusted-signature": (401, "Signature does not hold"),
    "unknown-key": (401, "Unknown key"),
    "revoked-key": (403, "Revoked key"),
    "expired-document": (409, "Expired document"),
    "replayed-document": (409, "Replayed document"),
    "invalid-key": (422, "Invalid key"),
    "invalid-vault": (500, "Keys of the hub not usable"),
    "root-key-missing": (409, "Root key not in the vault"),
    "key-state": (409, "Key in another state"),
    "unsigned-request": (401, "Request not signed"),
    "clock-skew": (401, "Clock of the node is off"),
    "replayed-request": (401, "Replayed request"),
    "invalid-token": (401, "Invalid enrolment token"),
    "invalid-admin-key": (401, "Invalid admin key"),
    # of the fleet
    "unknown-node": (404, "Unknown node"),
    "unknown-token": (404, "Unknown token"),
    "unknown-rollout": (404, "Unknown rollout"),
    "node-conflict": (409, "Name taken by another node"),
    "other-node": (403, "Route of another node"),
    "generation-conflict": (412, "Desired state has changed"),
    "nothing-to-roll-back": (409, "Nothing to roll back to"),
    "fleet-full": (507, "Fleet full"),
    "device-not-measured": (422, "Device not measured"),
    "rollout-conflict": (409, "Nodes of another rollout"),
    "rollout-state": (409, "Rollout in another state"),
    "empty-rollout": (422, "No node for the rollout"),
    # of the runtime
    "invalid-input": (422, "Invalid input"),
    "unknown-input": (422, "Unknown input"),
    "missing-input": (422, "Missing input"),
    "input-shape": (422, "Input of the wrong shape"),
    "input-type": (422, "Input of the wrong type"),
    "input-not-finite": (422, "Input is not finite"),
    "inference-failed": (422, "Inference failed"),
    "inference-queue-full": (503, "Too many inference requests waiting"),
    "sessions-busy": (503, "All sessions busy"),
    "session-too-large": (507, "Artifact too large for a session"),
    "device-unavailable": (500, "Device not available"),
    "probe-failed": (500, "Artifact could not be measured"),
    # of a node, in its reports
    "hub-unreachable": (503, "Hub not reachable"),
    "hub-refused": (502, "Refused by the hub"),
    "invalid-answer": (502, "Answer of the hub not understood"),
    "download-interrupted": (503, "Download interrupted"),
    "self-test-failed": (422, "Self-test failed"),
    "error-share-exceeded": (422, "Too many failed requests after a switch"),
    "latency-exceeded": (422, "Too slow after a switch"),
    "crashed-in-trial": (422, "Process ended while a size was on trial"),
    "artifact-damaged": (500, "Artifact on the disk damaged"),
    "not-enrolled": (503, "Node not enrolled"),
    "enrolment-refused": (502, "Node not taken in"),
    "node-mismatch": (500, "Store of another node"),
    "invalid-node-state": (500, "Trusted state of the node damaged"),
    # of HTTP itself
    "unknown-route": (404, "Unknown path"),
    "method-not-allowed": (405, "Method not allowed"),
    "unsupported-budget": (422, "Unsupported budget"),
    "unsupported-encoding": (415, "Unsupported content encoding"),
    "body-timeout": (408, "Body arrived too slowly"),
    "range-not-satisfiable": (416, "Range not satisfiable"),
    # of inn_core, reported by a builder
    "inn-error": (422, "Not possible with this network"),
    "invalid-type": (422, "Invalid type"),
    "invalid-onnx": (422, "Invalid ONNX model"),
    "external-data": (422, "Weights outside the file"),
    "graph-too-large": (422, "Graph too large"),
    "unsupported-operator": (422, "Unsupported operator"),
    "invalid-weights": (422, "Weights are not finite"),
    "invalid-calibration": (422, "Invalid calibration samples"),
    "invalid-freeze": (422, "Invalid axis to freeze"),
    "invalid-checkpoint": (422, "Invalid checkpoint"),
    "invalid-budget": (422, "Invalid budget"),
    "budget-unreachable": (422, "Budget unreachable"),
    "quality-unavailable": (422, "Quality not available"),
    "artifact-too-large": (422, "Artifact too large for ONNX"),
    "parity-failed": (500, "Artifact does not compute what it should"),
    "execution-failed": (422, "Network cannot be run"),
    "invalid-module": (422, "Invalid module"),
    "invalid-partition": (422, "Invalid partition"),
    "statistics-missing": (422, "Statistics missing"),
    "training-state-mismatch": (409, "Training state of another run"),
    "invalid-training": (422, "Invalid training"),
    "invalid-recipe": (422, "Invalid recipe"),
    "invalid-training-data": (422, "Invalid training samples"),
    "invalid-dataset": (500, "Data set not usable"),
    "invalid-name": (422, "Invalid name"),
    "invalid-evaluation": (422, "Invalid evaluation samples"),
    "missing-package": (500, "Package missing"),
    "missing-extra": (500, "Extra not installed"),
}

_STANDARD = frozenset({"type", "title", "status", "detail", "instance"})


def problem_type(code: str) -> str:
    """The `type` member of a code."""
    return f"/problems/{code}"


def status_of(error: ServiceError) -> int:
    """The HTTP status of an error; 500 for a code without a row."""
    return PROBLEMS.get(error.code, (500, ""))[0]


def problem_body(error: ServiceError, instance: str | None = None) -> dict[str, Any]:
    """The problem as a JSON object.

    Args:
        error: what happened.
        instance: `urn:uuid:…` of the request; left out in the record of a job, which outlives the request.

    Returns:
        The standard members and the fields of the error; a code without a row shows nothing of itself.
    """
    row = PROBLEMS.get(error.code)
    if row is None:
        body: dict[str, Any] = {"type": "about:blank", "title": "Internal Server Error", "status": 500}
        extra: Mapping[str, Any] = {}
    else:
        body = {"type": problem_type(error.code), "title": row[1], "status": row[0], "detail": error.message}
        extra = error.fields
    if instance is not None:
        body["instance"] = instance
    return body | {name: value for name, value in extra.items() if name not in _STANDARD}


def problem_response(
    error: ServiceError, instance: str | None = None, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer to a request that met an error, with `Retry-After` where trying again helps."""
    return _response(problem_body(error, instance), {**_headers_of(error), **(headers or {})})


def internal_problem(instance: str) -> Response:
    """The answer to a request that met an error nobody expected."""
    body = {"type": "about:blank", "title": "Internal Server Error", "status": 500, "instance": instance}
    return _response(body, {})


def problem_schema() -> dict[str, Any]:
    """JSON schema of a problem, for the OpenAPI document."""
    text = {"type": "string"}
    entry = {"type": "object", "properties": {"pointer": text, "detail": text}, "required": ["pointer", "detail"]}
    return {
        "type": "object",
        "description": "RFC 9457 problem. Further members depend on `type`.",
        "properties": {
            "type": {"type": "string", "format": "uri-reference", "description": "`/problems/<code>`, or about:blank"},
            "title": text,
            "status": {"type": "integer"},
            "detail": text,
            "instance": {"type": "string", "description": "`urn:uuid:` and the request's id, as in the log"},
            "errors": {"type": "array", "items": entry, "description": "JSON pointers to what is wrong"},
            "retry_after": {"type": "integer", "description": "seconds"},
        },
        "required": ["type", "title", "status"],
        "additionalProperties": True,
    }


def _headers_of(error: ServiceError) -> dict[str, str]:
    headers = {}
    if "retry_after" in error.fields:
        headers["retry-after"] = str(error.fields["retry_after"])
    if error.code == "method-not-allowed":
        headers["allow"] = ", ".join(error.fields["allowed"])
    if error.code == "range-not-satisfiable":
        headers["content-range"] = f"bytes */{error.fields['size_bytes']}"
    return headers


def _response(body: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
    content = orjson.dumps(body, default=str)
    return Response(content, body["status"], {**headers, "cache-control": "no-store"}, media_type=MEDIA_TYPE)
