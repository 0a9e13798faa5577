"""A whole hub for tests: uvicorn on a free port of loopback, in a thread, around builders of toy networks."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from service.ground.settings import ApiSettings
from service.hub.app import create_app
from service.hub.services import Hub
from tests.service.hub import fake_builder
from tests.service.hub.fake_builder import CHECKPOINT_MAGIC

TIMEOUT_SECONDS = 60.0


@dataclass(frozen=True)
class LiveHub:
    """A running hub and a client of it."""

    app: FastAPI
    url: str
    client: httpx.Client
    control: Path
    settings: ApiSettings

    @property
    def hub(self) -> Hub:
        """The parts of the hub."""
        hub: Hub = self.app.state.hub
        return hub

    def export(self, target_params: int, **members: Any) -> httpx.Response:
        """Posts an export of the toy model."""
        return self.client.post("/export", json={"model": "toy", "target_params": target_params, **members})

    def infer(self, inputs: Any, **members: Any) -> httpx.Response:
        """Posts an inference of the toy model."""
        return self.client.post("/infer", json={"model": "toy", "inputs": inputs, **members})

    def builds(self) -> list[str]:
        """A line for every export that a builder began."""
        log = self.control / "builds.log"
        return log.read_text().splitlines() if log.exists() else []


def write_checkpoint(folder: Path, name: str = "toy", **more: Any) -> Path:
    """A toy checkpoint file."""
    path = folder / f"{name}.inn"
    path.write_bytes(checkpoint_bytes(name, **more))
    return path


def checkpoint_bytes(name: str = "toy", **more: Any) -> bytes:
    """The bytes of a toy checkpoint; further members make another digest."""
    return CHECKPOINT_MAGIC + json.dumps({"name": name, **more}).encode()


@contextmanager
def live_hub(
    folder: Path, *, imports: Sequence[Path] | None = None, real_builders: bool = False, **options: Any
) -> Iterator[LiveHub]:
    """A hub with its store in `folder`; what is given in `options` are its settings.

    Args:
        folder: for the store, checkpoints and what steers the toy builders.
        imports: checkpoints; that of the model `toy` when not given.
        real_builders: spawn the builders of the service instead of those of toy networks.
        options: settings.
    """
    control = folder / "control"
    control.mkdir(parents=True, exist_ok=True)
    settings = ApiSettings(**{"store": folder / "store", "ort_threads": 1, "device": "cpu", **options})
    command = None if real_builders else [sys.executable, fake_builder.__file__, str(control)]
    files = [write_checkpoint(folder)] if imports is None else imports
    app = create_app(settings, imports=files, builder_command=command)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5, lifespan="on")
    )
    started = threading.Event()
    run_startup = server.startup

    async def startup(sockets: list[socket.socket] | None = None) -> None:
        try:
            await run_startup(sockets)
        finally:
            started.set()

    server.startup = startup  # the only way to learn of the moment it answers without asking again and again
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        assert started.wait(TIMEOUT_SECONDS), "the hub did not start"
        assert server.started, "the hub failed to start; see the log"
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with httpx.Client(base_url=url, timeout=TIMEOUT_SECONDS, trust_env=False) as client:
            yield LiveHub(app, url, client, control, settings)
    finally:
        server.should_exit = True
        thread.join(TIMEOUT_SECONDS)
        listening.close()
    assert not thread.is_alive(), "the hub did not stop"
