"""What a peer may do in a time: tokens that come back, and are spent (a token bucket)."""

from __future__ import annotations


class Budget:
    """At most `most` tokens; `rate` of them come back in a second. Times in seconds, of any clock that does not go back."""

    __slots__ = ("_at", "_left", "_most", "_rate")

    def __init__(self, rate: float, most: float, now: float) -> None:
        self._rate, self._most = rate, most
        self._left, self._at = most, now

    def _come_back(self, now: float) -> float:
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        return self._left

    def take(self, cost: float, now: float) -> float:
        """Spend them, there or not; the seconds after which the debt is paid, 0 without one."""
        self._left = left = self._come_back(now) - cost
        return 0.0 if left >= 0.0 else -left / self._rate

    def ask(self, cost: float, now: float) -> bool:
        """Spend them, if they are there."""
        if self._come_back(now) < cost:
            return False
        self._left -= cost
        return True

    def full(self, now: float) -> bool:
        """Whether nothing has been spent that has not come back: then a new one is as good."""
        return self._come_back(now) >= self._most
