"""The owners' CKKS key: its file, what is encrypted under it, and rounds with the real cipher."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from encrypted_rig import EncryptedRig, asked

from smpc_fl.encryption import MODULUS, NOISE, RESIDUES, SCALE_BITS, SLOTS, WORDS, Layout
from smpc_fl.errors import BadInput, ConfigInvalid, DecryptionFailed, InternalError
from smpc_fl.nodes import encryption
from smpc_fl.nodes.cli.main import main
from smpc_fl.nodes.encryption import LONGEST_KEY, CkksKey, load_key_file, make_key_file
from smpc_fl.protocols.messages import DecryptedSum
from smpc_fl.ring import ring


@pytest.fixture(scope="module")
def data() -> bytes:
    return CkksKey.make()


@pytest.fixture(scope="module")
def key(data: bytes) -> CkksKey:
    return CkksKey(data)


def test_numbers_come_back_within_the_stated_noise(key: CkksKey) -> None:
    values = np.random.default_rng(1).uniform(-1000, 1000, 8 * SLOTS)
    off = (key.decrypt(key.encrypt(values)) - values) * 2.0**SCALE_BITS
    assert np.std(off) < 2.0 ** (NOISE - 2)
    assert np.max(np.abs(off)) < 4 * 2.0**NOISE


def test_ciphertexts_are_fresh_and_of_one_size(key: CkksKey) -> None:
    first, second, other = (key.encrypt(np.full(SLOTS, value)) for value in (1.0, 1.0, -3.0))
    assert first.size == other.size == WORDS
    assert not np.any(first == second)
    for words in (first, other):
        assert int(words.max()) < MODULUS
        assert 0.45 < float(np.mean(words)) / MODULUS < 0.55  # as if drawn evenly


def test_a_round_with_the_real_cipher_is_exact(key: CkksKey) -> None:
    draws = np.random.default_rng(2)
    vectors = {owner: draws.uniform(-1, 1, SLOTS + 5) for owner in ("alice", "bob", "carol", "dave")}
    for bits in (None, 64):
        rig = EncryptedRig(vectors, cipher=key, ring_bits=bits)
        rig.exact(rig.run())


def test_a_sum_under_another_key_is_not_told(key: CkksKey) -> None:
    rig, who, event, _ = asked(cipher=key)
    machine = rig.owner(who)
    stranger = CkksKey(CkksKey.make())
    total = rig.decryption._released.total
    layout = Layout(32, 4, 4)
    with pytest.raises(DecryptionFailed):
        layout.decrypt(total, stranger)
    mixed = layout.encrypt(ring(32).zeros(4), stranger)
    RESIDUES.add_into(mixed, total)
    with pytest.raises(DecryptionFailed):
        layout.decrypt(mixed, key)
    rig.deliver(who, event)
    assert rig.sent_by(who, DecryptedSum)
    assert machine.cipher is key


@pytest.mark.parametrize("crafted", ["half of one", "the secret key"])
def test_crafted_ciphertexts_tell_nothing_of_the_key(key: CkksKey, crafted: str) -> None:
    """(0, c) decrypts to c·s: the secret key itself, were it not refused for being off the grid."""
    words = key.encrypt(np.zeros(SLOTS))
    if crafted == "half of one":
        words[WORDS // 2 :] = 0
    else:
        words[: WORDS // 2] = 0
        words[WORDS // 2 :] = 1 << 20
    with pytest.raises(DecryptionFailed):
        Layout(32, SLOTS, 4).decrypt(words, key)


# --- the file ---


def test_a_key_is_made_once_and_only_its_user_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "owners.ckks"
    done = CliRunner().invoke(main, ["ckks-keygen", str(path)])
    assert done.exit_code == 0, done.output
    assert path.stat().st_mode & 0o777 == 0o600
    found = load_key_file(path)
    assert found.id.hex() in done.output
    assert found.id.hex()[:16] in repr(found)
    with pytest.raises(ConfigInvalid, match="not overwritten"):
        make_key_file(path)
    path.chmod(0o640)
    with pytest.raises(ConfigInvalid, match="chmod 600"):
        load_key_file(path)
    with pytest.raises(ConfigInvalid, match="ckks-keygen"):
        load_key_file(tmp_path / "other")
    with pytest.raises(ConfigInvalid, match="not a file"):
        load_key_file(tmp_path)


def test_what_is_no_key_is_refused_by_a_sentence(tmp_path: Path, data: bytes) -> None:
    import tenseal

    large = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[54, 54])
    large.global_scale = 2.0**SCALE_BITS
    other = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 4096, coeff_mod_bit_sizes=[50, 54])
    other.global_scale = 2.0**SCALE_BITS
    public = tenseal.context_from(data)
    public.make_context_public()
    wrong = {
        "empty": b"", "cut": data[:-1000], "noise": b"\xff" * 1000, "long": data + bytes(LONGEST_KEY),
        "large": large.serialize(save_secret_key=True), "other": other.serialize(save_secret_key=True),
        "public": public.serialize(),
    }  # fmt: skip
    for name, content in wrong.items():
        path = tmp_path / name
        path.touch(0o600)
        path.write_bytes(content)
        with pytest.raises(ConfigInvalid) as caught:
            load_key_file(path)
        assert str(path) in str(caught.value)


def test_without_tenseal_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encryption, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'smpc-fl\[ckks\]'"):
        make_key_file(tmp_path / "key")
    assert os.listdir(tmp_path) == []


def test_another_layout_is_noticed(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = encryption._fields

    def grown(serialized: bytes) -> tuple[bytes, bytes, bytes]:
        sizes, ciphertext, scale = fields(serialized)
        return sizes, ciphertext[:5] + b"\0" + ciphertext[6:], scale

    for spoil in (grown, lambda serialized: fields(serialized[1:]), lambda serialized: fields(serialized + b"\0")):
        monkeypatch.setattr(encryption, "_fields", spoil)
        with pytest.raises(InternalError, match=r"0\.3\.18"):
            CkksKey(data)
