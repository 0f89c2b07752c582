"""Runs on shared tensors over a network that fails, repeats and lies: right, or over for everybody with a name at the error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
import torch
from computing_rig import (
    EXPECTED,
    NOW,
    PROVIDER,
    RESEARCHER,
    Delivery,
    Going,
    World,
    Y,
    assert_all_name,
    going,
    network,
    until,
    world,
)
from rig import Draws

from smpc_fl.errors import (
    ComputationRefused,
    DecryptionFailed,
    Equivocation,
    InternalError,
    LimitExceeded,
    MalformedMessage,
    PeerMisbehaviour,
    RunFailed,
    SmpcError,
    Unavailable,
    WrongRole,
)
from smpc_fl.protocols import computing_party, computing_provider
from smpc_fl.protocols.commands import PeerGone, PeerUp, Received, Start, Tick
from smpc_fl.protocols.computing import Continue
from smpc_fl.protocols.messages import (
    ComputationDone,
    ComputationFailed,
    ComputationOffer,
    ComputingKey,
    Dealt,
    Openings,
    TensorHeld,
    TensorRef,
    TensorShare,
)
from smpc_fl.shared_tensors.draft import Draft
from smpc_fl.shared_tensors.words import decode

# --- as it should be ---


@pytest.mark.parametrize("parties", [2, 3, 5])
def test_a_run_gives_what_torch_gives(parties: int) -> None:
    made = world(parties)
    outcomes = made.run(*network())
    (words,) = outcomes.pop(RESEARCHER)
    assert torch.allclose(decode(words), EXPECTED, atol=2**-14)
    assert outcomes == dict.fromkeys([*made.parties, PROVIDER])


def test_one_party_is_sent_the_words_and_the_others_seeds() -> None:
    made = world(3)
    sizes = sorted(len(send.attachment) for _, _, message, send in made.said if isinstance(message, TensorShare))
    assert sizes == [16 + 24, 32 + 16, 32 + 16, 32 + 16, 32 + 16, 16 + 48]


def test_outputs_stay_with_the_parties_and_are_inputs_of_the_next_run() -> None:
    made = world()
    run = going(made, revealed=[])
    assert run.finish() == dict.fromkeys([RESEARCHER, *made.parties, PROVIDER]) | {RESEARCHER: []}
    made.shared["z"] = TensorRef(run.run, 0)
    draft = Draft()
    (words,) = made.run(draft, [draft.input("z", (2, 1)) * 2])[RESEARCHER]
    assert torch.allclose(decode(words), 2 * EXPECTED, atol=2**-12)


def test_what_is_sent_is_of_the_same_size_whatever_the_numbers_are() -> None:
    def sizes(values: torch.Tensor) -> list[tuple[str, str, str, int]]:
        made = World(seed="sizes")
        made.share("x", values)
        made.share("y", Y)
        made.run(*network())
        return [
            (sender, to, type(message).__name__, len(send.signed.body) + len(send.attachment or b""))
            for sender, to, message, send in made.said
            if send is not None
        ]

    assert sizes(torch.zeros(2, 3)) == sizes(torch.full((2, 3), 1e9))


def test_nobody_but_the_parties_can_open_an_opening() -> None:
    made = world()
    run = going(made)
    until(run, Openings)
    machine: Any = run.machines[PROVIDER]
    sender, _, message, _ = run.queue[0]
    with pytest.raises(DecryptionFailed, match="aggregator"):
        machine._seals.open(sender, "party>party openings", message.round, message.sealed)


def test_long_corrections_come_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smpc_fl.protocols.computing_program.PART", 8)
    made = world(3)
    assert torch.allclose(decode(made.run(*network())[RESEARCHER][0]), EXPECTED, atol=2**-14)
    assert max(message.number for _, _, message, _ in made.said if isinstance(message, Dealt)) > 1


def test_what_is_long_is_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smpc_fl.protocols.computing_seals.SEALED", 40)
    made = world()
    assert torch.allclose(decode(made.run(*network())[RESEARCHER][0]), EXPECTED, atol=2**-14)
    long = [send.attachment for _, _, message, send in made.said if isinstance(message, Openings)]
    assert None in long
    assert any(attached is not None for attached in long)


def test_messages_may_come_in_any_order_that_links_allow() -> None:
    """What is long comes late: openings and corrections before the statement, corrections before the seed."""
    for seed in range(12):
        made = world(3, seed=seed)
        run, draw = going(made), Draws(("order", seed))
        while run.queue:
            run.queue.rotate(-(draw(1)[0] % 4))
            links = [item[:2] for item in run.queue]
            # Of one link, the first only; but what has an attachment may be overtaken.
            first = links.index(links[0])
            assert first == 0
            run.step()
        assert torch.allclose(decode(run.outcomes[RESEARCHER][0]), EXPECTED, atol=2**-14), run.outcomes


def test_a_party_that_hears_all_others_first_catches_up() -> None:
    made = world(3)
    run = going(made)
    held: list[Delivery] = []
    slow = made.parties[0]

    def hold(delivery: Delivery) -> Sequence[Delivery]:
        if delivery[1] == slow and isinstance(delivery[2], ComputationOffer):
            held.append(delivery)
            return []
        return [delivery]

    made.tamper = hold
    run.finish()
    made.tamper = lambda delivery: [delivery]
    assert isinstance(held[0][2], ComputationOffer)
    run.feed(slow, Received("aggregator-9", Openings(run.run, 0), held[0][3].signed, b""))  # a stranger's, dropped
    run.deliver(held[0])
    assert torch.allclose(decode(run.finish()[RESEARCHER][0]), EXPECTED, atol=2**-14)


# --- randomness, once ---


def test_a_mask_of_another_run_is_refused() -> None:
    """What the provider dealt for one run does not open in another, whose keys are others."""
    made = world()
    first = going(made)
    until(first, Dealt)
    stale = first.queue[0]
    first.finish()
    second = going(made)

    def exchange(delivery: Delivery) -> Sequence[Delivery]:
        if isinstance(delivery[2], Dealt) and delivery[1] == stale[1] and delivery[2].number == 0:
            return [(delivery[0], delivery[1], stale[2], stale[3])]
        return [delivery]

    made.tamper = exchange
    second.finish()
    assert_all_name(second.late(), PROVIDER, DecryptionFailed)


def test_the_same_program_on_the_same_tensors_is_masked_anew() -> None:
    made = world()
    for _ in range(2):
        made.run(*network())
    openings = [message.sealed for _, _, message, _ in made.said if isinstance(message, Openings)]
    assert len(set(openings)) == len(openings)
    streams = {message.sealed for _, _, message, _ in made.said if isinstance(message, Dealt)}
    assert len(streams) == sum(isinstance(message, Dealt) for _, _, message, _ in made.said)


def test_a_restarted_provider_does_not_deal_for_an_unfinished_run() -> None:
    made = world()
    run = going(made)
    until(run, ComputationOffer)
    assert run.run in made.taken[PROVIDER]  # durable, before its key was said
    again = made.machines(run.run)[PROVIDER]  # as if it had not been: its key is another
    again.receive(Start(), NOW)
    run.machines[PROVIDER] = again
    assert_all_name(run.finish(), PROVIDER, ComputationRefused)


def test_an_entropy_source_that_repeats_itself_deals_nothing() -> None:
    made = world()
    run = going(made)
    until(run, ComputationOffer)
    provider: Any = run.machines[PROVIDER]
    provider._entropy = lambda n: bytes(n)
    assert_all_name(run.finish(), PROVIDER, InternalError)


# --- members that die, or are late ---


@pytest.mark.parametrize("victim", ["aggregator-1", "aggregator-2", PROVIDER])
def test_whoever_dies_whenever_the_others_end_and_name_it(victim: str) -> None:
    made = world(3)
    steps = going(made)
    steps.finish()
    for after in range(0, len(made.said) - 30, 3):
        run = going(made)
        for _ in range(min(after, 60)):
            if run.queue:
                run.step()
        if run.outcomes:
            break
        run.kill(victim)
        ended = run.late()
        assert set(ended) == set(run.machines) - {victim}
        late = [error for error in ended.values() if error is not None]
        assert_all_name({str(i): e for i, e in enumerate(late)}, victim, Unavailable)
        made.now = NOW


def silent(*kinds: type[Any], sender: str) -> Callable[[Delivery], Sequence[Delivery]]:
    return lambda delivery: [] if isinstance(delivery[2], kinds) and delivery[0] == sender else [delivery]


@pytest.mark.parametrize(
    ("who", "kind"),
    [("aggregator-2", Openings), (PROVIDER, Dealt), ("aggregator-2", ComputingKey), ("aggregator-1", ComputationDone)],
)
def test_whoever_is_silent_is_named_at_the_deadline(who: str, kind: type[Any]) -> None:
    made = world()
    run = going(made)
    made.tamper = silent(kind, sender=who)
    run.finish()
    assert RESEARCHER not in run.outcomes
    run.feed("aggregator-1", Tick())  # a tick before the time changes nothing
    run.late()
    assert_all_name({RESEARCHER: run.outcomes[RESEARCHER]}, who, RunFailed)
    assert all(machine.state.name == "ENDED" for machine in run.machines.values() if run.begun(machine._party.id))


def test_a_party_whose_seed_was_lost_names_the_provider() -> None:
    made = world()
    run = going(made)
    made.tamper = lambda d: [] if isinstance(d[2], Dealt) and d[2].number == 0 else [d]
    run.finish()
    run.late()
    assert_all_name({m: run.outcomes[m] for m in (*made.parties, RESEARCHER)}, PROVIDER, RunFailed)


def test_a_provider_that_is_too_slow_says_so_itself() -> None:
    made = world()
    run = going(made)
    while not all(run.machines[party].accepted for party in made.parties):  # type: ignore[union-attr]
        run.step()
    assert run.machines[PROVIDER].state is computing_provider.State.DEALING
    made.now = NOW + 60
    run.feed(PROVIDER, Tick())
    assert_all_name(run.finish(), PROVIDER, RunFailed)


def test_keys_that_nobody_uses_are_gone_after_a_while() -> None:
    made = world()
    run = Going(made)
    run.finish()
    made.now += 901
    for member in (*made.parties, PROVIDER):
        run.feed(member, Tick())
        run.feed(member, Tick())
        assert run.outcomes[member] is None
    assert RESEARCHER not in run.outcomes


def test_a_new_connection_in_the_midst_of_a_run_ends_it() -> None:
    made = world()
    for member, peer in ((made.parties[0], made.parties[1]), (made.parties[0], PROVIDER), (PROVIDER, made.parties[1])):
        run = going(made)
        while run.machines[PROVIDER].state is not computing_provider.State.DEALING:
            run.step()
        until(run, Dealt)
        run.feed(member, PeerUp("aggregator-9"))
        run.feed(member, PeerUp(RESEARCHER))
        run.feed(PROVIDER, PeerGone(RESEARCHER, Unavailable("gone")))
        assert member not in run.outcomes
        if member not in run.outcomes and run.machines[member].accepted:  # type: ignore[union-attr]
            run.feed(member, PeerUp(peer))
            assert_all_name(run.finish(), peer, Unavailable)


def test_before_the_statement_nobodys_connection_matters() -> None:
    made = world()
    run = Going(made)
    run.finish()
    for member in (*made.parties, PROVIDER):
        run.feed(member, PeerGone(made.parties[0], Unavailable("gone")))
        run.feed(member, PeerUp(RESEARCHER))
        assert not run.outcomes
    for member in (*made.parties, PROVIDER):  # but the researcher's: nobody will go on
        run.feed(member, PeerGone(RESEARCHER, Unavailable("gone")))
        assert run.outcomes[member] is None


# --- lies ---


def tampered(
    kind: type[Any], change: Callable[[bytearray], Any], *, once: bool = True
) -> Callable[[Delivery], Sequence[Delivery]]:
    done: list[bool] = []

    def tamper(delivery: Delivery) -> Sequence[Delivery]:
        sender, to, message, send = delivery
        if not isinstance(message, kind) or done:
            return [delivery]
        done.append(True)
        return [(sender, to, msgspec.structs.replace(message, sealed=change(bytearray(message.sealed))), send)]

    return tamper


@pytest.mark.parametrize(
    ("kind", "change", "error"),
    [
        (Openings, lambda data: bytes([data[0] ^ 1]) + bytes(data[1:]), DecryptionFailed),
        (Openings, lambda data: b"", MalformedMessage),
        (Openings, lambda data: bytes(data[:-9]), DecryptionFailed),
        (Dealt, lambda data: bytes(data[:-1]), MalformedMessage),
        (Dealt, lambda data: bytes(len(data)), DecryptionFailed),
        (ComputationDone, lambda data: bytes(len(data)), DecryptionFailed),
    ],
)
def test_what_was_altered_on_its_way_ends_the_run_for_all(
    kind: type[Any], change: Callable[[bytearray], Any], error: type[SmpcError]
) -> None:
    made = world()
    run = going(made)
    made.tamper = tampered(kind, change)
    run.finish()
    made.now = NOW + 59
    (culprit,) = {sender for sender, _, message, _ in made.said if isinstance(message, kind)} & {PROVIDER} or {
        next(sender for sender, _, message, _ in made.said if isinstance(message, kind))
    }
    failed = {member: outcome for member, outcome in run.outcomes.items() if isinstance(outcome, SmpcError)}
    assert RESEARCHER in failed
    assert_all_name(failed, culprit, error)


def test_openings_of_another_round_or_run_do_not_open() -> None:
    for change in (lambda m: Openings(m.run, m.round + 1, m.sealed), lambda m: Openings(m.run, m.round + 7, m.sealed)):
        made = world()
        run = going(made)
        done: list[str] = []

        def other(d: Delivery, change: Any = change, done: list[str] = done) -> Sequence[Delivery]:
            if not isinstance(d[2], Openings) or done:
                return [d]
            done.append(d[0])
            return [(d[0], d[1], change(d[2]), d[3])]

        made.tamper = other
        run.finish()
        assert_all_name({RESEARCHER: run.outcomes[RESEARCHER]}, done[0], DecryptionFailed)


@pytest.mark.parametrize("kind", [Openings, Dealt])
def test_what_is_said_twice_ends_the_run(kind: type[Any]) -> None:
    made = world()
    run = going(made)
    made.tamper = lambda d: [d, d] if isinstance(d[2], kind) else [d]
    run.finish()
    assert isinstance(run.outcomes[RESEARCHER], PeerMisbehaviour)
    assert run.outcomes[RESEARCHER].peer in ((PROVIDER,) if kind is Dealt else made.parties)


def test_a_part_that_does_not_exist_is_misbehaviour() -> None:
    made = world()
    run = going(made)
    made.tamper = lambda d: [(d[0], d[1], Dealt(d[2].run, 99, d[2].sealed), d[3])] if isinstance(d[2], Dealt) else [d]
    assert_all_name({RESEARCHER: run.finish()[RESEARCHER]}, PROVIDER, PeerMisbehaviour)


def test_different_openings_to_different_peers_are_found_out_and_nothing_is_given_out() -> None:
    made = world(3)
    run = going(made)
    liar: Any = run.machines["aggregator-3"]
    until(run, Openings)
    seal = liar._seals.seal

    def lie(to: str, kind: str, number: int, plain: Any) -> memoryview:
        wrong = bytearray(plain)
        if to == "aggregator-1" and number == 0 and kind == "party>party openings":
            wrong[0] ^= 1
        return seal(to, kind, number, wrong)  # type: ignore[no-any-return]

    run = going(made)
    until(run, ComputationOffer)
    run.machines["aggregator-3"] = liar = run.machines["aggregator-3"]
    begin = liar._begin

    def begun(*args: Any) -> Any:
        commands = begin(*args)
        nonlocal seal
        seal, liar._seals.seal = liar._seals.seal, lie
        return commands

    liar._begin = begun
    run.finish()
    assert not any(isinstance(message, ComputationDone) for _, _, message, _ in made.said[-40:])
    assert isinstance(run.outcomes[RESEARCHER], Equivocation)
    assert run.outcomes[RESEARCHER].peer is None


def refused_by(run: Going, member: str, sender: str, message: Any, error: type[SmpcError], **more: Any) -> None:
    before, state = len(run.refused), run.machines[member].state
    signed = run.world.party(sender).sign(message)
    run.feed(member, Received(sender, message, signed, more.get("attachment")))
    assert [type(each[1]) for each in run.refused[before:]] == [error], run.refused[before:]
    assert run.machines[member].state is state


def test_what_is_nobodys_business_is_refused_and_changes_nothing() -> None:
    made = world()
    run = going(made)
    until(run, ComputationOffer)
    offer: Any = run.queue[0][2]
    one = made.parties[0]
    refused_by(run, one, "other", offer, WrongRole)
    refused_by(run, PROVIDER, "other", offer, WrongRole)
    refused_by(run, PROVIDER, RESEARCHER, TensorHeld(run.run), MalformedMessage)
    refused_by(run, one, RESEARCHER, TensorHeld(run.run), MalformedMessage)
    refused_by(run, RESEARCHER, "other", TensorHeld(run.run), MalformedMessage)
    until(run, Openings)
    refused_by(run, one, "aggregator-9", Openings(run.run, 0), WrongRole)
    refused_by(run, one, one, Openings(run.run, 0), WrongRole)
    refused_by(run, one, made.parties[1], Dealt(run.run, 0), WrongRole)
    refused_by(run, one, RESEARCHER, offer, ComputationRefused)
    for member in (one, PROVIDER):
        run.feed(member, Received("other", ComputationFailed(run.run, "BadInput", "x"), offer.computation))
    assert torch.allclose(decode(run.finish()[RESEARCHER][0]), EXPECTED, atol=2**-14)
    for member in run.machines:  # it is over: whatever is said
        run.feed(member, Tick())
        run.feed(member, Received(RESEARCHER, offer, offer.computation))
    assert not run.queue


def test_a_provider_is_told_once() -> None:
    made = world()
    run = going(made)
    while run.machines[PROVIDER].state is not computing_provider.State.DEALING:
        run.step()
    offer = next(item[2] for item in made.said if isinstance(item[2], ComputationOffer))
    refused_by(run, PROVIDER, RESEARCHER, offer, ComputationRefused)
    assert run.machines[PROVIDER].receive(Tick(), NOW) == []


def test_too_much_before_the_statement_is_refused() -> None:
    made = world()
    run = Going(made)
    run.finish()
    one = made.parties[0]
    for number in range(computing_party.EARLY):
        run.feed(one, Received(PROVIDER, Dealt(run.run, number), made.party(PROVIDER).sign(Dealt(run.run, number))))
    refused_by(run, one, PROVIDER, Dealt(run.run, 1), LimitExceeded)
    run.work(made.task(*network()))
    assert isinstance(run.finish()[RESEARCHER], MalformedMessage)  # they were no seeds: the first of them ends it


def test_long_attachments_are_let_in_when_they_belong_to_the_run() -> None:
    made = world()
    run = going(made)
    one, two = made.parties
    machine: Any = run.machines[one]
    with pytest.raises(ComputationRefused, match="expected"):
        machine.expects(two, Openings(run.run, 0), 10)
    assert not machine.accepted
    assert machine.size == 0
    until(run, Openings)
    assert machine.accepted
    assert machine.size > 0
    machine.expects(two, Openings(run.run, 0), 10)
    machine.expects(PROVIDER, Dealt(run.run, 0), 10)
    with pytest.raises(WrongRole):
        machine.expects("aggregator-9", Openings(run.run, 0), 10)
    with pytest.raises(MalformedMessage, match="more than the program has"):
        machine.expects(two, Openings(run.run, 0), 1 << 20)
    run.feed(PROVIDER, Continue())
