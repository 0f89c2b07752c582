"""What must never be otherwise, whatever is lost, doubled, cut, killed or put back. Each invariant says why.

They are asked at the very step that could break them: when a message is said, a record durable, an attempt ended. A
broken one raises `Violation` with its name.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from disk import Change, decoded
from toy_crypto import SEALED

from smpc_fl.errors import RolledBack
from smpc_fl.hashing import Buffer, derive_key, digest
from smpc_fl.privacy.discrete_gaussian import DiscreteGaussian
from smpc_fl.protocols import codec, partial, vectors
from smpc_fl.protocols import manifest as manifests
from smpc_fl.protocols.commands import Send
from smpc_fl.protocols.coordinator import Released as ReleasedOutcome
from smpc_fl.protocols.messages import (
    AttemptAborted,
    Endorsement,
    FrozenList,
    Manifest,
    ManifestOffer,
    Message,
    PartialSum,
    Prekey,
    Receipt,
    Refusal,
    ReleaseReceipt,
    Reported,
    SeedReport,
    VectorReport,
    Vote,
)
from smpc_fl.protocols.records import SECRET, Accepted, Frozen, Prepared, Record, Reporting
from smpc_fl.protocols.simulate import COORDINATOR
from smpc_fl.ring import ring
from smpc_fl.shares import Context, carrier, report_id, stream

if TYPE_CHECKING:
    from books import Attempt, Books
    from driving import Ended
    from members import Member


class Violation(AssertionError):
    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name


def must(name: str, holds: bool, text: str) -> None:
    if not holds:
        raise Violation(name, text)


# --- asked when a message is said ---


def of_a_message(books: Books, member: Member, command: Send, message: Message) -> None:
    said_is_durable(books, member, message)
    match message:
        case Receipt():
            receipts_are_kept(books, member, message)
        case FrozenList():
            lists_are_whole(books, member, message)
            said_once(books, member, message)
        case Endorsement() | Vote():
            said_once(books, member, message)
            nobody_is_accused(books, member, message)
        case Refusal():
            nobody_is_accused(books, member, message)
        case SeedReport() | VectorReport():
            one_manifest_for_all(books, member, message)
            one_vector_under_one_set_of_seeds(books, member, message, command.attachment)
            if isinstance(message, VectorReport):
                vectors_come_last(books, member, message)
        case PartialSum():
            nothing_acknowledged_is_lost(books, member, message)
            enough_owners(books, message)
            if books.scenario.noisy:
                one_noise(books, member, message, command.attachment)
        case _:
            pass


def said_is_durable(books: Books, member: Member, message: Message) -> None:
    """What a peer heard must be true after a power cut as well: the record is on the disk before the message is said."""
    attempt = _about(books, message)
    if attempt is None or (member.id in books.put_back and not isinstance(message, PartialSum)):
        return
    run, round_, number = attempt
    is_owner = isinstance(message, SeedReport | VectorReport | Reported)
    name = f"round/{run.hex()}/{round_}" + ("" if is_owner else f"/{number}")
    rows, has_bulk = member.disk.synced(name)
    records = decoded(rows)
    kinds = {kind for kind, _ in rows}
    if (
        member.id in books.scenario.aggregators
        and kinds & {"Closed", "Aborted"}
        and not isinstance(message, AttemptAborted)
    ):
        return  # what an end erases in the same commit need not be there any more
    match message:
        case Prekey():
            holds = "Prepared" in kinds
        case Endorsement(manifest_hash=hash_):
            accepted = [record for record in records if isinstance(record, Accepted)]
            holds = hash_ in [manifests.manifest_hash(record.manifest) for record in accepted]
        case Receipt(owner=owner, report_id=id_):
            holds = _taken(records, owner, id_)
        case FrozenList(entries=entries):
            holds = any(isinstance(record, Frozen) and record.entries == entries for record in records)
        case Vote(choice=choice):
            holds = any(getattr(record, "choice", None) == choice for record in records)
        case PartialSum(set_hash=set_hash):
            holds = any(getattr(record, "set_hash", None) == set_hash for record in records)
        case AttemptAborted():
            holds = "Aborted" in kinds
        case SeedReport() | VectorReport():
            reports = [record for record in records if isinstance(record, Reporting)]
            holds = has_bulk and any(record.commitments == message.commitments for record in reports)
        case Reported():
            holds = "Done" in kinds
        case ManifestOffer():
            holds = "Made" in kinds
        case _:
            assert isinstance(message, ReleaseReceipt)
            results, _ = member.disk.synced(f"run/{run.hex()}")
            holds = ("Summed" in kinds and has_bulk) or any(kind == "result" for kind, _ in results)
    must("said_is_durable", holds, f"{member.id} says {type(message).__name__}, and its disk does not know")


_DURABLE_FIRST = (
    Prekey, Endorsement, Receipt, FrozenList, Vote, PartialSum, AttemptAborted, SeedReport, VectorReport, Reported,
    ManifestOffer, ReleaseReceipt,
)  # fmt: skip


def _about(books: Books, message: Message) -> Attempt | None:
    if not isinstance(message, _DURABLE_FIRST):
        return None
    if isinstance(message, Prekey | AttemptAborted):
        return message.run, message.round, message.attempt
    hash_ = manifests.subject_of(message)
    return books.attempt_of(hash_) if hash_ in books.manifests else None


def _taken(records: list[Record], owner: str, id_: bytes) -> bool:
    for record in records:
        if isinstance(record, Frozen):
            if any((entry.owner, entry.report_id) == (owner, id_) for entry in record.entries):
                return True
        elif (getattr(record, "owner", None), getattr(record, "report_id", None)) == (owner, id_):
            return True
    return False


def receipts_are_kept(books: Books, member: Member, receipt: Receipt) -> None:
    """An aggregator acknowledges one report of an owner, none after it froze its list, and a carrier only what is
    complete everywhere: the vector that it adds cannot be taken out again."""
    if member.id in books.put_back:
        return
    hash_, owner = receipt.manifest_hash, receipt.owner
    before = books.receipts[hash_, owner]
    must("receipts_are_kept", before.get(member.id, receipt.report_id) == receipt.report_id, f"two reports of {owner}")
    frozen = books.lists.get((hash_, member.id))
    if frozen is not None:
        listed = any((e.owner, e.report_id) == (owner, receipt.report_id) for e in frozen.entries)
        must("receipts_are_kept", listed, f"{member.id} acknowledges {owner} after its list went out without it")
    manifest = books.manifests[hash_]
    aggregators = manifests.aggregator_ids(manifest)
    if member.id == carrier(owner, manifest.cohort, manifest.round, aggregators):
        holders = {a for a in aggregators if before.get(a) == receipt.report_id}
        whole = holders >= set(aggregators) - {member.id}
        must("receipts_are_kept", whole, f"{member.id} carries {owner}'s vector, which is not complete everywhere")


def lists_are_whole(books: Books, member: Member, frozen: FrozenList) -> None:
    """Whatever an aggregator acknowledged is in its list: an acknowledged report is not lost."""
    if member.id in books.put_back:
        return
    listed = {entry.owner: entry.report_id for entry in frozen.entries}
    for (hash_, owner), by in books.receipts.items():
        if hash_ == frozen.manifest_hash and member.id in by:
            must("lists_are_whole", listed.get(owner) == by[member.id], f"{member.id} lost {owner}'s report")


def said_once(books: Books, member: Member, message: Endorsement | FrozenList | Vote) -> None:
    """One manifest of an attempt is endorsed, one list is final, one vote is cast: two would let two sets be released."""
    if member.id in books.put_back:
        return
    hash_ = message.manifest_hash
    match message:
        case Endorsement():
            before: Any = books.endorsed.get((books.attempt_of(hash_), member.id), hash_)
            now: Any = hash_
        case FrozenList():
            before, now = books.lists.get((hash_, member.id), message), message
        case Vote(choice=now):
            before = books.votes.get((hash_, member.id), now)
    must("said_once", before == now, f"{member.id} said two {type(message).__name__}s")


def nobody_is_accused(books: Books, member: Member, message: Message) -> None:
    """Only an aggregator that was put back to an earlier time is said to have been: a crash alone makes nobody forget."""
    accuses = getattr(message, "code", "") == RolledBack.__name__
    must("nobody_is_accused", not accuses or books.rolled_back, f"{member.id} says that one was restored, and none was")


def one_manifest_for_all(books: Books, member: Member, report: SeedReport | VectorReport) -> None:
    """No share leaves an owner before every aggregator has endorsed this very manifest."""
    attempt = books.attempt_of(report.manifest_hash)
    for aggregator in manifests.aggregator_ids(books.manifests[report.manifest_hash]):
        endorsed = books.endorsed.get((attempt, aggregator))
        holds = endorsed == report.manifest_hash or aggregator in books.put_back
        must("one_manifest_for_all", holds, f"{member.id} reports under a manifest that {aggregator} has not endorsed")


def one_vector_under_one_set_of_seeds(
    books: Books, member: Member, report: SeedReport | VectorReport, attachment: Buffer | None
) -> None:
    """Two vectors under one set of seeds differ by the difference of two updates, for all to see."""
    key, id_ = (report.manifest_hash, member.id), report_id(report.commitments)
    sealed = digest("simulation", attachment) if isinstance(report, VectorReport) and attachment is not None else b""
    known, before = books.reports.get(key, (id_, sealed))
    if member.id not in books.put_back:
        must("one_vector", known == id_, f"{member.id} sends two reports under one manifest")
        must("one_vector", not (before and sealed) or before == sealed, f"{member.id} sends two vectors")
    books.reports[key] = (id_, sealed or before)
    must("sealed_once", not SEALED.twice, "one key, one number of a chunk, two plaintexts")


def vectors_come_last(books: Books, member: Member, report: VectorReport) -> None:
    """The vector leaves when every seed holder has acknowledged this very report, and carries the proof."""
    if member.id == books.scenario.hasty:
        return
    manifest = books.manifests[report.manifest_hash]
    aggregators = manifests.aggregator_ids(manifest)
    holders = set(aggregators) - {carrier(member.id, manifest.cohort, manifest.round, aggregators)}
    proven = set()
    for signed in report.receipts:
        receipt = codec.decode(signed.body, Receipt)
        this = (report.manifest_hash, member.id, report_id(report.commitments))
        if (receipt.manifest_hash, receipt.owner, receipt.report_id) == this:
            proven.add(signed.sender)
    must("vectors_come_last", proven == holders, f"{member.id}'s vector goes out before its seeds are acknowledged")


def nothing_acknowledged_is_lost(books: Books, member: Member, partial: PartialSum) -> None:
    """An owner with every aggregator's receipt is in the set that is released."""
    hash_ = partial.manifest_hash
    agreed = books.sets.get(partial.set_hash, frozenset())
    everyone = set(manifests.aggregator_ids(books.manifests[hash_]))
    if books.put_back & everyone:
        return
    for (about, owner), by in books.receipts.items():
        if about == hash_ and by.keys() >= everyone:
            must("nothing_acknowledged_is_lost", owner in agreed, f"{member.id} releases without {owner}")


def enough_owners(books: Books, partial: PartialSum) -> None:
    """A sum over fewer than k_min owners tells too much about each; and nobody outside the cohort is in it."""
    agreed = books.sets.get(partial.set_hash, frozenset())
    must("enough_owners", len(agreed) >= books.scenario.k_min, f"a sum over {len(agreed)} owners is released")
    must("enough_owners", agreed <= set(books.manifests[partial.manifest_hash].cohort), "a stranger is in the set")


def one_noise(books: Books, member: Member, said: PartialSum, attachment: Buffer | None) -> None:
    """A partial sum that is said again has the very same noise, also after a crash: the mean of two would have less. It follows
    from what was durable before the release."""
    hash_, choice = said.manifest_hash, said.set_hash
    manifest = books.manifests[hash_]
    assert attachment is not None
    assert manifest.privacy is not None
    key, to = books.opened[manifest.coordinator_key], books.scenario.parties[COORDINATOR]
    words = bytes(partial.open_(said, attachment, member.id, manifest, to, key).data)
    must(
        "one_noise", books.sums.setdefault((hash_, choice, member.id), words) == words, f"{member.id} draws noise again"
    )
    stream_ = f"round/{manifest.run.hex()}/{manifest.round}/{manifest.attempt}"
    prepared = [record for record in decoded(member.disk.rows(stream_)) if isinstance(record, Prepared)]
    if prepared:  # a release that is said while its erasure is under way may come after that
        source = DiscreteGaussian(
            manifest.privacy.sigma, derive_key("smpc-fl/1 noise", prepared[-1].private, hash_, choice)
        )
        books.noise[choice, member.id] = source.draw(0, manifest.dimension).tolist()


# --- asked when a release or an abort has come about ---


def of_a_release(books: Books, attempt: Attempt, set_hash: bytes) -> None:
    one_set_in_a_round(books, attempt)
    nobody_is_isolated(books, attempt, set_hash)


def one_set_in_a_round(books: Books, attempt: Attempt) -> None:
    """Two sums of one round could be subtracted: at most one set of one attempt is released. After a rollback of one
    aggregator, partial sums over two sets may be about, but never two whole ones."""
    by_set = books.partials[attempt[:2]]
    whole = [who for who in by_set.values() if len(who) == len(books.scenario.aggregators)]
    most = len(whole) if books.rolled_back else len(by_set)
    must("one_set_in_a_round", most <= 1, f"{most} sums of one round are out")


def nobody_is_isolated(books: Books, attempt: Attempt, set_hash: bytes) -> None:
    """Sums of one subject on one model, whatever their run, can be added and subtracted: what is left of any of them together is
    over nobody, or over k_min owners. (A single restored aggregator may say what it forgot; never all of them.)"""
    scenario, everyone = books.scenario, len(books.scenario.aggregators)
    least = everyone if books.rolled_back else 1
    family = set()
    for (_, number), by_set in books.partials.items():
        if number == attempt[1]:  # each round has a model of its own
            family |= {books.sets[about] for (_, about), who in by_set.items() if len(who) >= least}
    cells = Counter(frozenset(i for i, s in enumerate(family) if owner in s) for owner in scenario.owners)
    cells.pop(frozenset(), None)
    small = min(cells.values(), default=scenario.k_min)
    must("nobody_is_isolated", small >= scenario.k_min, f"{len(family)} sums together show the sum over {small} owners")


def of_an_end(books: Books, attempt: Attempt) -> None:
    """No attempt is both released and aborted: its abort allows the next one, whose sum would be a second."""
    ends = set(books.ends[attempt].values())
    if not books.rolled_back:
        must("released_or_aborted", len(ends) == 1, f"attempt {attempt[2]} is released at one and aborted at another")


# --- asked when something is durable ---


def fresh_secrets(books: Books, member: Member, record: Reporting) -> None:
    """Every seed, blinder and key is drawn for one report and serves no other."""
    drawn = [*record.seeds.values(), *record.blinders, record.ephemeral]
    must("fresh_secrets", len(set(drawn)) == len(drawn), f"{member.id} drew a secret twice")
    about = report_id(record.commitments)
    for secret in drawn:
        must("fresh_secrets", books.secrets.setdefault(secret, about) == about, f"{member.id} uses a secret again")


def same_integers(books: Books, member: Member, change: Change, record: Reporting) -> None:
    """Each attempt shares the very same integers, those of the owner's own update: the difference of two is nothing."""
    rows = decoded(member.disk.rows(change.stream))
    last = [row for row in rows if isinstance(row, Accepted)][-1]
    manifest, hash_ = codec.decode(last.manifest.body, Manifest), manifests.manifest_hash(last.manifest)
    of, n = ring(manifest.ring_bits), manifest.dimension
    sealed = member.disk.bulk(change.stream)
    must("same_integers", sealed is not None, f"{member.id} has a report without its vector")
    assert sealed is not None
    words = vectors.open_vector(vectors.stream(record.vector_key, hash_, of, n), of, n, sealed)
    for aggregator, seed in record.seeds.items():
        words = words + stream(seed, Context(hash_, member.id), aggregator).expand(of, n)
    shared = [int(word) % (1 << of.bits) for word in words]
    must(
        "same_integers",
        shared == books.scenario.encoded(manifest.round)[member.id],
        f"{member.id} shares another vector",
    )


def of_a_disk(books: Books, member: Member, name: str) -> None:
    """Once its part has ended, a node has nothing secret of the round on its disk (forward secrecy)."""
    rows = member.disk.rows(name)
    if name.startswith("round/") and any(kind in ("Closed", "Aborted") for kind, _ in rows):
        left = sorted({kind for kind, _ in rows if kind in SECRET})
        must("nothing_secret_is_left", not left, f"{member.id} keeps {', '.join(left)} after the end")
        must("nothing_secret_is_left", member.disk.bulk(name) is None, f"{member.id} keeps its bulk after the end")


def nothing_secret_at_last(books: Books, member: Member) -> None:
    """A day after the last deadline, whoever died for good, nobody has a secret of any round on its disk. (A prekey that never
    came into a manifest may be left: nothing was ever sealed to it.)"""
    for name in member.disk.streams("round/"):
        kinds = {kind for kind, _ in member.disk.rows(name)}
        left = sorted(kinds & SECRET) if kinds != {"Prepared"} else []
        must("nothing_secret_at_last", not left, f"{member.id} still keeps {', '.join(left)} of {name[-3:]}")
        must(
            "nothing_secret_at_last", member.disk.bulk(name) is None, f"{member.id} still keeps its bulk of {name[-3:]}"
        )


def right_model(books: Books, member: Member, machine: Any, model: Buffer) -> None:
    """An owner computes on the model that the manifest names: one made for it alone would tell its data apart."""
    holds = manifests.model_digest(bytes(model)) == machine.manifest.model_digest
    must("right_model", holds, f"{member.id} computes on another model")


# --- asked when an attempt has ended at the coordinator, and when all is over ---


def of_an_outcome(books: Books, ended: Ended, machine: Any) -> None:
    if isinstance(ended.outcome, ReleasedOutcome):
        exact_sum(books, ended, machine)
    ends_in_time(books, ended)


def exact_sum(books: Books, ended: Ended, machine: Any) -> None:
    """The sum, but for its noise, is exact, element by element, over the agreed set, and the base-4 digits of its first element
    count every owner of it once and nobody else."""
    outcome, scenario = ended.outcome, books.scenario
    assert isinstance(outcome, ReleasedOutcome)
    owners = [entry.owner for entry in outcome.agreed]
    modulus = 1 << scenario.numbers.ring_bits
    noise = [0] * len(outcome.total)
    if scenario.noisy:
        choice = manifests.set_hash(machine.manifest_hash, outcome.agreed)
        noise = [sum(column) for column in zip(*(books.noise[choice, a] for a in scenario.aggregators), strict=True)]
    total = [(int(value) - added) % modulus for value, added in zip(outcome.total, noise, strict=True)]
    counted = {owner: total[0] >> 2 * i & 3 for i, owner in enumerate(scenario.owners)}
    once = {owner: int(owner in owners) for owner in scenario.owners}
    must("counted_once", counted == once, f"counted {counted}, agreed on {', '.join(owners)}")
    vectors_ = scenario.encoded(ended.attempt.round)
    exact = [sum(column) % modulus for column in zip(*(vectors_[owner] for owner in owners), strict=True)]
    must("exact_sum", total == exact, "the sum is another one than that of the agreed set")


def ends_in_time(books: Books, ended: Ended) -> None:
    """Once nothing fails any more, an attempt ends by its deadline and three times the patience: for the silent phase, for the
    aborts, and for a release that overtakes them."""
    scenario = books.scenario
    if scenario.mischief or ended.ended <= scenario.quiet:
        return
    latest = max(ended.began + scenario.seconds, scenario.quiet) + 3 * scenario.patience + 10.0
    must(
        "ends_in_time",
        ended.ended <= latest,
        f"attempt {ended.attempt.attempt} ended {ended.ended - latest:.0f} s late",
    )
