"""`inn serve`: says where it listens, answers, and leaves with 0 when told to stop."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from inn_core.checkpoint.storage import save_checkpoint
from scripts.hub_process import HubError, running_hub
from tests.inn_core.networks import residual_network
from tests.service.hub.fleet.simulated import ADMIN_KEY, Admin, enrolled

# With Nagle's algorithm on, the second packet of an answer waits 40 ms for the client to acknowledge the first.
DELAYED_ACKNOWLEDGEMENT_SECONDS = 0.035


def serve(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", "serve", *arguments]
    variables = {**os.environ, **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=False, timeout=60)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "residual.inn"
    save_checkpoint(residual_network(), path)
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_hub_answers_and_stops_gracefully(number: signal.Signals, checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "serve", "--store", str(tmp_path / "store"), "--port", "0"]
    with subprocess.Popen(
        [*command, "--import", str(checkpoint)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        try:
            assert address.startswith("http://127.0.0.1:")
            assert httpx.get(f"{address}/healthz").status_code == httpx.codes.OK
            with httpx.Client(base_url=address) as client:
                assert [model["name"] for model in client.get("/models").json()["models"]] == ["residual"]
                seconds = sorted(client.get("/models").elapsed.total_seconds() for _ in range(21))
            assert seconds[len(seconds) // 2] < DELAYED_ACKNOWLEDGEMENT_SECONDS
        finally:
            process.send_signal(number)
            out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert out == ""
    assert err.endswith("stopped\n")


def test_nodes_that_wait_are_answered_when_the_hub_is_told_to_stop(checkpoint: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "serve", "--store", str(tmp_path / "store"), "--port", "0"]
    environment = {**os.environ, "INN_ADMIN_KEY": ADMIN_KEY}
    with (
        subprocess.Popen(
            [*command, "--import", str(checkpoint)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        ) as process,
        ThreadPoolExecutor(2) as waiting,
    ):
        assert process.stdout is not None
        try:
            address = process.stdout.readline().strip()
            with (
                httpx.Client(base_url=address, timeout=60.0) as client,
                httpx.Client(base_url=address, timeout=60.0) as other,
            ):
                node = enrolled(client, "waits")
                admin = Admin(other)
                revision = admin.call("GET", "/fleet/nodes").json()["revision"]
                asked = waiting.submit(node.send, "GET", "/fleet/nodes/waits/desired?after=0&wait=50")
                watched = waiting.submit(admin.call, "GET", f"/fleet/nodes?after={revision}&wait=50")
                while not (asked.running() and watched.running()):
                    pass
                time.sleep(2.0)  # both are with the hub by now; were they not, they would fail below
                process.send_signal(signal.SIGTERM)
                assert asked.result().status_code == httpx.codes.NO_CONTENT
                assert watched.result().status_code == httpx.codes.OK
        finally:
            process.terminate()
            _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err


def test_a_port_in_use_is_an_error_that_offers_another(checkpoint: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = serve("--store", str(tmp_path), "--port", port, "--import", str(checkpoint))
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"error[address-unavailable]: cannot listen on 127.0.0.1 port {port}" in done.stderr


def test_settings_that_are_wrong_are_named_by_their_variable(tmp_path: Path) -> None:
    done = serve("--store", str(tmp_path), environment={"INN_QUEUE_LIMIT": "many"})
    assert done.returncode == 1
    assert done.stderr.startswith("error[invalid-settings]: INN_QUEUE_LIMIT: ")


def test_a_checkpoint_that_is_none_stops_the_start_with_its_code(tmp_path: Path) -> None:
    path = tmp_path / "bad.inn"
    path.write_bytes(b"no checkpoint at all")
    done = serve("--store", str(tmp_path / "store"), "--port", "0", "--import", str(path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "error[invalid-checkpoint]: " in done.stderr


def test_a_hub_that_does_not_start_is_told_to_the_one_who_started_it(tmp_path: Path) -> None:
    path = tmp_path / "bad.inn"
    path.write_bytes(b"no checkpoint at all")
    with (
        (tmp_path / "hub.log").open("wb") as log,
        pytest.raises(HubError, match="exit code 1"),
        running_hub(tmp_path / "store", imports=[path], log=log),
    ):
        pytest.fail("a hub without a checkpoint must not start")
