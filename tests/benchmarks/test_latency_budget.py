"""The benchmark finds what it should on a device whose latency is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.latency_budget import __main__ as latency_budget

DEMO = Path(__file__).parent.parent.parent / "models" / "checkpoints" / "fashion_resnet.inn"


def test_a_known_device_gets_its_sizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    async def measured(path: Path, *, size_bytes: int, batch: int, threads: int, **others: Any) -> dict[str, Any]:
        value = 0.1 + batch * size_bytes / 2_785_370 / threads  # the full network takes 1.1 ms
        return {"p50_ms": value / 2, "p95_ms": value}

    monkeypatch.setattr(latency_budget, "measure_artifact", measured)
    output = tmp_path / "report.md"
    arguments = [
        str(DEMO),
        "--threads",
        "1",
        "--batch",
        "1",
        "--budget",
        "0.05",
        "0.6",
        "2",
        "--steps",
        "0.1",
        "--repeats",
        "2",
    ]
    assert latency_budget.main([*arguments, "--output", str(output)]) == 0
    lines = [line.strip("| ").split(" | ") for line in output.read_text().splitlines() if line.startswith("| 1 | 1 |")]
    assert [line[3] for line in lines] == ["unreachable", "settled", "full"]
    settled, full = lines[1], lines[2]
    assert float(settled[5]) <= 0.6
    assert float(settled[5]) == pytest.approx(0.6, rel=0.1)
    assert int(settled[8].rstrip(" %")) >= 90
    assert 1 <= int(settled[9]) <= 3
    assert (full[4], full[9]) == ("22.094", "0")
    assert "Within the budget when chosen: 2 of 2" in output.read_text()
    assert output.read_text() in capsys.readouterr().out
