"""The door of a listener: how many connections there are, of whom, and how long a stranger may stand in it.

It counts sockets as the system hands them over, before TLS and HTTP, and does not care what is spoken on them. A *guest*
is a stranger until it is known by name. Where there are too many, the one that has stood there longest makes room, if
that is longer than an honest one takes; otherwise the newest is turned away, so that a crowd of honest ones, all
coming back at once, gets in one after another. One address fills only a part of the room.

A connection that is turned away costs one `accept` and one `close`. Its peer is told so in HTTP where that is what is
spoken; under TLS nothing can be said yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import socket
from collections.abc import Callable
from typing import Any

from smpc_fl.errors import LimitExceeded
from smpc_fl.nodes.net.budget import Budget
from smpc_fl.nodes.net.limits import Limits

GRACE = 1.0
"""Seconds that a stranger may stand in a full door: an honest one takes some round trips and milliseconds."""
SIP = 1 << 14
"""Bytes that are read of a stranger at a time."""
PLACES = 1024
"""Addresses whose arrivals are counted each for itself."""
SPARE = 128
"""File descriptors that are for others than connections."""
_IN_A_ROW = 64
"""Connections turned away before others have their turn."""
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 5\r\nContent-Length: 21\r\n"
    b"Content-Type: text/plain\r\n\r\ntoo many connections\n"
)

OnTurnedAway = Callable[[LimitExceeded], None]
"""Told of a connection that found no room, and why."""


def place_of(address: Any) -> str:
    """What counts as one address: an IPv4 address, or an IPv6 /64, which is what one customer has at least."""
    host = str(address[0]).partition("%")[0] if address else ""
    if ":" not in host:
        return host
    network = ipaddress.IPv6Address(host)
    if network.ipv4_mapped is not None:
        return str(network.ipv4_mapped)
    return str(ipaddress.IPv6Network((network, 64), strict=False))


def allow_files(wanted: int) -> int:
    """Let this process have so many file descriptors, if its hard limit does; the number that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ceiling = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < ceiling:
        resource.setrlimit(resource.RLIMIT_NOFILE, (ceiling, hard))
        return ceiling
    return wanted if soft == resource.RLIM_INFINITY else soft


class Guest(socket.socket):
    """One accepted connection."""

    def __init__(self, door: Door, sock: socket.socket, place: str, since: float) -> None:
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.place, self.since = place, since
        self.hang_up: Callable[[], None] = self._shut
        self.clock: asyncio.TimerHandle | None = None
        self._door: Door | None = door
        self.__dict__["recv"] = self._sip

    def _sip(self, size: int, flags: int = 0, /) -> bytes:
        """Little is read of a stranger at a time: what has been read of it lies in our memory."""
        return super().recv(min(size, SIP), flags)

    def is_known(self) -> None:
        self.__dict__.pop("recv", None)

    def _shut(self) -> None:
        """Whoever reads it finds its end."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        door, self._door = self._door, None
        if door is not None:
            door._left(self)
        super().close()


class Door(socket.socket):
    """A listening socket, taken over from `sock`, that keeps `limits`. `says_why`: whether HTTP is what is spoken."""

    def __init__(
        self, sock: socket.socket, limits: Limits, *, says_why: bool, on_turned_away: OnTurnedAway = lambda error: None
    ) -> None:
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self._limits, self._says_why, self._on_turned_away = limits, says_why, on_turned_away
        self._most = max(1, min(limits.connections, allow_files(limits.connections + SPARE) - SPARE))
        self._guests: dict[int, Guest] = {}
        self._strangers: dict[str, dict[Guest, None]] = {}  # by place; the oldest first
        self._count = 0
        self._rates: dict[str, Budget] = {}
        self._tidy_at = 0.0

    @property
    def strangers(self) -> int:
        return self._count

    def __len__(self) -> int:
        """Connections, strangers among them."""
        return len(self._guests)

    def __bool__(self) -> bool:
        return True

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that there is room for. Raises `BlockingIOError` when there is none now."""
        loop = asyncio.get_running_loop()
        for _ in range(_IN_A_ROW):
            sock, address = super().accept()
            place, now = place_of(address), loop.time()
            why = self._objection(place, now)
            if why is None:
                guest = Guest(self, sock, place, now)
                self._guests[guest.fileno()] = guest
                self._strangers.setdefault(place, {})[guest] = None
                self._count += 1
                guest.clock = loop.call_later(self._limits.door, self._too_slow, guest)
                return guest, address
            self._turn_away(sock, place, why)
        raise BlockingIOError

    def _objection(self, place: str, now: float) -> str | None:
        """Why there is no room for another connection from `place`; None when there is, or has been made."""
        if not self._rate(place, now).ask(1.0, now):
            return "too many new connections from one address"
        here = self._strangers.get(place, {})
        if len(here) >= self._limits.pending_address and not self._make_room(here, now):
            return "too many connections from one address that have not said whose they are"
        if self._count >= self._limits.pending and not self._make_room(self._fullest, now):
            return "too many connections that have not said whose they are"
        if len(self._guests) >= self._most and not self._make_room(self._fullest, now):
            return "too many connections"
        return None

    @property
    def _fullest(self) -> dict[Guest, None]:
        return max(self._strangers.values(), key=len, default={})

    def _make_room(self, strangers: dict[Guest, None], now: float) -> bool:
        oldest = next(iter(strangers), None)
        if oldest is None or now - oldest.since < GRACE:
            return False
        self._cut(oldest, "made room for a newer connection")
        return True

    def _rate(self, place: str, now: float) -> Budget:
        if place not in self._rates:
            if len(self._rates) >= PLACES and now >= self._tidy_at:
                self._rates = {name: rate for name, rate in self._rates.items() if not rate.full(now)}
                self._tidy_at = now + GRACE
            if len(self._rates) >= PLACES:
                place = ""  # all others share one
            if place not in self._rates:
                self._rates[place] = Budget(self._limits.arrivals, self._limits.arrivals_burst, now)
        return self._rates[place]

    def _turn_away(self, sock: socket.socket, place: str, why: str) -> None:
        with contextlib.suppress(OSError):
            sock.setblocking(False)
            if self._says_why:
                sock.send(_BUSY)
                sock.shutdown(socket.SHUT_WR)
        sock.close()
        self._on_turned_away(LimitExceeded(f"a connection from {place} was turned away: {why}", phase="door"))

    def _too_slow(self, guest: Guest) -> None:
        self._cut(guest, f"it did not say within {self._limits.door:g} s whose it is")

    def _cut(self, guest: Guest, why: str) -> None:
        self._forget(guest)
        guest.hang_up()
        self._on_turned_away(LimitExceeded(f"a connection from {guest.place} was dropped: {why}", phase="door"))

    def hang_up(self) -> None:
        """Drop all strangers: nobody waits for what they have to say."""
        for guest in [guest for here in self._strangers.values() for guest in here]:
            self._forget(guest)
            guest.hang_up()

    def find(self, transport: asyncio.BaseTransport) -> Guest | None:
        """The guest that a transport speaks to, if it came in by this door."""
        sock = transport.get_extra_info("socket")
        return None if sock is None else self._guests.get(sock.fileno())

    def is_known(self, guest: Guest) -> None:
        """It has proved whose it is: no stranger any more. Idempotent."""
        self._forget(guest)
        guest.is_known()

    def _forget(self, guest: Guest) -> None:
        """Strike it off the list of strangers."""
        if guest.clock is not None:
            guest.clock.cancel()
        here = self._strangers.get(guest.place, {})
        if guest in here:
            del here[guest]
            self._count -= 1
            if not here:
                del self._strangers[guest.place]

    def _left(self, guest: Guest) -> None:
        self._forget(guest)
        self._guests.pop(guest.fileno(), None)
