"""The page under `/docs`: the OpenAPI document as plain HTML.

The usual pages load their scripts from other servers, which a hub on a closed network cannot reach and no hub should
trust. This one has no script at all.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h3 code { background: #eef; padding: 0.1rem 0.4rem; border-radius: 0.3rem; }
pre { background: #f6f6f6; padding: 0.8rem; overflow-x: auto; font-size: 0.85rem; }
td { vertical-align: top; padding: 0.1rem 1rem 0.1rem 0; }
"""


def docs_page(document: Mapping[str, Any]) -> str:
    """The HTML page for an OpenAPI document whose operations have one tag each."""
    info = document["info"]
    tags: dict[str, list[str]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tags.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    sections = [f"<h2>{html.escape(tag)}</h2>{''.join(entries)}" for tag, entries in tags.items()]
    schemas = [_schema(name, schema) for name, schema in document["components"]["schemas"].items()]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(info['title'])}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(info['title'])} {html.escape(info['version'])}</h1>"
        f"<p>{html.escape(info['description'])} For programs: <a href=openapi.json>openapi.json</a>.</p>"
        f"{''.join(sections)}<h2>schemas</h2>{''.join(schemas)}</html>"
    )


def docs_response(page: str) -> Response:
    """The answer with a page, under a policy that forbids it to load anything."""
    return Response(page, headers={"content-security-policy": POLICY}, media_type="text/html")


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    description = _code(operation.get("description", ""))
    parameters = [
        (f"{parameter['name']} ({parameter['in']})", parameter["description"])
        for parameter in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {})
    answers = [
        (status, f"{answer['description']} {' '.join(f'[{kind}]' for kind in answer.get('content', {}))}")
        for status, answer in operation["responses"].items()
    ]
    return (
        f"<h3><code>{method.upper()} {html.escape(path)}</code> {html.escape(operation['summary'])}</h3>"
        f"<p>{description}</p>{_table(parameters)}"
        f"{''.join(_schema(f'Body: {kind}', part['schema']) for kind, part in body.items())}{_table(answers)}"
    )


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    text = orjson.dumps(schema, option=orjson.OPT_INDENT_2).decode()
    return f"<details><summary>{html.escape(name)}</summary><pre>{html.escape(text)}</pre></details>"


def _table(rows: list[tuple[str, str]]) -> str:
    lines = [f"<tr><td><code>{html.escape(name)}</code><td>{_code(text)}" for name, text in rows]
    return f"<table>{''.join(lines)}</table>" if lines else ""


def _code(text: str) -> str:
    """Text with `backticks` as code."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if position % 2 else part for position, part in enumerate(parts))
