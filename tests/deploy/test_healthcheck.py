"""The health check of the images, as the engine runs it: another process, an exit code, a port from the environment."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "deploy" / "healthcheck.py"


class Ready(BaseHTTPRequestHandler):
    """Answers /readyz as the server's `code` says, and everything else with 404."""

    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code if self.path == "/readyz" else 404)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server whose /readyz answers with the parameter."""
    handler = type("Handler", (Ready,), {"code": request.param})
    with HTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running.server_port
        running.shutdown()
        thread.join()


def check(environment: dict[str, str], *names: str) -> subprocess.CompletedProcess[str]:
    """Run the health check."""
    return subprocess.run(
        [sys.executable, "-I", str(SCRIPT), *names], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("server", [200], indirect=True)
def test_ready_is_healthy(server: int) -> None:
    done = check({"INN_EDGE_PORT": str(server), "INN_PORT": "1"}, "INN_EDGE_PORT", "INN_PORT")
    assert done.returncode == 0, done.stdout
    assert done.stdout == "200 ok\n"


@pytest.mark.parametrize("server", [503, 404, 302], indirect=True)
def test_any_other_answer_is_not(server: int) -> None:
    assert check({"INN_PORT": str(server)}, "INN_EDGE_PORT", "INN_PORT").returncode == 1


@pytest.mark.parametrize("port", ["1", "no number"])
def test_no_answer_is_not_healthy_and_says_so(port: str) -> None:
    done = check({"INN_PORT": port}, "INN_PORT")
    assert done.returncode == 1
    assert f"no answer on port {port}" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize("server", [200], indirect=True)
def test_a_proxy_of_the_environment_is_not_asked(server: int) -> None:
    environment = {"INN_PORT": str(server), "http_proxy": "http://127.0.0.1:1", "HTTP_PROXY": "http://127.0.0.1:1"}
    assert check(environment, "INN_PORT").returncode == 0
