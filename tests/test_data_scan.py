"""What a scan sees, what it says, and what it caches (faults D05, D14, D15, D21)."""

import json

import numpy as np
import pytest

from kineme.data import scan as scanning
from kineme.data.arrays import open_skeletons
from kineme.data.scan import (
    content_digests,
    leak_warning,
    scan_problems,
    scan_skeletons,
    scan_warnings,
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("KINEME_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kineme" / "scans"


@pytest.fixture
def store(tmp_path):
    def store(data, name="train_data.npy"):
        np.save(tmp_path / name, np.asarray(data, np.float32))
        return open_skeletons(tmp_path / name)

    return store


@pytest.fixture
def data():
    """5 samples of (3, 8, 4, 2): 8, 5, 3, 1 and 0 frames; the second person in the first only."""
    data = np.random.default_rng(0).uniform(-1, 1, (5, 3, 8, 4, 2)).astype(np.float32)
    for sample, length in enumerate((8, 5, 3, 1, 0)):
        data[sample, :, length:] = 0
    data[1:, ..., 1] = 0
    return data


def slow_and_obvious(data):
    data = np.where(np.isfinite(data), data, 0)
    lengths, persons = [], []
    for sample in data:
        frames = [t for t in range(data.shape[2]) if (sample[:, t] != 0).any()]
        lengths.append(max(frames, default=-1) + 1)
        persons.append(sum((sample[..., m] != 0).any() for m in range(data.shape[4])))
    still = []
    for v in range(data.shape[3]):
        values = [set(data[:, c, :, v].reshape(-1).tolist()) - {0.0} for c in range(data.shape[1])]
        if all(len(kinds) <= 1 for kinds in values):
            still.append(v)
    return lengths, persons, tuple(still)


def test_lengths_persons_and_ranges(store, data):
    scan = scan_skeletons(store(data))
    assert scan.lengths.tolist() == [8, 5, 3, 1, 0]
    assert scan.persons.tolist() == [2, 1, 1, 1, 0]
    assert scan.zero_samples.tolist() == [4]
    np.testing.assert_array_equal(scan.channel_min, data.min(axis=(0, 2, 3, 4)))
    np.testing.assert_array_equal(scan.channel_max, data.max(axis=(0, 2, 3, 4)))
    assert scan.nonfinite_count == 0
    assert scan.first_nonfinite is None


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 1 << 20])
def test_a_scan_in_chunks_equals_the_slow_and_obvious_one(store, monkeypatch, chunk_bytes):
    monkeypatch.setattr(scanning, "_CHUNK_BYTES", chunk_bytes)
    chance = np.random.default_rng(1)
    data = chance.standard_normal((23, 2, 7, 6, 3)).astype(np.float32)
    data *= chance.random((23, 1, 7, 1, 3)) < 0.4
    data[:, :, :, 2] = 0  # never there
    data[:, 0, :, 4] = np.where(data[:, 0, :, 4] != 0, 0.5, 0)  # there, and never moves
    data[:, 1, :, 4] = np.where(data[:, 1, :, 4] != 0, -2, 0)
    data[chance.random(data.shape) < 0.01] = np.nan
    data[20, 1, 6, 5, 2] = np.inf
    lengths, persons, still = slow_and_obvious(data)
    scan = scan_skeletons(store(data))
    assert scan.lengths.tolist() == lengths
    assert scan.persons.tolist() == persons
    assert scan.constant_joints == still == (2, 4)
    bad = ~np.isfinite(data)
    assert scan.nonfinite_count == bad.sum()
    assert scan.nonfinite_samples.tolist() == np.flatnonzero(bad.any(axis=(1, 2, 3, 4))).tolist()
    assert scan.first_nonfinite == tuple(np.argwhere(bad)[0])
    finite = np.where(bad, 0, data)
    np.testing.assert_array_equal(scan.channel_max, finite.max(axis=(0, 2, 3, 4)))


def test_negative_zero_is_zero(store):
    data = np.full((1, 3, 4, 2, 1), -0.0)
    data[0, 0, 1] = 1
    assert scan_skeletons(store(data)).lengths.tolist() == [2]


def test_float64_beyond_float32_counts_as_infinite(tmp_path):
    data = np.ones((2, 3, 4, 2, 1))
    data[1, 0, 0, 0, 0] = 1e300
    np.save(tmp_path / "a.npy", data)
    assert scan_skeletons(open_skeletons(tmp_path / "a.npy")).first_nonfinite == (1, 0, 0, 0, 0)


def test_d05_nan_names_first_index_count_and_share(store, data):
    data[3, 2, 0, 1, 0] = np.nan
    data[3, 0, 0, 2, 0] = np.inf
    data[1, 1, 4, 3, 0] = -np.inf
    array = store(data)
    scan = scan_skeletons(array)
    (problem,) = scan_problems("train_data.npy", scan, nan_policy="error")
    assert str(problem) == (
        "train_data.npy: sample 1: expected finite numbers, got 3 NaN or Inf (0.31 %) in 2 of 5 "
        "samples, the first at sample 1, channel 1, frame 4, joint 3, person 0. "
        "Mend the data, or set dataset.nan_policy: zero (as missing) or drop."
    )
    assert scan.nonfinite_samples.tolist() == [1, 3]
    for policy, done in (("zero", "set to zero"), ("drop", "the samples dropped")):
        assert scan_problems("train_data.npy", scan, nan_policy=policy) == []
        (line, *_) = scan_warnings("train_data.npy", scan, nan_policy=policy)
        assert line.startswith("train_data.npy: 3 NaN or Inf (0.31 %) in 2 of 5 samples, the first")
        assert line.endswith(f"person 0; {done} (dataset.nan_policy: {policy}).")


def test_d05_frames_of_nan_only_count_as_missing(store, data):
    data[0, :, 6:] = np.nan
    assert scan_skeletons(store(data)).lengths.tolist() == [6, 5, 3, 1, 0]


def test_d05_a_scan_is_done_once_per_version_of_the_file(store, data, cache, monkeypatch):
    scans = []
    scan = scanning._scan
    monkeypatch.setattr(scanning, "_scan", lambda array: scans.append(array) or scan(array))
    array = store(data)
    first, second = scan_skeletons(array), scan_skeletons(open_skeletons(array.path))
    assert len(scans) == len(list(cache.iterdir())) == 1
    for field in ("shape", "channel_min", "channel_max", "constant_joints", "first_nonfinite"):
        assert getattr(first, field) == getattr(second, field)
    assert first.lengths.tolist() == second.lengths.tolist()
    data[0] = 0
    assert scan_skeletons(store(data)).lengths.tolist() == [0, 5, 3, 1, 0]
    assert len(scans) == 2


def test_d14_zero_samples_are_counted_warned_about_and_refused(store, data):
    some = data.copy()
    assert scan_warnings("a.npy", scan_skeletons(store(some))) == []  # 1 of 5 is not above 20 %
    some[1] = 0
    (line,) = scan_warnings("a.npy", scan_skeletons(store(some)))
    assert line == "a.npy: 2 of 5 samples (40 %) are all zero, the first at 1, 4."
    scan = scan_skeletons(store(data * 0))
    (problem,) = scan_problems("a.npy", scan, nan_policy="error")
    assert str(problem) == (
        "a.npy: expected samples with values other than zero, got 5 samples, all zero."
    )


def test_d15_a_joint_that_never_changes_is_named(store, data):
    data[:, :, :, 1] = 0
    data[:, :, :, 3] = np.where(data[:, :, :, 3] != 0, 0.25, 0)
    scan = scan_skeletons(store(data))
    assert scan_warnings("a.npy", scan, joint_names=["hip", "neck", "nose", "ear"]) == [
        "a.npy: 2 joints never change: 'neck', 'ear'."
    ]
    assert scan_warnings("a.npy", scan, centre=1) == ["a.npy: 1 joints never change: 3."]


def test_d15_a_range_that_is_not_expected_names_the_channel(store, data):
    data[0, 0, 0, 0, 0] = 1919.5
    data[0, 2, 0, 0, 0] = -1.5
    scan = scan_skeletons(store(data))
    first, second = scan_warnings("a.npy", scan, confidence_channel=2)
    low = f"{data[:, 0].min():.4g}"
    assert first == (
        f"a.npy: channel 0 is in [{low}, 1920], expected coordinates in [-10, 10]. "
        "Pixels? Divide by width and height."
    )
    assert second.startswith("a.npy: channel 2 is in [-1.5, ")
    assert second.endswith("], expected a confidence in [0, 1].")


def test_d21_the_same_frames_have_the_same_digest_whatever_the_padding(store, data):
    longer = np.concatenate([data, np.zeros_like(data)], axis=2)
    longer[2, 0, 0, 0, 0] += 1e-3
    digests = []
    for array in (store(data), store(longer, "longer.npy")):
        digests.append(content_digests(array, scan_skeletons(array).lengths))
    first, second = digests
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, True, False, True, True]
    assert len(set(first)) == 5
    assert first[4] == b""  # nothing in it: no content to share


def test_d21_samples_in_both_sets_are_counted_and_named():
    train = {"a": b"1", "b": b"2", "zero": b""}
    val = {"v1": b"2", "v2": b"3", "v3": b"", "v4": b"1"}
    assert leak_warning("train.npy", train, "val.npy", val) == (
        "val.npy: 2 of 4 samples are also in train.npy: v1, v4. A figure measured on them flatters."
    )
    assert leak_warning("train.npy", train, "val.npy", {"v": b"3", "w": b""}) is None


def test_digests_are_cached(store, data, cache):
    array = store(data)
    lengths = scan_skeletons(array).lengths
    before = set(cache.iterdir())
    first = content_digests(array, lengths)
    (path,) = set(cache.iterdir()) - before
    assert json.loads(path.read_text()) == {"digests": [digest.hex() for digest in first]}
    assert content_digests(array, lengths) == first


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"lengths": 3}', b"\xff", b"null"])
def test_a_damaged_cache_is_replaced(store, data, cache, content):
    array = store(data)
    first = scan_skeletons(array)
    (path,) = cache.iterdir()
    whole = path.read_bytes()
    path.write_bytes(content)
    assert scan_skeletons(array).lengths.tolist() == first.lengths.tolist()
    assert path.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_a_note(store, data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    scan = scan_skeletons(store(data))
    assert scan.lengths.tolist() == [8, 5, 3, 1, 0]
    folder = tmp_path / "file" / "kineme" / "scans"
    assert scan.notes == (f"{folder} cannot be written: data is scanned again at every start.",)


def test_without_a_cache_home_the_scan_lands_in_the_home_folder(store, data, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    scan_skeletons(store(data))
    assert len(list((tmp_path / ".cache" / "kineme" / "scans").iterdir())) == 1


def test_the_users_own_cache_folder_is_used_for_scans_too(store, data, tmp_path, monkeypatch):
    monkeypatch.setenv("KINEME_CACHE", str(tmp_path / "own"))
    scan_skeletons(store(data))
    assert len(list((tmp_path / "own" / "scans").iterdir())) == 1
