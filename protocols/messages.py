"""Every message of the protocol, as a frozen, strictly decoded structure.

A message travels as the body of a `Signed` envelope (`codec.py`), with at most one *attachment* behind it: a byte string
whose meaning the message gives (a sealed share, a model, a sealed partial sum). Hashes, keys, nonces are `bytes` of 32,
run ids and session ids `bytes` of 16. Ids of members are the roster's names.

Who says what:

    any -> any                 Hello, Proof (link.py's handshake), Refusal, RosterOffer
    coordinator -> aggregator  PrekeyRequest, ManifestOffer, FreezeRequest, FrozenLists, Votes,
                               AbortRequest, ReleaseReceipt
    aggregator -> coordinator  Prekey, Endorsement, FrozenList, Vote, AttemptAborted, PartialSum or EncryptedSum
    coordinator -> owner       JobOffer, RoundOffer, RoundClosed, DecryptRequest
    owner -> coordinator       JobAnswer, Reported, Refusal, DecryptedSum
    owner -> aggregator        SeedReport, VectorReport
    aggregator -> owner        Receipt, Refusal
    researcher -> coordinator  StartRun, Subscribe, CancelRun, ResumeRun, StatusRequest
    coordinator -> researcher  RunState, RoundResult, Status
    researcher <-> owner       Relay around a signed Command or Answer: the coordinator carries it and cannot change it
    researcher -> aggregator   ComputingKeyRequest, TensorShare, ForgetTensors, ComputationOffer, ComputationFailed
    aggregator -> researcher   ComputingKey, TensorHeld, ComputationDone, ComputationFailed
    researcher -> provider     ComputingKeyRequest, ComputationOffer, ComputationFailed
    provider -> researcher     ComputingKey, ComputationFailed
    provider -> aggregator     Dealt, ComputationFailed
    aggregator -> aggregator   Openings, ComputationFailed (also to the provider)
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from smpc_fl.privacy.mechanism import Noise
from smpc_fl.roster import MAX_MEMBERS

PROTOCOL_VERSION = 5

Id = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]*\Z")]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
Id128 = Annotated[bytes, Meta(min_length=16, max_length=16)]
LONGEST_TEXT = 4096
Text = Annotated[str, Meta(max_length=LONGEST_TEXT)]
Name = Annotated[str, Meta(min_length=1, max_length=256)]
Small = Annotated[bytes, Meta(max_length=1 << 16)]
Large = Annotated[bytes, Meta(max_length=1 << 24)]
Count = Annotated[int, Meta(ge=0, le=1 << 40)]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of everything that may stand in an envelope; the class's name is the tag on the wire."""


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`body` is a message's canonical bytes; `signature` is Ed25519 over (federation, sender, body)."""

    sender: Id
    body: Annotated[bytes, Meta(max_length=1 << 25)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]


# --- link ---------------------------------------------------------------------------------------------------------


class Hello(Message, frozen=True):
    """First message of both sides; not yet believed. `nonce` is fresh for each connection."""

    version: int
    federation: Hash
    role: Name
    nonce: Key
    roster_version: Count


class Proof(Message, frozen=True):
    """Second message of both sides: both nonces and both ids under the sender's signature (no reflection, no replay)."""

    own_nonce: Key
    peer_nonce: Key
    peer: Id


class Refusal(Message, frozen=True):
    """An error for the peer: `code` is a name of `errors.BY_CODE`; `about` is what it answers (a hash), or empty."""

    code: Name
    text: Text
    phase: Annotated[str, Meta(max_length=64)] = ""
    about: Small = b""


class RosterOffer(Message, frozen=True):
    """The newest roster that the sender holds: the very bytes that the federation key signed (`roster.py`)."""

    roster: Large


# --- round: manifest ----------------------------------------------------------------------------------------------


class PrekeyRequest(Message, frozen=True):
    run: Id128
    round: Count
    attempt: Count


class Prekey(Message, frozen=True):
    """An aggregator's X25519 key for one (run, round, attempt); the envelope's signature is what the manifest carries."""

    run: Id128
    round: Count
    attempt: Count
    public: Key


class Manifest(Message, frozen=True):
    """All that one attempt at one round is about; signed by the coordinator, checked by everybody (`manifest.py`).

    `aggregators` are their signed `Prekey` envelopes, sorted by id. `dimension` counts every slot of the secure vector
    (payload, metrics, weight, clipped flag). `clip` bounds a payload slot, `worst_error` a decoded mean's slot.
    `subject`: what is computed (`work.subject_of`), whatever job it is part of; `model_digest`: the model that everyone got.
    Sums over one subject and one model are those that could be subtracted from each other (`releases.py`). `privacy`: the
    noise that every aggregator adds to its partial sum, or nil. `aborts`: every
    aggregator's signed `AttemptAborted` of every attempt before this one, by attempt, then by id. `encryption`: empty, and
    vectors are shared; or the id of the owners' CKKS key, and one aggregator adds ciphertexts (`encryption.py`)."""

    version: int
    federation: Hash
    roster_hash: Hash
    run: Id128
    round: Count
    attempt: Count
    purpose: Annotated[str, Meta(pattern=r"^(train|evaluate|aggregate)\Z")]
    coordinator: Id
    coordinator_key: Key
    cohort: Annotated[list[Id], Meta(min_length=1, max_length=MAX_MEMBERS)]
    aggregators: Annotated[list[Signed], Meta(min_length=1, max_length=64)]
    dimension: Annotated[int, Meta(ge=1, le=1 << 32)]
    ring_bits: Annotated[int, Meta(ge=8, le=64)]
    fractional_bits: Annotated[int, Meta(ge=-64, le=64)]
    clip: Annotated[float, Meta(gt=0)]
    max_samples: Annotated[int, Meta(ge=1, le=1 << 40)]
    k_min: Annotated[int, Meta(ge=1, le=MAX_MEMBERS)]
    deadline: float
    job_digest: Hash
    subject: Hash
    model_digest: Hash
    privacy: Noise | None
    worst_error: Annotated[float, Meta(ge=0)]
    aborts: Annotated[list[Signed], Meta(max_length=1 << 13)] = []
    encryption: Annotated[bytes, Meta(max_length=32)] = b""


class ManifestOffer(Message, frozen=True):
    """`manifest` is the coordinator's signed envelope around a `Manifest`."""

    manifest: Signed


class Endorsement(Message, frozen=True):
    """An aggregator has durably accepted this manifest as the only one of its (run, round, attempt)."""

    manifest_hash: Hash


class RoundOffer(Message, frozen=True):
    """To an owner: the manifest, every aggregator's endorsement of it; attached: the model (float32, little-endian)."""

    manifest: Signed
    endorsements: Annotated[list[Signed], Meta(max_length=64)]


class RoundClosed(Message, frozen=True):
    """To an owner: the round is over, its durable upload may go. `released` tells a release from an abort; `included`: this
    owner is in the sum, also where it has not heard that its report was complete."""

    manifest_hash: Hash
    released: bool
    included: bool = False


# --- round: reports -----------------------------------------------------------------------------------------------


class SeedReport(Message, frozen=True):
    """To an aggregator that is not the carrier: `sealed` holds seed ‖ blinder (64 bytes) under the derived key."""

    manifest_hash: Hash
    commitments: Annotated[list[Hash], Meta(min_length=2, max_length=64)]
    ephemeral: Key
    sealed: Small


class VectorReport(Message, frozen=True):
    """To the carrier: `sealed` holds the blinder; attached: the share, chunk by chunk. `receipts`: all seed holders'. Where
    vectors are encrypted, the ciphertexts are what stands for the share, and nobody holds a seed."""

    manifest_hash: Hash
    commitments: Annotated[list[Hash], Meta(min_length=1, max_length=64)]
    ephemeral: Key
    sealed: Small
    receipts: Annotated[list[Signed], Meta(max_length=63)]


class Receipt(Message, frozen=True):
    """An aggregator holds this report durably."""

    manifest_hash: Hash
    owner: Id
    report_id: Hash


class Reported(Message, frozen=True):
    """An owner tells the coordinator that every aggregator has receipted its report; `uploaded`: bytes on its sockets."""

    manifest_hash: Hash
    report_id: Hash
    uploaded: Count


# --- round: agreement and release ---------------------------------------------------------------------------------


class FreezeRequest(Message, frozen=True):
    """The coordinator expects no more reports: freeze now instead of at the deadline."""

    manifest_hash: Hash


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, order=True):
    owner: Id
    report_id: Hash


class FrozenList(Message, frozen=True):
    """An aggregator's final list of complete reports, sorted by owner. `releases`: how many sums it has ever voted to release,
    by which its peers find out that it was restored from an older copy of its disk."""

    manifest_hash: Hash
    entries: Annotated[list[Entry], Meta(max_length=MAX_MEMBERS)]
    releases: Count = 0


class FrozenLists(Message, frozen=True):
    manifest_hash: Hash
    lists: Annotated[list[Signed], Meta(min_length=1, max_length=64)]


class Vote(Message, frozen=True):
    """`choice` is hash(manifest ‖ S), or empty for an abort, whose `reason` is for people, and `code` a name of
    `errors.BY_CODE`. Cast once; an abort is final."""

    manifest_hash: Hash
    choice: Annotated[bytes, Meta(max_length=32)]
    reason: Text = ""
    code: Annotated[str, Meta(max_length=64)] = ""


class Votes(Message, frozen=True):
    """What aggregators said of this attempt: each a signed `Vote`, or an `AttemptAborted`, which is as final as an abort."""

    manifest_hash: Hash
    votes: Annotated[list[Signed], Meta(min_length=1, max_length=64)]


class AbortRequest(Message, frozen=True):
    """The coordinator gives an attempt up; whoever has not voted or released signs `AttemptAborted`."""

    run: Id128
    round: Count
    attempt: Count


class AttemptAborted(Message, frozen=True):
    """Final: nothing of this attempt ever leaves the signing aggregator. All later attempts' manifests carry it."""

    run: Id128
    round: Count
    attempt: Count
    reason: Text


class PartialSum(Message, frozen=True):
    """Attached: this aggregator's sum over S, sealed to the coordinator's round key (stream, then `ephemeral`)."""

    manifest_hash: Hash
    set_hash: Hash
    ephemeral: Key


class EncryptedSum(Message, frozen=True):
    """What stands for a `PartialSum` where vectors are encrypted. Attached: the sum of the ciphertexts of the reports in
    `entries` (S), sealed to the coordinator's round key; `digest` names them (`encryption.sum_digest`), for the owner who
    is to decrypt them."""

    manifest_hash: Hash
    entries: Annotated[list[Entry], Meta(max_length=MAX_MEMBERS)]
    digest: Hash
    ephemeral: Key


class DecryptRequest(Message, frozen=True):
    """To an owner in S: `released` is the aggregator's signed `EncryptedSum`; attached: the ciphertexts, packed."""

    manifest_hash: Hash
    released: Signed


class DecryptedSum(Message, frozen=True):
    """From an owner. Attached: the sum in the manifest's ring, sealed to the coordinator's round key."""

    manifest_hash: Hash
    digest: Hash
    ephemeral: Key


class ReleaseReceipt(Message, frozen=True):
    """The coordinator holds the partial sum (or a signed abort) durably: the aggregator erases the round's secrets."""

    manifest_hash: Hash


# --- jobs and runs ------------------------------------------------------------------------------------------------


class JobOffer(Message, frozen=True):
    """To an owner: `job` is the researcher's signed `StartRun`, whose `job` bytes are what the owner's ledger approves."""

    run: Id128
    start: Signed


class JobAnswer(Message, frozen=True):
    """`status` is approved, pending or rejected; `reason` is for people."""

    run: Id128
    digest: Hash
    status: Annotated[str, Meta(pattern=r"^(approved|pending|rejected)\Z")]
    code: Annotated[str, Meta(max_length=64)] = ""
    reason: Text = ""


class StartRun(Message, frozen=True):
    """A researcher asks for a run of `job` (canonical bytes of a `jobs.Job`) under an id of its own making.
    Attached: the first model (float32, little-endian), or nothing."""

    run: Id128
    job: Large
    cohort: Annotated[list[Id], Meta(min_length=1, max_length=MAX_MEMBERS)]
    model_digest: Hash


class Subscribe(Message, frozen=True):
    """Send every `RoundResult` of the run from number `after` + 1 on, then its `RunState`; also after a reconnection."""

    run: Id128
    after: Count


class CancelRun(Message, frozen=True):
    run: Id128


class ResumeRun(Message, frozen=True):
    """Go on with a run of training that was stopped, from its last result."""

    run: Id128


class RunState(Message, frozen=True):
    """`state`: waiting, running, finished or failed. `code` and `text` as in a `Refusal`. Attached when finished: the
    last model (float32), or an aggregate's mean (float64). `value`: the digest of what is attached, or empty."""

    run: Id128
    state: Annotated[str, Meta(pattern=r"^(waiting|running|finished|failed)\Z")]
    rounds: Count
    code: Annotated[str, Meta(max_length=64)] = ""
    text: Text = ""
    included: Annotated[list[Id], Meta(max_length=MAX_MEMBERS)] = []
    value: Annotated[bytes, Meta(max_length=32)] = b""


class RoundResult(Message, frozen=True):
    """One training round. Attached: the model after it (float32), or the aggregate (float64). `value`: its digest. `clip`: of
    its manifest; `next_clip`: of the round after it."""

    run: Id128
    number: Count
    metrics: dict[str, float]
    seconds: float
    uploaded: dict[str, int]
    included: Annotated[list[Id], Meta(max_length=MAX_MEMBERS)]
    missing: dict[str, str]
    total_weight: float
    clipped: Count
    worst_error: float
    attempts: Count
    ring_bits: Count
    value: Annotated[bytes, Meta(max_length=32)] = b""
    clip: float = 0.0
    next_clip: float = 0.0


class StatusRequest(Message, frozen=True): ...


class MemberStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: Id
    role: Name
    connected: bool


class RunStatus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    run: Id128
    kind: Name
    state: Name
    rounds: Count
    uploaded: Count


class Status(Message, frozen=True):
    roster_version: Count
    members: Annotated[list[MemberStatus], Meta(max_length=MAX_MEMBERS)]
    runs: Annotated[list[RunStatus], Meta(max_length=MAX_MEMBERS)]


# --- pointers: researcher <-> owner, relayed ----------------------------------------------------------------------


class Relay(Message, frozen=True):
    """`inner` is a signed `Command` or `Answer`; the coordinator forwards it to `to` and signs nothing of it."""

    to: Id
    inner: Signed


class Command(Message, frozen=True):
    """A researcher's request to one owner. `session` and a growing `sequence` make a replay useless; `request` is a
    msgpack-encoded `pointers.session` request; `reply_key` is a fresh X25519 key that a sealed result is bound to."""

    session: Id128
    sequence: Count
    owner: Id
    request: Large
    reply_key: Key


class Answer(Message, frozen=True):
    """An owner's answer to (session, sequence): `sealed` opens with the command's reply key."""

    session: Id128
    sequence: Count
    ephemeral: Key
    sealed: Annotated[bytes, Meta(max_length=1 << 25)]


# --- shared tensors -----------------------------------------------------------------------------------------------


class ComputingKeyRequest(Message, frozen=True):
    """A researcher is about to share a tensor, or to have a program run, under this id."""

    run: Id128


class ComputingKey(Message, frozen=True):
    """A party's or the crypto provider's X25519 key for one run; given once for an id, and gone with the process."""

    run: Id128
    public: Key


class TensorRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True, order=True):
    """The tensor that was shared under an id (output 0), or an output that a run has left with the parties."""

    run: Id128
    output: Count


class TensorShare(Message, frozen=True):
    """A researcher's own tensor, for one of the `parties`, of which number run mod m gets the words, the others a seed.
    Attached: that, sealed under the researcher's key `ephemeral` and the party's."""

    run: Id128
    parties: Annotated[list[Id], Meta(min_length=2, max_length=64)]
    shape: Annotated[list[Count], Meta(max_length=32)]
    ephemeral: Key


class TensorHeld(Message, frozen=True):
    """A party holds its share of a tensor, in memory, until it is to forget it or the researcher stays away."""

    run: Id128


class ForgetTensors(Message, frozen=True):
    tensors: Annotated[list[TensorRef], Meta(max_length=4096)]


class Computation(Message, frozen=True):
    """All that one run of a program is about; signed by the researcher, checked by everybody (`computing.py`).

    `program`: its digest. `parties`, `provider`: their signed `ComputingKey` envelopes, the parties' sorted by id. `inputs`:
    the tensors that its inputs read, in the order of its steps. `revealed`: numbers of the outputs that are opened, to the
    researcher alone, under its key `key`; all outputs stay with the parties as new tensors. `deadline`: seconds since 1970."""

    version: int
    federation: Hash
    roster_hash: Hash
    run: Id128
    program: Hash
    parties: Annotated[list[Signed], Meta(min_length=2, max_length=64)]
    provider: Signed
    key: Key
    inputs: Annotated[list[TensorRef], Meta(max_length=1 << 16)]
    revealed: Annotated[list[Count], Meta(max_length=1 << 12)]
    deadline: float


class ComputationOffer(Message, frozen=True):
    """`computation`: the researcher's signed envelope around a `Computation`; `program`: the bytes that its digest names.
    Attached: the words of the program's public values, in the order of its steps."""

    computation: Signed
    program: Large


SEALED = (1 << 20) - 2048
"""Bytes of a sealed text that travels inside its message; a longer one is attached, and so waits until it is asked for."""
Sealed = Annotated[bytes, Meta(max_length=SEALED)]


class Openings(Message, frozen=True):
    """From party to party, what is opened in a round: sealed between the two. Attached where it is long."""

    run: Id128
    round: Count
    sealed: Sealed = b""


class Dealt(Message, frozen=True):
    """From the crypto provider to a party, sealed: its seed (number 0), then its corrections, part by part. Attached where
    it is long."""

    run: Id128
    number: Count
    sealed: Sealed = b""


class ComputationDone(Message, frozen=True):
    """A party holds its shares of all outputs; those of the outputs to be revealed, sealed to the researcher. Attached where
    they are long."""

    run: Id128
    sealed: Sealed = b""


class ComputationFailed(Message, frozen=True):
    """This run is over for the sender, without an output. `member`: at whom it failed, or empty; `code` and `text` as in a
    `Refusal`."""

    run: Id128
    code: Name
    text: Text
    member: Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9_.@-]*\Z")] = ""


MESSAGES = (
    Hello | Proof | Refusal | RosterOffer | PrekeyRequest | Prekey | Manifest | ManifestOffer | Endorsement | RoundOffer
    | RoundClosed | SeedReport | VectorReport | Receipt | Reported | FreezeRequest | FrozenList | FrozenLists | Vote
    | Votes | AbortRequest | AttemptAborted | PartialSum | EncryptedSum | DecryptRequest | DecryptedSum | ReleaseReceipt
    | JobOffer | JobAnswer | StartRun | Subscribe
    | CancelRun | ResumeRun | RunState
    | RoundResult | StatusRequest | Status | Relay | Command | Answer
    | ComputingKeyRequest | ComputingKey | TensorShare | TensorHeld | ForgetTensors | Computation | ComputationOffer
    | Openings | Dealt | ComputationDone | ComputationFailed
)  # fmt: skip
