"""The report of `benchmarks.delta`: tables of bytes by pair, and what follows from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

Json = dict[str, Any]

WHOLE = ("gzip", "zstd 3", "zstd 19", "lzma", "shuffled, zstd 19")
LOSSY = ("float16", "float16, zstd 19")
DELTAS = ("zstd --patch-from", "bsdiff", "tensor difference, zstd 19")
BOUNDS = ("changed or missing numbers", "missing rows and columns")
NEIGHBOURS = 0.1
"""Sizes that differ by less than this share of the smaller one are neighbours."""
WORTH = 0.25
"""A delta pays when it saves this share against the best way to send the whole."""


def report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown for all measured rows.

    Args:
        rows: of `benchmarks.rows`, with the keys and findings of `benchmarks.delta`.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["key"]["checkpoint"], row["key"]["quality"]), []).append(row)
    trained = {checkpoint for checkpoint, quality in groups if quality == "trained"}
    titled = {_title(*names, trained): chosen for names, chosen in groups.items()}
    parts = [_HEAD, _verdict(titled), *(_table(title, chosen) for title, chosen in titled.items())]
    return "\n\n".join(parts) + "\n"


_HEAD = """# Two sizes of one checkpoint: does sending the difference pay?

Made by `python -m benchmarks.delta [CHECKPOINT…]` (needs `pip install zstandard bsdiff4`). A node has the first file
of a pair and is to have the second. Sizes are shares of the full network's parameters; bytes are percent of the second
artifact as it is.

*shuffled*: bytes of equal significance together. *float16*: half precision, which changes what the network computes.
*tensor difference*: numbers of channels that both sizes keep, exclusive-or bit by bit, shuffled, and the missing ones.
*changed or missing numbers* and *missing rows and columns* are bounds, without any description of what goes where; the
second would need numbers of shared channels to be equal, and the line *equal* says whether they are."""


def savings(found: Mapping[str, Any]) -> tuple[float, float, float]:
    """For one pair: the best whole, the best delta, and what the smaller of the two saves against the best whole.

    Returns:
        Shares of the plain artifact, and the saving as a share of the best whole; no way that loses precision counts.
    """
    plain = found["bytes"][1]
    whole = min(1.0, *(found["ways"][way]["bytes"] / plain for way in WHOLE))
    delta = min(found["ways"][way]["bytes"] / plain for way in DELTAS)
    return whole, delta, 1.0 - min(whole, delta) / whole


def _verdict(titled: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    lines = ["## Verdict", ""]
    for title, rows in titled.items():
        pairs = [savings(row["found"]) for row in rows if _are_neighbours(row)]
        if not pairs:
            continue
        saved = [saving for _, _, saving in pairs]
        plain = [1.0 - min(whole, delta) for whole, delta, _ in pairs]
        word = "pays" if min(saved) >= WORTH else "does not pay"
        lines.append(
            f"- {title}, neighbouring sizes: a delta {word}. It saves "
            f"{100 * min(saved):.0f} to {100 * max(saved):.0f} % against the best compression of the whole "
            f"({100 * min(whole for whole, _, _ in pairs):.0f} to {100 * max(whole for whole, _, _ in pairs):.0f} % of "
            f"the plain file; asked for: at least {100 * WORTH:.0f} %), and {100 * min(plain):.0f} to "
            f"{100 * max(plain):.0f} % against the plain file."
        )
    return "\n".join(lines)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"## {title}", "", _row("", [_pair(row) for row in rows]), _row("---", ["---"] * len(rows))]
    lines.append(_row("whole, bytes", [f"{row['found']['bytes'][1]:,}" for row in rows]))
    for way in (*WHOLE, *LOSSY, *DELTAS, *BOUNDS):
        lines.append(_row(way, [_share(row["found"], way) for row in rows]))
    for name, label in (("shared", "numbers with a counterpart, %"), ("equal", "of these equal, %")):
        lines.append(_row(label, [f"{100 * row['found'][name]:.1f}" for row in rows]))
    lines.append(_row("of these, distance, %", [f"{100 * row['found']['distance']:.1f}" for row in rows]))
    load = max(float(row["environment"]["load"]) for row in rows)
    methods = {method for row in rows for method in row["found"]["methods"]}
    unpack = max(row["found"]["unpack"]["zstd 19"] for row in rows)
    return (
        "\n".join(lines)
        + f"\n\nPercent of the whole, and seconds to make it. How the weights were made: {', '.join(sorted(methods))}. "
        f"Unpacking zstd takes {1000 * unpack:.0f} ms at most. Seconds are of a machine with a load of {load:.0f}."
    )


def _title(checkpoint: str, quality: str, trained: Collection[str]) -> str:
    name = "a checkpoint with trained sizes" if checkpoint in trained else f"`{checkpoint}`"
    return f"{name}, `{quality}`"


def _are_neighbours(row: Mapping[str, Any]) -> bool:
    low, high = sorted(row["key"]["pair"])
    return bool(high <= low * (1 + NEIGHBOURS))


def _pair(row: Mapping[str, Any]) -> str:
    before, after = row["key"]["pair"]
    return f"{100 * before:.0f} → {100 * after:.0f} %"


def _share(found: Mapping[str, Any], way: str) -> str:
    entry = found["ways"][way]
    share = f"{100 * entry['bytes'] / found['bytes'][1]:.1f}"
    return f"{share} ({entry['seconds']:.2f} s)" if "seconds" in entry else share


def _row(label: str, cells: Sequence[str]) -> str:
    return f"| {label} | " + " | ".join(cells) + " |"
