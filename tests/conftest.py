"""The order of the tests."""

from __future__ import annotations

import pytest

LONGEST = "test_readme.py"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The file that takes longest comes first, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != LONGEST)
