"""What is promised in files is what the code does; see documents.py for how to change a promise."""

from __future__ import annotations

import json

import pytest

from tests.golden.documents import FOLDER, GOLDEN, text_of
from tests.service.hub.live_hub import live_hub


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_documents(name: str) -> None:
    assert text_of(GOLDEN[name]()) == (FOLDER / name).read_text()


def test_the_answer_to_an_export(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Members and types of a manifest as `POST /export` gives it, by what the contract says."""
    promised = json.loads((FOLDER / "manifest_members.json").read_text())
    with live_hub(tmp_path_factory.mktemp("hub")) as toy:
        manifest = toy.export(200).json()
    kinds = {"integer": int, "number": int | float, "string": str, "boolean": bool, "object": dict, "array": list}
    for name, kind in promised.items():
        assert isinstance(manifest[name], kinds[kind]), name
        assert kind == "boolean" or not isinstance(manifest[name], bool), name
