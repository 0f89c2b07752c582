"""What a node counts, in a registry of its own, in the text format that Prometheus reads.

Labels come from closed lists: message classes, roles, error classes. No id of a peer, no value, no size of an update.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from smpc_fl.errors import BY_CODE
from smpc_fl.nodes.net.server import HttpAnswer, Pages


class NodeMetrics:
    """The counters of node `node` of role `role`; every series carries both as labels."""

    def __init__(self, node: str, role: str) -> None:
        self.registry = CollectorRegistry()
        self._own = {"node": node, "role": role}
        self._sent = self._counter("messages_sent", "Messages sent, by kind.", "kind")
        self._sent_bytes = self._counter("sent_bytes", "Bytes of messages sent, as on the socket.", "kind")
        self._received = self._counter("messages_received", "Messages received, by the sender's role.", "peer_role")
        self._received_bytes = self._counter("received_bytes", "Bytes of messages received.", "peer_role")
        self._rounds = self._counter("rounds", "Rounds that ended, by result.", "result")
        self._runs = self._counter("runs", "Runs that ended, by state.", "state")
        self._refusals = self._counter("refusals", "Messages and connections that this node refused.", "code")
        self._found: dict[tuple[Counter, str], tuple[Counter, Counter]] = {}
        self._connected = Gauge(
            "smpc_fl_connected_peers", "Members connected now.", list(self._own), registry=self.registry
        ).labels(**self._own)

    def _counter(self, name: str, text: str, label: str) -> Counter:
        return Counter(f"smpc_fl_{name}", text, [*self._own, label], registry=self.registry)

    def sent(self, kind: str, size: int) -> None:
        """One message of a kind, of `size` bytes on the socket."""
        messages, octets = self._series(self._sent, self._sent_bytes, kind)
        messages.inc()
        octets.inc(size)

    def received(self, peer_role: str, size: int) -> None:
        """One message from a member of a role, of `size` bytes on the socket."""
        messages, octets = self._series(self._received, self._received_bytes, peer_role)
        messages.inc()
        octets.inc(size)

    def _series(self, messages: Counter, octets: Counter, label: str) -> tuple[Counter, Counter]:
        """The two series of a label: looked up once, because finding them costs more than counting."""
        found = self._found.get((messages, label))
        if found is None:
            own = tuple(self._own.values())
            found = self._found[messages, label] = messages.labels(*own, label), octets.labels(*own, label)
        return found

    def round_ended(self, *, released: bool) -> None:
        self._rounds.labels(**self._own, result="released" if released else "aborted").inc()

    def run_ended(self, state: str) -> None:
        """`state` as in `RunState`: finished or failed."""
        self._runs.labels(**self._own, state=state).inc()

    def refused(self, code: str) -> None:
        """`code`: an error class's name. Others are one series, so that no peer can make up series."""
        self._refusals.labels(**self._own, code=code if code in BY_CODE else "other").inc()

    def connected(self, peers: int) -> None:
        """How many members are connected now."""
        self._connected.set(peers)

    def text(self) -> bytes:
        """All series, in Prometheus's text format."""
        return generate_latest(self.registry)

    def pages(self, status: Callable[[], Mapping[str, object]]) -> Pages:
        """`/metrics`, and `/healthz`: the node's id, its role and what `status` tells, as JSON."""

        def page(path: str) -> HttpAnswer | None:
            if path == "/metrics":
                return HttpAnswer(self.text(), CONTENT_TYPE_LATEST)
            if path in ("/", "/healthz"):
                body = json.dumps({"status": "ok", **self._own, **status()}).encode()
                return HttpAnswer(body + b"\n", "application/json")
            return None

        return page
