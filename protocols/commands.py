"""What a state machine asks of the process around it, and what it is told.

`receive(event, now) -> list[Command]`: the shell carries the commands out in order, and each to its end before the next.
That order is the safety argument: a `Persist` that stands before a `Send` is durable before a byte of the message leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from smpc_fl.errors import SmpcError
from smpc_fl.hashing import Buffer
from smpc_fl.protocols.messages import Message, Signed

# --- commands -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Persist:
    """Append a record (`records.py`) to this round's journal, durably.

    `bulk` gives the round's large vector: bytes that become durable in one commit with the record, in place of those that
    an earlier one gave. The shell asks when it makes that commit, which may be some events later: then all records of these
    are in it, and the newest `bulk` speaks for them. Secrets that are to be erased are not asked for any more.

    `ledger`: a computation and a record for *its* ledger (`releases.py`), durable in the same commit."""

    record: Any = field(repr=False)
    bulk: Callable[[], Buffer] | None = field(default=None, repr=False)
    ledger: tuple[bytes, Any] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class EraseSecrets:
    """Delete from this round's journal, beyond recovery, the bulk and every record that is secret or spent
    (`records.py`)."""


@dataclass(frozen=True)
class Send:
    """Send an envelope, and what is attached to it, to one member. Lost when there is no connection: machines send
    again on `PeerUp`. `piece`: bytes of the attachment that travel as one fragment; 0 leaves it to the transport."""

    to: str
    signed: Signed
    attachment: Buffer | None = field(default=None, repr=False)
    piece: int = 0


@dataclass(frozen=True)
class WakeAt:
    """Deliver a `Tick` at this time (seconds since the epoch), or soon after."""

    time: float


@dataclass(frozen=True)
class Compute:
    """To an owner's shell: run the approved job on this model; answer with `Computed` or `ComputeFailed`."""

    model: Buffer = field(repr=False)


@dataclass(frozen=True)
class Finished:
    """The machine has come to its end; `outcome` is role-specific."""

    outcome: Any = field(repr=False)


Command = Persist | EraseSecrets | Send | WakeAt | Compute | Finished

# --- events -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """Begin, or go on after a restart: the first event that a machine gets."""


@dataclass(frozen=True)
class Received:
    """A message whose envelope the shell has verified: it is from roster member `sender`.

    `attachment`: the bytes that came with it, or the `vectors.VectorOpener` that took them as they came."""

    sender: str
    message: Message
    signed: Signed
    attachment: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class PeerUp:
    """A connection to this member is there (again): what it may have missed is sent again."""

    peer: str


@dataclass(frozen=True)
class PeerGone:
    """To a coordinator's machine: the roster lacks this owner now (`error` says why), so nobody waits for its report."""

    peer: str
    error: SmpcError


@dataclass(frozen=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True)
class Computed:
    """The owner's secure vector, float64[dimension], weighed and clipped (`learning.update`)."""

    vector: Any = field(repr=False)


@dataclass(frozen=True)
class ComputeFailed:
    error: SmpcError


Event = Start | Received | PeerUp | PeerGone | Tick | Computed | ComputeFailed
