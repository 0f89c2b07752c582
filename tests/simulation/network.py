"""Links that are cut and come back, and what may happen to each message on its way.

A link keeps the order of its messages and loses all that is under way when it is cut; both ends learn when it is back. A
hostile network also loses single messages, doubles them (the second may come much later, over another connection), holds
them back, lets them overtake each other, and damages what is attached to them, which no signature covers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from world import World

from smpc_fl.protocols import codec
from smpc_fl.protocols.commands import Send

if TYPE_CHECKING:
    from members import Member

FAULTS = ("drop", "double", "delay", "reorder", "lose request", "lose response", "damage")


@dataclass
class Link:
    ends: tuple[str, str]
    up: bool = False
    epoch: int = 0
    last: dict[str, float] = field(default_factory=dict)


class Network:
    """`rates`: how likely each fault is for a message that is sent before `calm`. `slowest`: seconds that a message takes."""

    def __init__(self, world: World, rates: Mapping[str, float], calm: float, slowest: float) -> None:
        self.world, self.rates, self.calm, self.slowest = world, dict(rates), calm, slowest
        self.members: dict[str, Member] = {}
        self.links: dict[frozenset[str], Link] = {}
        self._total = sum(rates.values())

    def join(self, one: Member, other: Member) -> None:
        self.members |= {one.id: one, other.id: other}
        self.links[frozenset((one.id, other.id))] = Link((one.id, other.id))

    # --- connections ---

    def cut(self, link: Link, seconds: float) -> None:
        if link.up:
            self.world.tell(f"~ {' | '.join(link.ends)} cut for {seconds:.3f} s")
        link.up, link.epoch = False, link.epoch + 1
        epoch = link.epoch
        self.world.after(seconds, lambda: self.connect(link, epoch))

    def connect(self, link: Link, epoch: int) -> None:
        one, other = (self.members[end] for end in link.ends)
        if link.up or link.epoch != epoch or not (one.up and other.up):
            return  # it was cut again since, or an end is down and will see to it when it is back
        link.up = True
        link.last.clear()
        one.peer_up(other.id)
        other.peer_up(one.id)

    def gone(self, id_: str) -> None:
        for link in self._of(id_):
            link.up, link.epoch = False, link.epoch + 1

    def back(self, id_: str) -> None:
        for link in self._of(id_):
            self._connect_soon(link, link.epoch)

    def _connect_soon(self, link: Link, epoch: int) -> None:
        self.world.after(self.world.draw.uniform(0.0, 0.5), lambda: self.connect(link, epoch))

    def _of(self, id_: str) -> list[Link]:
        return [link for link in self.links.values() if id_ in link.ends]

    # --- messages ---

    def send(self, by: str, command: Send) -> None:
        link = self.links.get(frozenset((by, command.to)))
        if link is None or not link.up:
            return  # the machine says it again when the peer is there
        world, fault = self.world, self._fault()
        latency = world.draw.uniform(0.001, self.slowest)
        if fault:
            world.tell(f"~ {fault}: {_kind(command)} {by} > {command.to}")
        if fault == "drop":
            return
        if fault == "delay":
            latency = world.draw.choice([1.0, 10.0, 60.0, 120.0]) * world.draw.random()
        if fault == "double":
            late = latency + world.draw.choice([0.0, 1.0, 60.0, 200.0]) * world.draw.random()
            world.after(late, lambda: self._hand_over(by, command, damaged=False))
        arrival = world.now + latency
        if fault not in ("delay", "reorder"):
            arrival = link.last[command.to] = max(arrival, link.last.get(command.to, 0.0) + 1e-6)
        epoch = link.epoch
        world.after(arrival - world.now, lambda: self._arrive(link, epoch, by, command, fault))

    def _fault(self) -> str:
        if self.world.now >= self.calm or not self.world.chance(self._total):
            return ""
        return self.world.draw.choices(list(self.rates), list(self.rates.values()))[0]

    def _arrive(self, link: Link, epoch: int, by: str, command: Send, fault: str) -> None:
        if link.epoch != epoch:
            return
        if fault == "lose request":
            self.cut(link, self.world.draw.uniform(0.01, 3.0))
            return
        self._hand_over(by, command, damaged=fault == "damage")
        if fault == "lose response":
            self.cut(link, self.world.draw.uniform(0.05, 3.0))

    def _hand_over(self, by: str, command: Send, *, damaged: bool) -> None:
        member, attachment = self.members[command.to], command.attachment
        if damaged and attachment is not None:
            changed = bytearray(attachment) or bytearray(1)
            changed[self.world.draw.randrange(len(changed))] ^= 1 << self.world.draw.randrange(8)
            attachment = changed
        if member.up:
            member.receive(by, command.signed, attachment)


def _kind(command: Send) -> str:
    return type(codec.decode_message(command.signed.body)).__name__
