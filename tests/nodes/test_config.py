from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smpc_fl.errors import ConfigInvalid
from smpc_fl.nodes.home.config import (
    CONFIGS,
    AggregatorConfig,
    ComputingPolicy,
    CoordinatorConfig,
    CoordinatorPolicy,
    DatasetConfig,
    NodeConfig,
    OwnerConfig,
    OwnerPolicy,
    ProviderConfig,
    ProviderPolicy,
    ResearcherConfig,
    Tls,
    from_dict,
    load,
    load_any,
    to_toml,
)
from smpc_fl.nodes.home.toml_text import description_of, struct_to_toml, toml_value
from smpc_fl.nodes.net.addresses import PLAINTEXT_WORDS

KEY = "ab" * 32
BASE: dict[str, Any] = {"id": "alice", "home": "state", "key": "a.key", "roster": "r.signed", "federation_key": KEY}
OWNER = {**BASE, "role": "owner", "policy": {"aggregators": ["a", "b"]}}
LISTENER = {**BASE, "role": "aggregator", "listen": "127.0.0.1:8443"}
FILE = Path("/somewhere/node.toml")


def examples(folder: Path) -> list[NodeConfig]:
    base: dict[str, Any] = {
        "id": "n",
        "home": folder / "home",
        "key": folder / "n.key",
        "roster": folder / "r.signed",
        "federation_key": KEY,
    }
    tls = Tls(certificate=folder / "c.pem", key=folder / "c.key", ca=folder / "ca.pem")
    return [
        OwnerConfig(**base, policy=OwnerPolicy(aggregators=("a", "b"))),
        OwnerConfig(
            **base,
            tls=Tls(ca=folder / "ca.pem"),
            log="debug",
            policy=OwnerPolicy(aggregators=("a", "b"), k_min=5, approve="auto", max_rounds=7, weightings="each-kind"),
            ledger="own",
            lease_seconds=1.5,
            datasets=(
                DatasetConfig(name="d", private=folder / "d.csv", inputs=("a", 'quo"ted'), target="y", tags=("#t",)),
                DatasetConfig(name="e", private=folder / "e.npz", mock=str(folder / "m.npz"), publish_rows=True),
            ),
        ),
        AggregatorConfig(**base, listen="[::]:8443", tls=tls),
        AggregatorConfig(**base, listen="0.0.0.0:1", plaintext=PLAINTEXT_WORDS),
        CoordinatorConfig(**base, listen="localhost:0"),
        CoordinatorConfig(
            **base,
            listen="localhost:0",
            policy=CoordinatorPolicy(k_min=4, round_deadline=2.5, attempts=9, ring_bits=64),
        ),
        CoordinatorConfig(**base, listen="localhost:0", policy=CoordinatorPolicy(ring_bits="fit")),
        ResearcherConfig(**base, k_min=6, nodes=(folder / "x.toml",)),
        AggregatorConfig(**base, listen="[::1]:1", computing=ComputingPolicy(providers=("p",), tensors=7, program=8)),
        ProviderConfig(**base, listen="[::1]:1", policy=ProviderPolicy(program=9)),
    ]


@pytest.mark.parametrize("number", range(10))
@pytest.mark.parametrize("comments", [False, True])
def test_what_is_written_is_read_back(tmp_path: Path, number: int, comments: bool) -> None:
    config = examples(tmp_path)[number]
    file = tmp_path / "node.toml"
    file.write_text(to_toml(config, comments=comments))
    assert load_any(file) == config


def test_defaults_are_not_written_unless_commented(tmp_path: Path) -> None:
    text = to_toml(examples(tmp_path)[0])
    assert set(tomllib.loads(text)) == {"role", "id", "home", "key", "roster", "federation_key", "policy"}
    assert "#" not in text


@pytest.mark.parametrize("kind", CONFIGS.values())
def test_every_field_has_a_description_that_comments_show(kind: type[NodeConfig], tmp_path: Path) -> None:
    config = next(item for item in examples(tmp_path) if type(item) is kind)
    text = to_toml(config, comments=True)
    for field in msgspec.structs.fields(kind):
        description = description_of(kind, field.name)
        assert description, field.name
        if field.name != "datasets":
            assert description.split()[0] in text
            assert field.name in text


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    raw = {**OWNER, "key": "../keys/a.key", "roster": "/abs/r.signed", "datasets": [{"name": "d", "private": "d.csv"}]}
    config = from_dict(raw, tmp_path / "sub" / "node.toml")
    assert isinstance(config, OwnerConfig)
    assert config.home == tmp_path / "sub" / "state"
    assert config.key == tmp_path / "keys" / "a.key"
    assert config.roster == Path("/abs/r.signed")
    assert config.datasets[0].private == tmp_path / "sub" / "d.csv"
    assert config.datasets[0].mock == "auto"
    mocked = from_dict({**raw, "datasets": [{"name": "d", "private": "d.csv", "mock": "m.csv"}]}, tmp_path / "n.toml")
    assert isinstance(mocked, OwnerConfig)
    assert mocked.datasets[0].mock == str(tmp_path / "m.csv")


def test_the_pinned_federation_key() -> None:
    assert from_dict(OWNER, FILE).federation.key == bytes.fromhex(KEY)


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ({**OWNER, "role": "king"}, "`role` must be one of owner, aggregator, coordinator, researcher"),
        ({**OWNER, "role": 3}, "`role` must be one of"),
        (BASE, "`role` must be one of"),
        ({key: OWNER[key] for key in OWNER if key != "home"}, "missing required field `home`.*smpc-fl init owner"),
        ({**OWNER, "polcy": {}}, "unknown field `polcy`"),
        ({**OWNER, "home": 3}, "home: expected a path in quotes"),
        ({**OWNER, "key": ""}, "key: expected a path in quotes"),
        ({**OWNER, "id": "../x"}, "id: is not written as it should be. This node's id"),
        ({**OWNER, "id": "alice\n"}, "id: is not written"),
        ({**OWNER, "federation_key": "zz"}, "federation_key: is not written as it should be. .*64 hex digits"),
        ({**OWNER, "policy": {"aggregators": ["a"]}}, r"policy.aggregators: expected `array` of length >= 2"),
        ({**OWNER, "policy": {"aggregators": ["a", "a"]}}, "policy.aggregators: names an aggregator twice"),
        (
            {**OWNER, "policy": {"aggregators": ["a", "b"], "k_min": 1}},
            "policy.k_min: expected `int` >= 2. Fewest owners",
        ),
        ({**OWNER, "policy": {"aggregators": ["a", "b"], "approve": "yes"}}, "policy.approve"),
        ({**OWNER, "plaintext": "true"}, f'plaintext: must be left out, or read exactly "{PLAINTEXT_WORDS}"'),
        ({**OWNER, "datasets": [{"name": "a b", "private": "x"}]}, r"datasets\[0\].name"),
        ({**OWNER, "tls": {"certificate": "c.pem"}}, "`certificate` and `key` go together"),
        ({**OWNER, "tls": {"key": "c.key"}}, "`certificate` and `key` go together"),
        ({**OWNER, "listen": "127.0.0.1:1"}, "unknown field `listen`"),
        ({**LISTENER, "listen": "8443"}, 'listen: "8443" is not an address'),
        ({**LISTENER, "listen": "0.0.0.0:8443"}, r"listen: 0.0.0.0:8443 is open to other machines.*\[tls\]"),
        ({**LISTENER, "role": "coordinator", "policy": {"ring_bits": 7}}, "policy.ring_bits"),
        ({**LISTENER, "role": "coordinator", "policy": {"ring_bits": "fits"}}, "policy.ring_bits"),
        ({**LISTENER, "role": "coordinator", "policy": {"round_deadline": 0}}, "policy.round_deadline"),
    ],
)
def test_mistakes_are_named_with_file_key_and_remedy(raw: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigInvalid, match=complaint) as caught:
        from_dict(raw, FILE)
    assert str(caught.value).startswith(f"{FILE}: ")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"cannot be read: No such file.*smpc-fl init"):
        load(tmp_path / "none.toml", OwnerConfig)
    file = tmp_path / "bad.toml"
    file.write_text("role = ")
    with pytest.raises(ConfigInvalid, match="is not TOML"):
        load_any(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigInvalid, match="is not TOML"):
        load_any(file)


def test_the_wrong_roles_config(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(to_toml(examples(tmp_path)[0]))
    assert load(file, OwnerConfig) == examples(tmp_path)[0]
    with pytest.raises(ConfigInvalid, match='`role` is "owner"; this command takes the config of "coordinator"'):
        load(file, CoordinatorConfig)


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_survives_toml(text: str) -> None:
    assert tomllib.loads(f"x = {toml_value(text)}") == {"x": text}


@given(
    st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False), st.lists(st.integers(0, 9)))
)
def test_any_number_survives_toml(value: object) -> None:
    assert tomllib.loads(f"x = {toml_value(value)}") == {"x": value}


def test_other_types_have_no_toml() -> None:
    with pytest.raises(TypeError, match="dict"):
        toml_value({})


class _Plain(msgspec.Struct):
    a: int
    b: list[str] = msgspec.field(default_factory=list)


def test_structures_without_role_and_descriptions() -> None:
    assert struct_to_toml(_Plain(1)) == "a = 1\n"
    assert struct_to_toml(_Plain(1, ["x"]), comments=True) == 'a = 1\n\nb = ["x"]\n'
    assert description_of(_Plain, "a") == ""
    assert description_of(_Plain, "a.b") == ""
    assert description_of(_Plain, "zzz") == ""
