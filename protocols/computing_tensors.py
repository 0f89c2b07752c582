"""The shares that one party holds between runs, in memory alone: a process that ends has none, and runs begin anew."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from smpc_fl.errors import ComputationRefused, LimitExceeded
from smpc_fl.protocols.computing import PHASE
from smpc_fl.protocols.messages import TensorRef


@dataclass(frozen=True)
class Held:
    """This party's share of one tensor: int64[shape] `words`. `owner`: the researcher whose it is; `parties`: who
    holds the other shares."""

    words: Any = field(repr=False)
    owner: str
    parties: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes."""
        return 8 * int(self.words.numel())


class Tensors:
    """`most`: bytes of all shares together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: dict[tuple[bytes, int], Held] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._held)

    def check_room(self, size: int) -> None:
        if self.size + size > self._most:
            raise LimitExceeded(
                f"shared tensors of {self.size + size} bytes are over this party's limit of {self._most}: forget some",
                phase=PHASE,
            )

    def put(self, run: bytes, output: int, held: Held) -> None:
        """A tensor is never replaced: run ids are used once."""
        self._held[run, output] = held
        self.size += held.size

    def get(self, ref: TensorRef, owner: str, parties: tuple[str, ...]) -> Held:
        """Raises `ComputationRefused`: what another researcher has shared is as unknown as what nobody has."""
        held = self._held.get((ref.run, ref.output))
        if held is None or held.owner != owner:
            raise ComputationRefused(
                "an input is no tensor that you have shared with this party, or it was forgotten: share it again",
                phase=PHASE,
            )
        if held.parties != parties:
            raise ComputationRefused("an input is shared over other parties than the computation has", phase=PHASE)
        return held

    def forget(self, ref: TensorRef, owner: str) -> None:
        held = self._held.get((ref.run, ref.output))
        if held is not None and held.owner == owner:
            del self._held[ref.run, ref.output]
            self.size -= held.size

    def forget_all(self, owner: str) -> None:
        for (run, output), held in list(self._held.items()):
            if held.owner == owner:
                self.forget(TensorRef(run, output), owner)
