"""The promises that are kept as files here, and how they are made: `python -m tests.golden.documents` writes them anew.

A changed file is a changed promise: look at the difference before it goes in, and say in CHANGELOG.md what it means.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from service.ground.errors import CoreError, InvalidRequestError, QueueFullError, UnknownModelError
from service.ground.settings import ApiSettings
from service.http.errors import InvalidBudgetError
from service.http.problems import PROBLEMS, problem_body
from service.hub.app import create_app
from service.inference.errors import InputShapeError

FOLDER = Path(__file__).parent
INSTANCE = "urn:uuid:00000000-0000-4000-8000-000000000000"


def problem_types() -> Any:
    """Status and title of every problem type."""
    return {code: {"status": status, "title": title} for code, (status, title) in sorted(PROBLEMS.items())}


def problem_bodies() -> Any:
    """Whole bodies of the problems that programs look into."""
    errors = (
        UnknownModelError("nobody", ["b", "a"]),
        InvalidRequestError([{"pointer": "/quality", "detail": "is wrong"}]),
        InvalidBudgetError([{"pointer": "/target_params", "detail": "should be greater than or equal to 1; found 0"}]),
        InputShapeError("input 'x' has shape [1, 5]; it must be float32[batch, 6]", pointer="/inputs/x"),
        QueueFullError(pending=64, limit=64, retry_after_seconds=12),
        CoreError(
            "budget-unreachable",
            "target of 5 params is below the smallest size of this network, 9 params; ask for 9 to 576",
            {"target": 5, "minimum": 9, "maximum": 576, "unit": "params"},
        ),
    )
    return [problem_body(error, INSTANCE) for error in errors]


def openapi() -> Any:
    """The OpenAPI document, without the version of the hub."""
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(ApiSettings(store=Path(folder) / "store"))
        (route,) = [route for route in app.routes if getattr(route, "path", None) == "/openapi.json"]
        document: dict[str, Any] = json.loads(route.endpoint(None).body)
    del document["info"]["version"]
    return document


GOLDEN: dict[str, Callable[[], Any]] = {
    "problem_types.json": problem_types,
    "problem_bodies.json": problem_bodies,
    "openapi.json": openapi,
}


def text_of(document: Any) -> str:
    """A document as it stands in its file."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for name, make in GOLDEN.items():
        (FOLDER / name).write_text(text_of(make()))
