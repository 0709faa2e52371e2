"""Encrypted checkpoints: the format beside an obvious version of it, and every kind of damage."""

import hashlib
import hmac
import io
import json
import random
import struct
import tracemalloc

import pytest
import torch
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from kineme.engine import checkpoint as checkpoints
from kineme.engine import encryption
from kineme.engine.encryption import MAGIC, Cost, LockedError, open_encrypted, write_encrypted
from kineme.errors import CheckpointError
from tiny import same

KEY = "correct horse battery"
CHEAP = Cost(log2_n=2, r=1, p=1)
CHUNK = 1024  # bytes, with chunk_bits=10
FULL = CHUNK + 16  # with its tag

# made_by_hand(b"seven weights", "nvidia_tao", bytes(range(16)), bytes(range(32, 64)),
#              Cost(4, 8, 1), chunk_bits=20).hex()
GOLDEN = (
    "8a4b494e454d450a0104080114000000000102030405060708090a0b0c0d0e0f202122232425262728292a2b"
    "2c2d2e2f303132333435363738393a3b3c3d3e3f5d8c46b6a10b14ad5df07089e5030f5cc2e97aa86580b48c"
    "e09845501d4453fca4d475f0bac6e452bbaaf663f5b19b218e8e8bfabb77e312449808ae3b"
)


def made_by_hand(data, key, salt, file_salt, cost, *, chunk_bits):
    """The format from the words of encryption.py, with Python's own scrypt and HMAC."""
    stretched = hashlib.scrypt(
        key.encode(), salt=salt, n=2**cost.log2_n, r=cost.r, p=cost.p, maxmem=2**30, dklen=32
    )
    extracted = hmac.digest(file_salt, stretched, "sha256")
    info, keys, block = b"kineme encrypted checkpoint, version 1", b"", b""
    for i in (1, 2):
        block = hmac.digest(extracted, block + info + bytes([i]), "sha256")
        keys += block
    costs = bytes([cost.log2_n, cost.r, cost.p])
    header = b"\x8aKINEME\n" + b"\1" + costs + bytes([chunk_bits, 0, 0, 0])
    header += salt + file_salt + keys[32:]
    size, found = 2**chunk_bits, header
    pieces = [data[i : i + size] for i in range(0, len(data), size)] or [b""]
    for i, piece in enumerate(pieces):
        nonce = bytes(7) + struct.pack(">I", i) + bytes([i == len(pieces) - 1])
        found += AESGCM(keys[:32]).encrypt(nonce, piece, header)
    return found


def written(data, key=KEY, *, cost=CHEAP, chunk_bits=10):
    file = io.BytesIO()
    write_encrypted(file, data, key, cost=cost, chunk_bits=chunk_bits)
    return file.getvalue()


def opened(path, sealed, key=KEY):
    path.write_bytes(sealed)
    with open_encrypted(path, key) as file:
        return file.read()


def refusal(path, sealed, key=KEY):
    with pytest.raises(CheckpointError) as caught:
        opened(path, sealed, key)
    text = str(caught.value)
    assert text.startswith(f"{path}: expected ")
    assert KEY not in text
    assert "\n" not in text
    return text


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.pth"


@pytest.fixture
def cheap(monkeypatch):
    monkeypatch.setattr(encryption, "COST", CHEAP)


def some(num_bytes):
    return random.Random(num_bytes).randbytes(num_bytes)


# The format


def test_a_file_kept_from_before_opens_and_is_written_the_same(path, monkeypatch):
    parts = (b"seven weights", "nvidia_tao", bytes(range(16)), bytes(range(32, 64)))
    golden = bytes.fromhex(GOLDEN)
    assert made_by_hand(*parts, Cost(4, 8, 1), chunk_bits=20) == golden
    assert opened(path, golden, " nvidia_tao\n") == b"seven weights"
    draws = iter(parts[2:])
    encryption._salt_of_process.cache_clear()
    monkeypatch.setattr(encryption.os, "urandom", lambda count: next(draws))
    assert written(parts[0], parts[1], cost=Cost(4, 8, 1), chunk_bits=20) == golden
    encryption._salt_of_process.cache_clear()


@pytest.mark.parametrize("num_bytes", [0, 1, 1023, 1024, 1025, 2048, 3000])
def test_every_length_is_written_as_the_obvious_version_does(path, num_bytes):
    data, sealed = some(num_bytes), written(some(num_bytes))
    salts = sealed[16:32], sealed[32:64]
    assert sealed == made_by_hand(data, KEY, *salts, CHEAP, chunk_bits=10)
    assert opened(path, sealed) == data


def test_a_written_file_hides_its_bytes_and_no_two_are_alike():
    data = bytes(5000)
    first, second = written(data), written(data)
    assert bytes(8) not in first[96:]
    assert first[16:32] == second[16:32]  # the key is stretched once for both
    for start in (32, 64, *range(96, len(first), 16)):
        assert first[start : start + 16] != second[start : start + 16]
    assert written(data, "another key of mine")[16:32] != first[16:32]


def test_by_default_a_guess_costs_128_mib():
    assert Cost(17, 8, 1) == encryption.COST
    file = io.BytesIO()
    write_encrypted(file, b"", KEY)
    assert file.getvalue()[:16] == MAGIC + bytes([1, 17, 8, 1, 20, 0, 0, 0])


def test_a_key_is_stretched_once_for_all_files_of_a_process(tmp_path, monkeypatch):
    real, count = encryption.Scrypt, 0

    def counted(**arguments):
        nonlocal count
        count += 1
        return real(**arguments)

    monkeypatch.setattr(encryption, "Scrypt", counted)
    sealed = [written(some(100), "a key of this test") for _ in range(3)]
    for i, one in enumerate(sealed):
        assert opened(tmp_path / f"{i}.pth", one, "a key of this test") == some(100)
    assert count == 1


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 4000),
    st.lists(st.tuples(st.integers(0, 4100), st.integers(0, 2500)), max_size=6),
)
def test_any_place_reads_as_in_the_plain_bytes(tmp_path_factory, num_bytes, reads):
    data, path = some(num_bytes), tmp_path_factory.mktemp("any") / "a.pth"
    path.write_bytes(written(data))
    with open_encrypted(path, KEY) as file:
        plain = io.BytesIO(data)
        for place, count in reads:
            assert file.seek(place) == plain.seek(place)
            assert file.read(count) == plain.read(count)
        assert file.seek(-1, io.SEEK_END) == num_bytes - 1
        assert file.read() == data[-1:]
        with pytest.raises(ValueError, match="before the file"):
            file.seek(-5000, io.SEEK_END)


def test_a_large_file_is_written_and_read_a_chunk_at_a_time(path):
    data, seen = memoryview(bytearray(24 << 20)), 0
    tracemalloc.start()
    try:
        with open(path, "wb") as file:
            write_encrypted(file, data, KEY, cost=CHEAP)
        with open_encrypted(path, KEY) as file:
            while piece := file.read(1 << 16):
                seen += len(piece)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert seen == 24 << 20
    assert peak_bytes < 5 << 20


# Damage


@pytest.mark.parametrize("num_bytes", [100, 3 * CHUNK, 2500])
def test_a_changed_bit_anywhere_is_an_error(path, num_bytes):
    sealed = written(some(num_bytes))
    for place in {*range(96), *range(96, len(sealed), 61), len(sealed) - 17, len(sealed) - 1}:
        changed = bytearray(sealed)
        changed[place] ^= 1
        if place < len(MAGIC):
            path.write_bytes(changed)
            assert not encryption.is_encrypted(path)
        else:
            refusal(path, bytes(changed))


def test_the_place_of_damage_is_told(path):
    sealed = bytearray(written(some(4 * CHUNK)))
    sealed[96 + 2 * FULL + 5] ^= 255
    assert "got a damaged one (bytes 2,048 to 3,071 of it)." in refusal(path, bytes(sealed))
    sealed[-1] ^= 255
    assert "got one that was cut off, or is damaged at its end." in refusal(path, bytes(sealed))
    with pytest.raises(CheckpointError), open_encrypted(path, KEY) as file:
        file.read(1)  # of a chunk that is whole: the end is looked at first


@pytest.mark.parametrize("num_bytes", [0, 100, 3 * CHUNK, 2500])
def test_a_file_that_was_cut_off_anywhere_is_an_error(path, num_bytes):
    sealed = written(some(num_bytes))
    places = {place + by for place in range(96, len(sealed), FULL) for by in (-1, 0, 1, 15, 16, 17)}
    for place in {0, 1, 8, 95, len(sealed) - 1, *places} & set(range(8, len(sealed))):
        assert "cut off" in refusal(path, sealed[:place])
    refusal(path, sealed + b"\0")
    refusal(path, sealed + sealed[96:])


def test_a_cut_between_chunks_is_told_from_damage(path):
    sealed = written(some(3 * CHUNK))
    assert "got one that was cut off after 2,048 bytes." in refusal(path, sealed[: 96 + 2 * FULL])
    assert "got one that was cut off after 0 bytes." in refusal(path, sealed[:96])
    assert "cut off in its header, after 50 bytes." in refusal(path, sealed[:50])


def test_chunks_that_were_moved_repeated_left_out_or_taken_from_elsewhere_are_errors(path):
    first, second = written(some(4 * CHUNK)), written(some(4 * CHUNK))
    header, *chunks = first[:96], *(first[i : i + FULL] for i in range(96, len(first), FULL))
    others = [second[i : i + FULL] for i in range(96, len(second), FULL)]
    a, b, c, d = chunks
    for order in ([b, a, c, d], [a, a, c, d], [a, c, d], [a, b, c, d, d], [d, a, b, c],
                  [a, others[1], c, d], others):  # fmt: skip
        refusal(path, header + b"".join(order))
    refusal(path, second[:64] + header[64:] + b"".join(chunks))
    assert opened(path, header + a + b + c + d) == some(4 * CHUNK)


def test_without_the_key_or_with_another_the_file_and_what_to_do_are_named(path):
    sealed = written(some(10))
    assert refusal(path, sealed, None) == (
        f"{path}: expected the encryption_key that it was encrypted with, got none. "
        "Set it in KINEME_ENCRYPTION_KEY, or name a file with it: encryption_key_file=PATH."
    )
    text = refusal(path, sealed, "another key")
    assert text == (
        f"{path}: expected a checkpoint that opens with this encryption_key, got one of another "
        "key, or damaged in its first 96 bytes. "
        "Check the key; if it is the right one, use another checkpoint of the same run."
    )
    assert "another key." not in text
    for key in (None, "another key"):
        with pytest.raises(LockedError) as caught:
            opened(path, sealed, key)
        assert caught.value.exit_code == 4


def test_what_a_strangers_header_asks_for_is_bounded(path, monkeypatch):
    monkeypatch.setattr(encryption, "Scrypt", None)  # not even begun
    base = MAGIC + bytes([1, 17, 8, 1, 20, 0, 0, 0]) + bytes(80 + 16)
    for place, value in ((9, 0), (9, 21), (9, 255), (10, 0), (10, 255), (11, 0), (11, 5),
                         (12, 9), (12, 25), (13, 1)):  # fmt: skip
        changed = bytearray(base)
        changed[place] = value
        assert "a header that kineme never writes" in refusal(path, bytes(changed))
    changed = bytearray(base)
    changed[8] = 2
    assert "expected an encrypted file of version 1, got one of version 2" in refusal(
        path, bytes(changed)
    )


# Checkpoints


CONTENT = {
    "epoch": 3,
    "state_dict": {"model.a": torch.arange(6.0).reshape(2, 3), "model.b": torch.ones(4)},
    "optimizer_states": [{"state": {0: torch.full((3,), 2.0)}}],
    "kineme": {"network": "tiny", "class_names": ["x", "y"]},
}


def test_a_checkpoint_comes_back_as_it_was(path, cheap):
    checkpoints.save(path, CONTENT, KEY)
    loaded = checkpoints.load_checkpoint(path, KEY)
    assert same(dict(loaded.content), CONTENT)
    assert same(dict(loaded.weights), {"a": CONTENT["state_dict"]["model.a"], "b": torch.ones(4)})
    assert loaded.class_names == ("x", "y")
    assert loaded.is_encrypted
    assert KEY not in repr(loaded)
    sealed = path.read_bytes()
    for word in (b"PK\x03\x04", b"state_dict", b"kineme", b"class_names", bytes(16)):
        assert word not in sealed[96:]


def test_safetensors_come_back_and_their_description_stays_readable(tmp_path, cheap):
    path, weights = tmp_path / "best.safetensors", {"a": torch.arange(5.0), "b": torch.eye(2)}
    checkpoints.save_weights(path, weights, {"network": "tiny", "class_names": ["x"]}, KEY)
    loaded = checkpoints.load_checkpoint(path, KEY)
    assert same(dict(loaded.weights), weights)
    assert loaded.facts == json.loads(path.with_suffix(".json").read_text())
    assert loaded.class_names == ("x",)
    assert encryption.is_encrypted(path)
    with pytest.raises(LockedError):
        checkpoints.load_checkpoint(path)


def test_a_plain_checkpoint_loads_whatever_the_key_and_that_is_told(path):
    checkpoints.save(path, CONTENT)
    loaded = checkpoints.load_checkpoint(path, KEY)
    assert same(dict(loaded.content), CONTENT)
    text = f"{path} is not encrypted: it was read without encryption_key."
    assert checkpoints.plain_note(loaded, KEY) == text
    assert checkpoints.plain_note(loaded, None) == ""


def test_an_encrypted_checkpoint_needs_no_note(path, cheap):
    checkpoints.save(path, CONTENT, KEY)
    assert checkpoints.plain_note(checkpoints.load_checkpoint(path, KEY), KEY) == ""


def test_tao_s_own_encryption_is_refused_whatever_the_key(path):
    torch.save({"state_dict": b"bytes", "state_dict_encrypted": True}, path)
    with pytest.raises(CheckpointError, match="weights that TAO encrypted"):
        checkpoints.load_checkpoint(path, KEY)


def test_damage_inside_a_checkpoint_is_an_error_and_what_is_inside_is_still_checked(path, cheap):
    content = CONTENT | {"more": torch.zeros(1 << 20)}
    checkpoints.save(path, content, KEY)
    sealed = bytearray(path.read_bytes())
    sealed[2 << 20] ^= 1
    path.write_bytes(sealed)
    with pytest.raises(CheckpointError, match=r"a damaged one \(bytes 1,048,576 to 2,097,151"):
        checkpoints.load_checkpoint(path, KEY)
    for data, said in ((b"hello", "a file that starts with b'he'"), (b"", "an empty file")):
        path.write_bytes(written(data))
        with pytest.raises(CheckpointError, match=said):
            checkpoints.load_checkpoint(path, KEY)


def test_links_and_second_names_of_encrypted_files_open(tmp_path, cheap):
    path = tmp_path / "model_epoch_000_step_00001.pth"
    checkpoints.save(path, CONTENT, KEY)
    checkpoints.point_to(tmp_path / "latest.pth", path)
    checkpoints.share(tmp_path / "best.pth", path)
    for name in ("latest.pth", "best.pth"):
        loaded = checkpoints.load_checkpoint(tmp_path / name, KEY)
        assert same(dict(loaded.content), CONTENT)


def test_a_damaged_newest_checkpoint_is_passed_over_and_a_locked_one_never(tmp_path, cheap):
    old, new = (tmp_path / f"model_epoch_000_step_0000{i}.pth" for i in (1, 2))
    checkpoints.save(old, CONTENT)
    checkpoints.save(new, CONTENT, KEY)
    for key in (None, "another key"):
        with pytest.raises(LockedError, match="step_00002"):
            checkpoints.load_newest(tmp_path, key)
    assert checkpoints.load_newest(tmp_path, KEY)[0].path == new
    new.write_bytes(new.read_bytes()[:-1])
    found, damaged = checkpoints.load_newest(tmp_path, KEY)
    assert found.path == old
    assert "cut off" in damaged[0]
