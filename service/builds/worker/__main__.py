"""A builder process: `python -m service.builds.worker [--settings JSON]`, spawned by the hub, spoken to in JSON lines.

Without `--settings` it takes them from the environment. It ends when its standard input does.
"""

from __future__ import annotations

import argparse
import sys

from service.builds.worker.limits import chosen_threads, limit_memory, limit_threads
from service.builds.worker.loop import serve, take_over_stdout
from service.ground.logs import configure_logs
from service.ground.settings import BuilderSettings


def main() -> None:
    """Answers requests on standard input until it ends."""
    parser = argparse.ArgumentParser(prog="python -m service.builds.worker", description="Builder process of a hub.")
    parser.add_argument("--settings", help="settings as a JSON object; from INN_BUILDER_… variables when not given")
    text = parser.parse_args().settings
    settings = BuilderSettings() if text is None else BuilderSettings.model_validate_json(text)
    responses = take_over_stdout()
    configure_logs(settings.log_level)
    limit_threads(chosen_threads(settings.threads))
    limit_memory(settings.memory_bytes)
    # After the limits: the numeric libraries read them when they are loaded.
    from inn_core.errors import InnError
    from service.builds.worker.operations import Operations

    serve(Operations(settings).handlers(), requests=sys.stdin.buffer, responses=responses, known_errors=(InnError,))


if __name__ == "__main__":
    main()
