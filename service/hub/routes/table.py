"""Every route of the API with its description, hot ones first: paths are tried in this order."""

from __future__ import annotations

from service.contract.sizes import LARGEST_TARGET, QUALITIES
from service.ground.names import DIGEST_PATTERN, NAME_PATTERN
from service.http.error_answers import get_problem
from service.http.routing import Operation, header_parameter, path_parameter, query_parameter
from service.hub.routes.artifacts import get_artifact, get_manifest, head_artifact
from service.hub.routes.bodies import ExportBody, InferBody
from service.hub.routes.exports import export
from service.hub.routes.fleet_routes import FLEET_OPERATIONS
from service.hub.routes.health import healthz, metrics, readyz
from service.hub.routes.infer import infer
from service.hub.routes.jobs import delete_job, get_job
from service.hub.routes.models import delete_model, get_curve, get_model, list_models, put_model
from service.hub.routes.schemas import COUNT, DIGEST, FILE, SCHEMAS, TEXT, object_schema

JSON = "application/json"
BYTES = "application/octet-stream"
EVENTS = "text/event-stream"

_MANIFEST, _JOB, _MODEL = ({"$ref": f"#/components/schemas/{name}"} for name in SCHEMAS)
_EXPORTED = {"allOf": [_MANIFEST, object_schema({"url": TEXT, "cached": {"type": "boolean"}})]}
_INFERRED = object_schema({"model": TEXT, "params": COUNT, "digest": DIGEST, "outputs": {"type": "object"}})
_CURVE = object_schema({"full": {"type": "object"}, "points": {"type": "array", "items": {"type": "object"}}})
_STATUS = object_schema({"status": TEXT})

_MODEL_PATH = path_parameter("model", "Name of a model.", NAME_PATTERN)
_JOB_PATH = path_parameter("job", "Id of a job.", "^[0-9a-f]{64}$")
_DIGEST_PATH = path_parameter("digest", "Digest of an artifact.", DIGEST_PATTERN)
_PREFER = header_parameter("Prefer", "`wait=SECONDS` or `respond-async`: how long to wait before a 202.")
_CONDITIONS = (
    header_parameter("If-None-Match", "Digests that the client has; 304 when this is one of them."),
    header_parameter("Range", "One range of bytes."),
    header_parameter("If-Range", "The digest that the range is meant for."),
)

_BODY = ("unreadable-body", "body-too-large", "body-timeout", "unsupported-encoding", "invalid-request")
_BUILD = (
    "unknown-model",
    "invalid-budget",
    "unsupported-budget",
    "budget-unreachable",
    "quality-unavailable",
    "queue-full",
    "build-timeout",
    "builder-failed",
    "store-full",
)
_INPUTS = (
    "unknown-input",
    "missing-input",
    "input-shape",
    "input-type",
    "input-not-finite",
    "inference-failed",
    "inference-queue-full",
    "sessions-busy",
    "session-too-large",
)
_UPLOAD = ("digest-mismatch", "invalid-checkpoint", "name-conflict", "store-full", "builder-failed")

OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "POST", "/infer", infer, "Run a model of a given size", "inference",
        {200: ("Outputs by name", {JSON: _INFERRED}), 202: ("Still building", {JSON: _JOB})},
        (*_BODY, *_BUILD, *_INPUTS), (_PREFER,), {JSON: InferBody.model_json_schema()},
    ),
    Operation(
        "POST", "/export", export, "Make a network that fits a target", "exports",
        {200: ("The manifest, or the file", {JSON: _EXPORTED, BYTES: FILE}), 202: ("Still building", {JSON: _JOB})},
        (*_BODY, *_BUILD), (_PREFER,), {JSON: ExportBody.model_json_schema()},
    ),
    Operation(
        "GET", "/artifacts/{digest}", get_artifact, "Fetch an artifact", "exports",
        {200: ("The file", {BYTES: FILE}), 206: ("A part of it", {BYTES: FILE}), 304: ("The client has it", {})},
        ("unknown-artifact", "invalid-request", "range-not-satisfiable"), (_DIGEST_PATH, *_CONDITIONS),
    ),
    Operation(
        "HEAD", "/artifacts/{digest}", head_artifact, "Size and digest of an artifact", "exports",
        {200: ("Its headers", {}), 304: ("The client has it", {})},
        ("unknown-artifact", "invalid-request"), (_DIGEST_PATH, _CONDITIONS[0]),
    ),
    Operation(
        "GET", "/artifacts/{digest}/manifest", get_manifest, "Manifest of an artifact", "exports",
        {200: ("The manifest", {JSON: _MANIFEST})}, ("unknown-artifact", "invalid-request"), (_DIGEST_PATH,),
    ),
    Operation(
        "GET", "/jobs/{job}", get_job, "Look at or follow a job", "jobs",
        {200: ("The job", {JSON: _JOB, EVENTS: TEXT})}, ("unknown-job",), (_JOB_PATH,),
    ),
    Operation(
        "DELETE", "/jobs/{job}", delete_job, "Give a job up", "jobs",
        {200: ("The job", {JSON: _JOB})}, ("unknown-job",), (_JOB_PATH,),
    ),
    Operation(
        "GET", "/models", list_models, "All models", "models",
        {200: ("Models by name", {JSON: object_schema({"models": {"type": "array", "items": _MODEL}})})},
    ),
    Operation(
        "GET", "/models/{model}", get_model, "One model", "models",
        {200: ("The model", {JSON: _MODEL})}, ("unknown-model", "invalid-request"), (_MODEL_PATH,),
    ),
    Operation(
        "PUT", "/models/{model}", put_model, "Register a checkpoint", "models",
        {200: ("Known already, or replaced", {JSON: _MODEL}), 201: ("Registered", {JSON: _MODEL})},
        (*_BODY, *_UPLOAD),
        (
            _MODEL_PATH,
            query_parameter("digest", "What the bytes must hash to.", DIGEST),
            query_parameter("replace", "Take the place of another checkpoint.", {"type": "boolean", "default": False}),
            header_parameter("Repr-Digest", "What the bytes must hash to, as in RFC 9530."),
        ),
        {BYTES: FILE},
    ),
    Operation(
        "DELETE", "/models/{model}", delete_model, "Forget a model", "models",
        {204: ("Forgotten", {})}, ("unknown-model", "invalid-request"), (_MODEL_PATH,),
    ),
    Operation(
        "GET", "/models/{model}/curve", get_curve, "Size against quality", "models",
        {200: ("The curve", {JSON: _CURVE}), 202: ("Still measuring", {JSON: _JOB})},
        ("unknown-model", "invalid-request", "quality-unavailable", "build-timeout", "builder-failed"),
        (
            _MODEL_PATH,
            query_parameter(
                "params", f"Parameter counts, 1 to {LARGEST_TARGET}, separated by commas; else a spread.", TEXT
            ),
            query_parameter("quality", "Of the artifacts measured.", {"type": "string", "enum": list(QUALITIES)}),
            _PREFER,
        ),
    ),
    Operation("GET", "/healthz", healthz, "Alive", "health", {200: ("Alive", {JSON: _STATUS})}),
    Operation("GET", "/readyz", readyz, "Ready", "health", {200: ("Ready", {JSON: _STATUS})}, ("not-ready",)),
    Operation("GET", "/metrics", metrics, "Metrics", "health", {200: ("Prometheus text", {"text/plain": TEXT})}),
    Operation(
        "GET", "/problems/{code}", get_problem, "Meaning of a problem type", "health",
        {200: ("Title and status", {JSON: object_schema({"type": TEXT, "title": TEXT, "status": COUNT})})},
        ("unknown-route",),
        (path_parameter("code", "Last part of a problem's `type`.", "^[a-z-]+$"),),
    ),
    *FLEET_OPERATIONS,
)  # fmt: skip
