"""Growing, jittered pauses between attempts, so that a fleet does not come back in one moment."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from service.ground.errors import ServiceError

FIRST_SECONDS = 1.0
MOST_SECONDS = 300.0


@dataclass
class Backoff:
    """Pauses of one chain of attempts: each about twice the one before, from half to all of it by chance.

    Attributes:
        first_seconds: longest first pause.
        most_seconds: longest pause at all.
        attempt: how many attempts failed in a row.
    """

    first_seconds: float = FIRST_SECONDS
    most_seconds: float = MOST_SECONDS
    attempt: int = 0
    chance: random.Random = field(default_factory=random.Random)

    def failed(self, error: ServiceError | None = None) -> float:
        """Count a failed attempt.

        Args:
            error: when it says `retry_after`, the pause is at least that, within `most_seconds`.

        Returns:
            Seconds to wait.
        """
        longest = min(self.most_seconds, self.first_seconds * 2.0 ** min(self.attempt, 32))
        self.attempt += 1
        pause = longest * self.chance.uniform(0.5, 1.0)
        wanted = error.fields.get("retry_after") if error is not None else None
        return max(pause, float(min(wanted, self.most_seconds))) if isinstance(wanted, int) else pause

    def succeeded(self) -> None:
        """Start over with short pauses."""
        self.attempt = 0
