"""Every error of either tree has its row, and a problem shows what it should and no more."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from http import HTTPStatus

import pytest

import inn_core.errors
import service
from inn_core.errors import BudgetUnreachableError, InnError
from service.ground.errors import (
    BuilderFailedError,
    CoreError,
    InvalidRequestError,
    QueueFullError,
    ServiceError,
    UnknownModelError,
)
from service.http.errors import MethodNotAllowedError, RangeNotSatisfiableError
from service.http.problems import PROBLEMS, problem_body, problem_response

INSTANCE = "urn:uuid:00000000-0000-4000-8000-000000000000"


def descendants(base: type[Exception]) -> set[type[Exception]]:
    found = {base}
    for child in base.__subclasses__():
        found |= descendants(child)
    return found


def all_errors() -> set[type[Exception]]:
    for package in (service, inn_core):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    errors = descendants(ServiceError) | descendants(InnError)
    return {error for error in errors if error.__module__.split(".")[0] in ("service", "inn_core")}


def test_every_error_class_of_both_trees_has_a_row() -> None:
    errors = all_errors()
    assert {UnknownModelError, BudgetUnreachableError, MethodNotAllowedError, inn_core.errors.ParityError} <= errors
    missing = {f"{error.__module__}.{error.__name__}: {error.code}" for error in errors if error.code not in PROBLEMS}
    assert not missing
    # of the command line, which has no class for it
    assert set(PROBLEMS) - {error.code for error in errors} == {"missing-extra"}


def test_codes_are_kebab_case_and_statuses_are_errors() -> None:
    for code, (status, title) in PROBLEMS.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
        assert HTTPStatus(status) >= 400
        assert title
        assert len(title) < 60


def test_a_problem_has_the_standard_members_and_the_fields_of_the_error() -> None:
    error = BudgetUnreachableError(target=5, minimum=10, maximum=90, unit="params")
    body = problem_body(CoreError(error.code, error.message, error.fields), INSTANCE)
    assert body == {
        "type": "/problems/budget-unreachable",
        "title": "Budget unreachable",
        "status": 422,
        "detail": error.message,
        "instance": INSTANCE,
        "target": 5,
        "minimum": 10,
        "maximum": 90,
        "unit": "params",
    }


def test_fields_never_replace_standard_members() -> None:
    error = CoreError(
        "invalid-onnx", "text", {"status": 200, "type": "x", "detail": "y", "title": "z", "instance": "i"}
    )
    body = problem_body(error, INSTANCE)
    assert (body["status"], body["type"], body["detail"]) == (422, "/problems/invalid-onnx", "text")
    assert body["instance"] == INSTANCE


def test_a_code_without_a_row_shows_nothing_of_itself() -> None:
    body = problem_body(CoreError("never-heard-of", "a secret", {"path": "/secret"}), INSTANCE)
    assert body == {"type": "about:blank", "title": "Internal Server Error", "status": 500, "instance": INSTANCE}


def test_errors_carry_json_pointers() -> None:
    body = problem_body(InvalidRequestError.at("/quality", "is wrong"))
    assert body["errors"] == [{"pointer": "/quality", "detail": "is wrong"}]
    assert "instance" not in body


@pytest.mark.parametrize(
    ("error", "status", "header", "value"),
    [
        (QueueFullError(pending=3, limit=3, retry_after_seconds=7), 503, "retry-after", "7"),
        (MethodNotAllowedError("PATCH", ["GET", "PUT"]), 405, "allow", "GET, PUT"),
        (RangeNotSatisfiableError(99), 416, "content-range", "bytes */99"),
        (BuilderFailedError(), 500, "cache-control", "no-store"),
    ],
)
def test_headers_that_belong_to_a_status(error: ServiceError, status: int, header: str, value: str) -> None:
    response = problem_response(error, INSTANCE)
    assert response.status_code == status
    assert response.headers[header] == value
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(response.body)["status"] == status
