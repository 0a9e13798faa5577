"""A hub of toy networks in a process of its own, to be killed: `python -m tests.service.hub.hub_process FOLDER PORT`.

It serves the checkpoint `toy.inn` of the folder. The toy builders are not imported, so that it starts quickly.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from service.ground.settings import ApiSettings
from service.hub.app import create_app
from tests.service.hub.fleet.simulated import ADMIN_KEY


def main() -> None:
    """Serves until it is killed; prints `ready` once it answers."""
    folder, port = Path(sys.argv[1]), int(sys.argv[2])
    control = folder / "control"
    control.mkdir(parents=True, exist_ok=True)
    settings = ApiSettings(store=folder / "store", ort_threads=1, device="cpu", admin_key=ADMIN_KEY)
    command = [sys.executable, str(Path(__file__).with_name("fake_builder.py")), str(control)]
    app = create_app(settings, imports=[folder / "toy.inn"], builder_command=command)

    class Announcing(uvicorn.Server):
        """Says when it answers."""

        async def startup(self, sockets: list[object] | None = None) -> None:
            await super().startup(sockets)
            print("ready", flush=True)

    Announcing(uvicorn.Config(app, port=port, log_config=None, access_log=False, lifespan="on")).run()


if __name__ == "__main__":
    main()
