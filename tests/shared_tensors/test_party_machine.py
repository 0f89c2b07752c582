"""The machine of one party: in whatever order messages come, and whatever is wrong with them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rooms_of_parties import Played, room_of

from smpc_fl.errors import BadInput, Equivocation, MalformedMessage, PeerMisbehaviour, SmpcError
from smpc_fl.shared_tensors import order
from smpc_fl.shared_tensors.draft import Draft, Value
from smpc_fl.shared_tensors.in_process import Room
from smpc_fl.shared_tensors.party import Broadcast, Correction, Openings, PartyRun, State
from smpc_fl.shared_tensors.program import Program, Step, Type

X, Y = torch.tensor([3, -4, 0]), torch.tensor([-5, 6, 7])


def write(x: Value, y: Value) -> Value:
    """A comparison beside a mask of a later step, which waits for no correction, a product, and one more comparison."""
    return order.relu(order.maximum(x, y) * y - x)


WANTED = (torch.maximum(X, Y) * Y - X).clamp(min=0)


def room(parties: int = 2, seed: int = 1) -> Room:
    return room_of(write, {"x": X, "y": Y}, parties, seed)


@pytest.mark.parametrize("parties", [2, 3, 4])
@pytest.mark.parametrize("order_of_messages", range(6))
def test_the_order_of_messages_does_not_matter(parties: int, order_of_messages: int) -> None:
    played = Played(room(parties), order_of_messages)
    assert torch.equal(played.play()[0], WANTED)
    assert all(machine.state is State.DONE for machine in played.room.machines)


def test_parties_open_the_same_bytes_in_any_order() -> None:
    said = []
    for order_of_messages in range(3):
        played = Played(room(3), order_of_messages)
        played.play()
        said.append(played.said)
    assert said[0] == said[1] == said[2]


def test_a_program_without_a_word() -> None:
    played = Played(room_of(lambda x: x * 2 + 1, {"x": X}))
    assert torch.equal(played.play()[0], X * 2 + 1)
    assert [len(each) for each in played.said] == [1, 1]


def test_a_value_that_is_an_input_and_an_output() -> None:
    assert torch.equal(Played(room_of(lambda x: x, {"x": X})).play()[0], X)


class Cheating(Played):
    """Party 0 shows party 2 another share than party 1, in one round."""

    def changed(self, party: int, peer: int, command: Broadcast) -> bytes:
        data = bytearray(command.data)
        if (party, peer, command.round) == (0, 2, 1):
            data[0] ^= 1
        return bytes(data)


@pytest.mark.parametrize("order_of_messages", range(4))
def test_one_who_shows_different_shares_is_found_out(order_of_messages: int) -> None:
    """By all three, and nobody gets an output."""
    played = Cheating(room(3), order_of_messages)
    refused: list[SmpcError] = []
    while any(played.links.values()):
        try:
            played.play()
        except SmpcError as error:
            refused.append(error)
        except KeyError:  # `play` finds no outputs
            break
    assert [type(error) for error in refused] == [Equivocation] * 3
    assert "different shares" in str(refused[0])
    assert not played.finished
    assert all(machine.state is State.FAILED for machine in played.room.machines)


def started(parties: int = 2) -> tuple[Room, PartyRun, list[tuple[int, Correction]]]:
    """The machine of party 0, which has its corrections and has opened."""
    made = room(parties)
    machine = made.machines[0]
    corrections = list(made.corrections())
    machine.start()
    for party, correction in corrections:
        if party == 0:
            machine.receive(correction)
    assert machine.state is State.OPENING
    return made, machine, corrections


def first_size(parties: int) -> int:
    """Bytes of a message of the first round."""
    played = Played(room(parties))
    played.play()
    return len(played.said[0][0])


WRONG: list[tuple[str, Callable[[int, list[tuple[int, Correction]]], Correction | Openings]]] = [
    ("does not take", lambda size, corrections: next(each for party, each in corrections if party == 0)),
    ("does not take", lambda size, corrections: next(each for party, each in corrections if party == 1)),
    ("does not take", lambda size, corrections: Correction(10_000, b"")),
    ("does not take", lambda size, corrections: Correction(-1, b"")),
    ("nobody who takes part", lambda size, corrections: Openings(0, 0, bytes(size))),
    ("nobody who takes part", lambda size, corrections: Openings(2, 0, bytes(size))),
    ("nobody who takes part", lambda size, corrections: Openings(-1, 0, bytes(size))),
    ("not now", lambda size, corrections: Openings(1, 2, bytes(size))),
    ("not now", lambda size, corrections: Openings(1, -1, bytes(size))),
    ("instead of", lambda size, corrections: Openings(1, 0, bytes(size - 1))),
    ("instead of", lambda size, corrections: Openings(1, 0, bytes(size + 8))),
]


@pytest.mark.parametrize(("sentence", "wrong"), WRONG)
def test_what_may_not_be_said(
    sentence: str, wrong: Callable[[int, list[tuple[int, Correction]]], Correction | Openings]
) -> None:
    _, machine, corrections = started()
    size = first_size(2)
    with pytest.raises(PeerMisbehaviour, match=sentence):
        machine.receive(wrong(size, corrections))
    assert machine.state is State.FAILED
    with pytest.raises(PeerMisbehaviour, match="over"):
        machine.receive(Openings(1, 0, bytes(size)))


def test_a_peer_may_be_one_round_ahead_and_no_message_comes_twice() -> None:
    size = first_size(3)
    _, machine, _ = started(3)
    assert machine.receive(Openings(1, 1, b"next")) == []
    assert machine.receive(Openings(1, 0, bytes(size))) == []
    with pytest.raises(PeerMisbehaviour, match="not now") as caught:
        machine.receive(Openings(1, 0, bytes(size)))
    assert caught.value.peer == "party-1"


def test_a_correction_is_taken_once_also_after_its_step() -> None:
    made = room()
    machine = made.machines[0]
    mine = [correction for party, correction in made.corrections() if party == 0]
    machine.receive(mine[0])
    machine.start()
    with pytest.raises(PeerMisbehaviour, match="does not take"):
        machine.receive(mine[0])


@pytest.mark.parametrize("change", [lambda data: data + b"\0", lambda data: data[:-1]])
def test_a_correction_of_another_size(change: Callable[[bytes], bytes]) -> None:
    made = room_of(lambda x: order.negative(x), {"x": X})
    party, correction = next(made.corrections())
    made.machines[party].start()
    with pytest.raises(MalformedMessage, match="correction"):
        made.machines[party].receive(Correction(correction.step, change(bytes(correction.data))))


def test_nothing_follows_the_end() -> None:
    played = Played(room())
    played.play()
    with pytest.raises(PeerMisbehaviour, match="over"):
        played.room.machines[0].receive(Openings(1, played.room.machines[0].round, b""))


def test_values_go_when_nothing_needs_them() -> None:
    played = Played(room())
    played.play()
    machine = played.room.machines[0]
    assert set(machine._values) == set(machine.program.outputs)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda room: PartyRun(room.program, 0, ("one",), room.run, room.seeds[0], room.given[0]),
        lambda room: PartyRun(room.program, 2, room.names, room.run, room.seeds[0], room.given[0]),
        lambda room: PartyRun(room.program, 0, room.names, room.run, room.seeds[0], {}),
        lambda room: PartyRun(
            room.program, 0, room.names, room.run, room.seeds[0], {n: w[:1] for n, w in room.given[0].items()}
        ),
    ],
)
def test_a_run_that_cannot_begin(wrong: Callable[[Room], PartyRun]) -> None:
    with pytest.raises(BadInput):
        wrong(room())


def test_a_mask_is_no_output() -> None:
    draft = Draft()
    x = draft.input("x", (1,))
    steps = [*draft.program(x).steps]
    draft.step("mask", x)
    program = Program((*steps, draft.steps[-1]), (1,))
    with pytest.raises(BadInput, match="output"):
        PartyRun(program, 0, ("a", "b"), bytes(32), bytes(32), {0: torch.zeros(1, dtype=torch.int64)})


def test_programs_have_names_of_their_own() -> None:
    draft = Draft()
    x, y = draft.input("x", (2, 3)), draft.input("y", (2, 3))
    digests = {draft.program(output).digest for output in (x, x + y, x * 2, x * 3, order.relu(x))}
    assert len(digests) == 5
    assert draft.program(x + y).digest == draft.program(x + y).digest
    assert Type((2, 3)).size == 6


def test_a_step_that_nobody_needs_is_forgotten() -> None:
    draft = Draft()
    x = draft.input("x", (3,))
    program = Program((*draft.steps, Step("neg", (x.number,), {}, x.type)), (0,))
    machine = PartyRun(program, 0, ("a", "b"), bytes(32), bytes(32), {0: X})
    machine.start()
    assert set(machine._values) == {0}
