"""The registry: one checkpoint for a name, checkpoint files as long as a name needs them."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.ground.errors import (
    DigestMismatchError,
    InvalidRequestError,
    NameConflictError,
    StoreFullError,
    UnknownModelError,
)
from service.store.models import Model, ModelRegistry
from tests.service.store.stores import OpenCatalogue, digest_of


def add(registry: ModelRegistry, folder: Path, name: str, data: bytes, *, replace: bool = False) -> tuple[Model, str]:
    staged = folder / "upload"
    staged.write_bytes(data)
    return registry.add(name, staged, digest=digest_of(data), description={"size": len(data)}, replace=replace)


def files(folder: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in (folder / "checkpoints").glob("*/*"))


def test_models_survive_a_restart(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    catalogue = open_catalogue(tmp_path, clock=lambda: 100.0)
    registry = ModelRegistry(tmp_path, catalogue)
    model, outcome = add(registry, tmp_path, "net", b"one")
    assert outcome == "created"
    assert (model.size_bytes, model.description, model.added) == (3, {"size": 3}, 100.0)
    catalogue.close()
    again = ModelRegistry(tmp_path, open_catalogue(tmp_path))
    assert again.list() == [model]
    assert again.get("net").path.read_bytes() == b"one"


def test_same_checkpoint_again_is_no_change_and_another_a_conflict(
    tmp_path: Path, open_catalogue: OpenCatalogue
) -> None:
    registry = ModelRegistry(tmp_path, open_catalogue(tmp_path))
    model, _ = add(registry, tmp_path, "net", b"one")
    assert add(registry, tmp_path, "net", b"one") == (model, "unchanged")
    with pytest.raises(NameConflictError) as caught:
        add(registry, tmp_path, "net", b"two")
    assert caught.value.fields == {"model": "net", "existing": digest_of(b"one"), "offered": digest_of(b"two")}
    assert files(tmp_path) == [b"one"]
    assert add(registry, tmp_path, "net", b"two", replace=True)[1] == "replaced"
    assert files(tmp_path) == [b"two"]


def test_checkpoint_stays_while_any_name_has_it(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    registry = ModelRegistry(tmp_path, open_catalogue(tmp_path))
    add(registry, tmp_path, "net", b"one")
    add(registry, tmp_path, "other", b"one")
    assert files(tmp_path) == [b"one"]
    assert registry.remove("net").name == "net"
    assert registry.get("other").path.read_bytes() == b"one"
    registry.remove("other")
    assert files(tmp_path) == []
    with pytest.raises(UnknownModelError):
        registry.remove("other")


def test_start_drops_models_without_a_file_and_files_without_a_model(
    tmp_path: Path, open_catalogue: OpenCatalogue
) -> None:
    catalogue = open_catalogue(tmp_path)
    registry = ModelRegistry(tmp_path, catalogue)
    lost, _ = add(registry, tmp_path, "lost", b"lost")
    cut, _ = add(registry, tmp_path, "cut", b"cut short")
    add(registry, tmp_path, "kept", b"kept")
    lost.path.unlink()
    cut.path.write_bytes(b"cut")
    (lost.path.parent / "stray.inn").write_bytes(b"stray")
    again = ModelRegistry(tmp_path, catalogue)
    assert [model.name for model in again.list()] == ["kept"]
    assert files(tmp_path) == [b"kept"]
    assert [row.name for row in catalogue.models()] == ["kept"]


@pytest.mark.parametrize("name", ["", ".", "..", "../net", "a/b", "a\\b", "net\n", "-net", "x" * 65, "é", "a b", "a\0"])
def test_hostile_name_is_refused_and_nothing_kept(tmp_path: Path, open_catalogue: OpenCatalogue, name: str) -> None:
    registry = ModelRegistry(tmp_path, open_catalogue(tmp_path))
    with pytest.raises(InvalidRequestError) as caught:
        add(registry, tmp_path, name, b"one")
    assert caught.value.fields["errors"][0]["pointer"] == "/model"
    assert files(tmp_path) == []
    with pytest.raises(UnknownModelError):
        registry.get(name)


def test_wrong_digest_is_refused(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    registry = ModelRegistry(tmp_path, open_catalogue(tmp_path))
    (tmp_path / "upload").write_bytes(b"changed")
    with pytest.raises(DigestMismatchError):
        registry.add("net", tmp_path / "upload", digest=digest_of(b"one"), description={})
    assert registry.list() == []


def test_full_catalogue_keeps_no_file(
    tmp_path: Path, open_catalogue: OpenCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = open_catalogue(tmp_path)
    registry = ModelRegistry(tmp_path, catalogue)

    def full(*values: object) -> None:
        raise StoreFullError(needed_bytes=1, capacity_bytes=1, free_bytes=0)

    monkeypatch.setattr(catalogue, "put_model", full)
    with pytest.raises(StoreFullError):
        add(registry, tmp_path, "net", b"one")
    assert registry.list() == []
    assert files(tmp_path) == []


def test_unknown_model_names_those_that_there_are(tmp_path: Path, open_catalogue: OpenCatalogue) -> None:
    registry = ModelRegistry(tmp_path, open_catalogue(tmp_path))
    add(registry, tmp_path, "net", b"one")
    with pytest.raises(UnknownModelError, match="known models: net"):
        registry.get("absent")
