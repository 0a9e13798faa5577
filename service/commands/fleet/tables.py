"""Nodes and rollouts for people: tables, and one line for each change."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import typer

from service.terminal import print_table

UNITS = {
    "params": "parameters",
    "macs": "MACs",
    "bytes": "bytes",
    "latency_ms": "ms",
    "memory_bytes": "bytes of memory",
}
DETAIL_CHARACTERS = 160


def print_nodes(nodes: Sequence[Mapping[str, Any]]) -> None:
    """Print nodes as a table, a line each."""
    rows = [
        (
            node["node"],
            node["state"],
            _model(node),
            _budget(node),
            _active(node),
            _latency(node),
            str(node["generation"]),
            _age(node["last_seen"]),
            ",".join(f"{key}={value}" for key, value in sorted(node["labels"].items())),
            _trouble(node),
        )
        for node in nodes
    ]
    columns = ("node", "state", "model", "budget", "params", "p95 ms", "generation", "seen", "labels", "trouble")
    print_table(columns, rows)


def print_rollouts(rollouts: Sequence[Mapping[str, Any]]) -> None:
    """Print rollouts as a table, a line each."""
    rows = [
        (
            rollout["id"],
            rollout["name"] or "",
            rollout["state"],
            rollout["model"],
            " ".join(f"{count} {outcome}" for outcome, count in sorted(rollout["counts"].items())),
            rollout["reason"] or "",
        )
        for rollout in rollouts
    ]
    print_table(("id", "name", "state", "model", "nodes", "reason"), rows)


def print_rollout(rollout: Mapping[str, Any]) -> None:
    """Print one rollout and what became of each of its nodes."""
    print_rollouts([rollout])
    typer.echo("")
    rows = [
        (node["node"], "canary" if node["canary"] else "rest", node["outcome"], node["reason"] or "")
        for node in rollout["nodes"]
    ]
    print_table(("node", "stage", "outcome", "reason"), rows)


def changed_lines(nodes: Sequence[Mapping[str, Any]], shown: dict[str, str], *, as_json: bool) -> Iterator[str]:
    """A line for each node that is not as it was shown last.

    Args:
        nodes: all nodes.
        shown: what was shown, by node; changed here.
        as_json: a JSON object a line instead of words.
    """
    for node in nodes:
        facts = {
            "node": node["node"],
            "state": node["state"],
            "generation": node["generation"],
            "observed": (node["reported"] or {}).get("observed_generation"),
            "params": ((node["reported"] or {}).get("active") or {}).get("params"),
            "trouble": _trouble(node) or None,
        }
        key = json.dumps(facts)
        if shown.get(node["node"]) != key:
            shown[node["node"]] = key
            yield key if as_json else _line(facts)
    for name in [name for name in shown if all(node["node"] != name for node in nodes)]:
        del shown[name]
        yield json.dumps({"node": name, "state": "removed"}) if as_json else f"{name}  removed"


def is_settled(node: Mapping[str, Any]) -> Literal["committed", "failed"] | None:
    """Whether a node has committed what it should run, or cannot; None while it is on its way."""
    reported, desired = node["reported"], node["desired"]
    if node["stale"]:
        return "failed"
    if desired is None or reported is None:
        return None
    trouble = node["problem"]
    if trouble is not None and reported["observed_generation"] >= desired["generation"]:
        return "failed"
    if reported["observed_generation"] != desired["generation"]:
        return None
    if reported["state"] == "committed":
        active = reported["active"]
        return "committed" if active is not None and active["digest"] == desired["digest"] else None
    if reported["state"] == "rolled-back" or (reported["state"] == "failed" and reported["next_retry"] is None):
        return "failed"
    return None


def _line(facts: Mapping[str, Any]) -> str:
    params = "" if facts["params"] is None else f"  {facts['params']:,} parameters"
    trouble = "" if facts["trouble"] is None else f"  {facts['trouble']}"
    clock = time.strftime("%H:%M:%S")
    return (
        f"{clock}  {facts['node']}  {facts['state']}  generation {facts['observed'] or 0} of {facts['generation']}"
        + (params + trouble)
    )


def _model(node: Mapping[str, Any]) -> str:
    return node["desired"]["model"] if node["desired"] else ""


def _budget(node: Mapping[str, Any]) -> str:
    if not node["desired"]:
        return ""
    budget = node["desired"]["budget"]
    return f"{budget['value']:,} {UNITS[budget['unit']]}"


def _active(node: Mapping[str, Any]) -> str:
    active = (node["reported"] or {}).get("active")
    return f"{active['params']:,}" if active else ""


def _latency(node: Mapping[str, Any]) -> str:
    measured = (node["reported"] or {}).get("measured") or {}
    value = measured.get("p95_ms")
    return "" if value is None else f"{value:.2f}"


def _trouble(node: Mapping[str, Any]) -> str:
    problem, error = node["problem"], (node["reported"] or {}).get("error")
    text = ""
    if problem:
        text = str(problem.get("detail") or problem.get("title"))
    elif error:
        text = f"{error['code']}: {error['detail']}"
    # It comes from a node: nothing of it may steer the terminal.
    text = "".join(character if character.isprintable() else " " for character in text)
    return text if len(text) <= DETAIL_CHARACTERS else f"{text[:DETAIL_CHARACTERS]}…"


def _age(last_seen: float) -> str:
    seconds = max(0, int(time.time() - last_seen))
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit} ago"
    return f"{seconds} s ago"
