"""The members that this node is connected to, by id: one live link each, the newest. Only a researcher may have several:
a notebook and a command line, say, at once; what is sent to the member goes to all of them.

There is no queue: what cannot be sent now raises `Unavailable`, and whoever wants it said says it again when the
member is back (`on_up`). So nothing grows while a peer is away, and nothing stale is sent when it returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from smpc_fl.errors import Unavailable
from smpc_fl.hashing import Buffer
from smpc_fl.nodes.net.link import POLICY, Link
from smpc_fl.protocols.messages import Signed

OnLink = Callable[[Link], None]


def _ignore(link: Link) -> None:
    pass


SESSIONS = 8
"""Links of one researcher; with one more, the oldest is closed."""


class Peers:
    """`on_up(link)`: a member has a (new) link. `on_down(link)`: the member that had this link has none any more.

    A link that a newer one of the same member replaces is closed without `on_down`: the member was there all the time,
    although what was under way on the old link may be lost; `on_up` of the new one says so."""

    def __init__(self, *, on_up: OnLink = _ignore, on_down: OnLink = _ignore) -> None:
        self._links: dict[str, list[Link]] = {}  # oldest first; never empty
        self._on_up = on_up
        self._on_down = on_down
        self._closing: set[asyncio.Task[None]] = set()
        self._replaced: dict[str, Link] = {}  # the last one of each member, while its goodbye is waited for
        self._changed = asyncio.Event()

    def __contains__(self, member: str) -> bool:
        return member in self._links

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._links))

    def __len__(self) -> int:
        return len(self._links)

    def get(self, member: str) -> Link | None:
        """The newest link of a member."""
        links = self._links.get(member)
        return links[-1] if links else None

    def of_role(self, role: str) -> list[str]:
        """Ids of the connected members of a role, sorted."""
        return sorted(member for member, links in self._links.items() if links[-1].role == role)

    def add(self, link: Link) -> None:
        """Take an authenticated link. An older one of the same member is closed in the background, if that is no
        researcher."""
        links = self._links.setdefault(link.peer, [])
        if link in links:
            return
        links.append(link)
        for older in links[: -(SESSIONS if link.role == "researcher" else 1)]:
            links.remove(older)
            self._replace(older)
        self._notify()
        self._on_up(link)

    def remove(self, link: Link) -> None:
        """Forget a link that is closed or about to be. One that was replaced already changes nothing."""
        links = self._links.get(link.peer, [])
        if link not in links:
            return
        links.remove(link)
        if not links:
            del self._links[link.peer]
            self._notify()
            self._on_down(link)

    def drop(self, member: str, reason: str) -> None:
        """Close a member's links (its key was revoked, it misbehaved): it has to shake hands again."""
        for link in list(self._links.get(member, [])):
            self._close(link, reason, code=POLICY)
            self.remove(link)

    async def send(self, member: str, signed: Signed, attachment: Buffer | None = None, *, piece: int = 0) -> int:
        """Send now; returns the bytes on the socket (`Link.send`). Raises `Unavailable` when there is no link, or when
        all of them close on the way."""
        links = self._links.get(member)
        if links is None:
            raise Unavailable(f"{member} is not connected", peer=member)
        *others, newest = links
        if not others:
            return await newest.send(signed, attachment, piece=piece)
        # All at once: a session that does not read holds up no other one.
        sent = await asyncio.gather(
            *(link.send(signed, attachment, piece=piece) for link in links), return_exceptions=True
        )
        errors = [outcome for outcome in sent if isinstance(outcome, BaseException)]
        for error in errors:
            if len(errors) == len(sent) or not isinstance(error, Unavailable):
                raise error
        return sum(outcome for outcome in sent if isinstance(outcome, int))

    async def wait_for(self, *members: str) -> None:
        """Until all of these members are connected at once."""
        while not all(member in self._links for member in members):
            await self._changed.wait()

    async def wait_without(self, *members: str) -> None:
        """Until none of these members is connected."""
        while any(member in self._links for member in members):
            await self._changed.wait()

    async def close(self, reason: str = "the node is stopping") -> None:
        """Close all links, and wait for those that were being closed in the background."""
        for link in [link for links in self._links.values() for link in links]:
            self._close(link, reason)
            self.remove(link)
        if self._closing:
            await asyncio.wait(self._closing)

    def _replace(self, link: Link) -> None:
        """Say goodbye to a link, and wait for no other one of the same member: each holds memory and a socket."""
        before = self._replaced.get(link.peer)
        if before is not None:
            before.abort()
        self._replaced[link.peer] = link

        def forget(task: object) -> None:
            if self._replaced.get(link.peer) is link:
                del self._replaced[link.peer]

        self._close(link, "replaced by a newer connection").add_done_callback(forget)

    def _close(self, link: Link, reason: str, code: int = 1000) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(link.close(reason, code=code))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return task

    def _notify(self) -> None:
        # Whoever waits is woken once, looks, and waits on the next event.
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
