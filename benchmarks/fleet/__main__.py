"""A hub and its fleet: `python -m benchmarks.fleet [--nodes 200]` writes docs/results/fleet.md and fleet.json.

A real hub in a process of its own with the demo checkpoint, simulated nodes as tasks of this process (see
`benchmarks.fleet.nodes`), and real nodes for the cold start:

- a change of the desired state of all nodes, of a size that is exported already, without and with its download: when
  nodes have it, and what it costs the hub,
- what it costs the hub that all nodes wait for news,
- what it costs to send artifacts, beside `sendfile` and beside a bare ASGI app on the same server,
- the cold start of a node without its hub,
- what 100,000 nodes would need, computed from these figures.

Nodes and hub share the machine, so times on the clock include what the nodes themselves compute.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.fleet.cold_start import NODE, ColdNode, cold_starts, prepare
from benchmarks.fleet.download import download_costs
from benchmarks.fleet.nodes import LABEL, Change, SimulatedNode
from benchmarks.fleet.report import report
from benchmarks.output import write_text
from benchmarks.serving.light_client import LightClient, Traffic
from benchmarks.serving.process_usage import child_with, forget_peak, usage_of
from scripts.hub_process import running_hub
from service.terminal import note

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results" / "fleet.md"
CHECKPOINT = ROOT / "models" / "checkpoints" / "fashion_resnet.inn"
MODEL = "fashion_resnet"
ADMIN_KEY = "benchmark-of-the-fleet"
SHARES = (0.25, 0.5, 0.55)
"""Of the full network: the size that nodes begin with, that of the first change, that of the second."""
Json = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """A running hub and who measures it.

    Attributes:
        address, process_id: of the hub.
        client: the administrator's connection.
        traffic: of all connections.
        settle_seconds: after which all nodes wait again, and nothing of what went before is left to do.
        model: that the nodes run.
    """

    address: str
    process_id: int
    client: LightClient
    traffic: Traffic
    settle_seconds: float = 0.0
    model: str = MODEL

    async def admin(self, method: str, target: str, body: Json | None = None, *, expected: int) -> Any:
        """Sends a request with the admin key."""
        content = b"" if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
        return (await self.client.send(method, target, content, headers)).json(expected)

    async def counter(self, name: str) -> float:
        """A value of the hub's metrics, with its labels as they are written there."""
        text = (await self.client.send("GET", "/metrics")).body.decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        if found is None:
            raise SystemExit(f"error: the hub has no metric {name}")
        return float(found.group(1))


async def measure(
    address: str, process_id: int, *, n_nodes: int, idle_seconds: float, settle_seconds: float, model: str = MODEL
) -> Json:
    """Everything that simulated nodes show: enrolment, changes, waiting."""
    traffic = Traffic()
    async with LightClient(address, traffic) as client:
        bench = Bench(address, process_id, client, traffic, settle_seconds, model)
        note("exporting the sizes")
        sizes = await exported(bench)
        await try_out(bench, sizes)
        await asyncio.sleep(bench.settle_seconds)
        alone = await waiting(bench, idle_seconds / 4)
        note(f"enrolling {n_nodes} nodes")
        nodes = [SimulatedNode(address, f"node-{number:05d}", traffic) for number in range(n_nodes)]
        began, used = time.monotonic(), usage_of(process_id).processor_seconds
        for node in nodes:
            token = await bench.admin("POST", "/fleet/tokens", {"node": node.name}, expected=201)
            await node.enroll(token["token"])
        enrolment = {
            "seconds": time.monotonic() - began,
            "processor_seconds": usage_of(process_id).processor_seconds - used,
        }
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(node.run(), name=node.name) for node in nodes]
            await asyncio.sleep(bench.settle_seconds)
            memory_waiting = usage_of(process_id).resident_bytes
            note("the first size")
            first = await changed(bench, nodes, sizes[0], with_artifact=True)
            note("a change of the desired state")
            told = await changed(bench, nodes, sizes[1], with_artifact=False)
            note("a change of the desired state and its download")
            fetched = await changed(bench, nodes, sizes[2], with_artifact=True)
            note(f"waiting for {idle_seconds:g} s")
            idle = await waiting(bench, idle_seconds)
            for task in tasks:
                task.cancel()
    return {
        "sizes": sizes,
        "alone": alone,
        "enrolment": enrolment,
        "waiting_bytes": memory_waiting,
        "first": first,
        "told": told,
        "fetched": fetched,
        "idle": idle,
    }


async def exported(bench: Bench) -> list[Json]:
    """Export the sizes of all changes; returns parameters, bytes and digest of each."""
    full = (await bench.client.send("GET", f"/models/{bench.model}")).json(200)["feasible"]["max"]
    sizes = []
    for share in SHARES:
        target = int(full * share)
        body = {"model": bench.model, "target_params": target, "quality": "instant"}
        manifest = (await bench.client.send("POST", "/export", json.dumps(body).encode())).json(200)
        sizes.append({"target": target, **{name: manifest[name] for name in ("params", "bytes", "digest")}})
    return sizes


async def try_out(bench: Bench, sizes: Sequence[Json]) -> None:
    """Let one node have all sizes, so that the hub has loaded and tested them before anything is measured."""
    scout = SimulatedNode(bench.address, "scout", bench.traffic)
    token = await bench.admin("POST", "/fleet/tokens", {"node": scout.name}, expected=201)
    await scout.enroll(token["token"])
    async with asyncio.TaskGroup() as group:
        task = group.create_task(scout.run())
        for size in sizes:
            await changed(bench, [scout], size, with_artifact=False)
        task.cancel()
    await bench.admin("DELETE", f"/fleet/nodes/{scout.name}", expected=204)


async def changed(bench: Bench, nodes: Sequence[SimulatedNode], size: Json, *, with_artifact: bool) -> Json:
    """Roll a size out to all nodes at once, and wait until all have reported it as committed."""
    builds = await bench.counter('inn_exports_total{result="done"}')
    sent = await bench.counter("inn_artifact_bytes_sent_total")
    forget_peak(bench.process_id)
    before, traffic, own = usage_of(bench.process_id), replace(bench.traffic), time.process_time()
    body = {
        "selector": LABEL,
        "model": bench.model,
        "budget": {"unit": "params", "value": size["target"]},
        "quality": "instant",
        "canary_share": 1.0,
    }
    change = Change(len(nodes), with_artifact)
    for node in nodes:
        node.change = change
    rollout = await bench.admin("POST", "/fleet/rollouts", body, expected=201)
    await change.complete.wait()
    while (state := (await bench.admin("GET", f"/fleet/rollouts/{rollout['id']}", expected=200))["state"]) != "done":
        if state == "aborted":
            raise SystemExit("error: the rollout was aborted")
        await asyncio.sleep(0.05)
    done = time.monotonic() - change.began
    await asyncio.sleep(bench.settle_seconds)  # what the hub still has to write counts, too
    after, own = usage_of(bench.process_id), time.process_time() - own
    spent = bench.traffic.since(traffic)
    return {
        **{
            name: {"first": min(moments), "median": statistics.median(moments), "last": max(moments)}
            for name, moments in (("heard", change.heard), ("fetched", change.fetched), ("committed", change.committed))
            if moments
        },
        "done": done,
        "processor_seconds": after.processor_seconds - before.processor_seconds,
        "nodes_processor_seconds": own,
        "resident_before": before.resident_bytes,
        "resident_after": after.resident_bytes,
        "resident_peak": after.peak_bytes,
        "artifact_bytes": await bench.counter("inn_artifact_bytes_sent_total") - sent,
        "builds": await bench.counter('inn_exports_total{result="done"}') - builds,
        **asdict(spent),
    }


async def waiting(bench: Bench, seconds: float) -> Json:
    """What the hub uses while nobody wants anything new."""
    before, traffic, began = usage_of(bench.process_id), replace(bench.traffic), time.monotonic()
    await asyncio.sleep(seconds)
    after, elapsed = usage_of(bench.process_id), time.monotonic() - began
    return {
        "seconds": elapsed,
        "processor_seconds": after.processor_seconds - before.processor_seconds,
        "resident_bytes": after.resident_bytes,
        **asdict(bench.traffic.since(traffic)),
    }


async def asked(address: str, method: str, target: str, body: Json, *, expected: int) -> Any:
    """One request of the administrator."""
    traffic = Traffic()
    async with LightClient(address, traffic) as client:
        return await Bench(address, 0, client, traffic).admin(method, target, body, expected=expected)


def prepare_cold_node(node: ColdNode, hub: str) -> None:
    """Let a real node fetch its network, for its cold starts later."""
    desired = {
        "model": node.model,
        "budget": {"unit": "params", "value": node.params},
        "quality": "instant",
        "policy": {"watch_seconds": 0.0, "watch_requests": 0},
    }

    def keep() -> int:
        path = f"/fleet/nodes/{NODE}/desired"
        return int(asyncio.run(asked(hub, "PUT", path, desired, expected=200))["generation"])

    token = asyncio.run(asked(hub, "POST", "/fleet/tokens", {"node": NODE}, expected=201))["token"]
    prepare(node, hub, token, keep=keep)


def machine() -> Json:
    """What this runs on, and how busy it is."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def run(options: argparse.Namespace) -> Json:
    """All measurements."""
    found: Json = {"machine": machine(), "nodes": options.nodes}
    with tempfile.TemporaryDirectory(prefix="inn-bench-") as name:
        folder = Path(name)
        store = folder / "store"
        with (folder / "log").open("wb") as log:
            environment = {"INN_ADMIN_KEY": ADMIN_KEY, "INN_WAIT_SECONDS": "600"}
            with running_hub(store, imports=[options.checkpoint], environment=environment, log=log) as hub:
                process_id = child_with(str(store))
                found |= asyncio.run(
                    measure(
                        hub,
                        process_id,
                        n_nodes=options.nodes,
                        idle_seconds=options.idle_seconds,
                        settle_seconds=options.settle_seconds,
                    )
                )
                note("downloads beside their limits")
                size = found["sizes"][-1]
                found["downloads"] = download_costs(
                    hub,
                    process_id,
                    digest=size["digest"],
                    size_bytes=size["bytes"],
                    folder=folder,
                    clients=options.nodes,
                    rounds=options.rounds,
                )
                note("cold starts of a node")
                node = ColdNode(MODEL, found["sizes"][1]["target"], folder / "edge", log)
                prepare_cold_node(node, hub)
            found["cold_start"] = cold_starts(node, hub, runs=options.cold_starts, idle_seconds=options.settle_seconds)
            found["machine"]["load_after"] = os.getloadavg()[0]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    options = _parser().parse_args(arguments)
    found = run(options)
    command = "python -m benchmarks.fleet" + (f" --nodes {options.nodes}" if options.nodes != 200 else "")
    text = report(found, command=command)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    for path, content in ((options.output, text), (options.output.with_suffix(".json"), json.dumps(found, indent=1))):
        write_text(path, (content.rstrip() + "\n"))
    print(text)
    note(f"wrote {options.output}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description="A hub and its fleet.")
    parser.add_argument("--nodes", type=int, default=200, help="simulated nodes")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="how long the waiting of nodes is measured")
    parser.add_argument("--rounds", type=int, default=5, help="of the downloads beside their limits")
    parser.add_argument("--cold-starts", type=int, default=5, help="how often a node is started")
    parser.add_argument("--settle-seconds", type=float, default=3.0, help="pause after each step, until all is quiet")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help=f"of the model {MODEL}")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Markdown file; a JSON file goes beside it")
    return parser


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
