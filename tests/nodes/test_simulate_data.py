"""Where simulated owners' rows come from: every row of a table goes to one owner, by a rule that can be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from smpc_fl.errors import BadInput
from smpc_fl.nodes.simulation.data import Split, deal, holdings, name_of, read_owners

TABLE = {"x": np.arange(46, dtype=np.float32).reshape(23, 2), "y": np.arange(23)}


@pytest.mark.parametrize("split", ["deal", "blocks"])
@pytest.mark.parametrize("owners", [1, 2, 5, 23])
def test_every_row_goes_to_one_owner_and_stays_whole(split: Split, owners: int) -> None:
    dealt = deal(TABLE, owners, split=split)
    assert list(dealt) == [name_of(number) for number in range(owners)]
    sizes = [len(tensors["y"]) for tensors in dealt.values()]
    assert max(sizes) - min(sizes) <= 1
    assert sorted(np.concatenate([tensors["y"] for tensors in dealt.values()])) == list(range(23))
    for tensors in dealt.values():
        np.testing.assert_array_equal(tensors["x"][:, 0], 2 * tensors["y"])


def test_cards_are_shuffled_by_the_seed_and_blocks_are_not() -> None:
    blocks = deal(TABLE, 4, split="blocks")
    assert [int(tensors["y"][0]) for tensors in blocks.values()] == [0, 6, 12, 18]
    one, same, other = (deal(TABLE, 4, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(one[name]["y"], same[name]["y"]) for name in one)
    assert any(not np.array_equal(one[name]["y"], other[name]["y"]) for name in one)
    assert all(not np.array_equal(one[name]["y"], blocks[name]["y"]) for name in one)


def test_a_table_that_cannot_be_divided() -> None:
    with pytest.raises(BadInput, match="23 rows for 24 owners"):
        deal(TABLE, 24)
    with pytest.raises(BadInput, match="23 rows for 0 owners"):
        deal(TABLE, 0)
    with pytest.raises(BadInput, match="differ in length"):
        deal({"x": [[1.0]], "y": [1, 2]}, 1)


def test_an_owner_is_the_same_whatever_the_number_of_others() -> None:
    def make(number: int) -> dict[str, object]:
        return {"x": [[float(number)]]}

    few, many = read_owners((3, make)), read_owners((300, make))
    assert few.names == many.names[:3]
    assert many.names == tuple(sorted(many.names))
    assert many.part(many.names[5:7]).load(name_of(6)) == {"x": [[6.0]]}


def test_a_worker_gets_the_tensors_of_its_own_batch() -> None:
    read = read_owners({"b": {"x": torch.ones(2, 1)}, "a": {"x": [[3.0]]}, "c": {"x": [[4.0]]}})
    assert read.names == ("a", "b", "c")
    part = read.part(["b"])
    np.testing.assert_array_equal(part.load("b")["x"], np.ones((2, 1)))
    with pytest.raises(KeyError):
        part.load("a")
    assert "1." not in repr(part)
    assert "3." not in repr(read)


def test_an_owner_holds_its_tensors_as_a_node_does() -> None:
    held = holdings({"x": [[1.0, 2.0]], "y": np.array([1])})
    assert held.names == ["x", "y"]
    assert held.tensor("x").shape == (1, 2)
    with pytest.raises(BadInput, match="no tensor 'z'; it has: x, y"):
        held.array("z")
