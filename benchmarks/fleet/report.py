"""The report of `benchmarks.fleet`: what was measured, and what 100,000 nodes would need by these figures."""

from __future__ import annotations

import math
from typing import Any

LARGE = 100_000
"""Nodes of the arithmetic."""
POLLS = (30.0, 60.0)
"""Seconds that a question may wait; the second is the longest that the hub allows."""
LINK_BYTES_PER_SECOND = 1.25e9
"""A link of 10 Gbit/s."""
WINDOW_SECONDS = 600.0
"""In which a whole fleet should have fetched a release."""
WITHIN_SECONDS = 5.0
"""In which a change should reach all nodes that are measured."""

Json = dict[str, Any]


def report(found: Json, *, command: str) -> str:
    """Markdown for everything that `benchmarks.fleet` found."""
    machine, nodes = found["machine"], found["nodes"]
    lines = [
        "# A hub and its fleet",
        "",
        f"Made by `{command}`: one hub (`inn serve`, demo checkpoint), {nodes} simulated nodes as tasks of one other "
        f"process. {machine['system']}, {machine['cores']} cores, Python {machine['python']}, load average "
        f"{machine['load']:.1f} at the start and {machine['load_after']:.1f} at the end"
        f"{_busy(machine)}. Nodes and hub share the cores.",
        "",
        "## A change of the desired state",
        "",
        "A rollout with `canary_share` 1.0 of a size that was exported before. *told*: nodes verify the release and "
        "report *active* and *committed*; *with download*: they also fetch the artifact and check its digest. One "
        "node had all sizes before, so that their self-tests are made. Seconds are those after the rollout was asked "
        "for, processor seconds those until the hub is quiet again.",
        "",
        "| | first size, with download | told | with download |",
        "|---|---|---|---|",
        *_changes([found["first"], found["told"], found["fetched"]]),
        "",
        *_verdict(found),
        "",
        "## Waiting",
        "",
        *_waiting(found),
        "",
        "## Sending an artifact",
        "",
        *_downloads(found["downloads"]),
        "",
        "## Cold start of a node",
        "",
        *_cold_start(found["cold_start"]),
        "",
        f"## On paper: {LARGE:,} nodes",
        "",
        *_arithmetic(found),
    ]
    return "\n".join(lines) + "\n"


def _busy(machine: Json) -> str:
    return " (busy: times on the clock include waiting for a core)" if machine["load"] > machine["cores"] else ""


def _changes(changes: list[Json]) -> list[str]:
    def row(name: str, cells: list[str]) -> str:
        return f"| {name} | {' | '.join(cells)} |"

    def moments(change: Json, name: str) -> str:
        if name not in change:
            return "-"
        return " / ".join(f"{change[name][which]:.2f}" for which in ("first", "median", "last"))

    return [
        row("release verified: first / median / last node, s", [moments(one, "heard") for one in changes]),
        row("artifact checked: first / median / last, s", [moments(one, "fetched") for one in changes]),
        row("committed: first / median / last, s", [moments(one, "committed") for one in changes]),
        row("rollout done, s", [f"{one['done']:.2f}" for one in changes]),
        row("processor seconds of the hub", [f"{one['processor_seconds']:.2f}" for one in changes]),
        row("processor seconds of all nodes", [f"{one['nodes_processor_seconds']:.2f}" for one in changes]),
        row(
            "memory of the hub before / peak / after, MB",
            [
                f"{one['resident_before'] / 1e6:.0f} / {one['resident_peak'] / 1e6:.0f} / "
                f"{one['resident_after'] / 1e6:.0f}"
                for one in changes
            ],
        ),
        row("requests", [f"{one['requests']:,}" for one in changes]),
        row("bytes that the hub sent, MB", [f"{one['received_bytes'] / 1e6:.2f}" for one in changes]),
        row(
            "of these artifacts (`inn_artifact_bytes_sent_total`), MB",
            [f"{one['artifact_bytes'] / 1e6:.2f}" for one in changes],
        ),
        row("builds", [f"{one['builds']:.0f}" for one in changes]),
    ]


def _verdict(found: Json) -> list[str]:
    last = found["told"]["heard"]["last"]
    verdict = "within" if last <= WITHIN_SECONDS else "NOT within"
    return [
        f"A change reaches all {found['nodes']} nodes in {last:.2f} s: {verdict} the {WITHIN_SECONDS:g} s asked for. "
        f"With the download all have the artifact after {found['fetched']['fetched']['last']:.2f} s.",
    ]


def _waiting(found: Json) -> list[str]:
    alone, idle, nodes = found["alone"], found["idle"], found["nodes"]
    enrolment = found["enrolment"]
    return [
        f"- Without nodes the hub has {alone['resident_bytes'] / 1e6:.0f} MB and uses "
        f"{_per_minute(alone):.2f} processor seconds a minute.",
        f"- With {nodes} waiting nodes, enrolled but without any release: {found['waiting_bytes'] / 1e6:.0f} MB, "
        f"{per_connection_bytes(found) / 1e3:.0f} kB a node.",
        f"- After all changes, {nodes} nodes that wait and report every 30 s: {idle['resident_bytes'] / 1e6:.0f} MB, "
        f"{_per_minute(idle):.2f} processor seconds a minute for {idle['requests'] / idle['seconds'] * 60:.0f} "
        f"requests: {1e3 * per_request_seconds(found):.2f} ms a request.",
        f"- Enrolling {nodes} nodes, one after the other, each with a token of its own: {enrolment['seconds']:.1f} s, "
        f"{1e3 * enrolment['processor_seconds'] / nodes:.1f} ms of the hub's processor a node.",
    ]


def _downloads(found: Json) -> list[str]:
    costs, seconds = found["processor_seconds_per_gb"], found["seconds_per_round"]
    request = found["hub_request_seconds"]
    alone = max(0.0, costs["hub"] - request / (found["bytes"] / 1e9))
    names = {
        "hub": "hub, `GET /artifacts/{digest}`",
        "bare": "bare ASGI app on uvicorn, bytes from memory",
        "sendfile": "`sendfile` on asyncio sockets",
    }
    return [
        f"{found['clients']} clients at a time fetch the same {found['bytes'] / 1e6:.2f} MB, {found['rounds']} rounds "
        "by turns, medians. Every server opens and reads the file from the page cache, or sends bytes that it has.",
        "",
        "| server | processor s/GB | to `sendfile` | one round, s |",
        "|---|---|---|---|",
        *(
            f"| {names[name]} | {costs[name]:.3f} | {costs[name] / max(costs['sendfile'], 1e-9):.1f} | "
            f"{seconds[name]:.2f} |"
            for name in ("hub", "bare", "sendfile")
        ),
        "",
        f"A request for one byte costs the hub {1e3 * request:.2f} ms (a connection, a route, a lease, a log record, "
        f"metrics), so the bytes alone cost {alone:.3f} s/GB, {alone / max(costs['sendfile'], 1e-9):.1f} times "
        "`sendfile` with its request and connection.",
    ]


def _cold_start(found: Json) -> list[str]:
    runs = ", ".join(f"{one:.2f}" for one in found["runs"])
    return [
        f"From the start of the process to the first answer of `/infer` from disk, hub gone: {found['seconds']:.2f} s "
        f"(median of {runs}), {found['processor_seconds']:.2f} processor seconds (what it would take "
        f"on a core of its own, without the disk). Idle it has {found['idle_bytes'] / 1e6:.0f} MB of memory.",
    ]


def per_request_seconds(found: Json) -> float:
    """Processor seconds of the hub for one question or report of a node that has nothing new."""
    alone, idle = found["alone"], found["idle"]
    extra = idle["processor_seconds"] - alone["processor_seconds"] * idle["seconds"] / alone["seconds"]
    return float(max(0.0, extra) / max(1, idle["requests"]))


def per_connection_bytes(found: Json) -> float:
    """Memory of the hub for one node that waits."""
    return float((found["waiting_bytes"] - found["alone"]["resident_bytes"]) / found["nodes"])


def _per_minute(reading: Json) -> float:
    return float(reading["processor_seconds"] / reading["seconds"] * 60)


def _arithmetic(found: Json) -> list[str]:
    nodes = found["nodes"]
    request = per_request_seconds(found)
    told = found["told"]["processor_seconds"] / nodes
    kept = (found["idle"]["resident_bytes"] - found["alone"]["resident_bytes"]) / nodes
    size = found["sizes"][-1]["bytes"]
    costs = found["downloads"]["processor_seconds_per_gb"]
    whole = LARGE * size
    caches = math.ceil(whole / WINDOW_SECONDS / LINK_BYTES_PER_SECOND)
    polls = [
        f"- poll_seconds {seconds:g}: 2 · {LARGE:,} / {seconds:g} = {2 * LARGE / seconds:,.0f} requests/s "
        f"(a question and a report each) · {1e3 * request:.2f} ms = {2 * LARGE / seconds * request:.1f} cores."
        for seconds in POLLS
    ]
    cores = 2 * LARGE / POLLS[-1] * request
    hubs = max(1, math.ceil(cores / 0.7))
    return [
        "Linear in the number of nodes; the hub is one process on one core, with its nodes in memory and one SQLite "
        "file, and takes at most 100,000 of them.",
        "",
        *polls,
        f"- Memory: {LARGE:,} · {kept / 1e3:.0f} kB (a node that waits, with its state and its release) = "
        f"{LARGE * kept / 1e9:.1f} GB, and as many open sockets (`ulimit -n` above {LARGE:,}).",
        f"- A change for all: {LARGE:,} · {1e3 * told:.1f} ms (plan, sign, store, tell, two reports) = "
        f"{LARGE * told:,.0f} processor seconds. In {WITHIN_SECONDS:g} s that is {LARGE * told / WITHIN_SECONDS:,.0f} "
        f"cores; one process needs {LARGE * told / 60:,.0f} minutes, so a rollout in stages is the way there.",
        f"- One release of the demo artifact: {LARGE:,} · {size / 1e6:.2f} MB = {whole / 1e9:,.0f} GB. At 10 Gbit/s "
        f"{whole / LINK_BYTES_PER_SECOND:,.0f} s; the hub's own download costs {costs['hub']:.2f} s/GB · "
        f"{whole / 1e9:,.0f} GB = {costs['hub'] * whole / 1e9:,.0f} processor seconds, `sendfile` "
        f"{costs['sendfile'] * whole / 1e9:,.0f}.",
        f"- Within {WINDOW_SECONDS / 60:g} minutes: {whole / WINDOW_SECONDS / 1e6:,.0f} MB/s, so {caches} "
        f"{'cache' if caches == 1 else 'caches'} with 10 Gbit/s. Artifacts are immutable and named by digest "
        "(`Cache-Control: immutable`), so that any HTTP cache does; the hub itself then sends each once a cache.",
        f"- Hubs: {cores:.1f} cores of waiting at poll_seconds {POLLS[-1]:g}, each process filled to 70 %: {hubs} "
        f"{'process' if hubs == 1 else 'processes'}, {LARGE // hubs:,} nodes each. A fleet cannot be shared by "
        "processes: each is a hub of its own, with its own store, keys and part of the nodes.",
    ]
