"""The fleet of docker-compose.yml with real containers.

Three nodes reach their sizes, change them without a failed request, go on without the hub, and find everything again
after a restart.

One module, one fleet: the tests run in this order, and each leaves the fleet as it needs to be for the next.
"""

from __future__ import annotations

import functools
import itertools
import json
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest

from tests.e2e.engine import NODES, QUALITY, ROOT, Compose, eventually, run
from tests.e2e.fleet import Images, committed, infer, seen, shown, status

pytestmark = pytest.mark.e2e

CHANGE = ("--model", "fashion_resnet", "--quality", QUALITY, "--params")
REQUESTS_PER_SECOND = 50
TOLERANCE = 1e-5
"""Relative to the largest value: the same ONNX Runtime in float32, but work may be batched and split differently."""

MB = 1_000_000


@pytest.fixture(scope="module")
def images_of_clothes() -> Images:
    """Four real images, as the network wants them.  # shape: (4, 1, 28, 28)"""
    with np.load(ROOT / "models" / "demo" / "fashion_images.npz") as data:
        found: Images = data["images"][:4, None].astype(np.float32) / 255
    return found


def test_three_nodes_commit_sizes_within_their_budgets(fleet: Compose, findings: list[str]) -> None:
    start = time.monotonic()
    sizes = {node: committed(fleet, node)["active"]["params"] for node in NODES}
    findings.append(f"three nodes committed {time.monotonic() - start:.0f} s after `up` returned: {sizes}")
    for node, budget in NODES.items():
        assert 0.8 * budget < sizes[node] <= budget
        known = shown(fleet, node)
        assert known["state"] == "committed"
        assert known["reported"]["active"]["params"] == sizes[node]
        assert not known["stale"]


@pytest.mark.parametrize("node", NODES)
def test_answers_are_those_of_onnx_runtime_on_the_same_artifact(
    fleet: Compose, node: str, images_of_clothes: Images, tmp_path: Path
) -> None:
    digest = committed(fleet, node)["active"]["digest"]
    artifact = tmp_path / "artifact.onnx"
    artifact.write_bytes(httpx.get(f"{fleet.url('hub')}/artifacts/{digest}", timeout=60).raise_for_status().content)
    session = onnxruntime.InferenceSession(str(artifact), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["logits"], {"image": images_of_clothes})
    answer = infer(fleet, node, images_of_clothes)
    assert answer["digest"] == digest
    found = np.asarray(answer["outputs"]["logits"], dtype=np.float32)
    assert found.shape == expected.shape == (4, 10)
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("service", ["hub", *NODES])
def test_containers_have_no_rights_and_limits_that_hold(fleet: Compose, service: str) -> None:
    found = fleet.inspect(service)
    host = found["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert not host["Privileged"]
    assert any(option.startswith("no-new-privileges") for option in host["SecurityOpt"])
    assert host["Memory"] == (3 << 30 if service == "hub" else 512 << 20)
    assert host["NanoCpus"] == (2_000_000_000 if service == "hub" else 1_000_000_000)
    assert host["PidsLimit"] == (512 if service == "hub" else 128)
    (published,) = host["PortBindings"].values()
    assert [binding["HostIp"] for binding in published] == ["127.0.0.1"]
    assert [mount["Type"] for mount in found["Mounts"]] == ["volume"] * len(found["Mounts"])
    assert found["Config"]["User"] == "10001:10001"
    assert found["State"]["Health"]["Status"] == "healthy"


def test_the_hub_keeps_its_secrets_to_itself(fleet: Compose) -> None:
    assert httpx.get(f"{fleet.url('hub')}/fleet/nodes").status_code == 401
    assert httpx.get(f"{fleet.url('hub')}/fleet/nodes/edge-small/desired").status_code == 401
    modes = fleet("exec", "-T", "hub", "sh", "-c", "find /var/lib/inn/fleet -type f -perm /077 -name '*key*'")
    assert modes == "", "keys that others can read"
    # The tokens worked once; a node that joins again with one is refused.
    token = fleet("exec", "-T", "edge-small", "cat", "/var/lib/inn-tokens/edge-small").strip()
    body = {"node": "edge-small", "token": token, "public_key": "ed25519:" + "A" * 43}
    assert httpx.post(f"{fleet.url('hub')}/fleet/enroll", json=body).status_code in (401, 403, 409, 422)


class Client:
    """Asks a node 50 times a second, on a schedule that does not wait for answers, from a few threads."""

    def __init__(self, url: str, images: Images) -> None:
        self._url = f"{url}/infer"
        self._body = json.dumps({"inputs": {"image": images[:1].tolist()}}).encode()
        self._stop = threading.Event()
        self._turns = itertools.count()
        self._start = time.monotonic()
        self.answers: list[tuple[float, str, str | None]] = []
        """When it was asked, status or error, digest; appended by several threads."""
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(8)]

    def __enter__(self) -> Client:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self) -> None:
        with httpx.Client(timeout=10, headers={"content-type": "application/json"}) as client:
            while True:
                due = self._start + next(self._turns) / REQUESTS_PER_SECOND
                if self._stop.wait(max(0.0, due - time.monotonic())):
                    return
                asked = time.monotonic()
                try:
                    answer = client.post(self._url, content=self._body)
                    digest = answer.json()["digest"] if answer.status_code == 200 else None
                    self.answers.append((asked, str(answer.status_code), digest))
                except (httpx.HTTPError, ValueError) as error:
                    self.answers.append((asked, type(error).__name__, None))

    def digests(self) -> list[str]:
        """The digests that answered, each once, in the order of their first answers."""
        return list(dict.fromkeys(digest for _, _, digest in sorted(self.answers) if digest))


def test_a_budget_is_changed_with_no_failed_request(
    fleet: Compose, images_of_clothes: Images, findings: list[str]
) -> None:
    before = committed(fleet, "edge-medium")["active"]
    with Client(fleet.url("edge-medium"), images_of_clothes) as client:
        start = time.monotonic()
        fleet.hub_command("fleet", "set", "edge-medium", *CHANGE, "100000")
        after = committed(fleet, "edge-medium", other_than=before["digest"])
        elapsed = time.monotonic() - start
        time.sleep(1)  # a second of the committed size
    assert 80_000 < after["active"]["params"] <= 100_000
    assert after["previous"]["digest"] == before["digest"]
    outcomes = Counter(outcome for _, outcome, _ in client.answers)
    assert set(outcomes) == {"200"}, outcomes
    assert client.digests() == [before["digest"], after["active"]["digest"]]
    rate = len(client.answers) / (client.answers[-1][0] - start)
    findings.append(
        f"budget changed and committed in {elapsed:.1f} s under {rate:.0f} requests/s: {dict(outcomes)}, no error"
    )
    assert rate > 0.8 * REQUESTS_PER_SECOND


def test_a_rollback_brings_the_former_size_back(fleet: Compose, images_of_clothes: Images) -> None:
    now = committed(fleet, "edge-medium")
    fleet.hub_command("fleet", "rollback", "edge-medium")
    back = committed(fleet, "edge-medium", digest=now["previous"]["digest"])
    assert back["observed_generation"] > now["observed_generation"]
    assert infer(fleet, "edge-medium", images_of_clothes)["digest"] == now["previous"]["digest"]


def test_nodes_serve_without_the_hub_and_reconcile_when_it_is_back(
    fleet: Compose, images_of_clothes: Images, findings: list[str]
) -> None:
    sizes = {node: committed(fleet, node)["active"]["digest"] for node in NODES}
    fleet("kill", "hub")  # SIGKILL: no goodbye
    for node, digest in sizes.items():
        assert infer(fleet, node, images_of_clothes)["digest"] == digest

    # A node that starts while the hub is away serves from its disk.
    container = fleet.container("edge-small")
    run("docker", "stop", container)
    run("docker", "start", container)

    def answered() -> dict[str, Any] | None:
        try:
            return infer(fleet, "edge-small", images_of_clothes)
        except httpx.HTTPError:
            return None

    first = eventually(answered, seconds=60, what="edge-small answers from its disk", pause=0.02)
    answered_at = datetime.now(UTC)
    began_at = datetime.fromisoformat(fleet.inspect("edge-small")["State"]["StartedAt"])
    assert first["digest"] == sizes["edge-small"]
    state = status(fleet, "edge-small")
    findings.append(
        f"node started without the hub, beside all other containers: first answer "
        f"{(answered_at - began_at).total_seconds():.2f} s after its process began; "
        f"idle resident memory {state['measured']['resident_bytes'] / MB:.0f} MB"
    )

    # Nobody told the nodes; the hub has everything on its disk, and a change reaches them.
    fleet("up", "--detach", "--no-build", timeout=900)
    fleet.hub_command("fleet", "set", "edge-small", *CHANGE, "50000")
    after = committed(fleet, "edge-small", other_than=sizes["edge-small"])
    assert after["active"]["params"] <= 50_000
    for node in ("edge-medium", "edge-large"):
        assert committed(fleet, node)["active"]["digest"] == sizes[node]
        eventually(functools.partial(seen, fleet, node), seconds=120, what=f"the hub sees {node}")


def test_nothing_is_lost_when_all_containers_are_replaced(fleet: Compose, images_of_clothes: Images) -> None:
    before = {node: committed(fleet, node)["active"] for node in NODES}
    containers = {service: fleet.container(service) for service in ("hub", *NODES)}
    fleet("down", "--timeout", "30")
    fleet("up", "--detach", "--no-build", timeout=900)
    for service, container in containers.items():
        assert fleet.container(service) != container
    for node, active in before.items():
        assert committed(fleet, node)["active"] == active
        assert infer(fleet, node, images_of_clothes)["digest"] == active["digest"]
        # What `inn fleet set` changed stays changed, although the container declares what it always did.
        assert shown(fleet, node)["desired"] is not None
    assert "has joined already" in fleet("logs", "--no-color", "tokens")


@pytest.mark.parametrize(("service", "grace_seconds"), [("edge-large", 20), ("hub", 30)])
def test_stops_cleanly_when_asked(fleet: Compose, service: str, grace_seconds: int, findings: list[str]) -> None:
    container = fleet.container(service)
    start = time.monotonic()
    run("docker", "stop", "--time", str(grace_seconds), container)
    findings.append(f"{service} stopped in {time.monotonic() - start:.1f} s")
    # 137 would be SIGKILL at the end of the grace period.
    assert fleet.inspect(service)["State"]["ExitCode"] == 0
    assert time.monotonic() - start < grace_seconds
    run("docker", "start", container)
