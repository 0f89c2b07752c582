"""Keys are replaced while a federation runs: an owner's, an aggregator's, a researcher's. Real processes; the roster reaches one
of them and goes round from there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import until
from processes_on_disk import AGGREGATORS, OnDisk
from sample_federation import linear_plan, owners
from test_cli_enrolment import good

import smpc_fl as sf
from smpc_fl.errors import BadSignature
from smpc_fl.hashing import digest
from smpc_fl.identity import Identity
from smpc_fl.nodes.home.config import to_toml
from smpc_fl.nodes.home.files import private_folder, replace
from smpc_fl.nodes.home.keys import load_key, next_path
from smpc_fl.nodes.home.letters import read_letter
from smpc_fl.roster import Roster, Rotation, encode_roster, sign_roster

pytestmark = pytest.mark.slow  # whole federations for minutes: ./scripts/test -m slow

OWNERS = ("alice", "bob", "carol")
ROTATE = ("alice", AGGREGATORS[0], "assistant")


class Rotating(OnDisk):
    """Every node has a roster file of its own. `rotations` go into the next version."""

    rotations: tuple[Rotation, ...] = ()

    def common(self, id_: str) -> dict[str, Any]:
        return super().common(id_) | {"roster": self.folder / id_ / "roster"}

    def roster(self) -> Roster:
        plain = super().roster()
        new = {rotation.id: rotation.new for rotation in self.rotations}
        members = [msgspec.structs.replace(m, key=new.get(m.id, m.key)) for m in plain.members]
        return Roster.of(plain.name, plain.version, members, plain.revoked, self.rotations)

    def publish(self, *revoke: str, to: str = "") -> None:
        self.version += 1
        signed = sign_roster(self.roster(), self.federation)
        for id_ in [to] if to else self.roles:
            replace(private_folder(self.folder / id_) / "roster", signed, mode=0o600)

    def rotate(self, id_: str) -> Rotation:
        """As its operator does it; the statement."""
        statement = self.folder / id_ / "statement"
        good("rotate", "--config", self.folder / id_ / "node.toml", "--output", statement)
        return read_letter(statement, Rotation, "")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotating]:
    roles: dict[str, Any] = {
        **dict.fromkeys(OWNERS, "owner"), **dict.fromkeys(AGGREGATORS, "aggregator"), "coordinator": "coordinator",
        "researcher": "researcher", "assistant": "researcher",
    }  # fmt: skip
    made = Rotating(tmp_path_factory.mktemp("rotation"), roles)
    data = dict(zip(OWNERS, owners(3, rows=20).values(), strict=True))
    try:
        made.start([id_ for id_, role in roles.items() if role != "researcher"], data)
        path = made.folder / "assistant" / "node.toml"
        path.write_text(to_toml(made.researcher("assistant")))
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def fed(world: Rotating) -> Iterator[sf.Federation]:
    with sf.connect(world.researcher(), timeout=60.0) as federation:
        yield federation.wait_for_owners()


def train(fed: sf.Federation, rounds: int) -> sf.Run:
    return fed.train(linear_plan(), inputs="x", targets="y", rounds=rounds)


def keys_in_use(world: Rotating, key: Identity) -> bool:
    """Whether a session with this key as the assistant's only one is let in."""
    path = world.folder / "elsewhere" / "key"
    private_folder(path.parent)
    path.write_bytes(b"smpc-fl private key, keep it to yourself: " + key.seed.reveal().hex().encode() + b"\n")
    path.chmod(0o600)
    home = world.folder / "elsewhere" / f"state-{world.version}"
    try:
        with sf.connect(world.researcher("assistant", key=path, home=private_folder(home))):
            return True
    except BadSignature:
        return False


def test_keys_are_replaced_between_the_rounds_of_a_run(fed: sf.Federation, world: Rotating) -> None:
    statements = [world.rotate(id_) for id_ in ROTATE]
    until_ = int(time.time()) + 3600
    run = train(fed, 1000)
    after = 0
    for round_ in run:
        assert round_.included == list(OWNERS), round_.missing
        if round_.number == 2:
            world.rotations = tuple(msgspec.structs.replace(each, until=until_) for each in statements)
            world.publish(to="bob")
        after += "key replaced" in world.log("coordinator")
        if after == 3:
            run.cancel()
            break
    assert after == 3
    until(lambda: fed.status().roster_version == 2, "the new roster has come round")
    for id_ in ("bob", "carol"):
        told = [line for line in world.log(id_).splitlines() if "key replaced" in line]
        assert any('"peer": "alice"' in line for line in told)  # but need not approve anything


def test_while_they_overlap_both_keys_are_let_in(fed: sf.Federation, world: Rotating) -> None:
    old, new = (load_key(path) for path in places(world, "assistant"))
    assert keys_in_use(world, old)
    assert keys_in_use(world, new)


def places(world: Rotating, id_: str) -> tuple[Path, Path]:
    key = world.folder / id_ / "key"
    return key, next_path(key)


def test_a_restarted_node_goes_on(fed: sf.Federation, world: Rotating) -> None:
    assert world._children is not None
    world._children.kill(AGGREGATORS[0])
    until(lambda: world.log(AGGREGATORS[0]).count('"ready"') == 2, "it is back")
    fed.wait_for_owners()
    (round_,) = train(fed, 1).wait().rounds
    assert round_.included == list(OWNERS)


def test_afterwards_the_old_key_is_refused_everywhere(fed: sf.Federation, world: Rotating) -> None:
    past = int(time.time()) - 1
    world.rotations = tuple(msgspec.structs.replace(each, until=past) for each in world.rotations)
    world.publish(to="coordinator")
    until(lambda: fed.status().roster_version == 3, "the end of the overlap has come round")
    old, new = (load_key(path) for path in places(world, "assistant"))
    assert not keys_in_use(world, old)
    assert keys_in_use(world, new)
    (round_,) = train(fed, 1).wait().rounds
    assert round_.included == list(OWNERS)


def test_a_forged_rotation_changes_nothing(fed: sf.Federation, world: Rotating) -> None:
    """Not even under the federation's signature: Bob has not signed it."""
    thief = Identity.generate(os.urandom)
    made = Rotation.make("bob", thief, thief, world.federation.public)
    world.rotations = (*world.rotations, msgspec.structs.replace(made, old=world.keys["bob"].public.key))
    world.version += 1
    body = encode_roster(world.roster())
    covered = digest("smpc-fl/1 signed roster", world.federation.public.key, body)
    signed = msgspec.msgpack.encode({"roster": body, "signature": world.federation.sign(covered)})
    replace(world.folder / "coordinator" / "roster", signed, mode=0o600)
    until(lambda: "the new key of bob is not signed by the one before it" in world.log("coordinator"), "it is refused")
    assert fed.status().roster_version == 3
    (round_,) = train(fed, 1).wait().rounds
    assert round_.included == list(OWNERS)
