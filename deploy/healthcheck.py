"""Health of a container, asked from inside: exit code 0 when its own /readyz answers 200. Needs no curl in the image.

The port is the first of the environment variables named on the command line that is set, else 8000.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_SECONDS = 4.0


def main(names: list[str]) -> int:
    """Ask once; prints what came back.

    Args:
        names: environment variables that may hold the port.

    Returns:
        The exit code.
    """
    port = next((os.environ[name] for name in names if os.environ.get(name)), "8000")
    try:
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_SECONDS)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        print(answer.status, answer.read(1000).decode("utf-8", "replace"))
    except (OSError, ValueError, http.client.HTTPException) as error:
        print(f"no answer on port {port}: {error}")
        return 1
    return 0 if answer.status == 200 else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
