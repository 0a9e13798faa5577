"""The routes of the fleet with their descriptions. Who may use which is decided by the gate in front of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from service.contract.node_states import ALL_STATES
from service.ground.names import NAME_PATTERN
from service.http.routing import Operation, header_parameter, path_parameter, query_parameter
from service.hub.fleet.documents import Desired, Reported
from service.hub.routes.fleet_agents import get_desired, get_keyring, post_enroll, put_reported
from service.hub.routes.fleet_bodies import LONGEST_WAIT_SECONDS, EnrollBody, LabelsBody, RolloutBody, TokenBody
from service.hub.routes.fleet_nodes import (
    delete_node,
    delete_token,
    get_node,
    list_nodes,
    list_tokens,
    patch_node,
    post_rollback,
    post_token,
    put_desired,
)
from service.hub.routes.fleet_rollouts import (
    get_rollout,
    list_rollouts,
    post_abort,
    post_pause,
    post_resume,
    post_rollout,
)
from service.hub.routes.schemas import COUNT, TEXT, object_schema

JSON = "application/json"

FLEET_SCHEMAS: dict[str, dict[str, Any]] = {}


def _body(model: type[BaseModel]) -> Mapping[str, Mapping[str, Any]]:
    """Schema of a body; the parts that it refers to go into `FLEET_SCHEMAS`."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    FLEET_SCHEMAS.update(schema.pop("$defs", {}))
    return {JSON: schema}


_TIME = {"type": "number", "description": "Seconds since the epoch."}
_OPTIONAL_OBJECT = {"type": ["object", "null"], "additionalProperties": True}
_DOCUMENT = {"type": "object", "description": "`signed` and `signatures`.", "additionalProperties": True}
FLEET_SCHEMAS |= {
    "Node": object_schema(
        {
            "node": TEXT,
            "labels": {"type": "object", "additionalProperties": TEXT},
            "capability": {"type": "object", "additionalProperties": True},
            "state": {"type": "string", "enum": list(ALL_STATES)},
            "stale": {"type": "boolean"},
            "generation": COUNT,
            "desired": _OPTIONAL_OBJECT,
            "reported": _OPTIONAL_OBJECT,
            "problem": {"anyOf": [{"$ref": "#/components/schemas/Problem"}, {"type": "null"}]},
            "enrolled": _TIME,
            "last_seen": _TIME,
        }
    ),
    "Rollout": object_schema(
        {
            "id": TEXT,
            "name": {"type": ["string", "null"]},
            "selector": {"type": "object", "additionalProperties": TEXT},
            "model": TEXT,
            "budget": _OPTIONAL_OBJECT,
            "canary_share": {"type": "number"},
            "max_failures": COUNT,
            "bake_seconds": {"type": "number"},
            "state": {"type": "string", "enum": ["canary", "baking", "rest", "done", "aborted", "paused"]},
            "reason": {"type": ["string", "null"]},
            "created": _TIME,
            "counts": {"type": "object", "additionalProperties": COUNT},
            "nodes": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        },
        additionalProperties=True,
    ),
}
_NODE, _ROLLOUT = ({"$ref": f"#/components/schemas/{name}"} for name in ("Node", "Rollout"))
_NODES = object_schema({"revision": COUNT, "nodes": {"type": "array", "items": _NODE}})
_TOKEN = object_schema({"token": TEXT, "id": TEXT, "node": {"type": ["string", "null"]}, "expires": COUNT})
_TOKENS = object_schema({"tokens": {"type": "array", "items": {"type": "object", "additionalProperties": True}}})
_ROLLOUTS = object_schema({"rollouts": {"type": "array", "items": _ROLLOUT}})
_ENROLLED = object_schema({"node": TEXT, "root": {"type": "object"}, "keyring": _DOCUMENT})
_TOLD = object_schema(
    {
        "generation": COUNT,
        "desired": {"type": "object", "additionalProperties": True},
        "release": {"anyOf": [_DOCUMENT, {"type": "null"}]},
        "probe": {"anyOf": [_DOCUMENT, {"type": "null"}]},
        "problem": {"anyOf": [{"$ref": "#/components/schemas/Problem"}, {"type": "null"}]},
    }
)

_NODE_PATH = path_parameter("node", "Name of a node.", NAME_PATTERN)
_TOKEN_PATH = path_parameter("token", "Id of a token.", "^[0-9a-f]{12}$")
_ROLLOUT_PATH = path_parameter("rollout", "Id of a rollout.", "^[0-9a-f]{16}$")
_WAIT = query_parameter(
    "wait", "How long to wait for news, in seconds.", {"type": "number", "minimum": 0, "maximum": LONGEST_WAIT_SECONDS}
)
_IF_MATCH = header_parameter("If-Match", "The generation that the node must be at.")

_READ = ("unreadable-body", "body-too-large", "body-timeout", "unsupported-encoding", "invalid-request")
_ADMIN = ("invalid-admin-key",)
_KNOWN = (*_ADMIN, "unknown-node", "invalid-request")
_SIGNED = (
    "unsigned-request",
    "clock-skew",
    "unknown-key",
    "untrusted-signature",
    "replayed-request",
    "other-node",
    "invalid-request",
)
_WRITE = ("store-full",)
_ROLLED = (*_ADMIN, "unknown-rollout", *_WRITE)

FLEET_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "GET", "/fleet/nodes/{node}/desired", get_desired, "What a node should run", "fleet: nodes",
        {200: ("News", {JSON: _TOLD}), 204: ("Nothing new", {})}, _SIGNED,
        (_NODE_PATH, query_parameter("after", "The last generation that the node was told of.", COUNT), _WAIT),
    ),
    Operation(
        "PUT", "/fleet/nodes/{node}/reported", put_reported, "What a node says of itself", "fleet: nodes",
        {204: ("Taken", {})}, (*_SIGNED, *_READ[:-1], *_WRITE), (_NODE_PATH,), _body(Reported),
    ),
    Operation(
        "POST", "/fleet/enroll", post_enroll, "Enroll a node", "fleet: nodes",
        {201: ("Enrolled", {JSON: _ENROLLED}), 200: ("Enrolled before", {JSON: _ENROLLED})},
        (*_READ, "invalid-token", "invalid-key", "node-conflict", "fleet-full", *_WRITE), (), _body(EnrollBody),
    ),
    Operation(
        "GET", "/fleet/keyring", get_keyring, "Keys that count", "fleet: nodes",
        {200: ("The keyring", {JSON: _DOCUMENT})},
    ),
    Operation(
        "GET", "/fleet/nodes", list_nodes, "All nodes", "fleet",
        {200: ("Nodes by name", {JSON: _NODES})}, (*_ADMIN, "invalid-request"),
        (
            query_parameter("label", "`KEY=VALUE`, may be given several times.", TEXT),
            query_parameter("after", "Revision of an earlier answer.", COUNT), _WAIT,
        ),
    ),
    Operation(
        "GET", "/fleet/nodes/{node}", get_node, "One node", "fleet",
        {200: ("The node", {JSON: _NODE})}, _KNOWN, (_NODE_PATH,),
    ),
    Operation(
        "PATCH", "/fleet/nodes/{node}", patch_node, "Label a node", "fleet",
        {200: ("The node", {JSON: _NODE})}, (*_KNOWN, *_READ[:-1], *_WRITE), (_NODE_PATH,), _body(LabelsBody),
    ),
    Operation(
        "DELETE", "/fleet/nodes/{node}", delete_node, "Forget a node", "fleet",
        {204: ("Forgotten", {})}, (*_KNOWN, *_WRITE), (_NODE_PATH,),
    ),
    Operation(
        "PUT", "/fleet/nodes/{node}/desired", put_desired, "Say what a node should run", "fleet",
        {200: ("The node", {JSON: _NODE})}, (*_KNOWN, *_READ[:-1], "generation-conflict", *_WRITE),
        (_NODE_PATH, _IF_MATCH), _body(Desired),
    ),
    Operation(
        "POST", "/fleet/nodes/{node}/rollback", post_rollback, "Go back", "fleet",
        {200: ("The node", {JSON: _NODE})}, (*_KNOWN, "nothing-to-roll-back", *_WRITE), (_NODE_PATH,),
    ),
    Operation(
        "POST", "/fleet/rollouts", post_rollout, "Begin a rollout", "fleet",
        {201: ("The rollout", {JSON: _ROLLOUT})},
        (*_ADMIN, *_READ, "empty-rollout", "rollout-conflict", "fleet-full", *_WRITE), (), _body(RolloutBody),
    ),
    Operation(
        "GET", "/fleet/rollouts", list_rollouts, "All rollouts", "fleet",
        {200: ("Rollouts, oldest first", {JSON: _ROLLOUTS})}, _ADMIN,
    ),
    Operation(
        "GET", "/fleet/rollouts/{rollout}", get_rollout, "One rollout", "fleet",
        {200: ("The rollout", {JSON: _ROLLOUT})}, (*_ADMIN, "unknown-rollout"), (_ROLLOUT_PATH,),
    ),
    Operation(
        "POST", "/fleet/rollouts/{rollout}/pause", post_pause, "Hold a rollout", "fleet",
        {200: ("The rollout", {JSON: _ROLLOUT})}, (*_ROLLED, "rollout-state"), (_ROLLOUT_PATH,),
    ),
    Operation(
        "POST", "/fleet/rollouts/{rollout}/resume", post_resume, "Let a rollout go on", "fleet",
        {200: ("The rollout", {JSON: _ROLLOUT})}, (*_ROLLED, "rollout-state"), (_ROLLOUT_PATH,),
    ),
    Operation(
        "POST", "/fleet/rollouts/{rollout}/abort", post_abort, "End a rollout and go back", "fleet",
        {200: ("The rollout", {JSON: _ROLLOUT})}, (*_ROLLED, "rollout-state"), (_ROLLOUT_PATH,),
    ),
    Operation(
        "POST", "/fleet/tokens", post_token, "Make an enrolment token", "fleet",
        {201: ("The token", {JSON: _TOKEN})}, (*_ADMIN, *_READ, "fleet-full", *_WRITE), (), _body(TokenBody),
    ),
    Operation(
        "GET", "/fleet/tokens", list_tokens, "All tokens", "fleet", {200: ("Tokens", {JSON: _TOKENS})}, _ADMIN,
    ),
    Operation(
        "DELETE", "/fleet/tokens/{token}", delete_token, "Make a token worthless", "fleet",
        {204: ("Gone", {})}, (*_ADMIN, "unknown-token", *_WRITE), (_TOKEN_PATH,),
    ),
)  # fmt: skip
