"""Adding models: a checkpoint is hashed, validated by a builder process, and only then registered."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from service.builds.worker_process import BuilderClient
from service.ground.errors import InvalidRequestError
from service.ground.files import HashingWriter, disk_full_as_error
from service.ground.names import check_name, is_name
from service.store.interface import ArtifactStore
from service.store.models import Model, ModelRegistry, Outcome

COPY_BYTES = 1 << 20


class ModelService:
    """Adds models. Belongs to one event loop.

    Args:
        registry: where models go.
        store: its staging folders and room on the disk.
        planner: the builder process that validates checkpoints.
        timeout_seconds: how long validating one may take.
        max_checkpoint_bytes: largest checkpoint accepted.
    """

    def __init__(
        self,
        *,
        registry: ModelRegistry,
        store: ArtifactStore,
        planner: BuilderClient,
        timeout_seconds: float = 120.0,
        max_checkpoint_bytes: int = 2 << 30,
    ) -> None:
        self._registry = registry
        self._store = store
        self._planner = planner
        self._timeout_seconds = timeout_seconds
        self._max_checkpoint_bytes = max_checkpoint_bytes

    async def describe(self, path: Path) -> dict[str, Any]:
        """What a builder says of a checkpoint file.

        Raises:
            CoreError: it is no valid checkpoint.
        """
        described: dict[str, Any] = await self._planner.call(
            "describe", {"checkpoint": str(path)}, timeout_seconds=self._timeout_seconds, attempts=2
        )
        return described

    async def add(self, name: str, staged: Path, *, digest: str, replace: bool = False) -> tuple[Model, Outcome]:
        """Registers a checkpoint that lies, completely written, in a staging folder of the store.

        Args:
            name: of the model.
            staged: the file; moved away on success.
            digest: of its bytes, as computed while it was received.
            replace: take the place of another checkpoint of this name.

        Returns:
            The model, and whether it was created, unchanged or replaced.

        Raises:
            InvalidRequestError: the name is none.
            NameConflictError: the name has another checkpoint and `replace` is not set.
            CoreError: it is no valid checkpoint.
            StoreFullError: the disk is full.
        """
        existing = self._registry.check_free(name, digest, replace=replace)
        if existing is not None:
            return existing, "unchanged"
        description = await self.describe(staged)
        return await asyncio.to_thread(
            self._registry.add, name, staged, digest=digest, description=description, replace=replace, trusted=True
        )

    async def import_file(self, path: Path, *, name: str | None = None, replace: bool = False) -> tuple[Model, Outcome]:
        """Registers a checkpoint file of this machine; the file itself is copied and stays.

        Args:
            path: a `.inn` file.
            name: of the model; the one in the checkpoint, else the file's own name, when not given.
            replace: take the place of another checkpoint of this name.

        Raises:
            FileNotFoundError: there is no such file.
            BodyTooLargeError: it is larger than checkpoints may be.
            Others as `add`.
        """
        size_bytes = (await asyncio.to_thread(os.stat, path)).st_size
        await asyncio.to_thread(self._store.make_disk_room, size_bytes)
        with self._store.staging() as folder:
            staged = folder / "checkpoint.inn"
            digest = await asyncio.to_thread(self._copy, path, staged)
            if name is None:
                stored = (await self.describe(staged)).get("name")
                name = stored if is_name(stored) else path.stem
            if not is_name(name):
                raise InvalidRequestError.at("/name", f"'{name}' cannot name a model; give a name")
            return await self.add(check_name(name), staged, digest=digest, replace=replace)

    def _copy(self, source: Path, target: Path) -> str:
        with (
            source.open("rb") as file,
            disk_full_as_error(target.parent, needed_bytes=0),
            HashingWriter(target, limit_bytes=self._max_checkpoint_bytes, what=f"checkpoint '{source.name}'") as copy,
        ):
            while chunk := file.read(COPY_BYTES):
                copy.write(chunk)
        return copy.digest
