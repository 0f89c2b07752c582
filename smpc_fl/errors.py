"""Every error that the package raises, drawn once.

    SmpcError
    ├── BadInput                    the caller's own values cannot be used; nothing was sent
    │   ├── ShapeMismatch           tensors that should be alike are not
    │   ├── NotFinite               NaN or infinity in an update or an operand
    │   ├── WeightOutOfRange        a weight that is not in (0, 1], or a row count over `max_samples`
    │   ├── CapacityExceeded        the sum could leave the ring; names the ring bits that would do
    │   ├── PrecisionTooLow         decoding could be off by more than the tolerance; names the bits that would do
    │   ├── PlanRejected            a graph holds an operator, a type or a size that is not allow-listed
    │   ├── DatasetInvalid          a file or a column cannot be published as a dataset
    │   └── ConfigInvalid           a configuration, job or roster file is wrong
    ├── Refused                     a node's own policy said no; nothing secret left it
    │   ├── PermissionDenied        reading something private without an approved request
    │   ├── JobNotApproved          the owner has not approved this job's digest (or has rejected it)
    │   ├── BudgetExceeded          the owner's privacy budget does not pay for this
    │   ├── IsolationRefused        weights, operands or cohorts that would isolate one owner
    │   ├── SubtractionRefused      a sum that could be subtracted from an earlier one, down to fewer than k_min owners
    │   ├── CohortTooSmall          fewer owners than k_min
    │   ├── AggregatorsNotPinned    a manifest names aggregators that this owner has not pinned
    │   ├── ManifestRefused         a manifest breaks another of this node's rules
    │   ├── ComputationRefused      a computation on shared tensors breaks another of this node's rules
    │   ├── ReportTooLate           a report after the list was frozen
    │   ├── RolledBack              this node was restored from an older copy of its disk: a peer remembers more
    │   ├── ModelMismatch           the model is not the one whose digest the manifest carries
    │   ├── UnknownMember           the peer is not in the roster
    │   ├── RevokedKey              the peer's key was revoked
    │   ├── LimitExceeded           the peer asks for more, at once or over time, than this node bears
    │   ├── WrongRole               the peer's role may not say this
    │   └── VersionMismatch         the peer speaks another protocol version
    ├── PeerMisbehaviour            a peer broke the protocol; the message names peer and phase
    │   ├── MalformedMessage        bytes that do not decode strictly, or a cap that was passed
    │   ├── BadSignature            a signature that does not verify
    │   ├── DecryptionFailed        a sealed box or stream that does not open
    │   └── Equivocation            two different signed statements where only one may exist
    ├── RoundAborted                a round ended without a release; says why
    ├── RunFailed                   a run cannot go on; says why
    ├── Unavailable                 a peer, a process or a file is not there (yet); trying again may help
    └── InternalError               our own bug: please report it

Messages never carry a value of a private tensor, a share, a seed or a key.
"""

from __future__ import annotations


class SmpcError(Exception):
    """Root of the tree. `peer` and `phase` say who and where, when that is known."""

    def __init__(self, message: str, *, peer: str | None = None, phase: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.peer = peer
        self.phase = phase

    @property
    def code(self) -> str:
        """The name that travels in a `Refusal`."""
        return type(self).__name__

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.peer, self.phase) if part)
        return f"{self.message} [{where}]" if where else self.message


class BadInput(SmpcError, ValueError): ...


class ShapeMismatch(BadInput): ...


class NotFinite(BadInput): ...


class WeightOutOfRange(BadInput): ...


class CapacityExceeded(BadInput): ...


class PrecisionTooLow(BadInput): ...


class PlanRejected(BadInput): ...


class DatasetInvalid(BadInput): ...


class ConfigInvalid(BadInput): ...


class Refused(SmpcError): ...


class PermissionDenied(Refused): ...


class JobNotApproved(Refused): ...


class BudgetExceeded(Refused): ...


class IsolationRefused(Refused): ...


class SubtractionRefused(Refused): ...


class CohortTooSmall(Refused): ...


class AggregatorsNotPinned(Refused): ...


class ManifestRefused(Refused): ...


class ComputationRefused(Refused): ...


class ReportTooLate(Refused): ...


class RolledBack(Refused): ...


class ModelMismatch(Refused): ...


class UnknownMember(Refused): ...


class RevokedKey(Refused): ...


class LimitExceeded(Refused): ...


class WrongRole(Refused): ...


class VersionMismatch(Refused): ...


class PeerMisbehaviour(SmpcError): ...


class MalformedMessage(PeerMisbehaviour): ...


class BadSignature(PeerMisbehaviour): ...


class DecryptionFailed(PeerMisbehaviour): ...


class Equivocation(PeerMisbehaviour): ...


class RoundAborted(SmpcError): ...


class RunFailed(SmpcError): ...


class Unavailable(SmpcError): ...


class InternalError(SmpcError): ...


def _tree(root: type[SmpcError]) -> dict[str, type[SmpcError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


BY_CODE: dict[str, type[SmpcError]] = _tree(SmpcError)


def from_code(code: str, message: str, *, peer: str | None = None, phase: str | None = None) -> SmpcError:
    """The error that a peer reported. An unknown code becomes `PeerMisbehaviour`: never a guess, never silence."""
    kind = BY_CODE.get(code)
    if kind is None:
        return PeerMisbehaviour(f"a peer sent an unknown error code: {message}", peer=peer, phase=phase)
    return kind(message, peer=peer, phase=phase)
