"""Time, order and chance of one simulated federation: what happens next is what comes first on the clock, and every choice
is drawn from one seed. So the seed is the whole run: the same seed tells the same story, line by line."""

from __future__ import annotations

import contextlib
import hashlib
import heapq
from collections import deque
from collections.abc import Callable
from random import Random

BEGIN = 1_000.0
"""Seconds on the clock when a world begins."""


class Killed(Exception):
    """A node died at this very instruction: nothing after it happens."""


class World:
    """`story`: the last lines of what happened; `digest`: over all of them."""

    def __init__(self, seed: object, remembered: int = 400) -> None:
        self.draw = Random(f"world {seed}")
        self.now = BEGIN
        self.story: deque[str] = deque(maxlen=remembered)
        self.steps = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._plans: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._plans, (self.now + seconds, self._number, action))

    def tell(self, text: str) -> None:
        line = f"{self.now - BEGIN:9.3f}  {text}"
        self.story.append(line)
        self._hash.update(line.encode())

    def step(self) -> bool:
        """The next thing that happens; False when nothing will."""
        if not self._plans:
            return False
        self.now, _, action = heapq.heappop(self._plans)
        self.steps += 1
        with contextlib.suppress(Killed):
            action()
        return True

    def run(self, until: float) -> None:
        """All that happens up to then."""
        while self._plans and self._plans[0][0] <= until and self.step():
            pass
        self.now = max(self.now, until)

    def chance(self, probability: float) -> bool:
        return probability > 0 and self.draw.random() < probability
