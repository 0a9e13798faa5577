"""Routes that hand the request to their endpoint as it is, described for OpenAPI but not slowed down by it.

FastAPI's own handler solves dependencies and validates on every request, which costs more than a cached export. A
`RawRoute` is an `APIRoute` for the document and a plain Starlette route for the traffic.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import request_response

from service.http.problems import MEDIA_TYPE, PROBLEMS

Endpoint = Callable[[Request], Awaitable[Response]]
Schema = Mapping[str, Any]


class RawRoute(APIRoute):
    """A documented route whose endpoint takes the request and gives the response."""

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        super().__init__(path, endpoint, response_model=None, **options)
        self.app = request_response(endpoint)


@dataclass(frozen=True)
class Operation:
    """One method of one path, as the OpenAPI document shows it.

    Attributes:
        method, path, endpoint: what is served.
        summary: a line; the endpoint's docstring is the description.
        tag: group in the document.
        answers: status -> (description, media type -> schema).
        problems: codes that it may answer with, besides those of every route.
        parameters: OpenAPI parameter objects.
        body: media type -> schema of the request body.
    """

    method: str
    path: str
    endpoint: Endpoint
    summary: str
    tag: str
    answers: Mapping[int, tuple[str, Mapping[str, Schema]]]
    problems: Sequence[str] = ()
    parameters: Sequence[Schema] = field(default=())
    body: Mapping[str, Schema] | None = None

    def route(self) -> RawRoute:
        """The route that serves it."""
        name = f"{self.endpoint.__name__}_{self.method.lower()}"
        responses: dict[int | str, dict[str, Any]] = {
            status: {
                "description": text,
                **(
                    {"content": {kind: {"schema": dict(schema)} for kind, schema in content.items()}} if content else {}
                ),
            }
            for status, (text, content) in self.answers.items()
        }
        for code in self.problems:
            status, title = PROBLEMS[code]
            known = responses.setdefault(status, {"description": "", "content": {MEDIA_TYPE: {"schema": PROBLEM_REF}}})
            known["description"] = "; ".join(part for part in (known["description"], f"{title} (`{code}`)") if part)
        extra: dict[str, Any] = {"parameters": [dict(parameter) for parameter in self.parameters]}
        if self.body is not None:
            extra["requestBody"] = {
                "required": True,
                "content": {kind: {"schema": dict(schema)} for kind, schema in self.body.items()},
            }
        first = min(self.answers)
        return RawRoute(
            self.path,
            self.endpoint,
            methods=[self.method],
            name=name,
            operation_id=name,
            summary=self.summary,
            description=" ".join((self.endpoint.__doc__ or "").split()),
            tags=[self.tag],
            status_code=first,
            response_description=responses[first]["description"],
            responses=responses,
            openapi_extra={name: value for name, value in extra.items() if value},
        )


PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}


def path_parameter(name: str, description: str, pattern: str) -> dict[str, Any]:
    """OpenAPI object of a path parameter."""
    schema = {"type": "string", "pattern": pattern}
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


def query_parameter(name: str, description: str, schema: Schema) -> dict[str, Any]:
    """OpenAPI object of an optional query parameter."""
    return {"name": name, "in": "query", "required": False, "description": description, "schema": dict(schema)}


def header_parameter(name: str, description: str) -> dict[str, Any]:
    """OpenAPI object of an optional header."""
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": "string"}}
