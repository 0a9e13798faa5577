"""What the metrics of this process have counted since a moment: tests share one registry with all that ran before."""

from __future__ import annotations

from service.ground.metrics import REGISTRY


class Counted:
    """Differences of metrics since this was made."""

    def __init__(self) -> None:
        self._before = _samples()

    def __call__(self, name: str, **labels: str) -> float:
        """By how much a sample has grown."""
        key = (name, tuple(sorted(labels.items())))
        return _samples().get(key, 0.0) - self._before.get(key, 0.0)

    def labels(self, name: str, label: str) -> dict[str, int]:
        """Values of a label whose sample has grown, with by how much."""
        found = {}
        for (sample, labels), value in _samples().items():
            grown = value - self._before.get((sample, labels), 0.0)
            if sample == name and grown:
                found[dict(labels)[label]] = int(grown)
        return found


def _samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
    }
