"""A federation of processes with one aggregator that adds ciphertexts: the same model, mean and sum as with shares."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch
from sample_federation import linear_plan, owners

import smpc_fl as sf
from smpc_fl.encryption import RESIDUES
from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.decryption import check_road
from smpc_fl.nodes.home.config import AggregatorConfig, load, load_any

DATA = owners(3)


def test_the_model_is_that_of_shares_and_no_key_leaves_the_owners(tmp_path: Path) -> None:
    plan = linear_plan()
    shared = sf.simulate(plan, DATA, inputs="x", targets="y", rounds=2, clip=10.0, seed=1, executor="threads").wait()
    with sf.LocalFederation(DATA, protection="ckks", ledger="own", home=tmp_path / "home") as fed:
        run = fed.train(plan, inputs="x", targets="y", rounds=2, seed=1).wait()
        assert [round_.included for round_ in run.rounds] == [sorted(DATA)] * 2
        np.testing.assert_array_equal(run.vector, shared.vector)  # the issue asks for 1e-3
        packed = RESIDUES.packed_size(8192)
        for round_ in run.rounds:  # one ciphertext, and little else; the one who decrypts says a little more
            assert all(packed < sent < packed + 4096 for sent in round_.traffic.uploaded.values())
        pointers = [fed[owner].tensor("x").mean(0) for owner in fed.owners]
        pooled = torch.cat([tensors["x"] for tensors in DATA.values()]).mean(0)
        np.testing.assert_allclose(sf.secure_mean(pointers, bound=8.0), pooled, rtol=0, atol=2e-3)
        total = torch.stack([tensors["x"].mean(0) for tensors in DATA.values()]).sum(0)
        np.testing.assert_allclose(sf.secure_sum(pointers, bound=8.0), total, rtol=0, atol=2e-3)
    keys = {path.parent.name: path.read_bytes() for path in (tmp_path / "home").rglob("ckks.key")}
    assert keys.keys() == DATA.keys()
    assert len(set(keys.values())) == 1


def test_protection_and_aggregators_go_together() -> None:
    for arguments, words in [
        ({"aggregators": 1}, 'protection="ckks"'),
        ({"aggregators": 2, "protection": "ckks"}, "for a single one"),
        ({"protection": "fog"}, 'there are "shares" and "ckks"'),
    ]:
        with pytest.raises(sf.BadInput, match=words):
            sf.LocalFederation(DATA, **arguments)  # type: ignore[arg-type]
    for protection, aggregators, fit in (
        ("shares", 2, True),
        ("shares", 1, False),
        ("ckks", 1, True),
        ("ckks", 2, False),
    ):
        with contextlib.nullcontext() if fit else pytest.raises(sf.BadInput, match=f"{aggregators} aggregators"):
            check_road(protection, aggregators)  # type: ignore[arg-type]


COMMON = f"""
id = "n"
home = "home"
key = "n.key"
roster = "roster"
federation_key = "{"0" * 64}"
"""
CONFIGS = {
    "one for shares": ("owner", '[policy]\naggregators = ["a"]', "of length >= 2, or 1 with protection"),
    "two for ckks": (
        "owner", 'ckks_key = "k"\n[policy]\naggregators = ["a", "b"]\nprotection = "ckks"', "of exactly 1, and it names 2",
    ),
    "no key": ("owner", '[policy]\naggregators = ["a"]\nprotection = "ckks"', "ckks_key: missing"),
    "no id": ("coordinator", 'listen = "127.0.0.1:1"\n[policy]\nprotection = "ckks"', "policy.ckks_key_id: goes with"),
    "id for shares": ("coordinator", f'listen = "127.0.0.1:1"\n[policy]\nckks_key_id = "{"0" * 64}"', "goes with protection"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_that_go_two_roads_are_refused(name: str, tmp_path: Path) -> None:
    role, text, reason = CONFIGS[name]
    path = tmp_path / "node.toml"
    path.write_text(f'role = "{role}"{COMMON}{text}\n')
    with pytest.raises(ConfigInvalid, match=reason):
        load_any(path)
    path.write_text(f'role = "aggregator"{COMMON}listen = "127.0.0.1:1"\n[policy]\nprotection = "ckks"\n')
    assert load(path, AggregatorConfig).policy.protection == "ckks"
