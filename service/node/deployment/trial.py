"""Judges a network that has just taken over: out of bounds, good, or too early to say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service.contract.release import Policy
from service.ground.errors import ServiceError
from service.node.benchmark.device_info import Window
from service.node.errors import ErrorShareExceededError, LatencyExceededError

Judgement = ServiceError | Literal["good"] | None

PERCENTILE = 95.0


@dataclass(frozen=True)
class Trial:
    """The trial of one network.

    Attributes:
        policy: its bounds.
        window: its requests since the switch.
        started: when the switch was, in the seconds of a clock that never goes back.
    """

    policy: Policy
    window: Window
    started: float

    def ends(self) -> float:
        """When the trial is over, by the same clock."""
        return self.started + self.policy.watch_seconds

    def judge(self, now: float) -> Judgement:
        """What there is to say at `now`.

        Bounds are judged as soon as `watch_requests` requests were seen, the error share at the end also of fewer: a
        percentile of a handful of latencies means nothing, a handful of failures does.

        Returns:
            An error when a bound is passed, "good" when the time is over, None while neither is so.
        """
        window, policy = self.window, self.policy
        over = now >= self.ends()
        enough = window.requests >= policy.watch_requests
        if (enough or over) and window.errors and window.error_share > policy.max_error_share:
            return ErrorShareExceededError(errors=window.errors, requests=window.requests, limit=policy.max_error_share)
        if policy.max_p95_ms is not None and enough and window.measured:
            p95_ms = window.percentile_ms(PERCENTILE)
            if p95_ms is not None and p95_ms > policy.max_p95_ms:
                return LatencyExceededError(p95_ms=p95_ms, limit_ms=policy.max_p95_ms)
        return "good" if over else None

    def missing_requests(self) -> int:
        """How many requests are still wanted before a latency can be judged; 0 when none needs to be."""
        if self.policy.max_p95_ms is None:
            return 0
        return max(0, self.policy.watch_requests - self.window.requests)
