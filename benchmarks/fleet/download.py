"""What it costs to send an artifact: the hub, a bare ASGI app on the same server, and `sendfile`, by turns.

The hub is asked for one byte, too: what that costs is the request, and the rest is the bytes.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving.light_client import LightClient, Traffic
from benchmarks.serving.process_usage import usage_of

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Server:
    """A server that sends the same bytes: its name in the report, address, process, path of the bytes, and headers."""

    name: str
    address: str
    process_id: int
    target: str
    headers: Mapping[str, str] = field(default_factory=dict)


def download_costs(
    hub: str, hub_process_id: int, *, digest: str, size_bytes: int, folder: Path, clients: int, rounds: int
) -> dict[str, Any]:
    """Processor seconds a gigabyte (10^9 bytes) of each server, median of rounds.

    Args:
        hub, hub_process_id: the running hub.
        digest, size_bytes: of an artifact in its store.
        folder: for a copy of it.
        clients: that download it at the same time in each round.
        rounds: of each server.
    """
    copy = folder / "artifact"
    copy.write_bytes(asyncio.run(_body(hub, f"/artifacts/{digest}")))
    if copy.stat().st_size != size_bytes:
        raise SystemExit(f"error: the hub sent {copy.stat().st_size} bytes of an artifact that has {size_bytes}")
    with (
        _child("benchmarks.serving.bare_server") as (bare, bare_id),
        _child("benchmarks.serving.sendfile_server", str(copy)) as (plain, plain_id),
    ):
        servers = (
            Server("hub", hub, hub_process_id, f"/artifacts/{digest}"),
            Server("one byte", hub, hub_process_id, f"/artifacts/{digest}", {"Range": "bytes=0-0"}),
            Server("bare", bare, bare_id, f"/?{size_bytes}"),
            Server("sendfile", plain, plain_id, "/"),
        )
        found = asyncio.run(_by_turns(servers, clients=clients, rounds=rounds))
    n_gigabytes = clients * size_bytes / 1e9
    of_request = statistics.median(used for used, _ in found.pop("one byte"))
    return {
        "clients": clients,
        "rounds": rounds,
        "bytes": size_bytes,
        "hub_request_seconds": of_request / clients,
        "processor_seconds_per_gb": {
            name: statistics.median(used for used, _ in readings) / n_gigabytes for name, readings in found.items()
        },
        "seconds_per_round": {name: statistics.median(wall for _, wall in values) for name, values in found.items()},
    }


async def _by_turns(servers: Sequence[Server], *, clients: int, rounds: int) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {server.name: [] for server in servers}
    for server in servers:
        await _round(server, clients=min(clients, 8))  # caches warm, threads started
    for _ in range(rounds):
        for server in servers:
            found[server.name].append(await _round(server, clients=clients))
    return found


async def _round(server: Server, *, clients: int) -> tuple[float, float]:
    """Processor seconds of the server and seconds on the clock for one download by each client."""
    loop = asyncio.get_running_loop()
    before, began = usage_of(server.process_id).processor_seconds, loop.time()
    await asyncio.gather(*(_drop(server) for _ in range(clients)))
    return usage_of(server.process_id).processor_seconds - before, loop.time() - began


async def _drop(server: Server) -> None:
    async with LightClient(server.address, Traffic()) as client:
        answer = await client.send("GET", server.target, headers=server.headers, take=len)
        if answer.status not in (200, 206):
            raise SystemExit(f"error: {server.name} answers {answer.status}")


async def _body(address: str, target: str) -> bytes:
    async with LightClient(address, Traffic()) as client:
        blocks: list[bytes] = []
        (await client.send("GET", target, take=blocks.append)).json(200)
        return b"".join(blocks)


@contextmanager
def _child(module: str, *arguments: str) -> Iterator[tuple[str, int]]:
    """A server of ours in a process of its own; gives address and process id."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().decode().strip(), process.pid
        finally:
            process.terminate()
