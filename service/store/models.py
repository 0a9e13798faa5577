"""The models of a hub: a name for each checkpoint, checkpoints stored by digest in `checkpoints/ab/abcd….inn`."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from service.ground.errors import DigestMismatchError, NameConflictError, UnknownModelError
from service.ground.files import disk_full_as_error, hash_file, publish
from service.ground.names import check_name, digest_path
from service.store.interface import Catalogue, ModelRow

log = logging.getLogger(__name__)

SUFFIX = ".inn"
Outcome = Literal["created", "unchanged", "replaced"]


@dataclass(frozen=True)
class Model:
    """A registered model.

    Attributes:
        name: what requests call it.
        digest: of the checkpoint file.
        size_bytes: of the checkpoint file.
        description: what the builder said of it (groups, feasible range, inputs, outputs, qualities, …).
        added: seconds since the epoch.
        path: the checkpoint file.
    """

    name: str
    digest: str
    size_bytes: int
    description: dict[str, Any]
    added: float
    path: Path


class ModelRegistry:
    """Names and checkpoint files below `root`, backed by a catalogue; reads come from memory. Thread-safe.

    At start, rows whose checkpoint is missing are dropped, and checkpoint files that no row names are removed.

    Args:
        root: folder of the store.
        catalogue: keeps the rows.
    """

    def __init__(self, root: Path, catalogue: Catalogue) -> None:
        self._root = root.resolve()
        self._checkpoints = self._root / "checkpoints"
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._models: dict[str, Model] = {}
        with disk_full_as_error(root, needed_bytes=0):
            self._checkpoints.mkdir(parents=True, exist_ok=True)
        for row in catalogue.models():
            model = self._from_row(row)
            if model.path.is_file() and model.path.stat().st_size == row.size_bytes:
                self._models[row.name] = model
            else:
                log.warning("checkpoint of a model is missing", extra={"model": row.name, "digest": row.digest})
                catalogue.delete_model(row.name)
        named = {model.path for model in self._models.values()}
        for path in sorted(self._checkpoints.glob("*/*")):
            if path not in named and not path.is_dir():
                log.warning("checkpoint without a name removed", extra={"file": path.name})
                path.unlink()

    def list(self) -> list[Model]:
        """All models, by name."""
        return sorted(self._models.values(), key=lambda model: model.name)

    def get(self, name: str) -> Model:
        """The model of this name.

        Raises:
            UnknownModelError: there is none.
        """
        model = self._models.get(name)
        if model is None:
            raise UnknownModelError(name[:64], list(self._models))
        return model

    def check_free(self, name: str, digest: str, *, replace: bool = False) -> Model | None:
        """Whether `add` would be refused, known before the costly validation.

        Returns:
            The model that exists with this very checkpoint, else None.

        Raises:
            InvalidRequestError: the name or the digest is none.
            NameConflictError: the name has another checkpoint and `replace` is not set.
        """
        check_name(name)
        digest_path(self._checkpoints, digest, SUFFIX)
        existing = self._models.get(name)
        if existing is None or (replace and existing.digest != digest):
            return None
        if existing.digest != digest:
            raise NameConflictError(name, existing=existing.digest, offered=digest)
        return existing

    def add(
        self,
        name: str,
        staged: Path,
        *,
        digest: str,
        description: dict[str, Any],
        replace: bool = False,
        trusted: bool = False,
    ) -> tuple[Model, Outcome]:
        """Registers a checkpoint that a builder has validated.

        Args:
            name: of the model.
            staged: the checkpoint in a staging folder of the same file system; moved away on success.
            digest: of its bytes.
            description: what the builder said of it.
            replace: take the place of another checkpoint of this name.
            trusted: leave the hash unchecked, when the caller computed it from these very bytes.

        Returns:
            The model, and whether it was created, unchanged (same checkpoint) or replaced.

        Raises:
            InvalidRequestError: the name or the digest is none.
            NameConflictError: the name has another checkpoint and `replace` is not set.
            DigestMismatchError: the bytes have another digest.
            StoreFullError: the disk is full.
        """
        if not trusted:
            found = hash_file(staged)
            if found != digest:
                raise DigestMismatchError("the checkpoint", expected=digest, found=found)
        with self._lock:
            existing = self.check_free(name, digest, replace=replace)
            if existing is not None:
                return existing, "unchanged"
            before = self._models.get(name)
            target = digest_path(self._checkpoints, digest, SUFFIX)
            size_bytes = staged.stat().st_size
            with disk_full_as_error(self._checkpoints, needed_bytes=size_bytes):
                if not target.exists():
                    publish(staged, target)
                try:
                    row = self._catalogue.put_model(name, digest, size_bytes, description)
                except BaseException:
                    if all(model.path != target for model in self._models.values()):
                        target.unlink()
                    raise
            model = self._models[name] = self._from_row(row)
            if before is not None:
                self._remove_unnamed(before.path, before.digest)
        outcome: Outcome = "created" if before is None else "replaced"
        log.info("model added", extra={"model": name, "digest": digest, "outcome": outcome})
        return model, outcome

    def remove(self, name: str) -> Model:
        """Forgets a model; its checkpoint goes when no other name has it, its artifacts stay until they are evicted.

        Returns:
            The model as it was.

        Raises:
            UnknownModelError: there is none.
        """
        with self._lock:
            model = self.get(name)
            self._catalogue.delete_model(name)
            del self._models[name]
            self._remove_unnamed(model.path, model.digest)
        log.info("model removed", extra={"model": name, "digest": model.digest})
        return model

    def _remove_unnamed(self, path: Path, digest: str) -> None:
        if all(model.digest != digest for model in self._models.values()):
            path.unlink(missing_ok=True)
            self._catalogue.delete_curves(digest)

    def _from_row(self, row: ModelRow) -> Model:
        path = digest_path(self._checkpoints, row.digest, SUFFIX)
        return Model(row.name, row.digest, row.size_bytes, row.description, row.added, path)
