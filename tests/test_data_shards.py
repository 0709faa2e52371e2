"""A sharded store: whole or not there, bounded in memory, the same as an array to a reader."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tracemalloc

import numpy as np
import pytest

from kineme.data import shards as sharding
from kineme.data.arrays import open_skeletons
from kineme.data.scan import content_digests, scan_skeletons
from kineme.data.shards import INDEX_NAME, ShardWriter, is_store, open_shards
from kineme.errors import DataError, ResourceError

LENGTHS = (5, 1, 12, 0, 7, 3, 12, 2)


def samples():
    """(C, T, V, M) = (3, T, 4, 2) samples, values in [1, 2)."""
    chance = np.random.default_rng(0)
    return [chance.uniform(1, 2, (3, length, 4, 2)).astype(np.float32) for length in LENGTHS]


def padded():
    batch = np.zeros((len(LENGTHS), 3, max(LENGTHS), 4, 2), np.float32)
    for row, sample in zip(batch, samples(), strict=True):
        row[:, : sample.shape[1]] = sample
    return batch


@pytest.fixture
def folder(tmp_path):
    """Eight samples in four shards."""
    with ShardWriter(
        tmp_path / "store", layout="coco", class_names=["walk", "run"], shard_bytes=900
    ) as writer:
        for number, sample in enumerate(samples()):
            writer.add(sample, id=f"s{number}", label=number % 3 - 1)
    return tmp_path / "store"


def test_a_store_reads_like_an_array(folder, tmp_path):
    np.save(tmp_path / "all.npy", padded())
    array, store = open_skeletons(tmp_path / "all.npy"), open_shards(folder)
    assert store.shape == array.shape == (8, 3, 12, 4, 2)
    assert len(store.shards) == 4
    assert store.lengths.tolist() == list(LENGTHS)
    for indices in ([], [7], [0, 1, 2, 3, 4, 5, 6, 7], [6, 0, 0, 3, 5]):
        np.testing.assert_array_equal(store.read(np.array(indices, int)), padded()[indices])
    frames = np.array([[0, 4, -1], [0, 0, 0], [11, 3, 2], [0, 11, 5]])
    indices = np.array([0, 1, 2, 3])
    np.testing.assert_array_equal(
        store.read_frames(indices, frames), array.read_frames(indices, frames)
    )
    np.testing.assert_array_equal(
        store.read_frames(indices, frames[:1]), array.read_frames(indices, frames[:1])
    )


def test_a_store_is_scanned_like_an_array(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    np.save(tmp_path / "all.npy", padded())
    array, store = open_skeletons(tmp_path / "all.npy"), open_shards(folder)
    first, second = scan_skeletons(array), scan_skeletons(store)
    assert second.lengths.tolist() == first.lengths.tolist() == list(LENGTHS)
    assert second.channel_max == first.channel_max
    assert content_digests(store, second.lengths) == content_digests(array, first.lengths)


def test_labels_classes_and_layout_come_with_the_store(folder):
    labels = open_shards(folder).labels
    assert labels.ids == tuple(f"s{number}" for number in range(8))
    assert labels.labels.tolist() == [-1, 0, 1, -1, 0, 1, -1, 0]
    assert (labels.class_names, labels.layout) == (("walk", "run"), "coco")


def test_shards_are_npy_files_of_frames(folder):
    files = sorted(folder.glob("skeletons-*.npy"))
    assert [file.name for file in files] == [f"skeletons-{number:05d}.npy" for number in range(4)]
    frames = np.concatenate([np.load(file) for file in files])
    assert frames.shape == (sum(LENGTHS), 3, 4, 2)
    np.testing.assert_array_equal(frames[6:18], samples()[2].transpose(1, 0, 2, 3))
    open_shards(folder).verify()


def test_frames_of_zeros_at_the_end_are_not_stored_but_read(tmp_path):
    sample = np.ones((3, 6, 4, 1), np.float32)
    sample[:, 4:] = 0
    sample[:, 1] = 0
    with ShardWriter(tmp_path / "store") as writer:
        writer.add(sample, id="a")
    store = open_shards(tmp_path / "store")
    assert (store.shape, store.lengths.tolist()) == ((1, 3, 6, 4, 1), [4])
    np.testing.assert_array_equal(store.read(np.array([0]))[0], sample)


def test_a_store_of_zero_samples_or_of_other_shapes_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least 1 sample, got 0 samples"), ShardWriter(tmp_path):
        pass
    writer = ShardWriter(tmp_path)
    writer.add(np.ones((3, 9, 4, 2)), id="a")
    with pytest.raises(DataError, match=r"sample 'b': expected \(C, V, M\) = \(3, 4, 2\) as in"):
        writer.add(np.ones((3, 9, 5, 2)), id="b")
    assert not is_store(tmp_path)


def test_a_folder_that_holds_a_store_is_not_written_over(folder):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(DataError, match=r"expected a folder without a store, got one with index"):
        ShardWriter(folder)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_writer_holds_one_shard_in_memory(tmp_path):
    sample = np.ones((3, 100, 34, 1), np.float32)  # 40 kB
    tracemalloc.start()
    with ShardWriter(tmp_path / "store", shard_bytes=1 << 20) as writer:
        for number in range(600):  # 24 MB
            writer.add(sample, id=str(number))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert len(open_shards(tmp_path / "store").shards) == 24


WRITE_FOREVER = """
import sys, itertools
import numpy as np
from kineme.data.shards import ShardWriter
with ShardWriter(sys.argv[1], shard_bytes=100_000) as writer:
    for number in itertools.count():
        writer.add(np.ones((3, 20, 17, 1)), id=str(number))
"""


def test_a_killed_writer_leaves_no_store_and_the_next_one_succeeds(tmp_path):
    folder = tmp_path / "store"
    with subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, str(folder)]) as process:
        deadline = time.monotonic() + 20
        while len(list(folder.glob("*.npy"))) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert len(list(folder.glob("*.npy"))) >= 3
    assert not is_store(folder)
    with pytest.raises(DataError, match=f"{INDEX_NAME}: expected a file that can be read"):
        open_shards(folder)
    with ShardWriter(folder) as writer:
        writer.add(samples()[0], id="a")
    np.testing.assert_array_equal(open_shards(folder).read(np.array([0]))[0], samples()[0])
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EIO", "EROFS", "ESTALE"])
def test_t12_a_failing_disk_leaves_no_store(tmp_path, monkeypatch, code):
    def fail(descriptor):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr("kineme.files.os.fsync", fail)
    with pytest.raises(ResourceError), ShardWriter(tmp_path / "store") as writer:
        writer.add(samples()[0], id="a")
    assert list((tmp_path / "store").iterdir()) == []


def test_d28_a_store_that_changes_is_noticed(folder):
    store, copy = open_shards(folder), pickle.dumps(open_shards(folder))
    shard = folder / "skeletons-00001.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-4] + b"\0\0\0\0")
    os.utime(shard, (1, 1))
    with pytest.raises(DataError, match=r"skeletons-00001.npy: expected no change while it is"):
        store.read(np.arange(8))
    with pytest.raises(DataError, match="got a store that was rewritten"):
        pickle.loads(copy)
    with pytest.raises(DataError, match=r"skeletons-00001.npy: expected sha256"):
        open_shards(folder).verify()


def test_d28_an_index_that_changes_is_noticed(folder):
    copy = pickle.dumps(open_shards(folder))
    (folder / INDEX_NAME).write_bytes((folder / INDEX_NAME).read_bytes() + b" ")
    with pytest.raises(DataError, match="expected no change while it is read, got a store that wa"):
        pickle.loads(copy)


def test_d11_a_shard_that_is_cut_or_missing_is_refused_on_opening(folder):
    shard = folder / "skeletons-00002.npy"
    size = shard.stat().st_size
    os.truncate(shard, size - 4)
    with pytest.raises(DataError, match=rf"in {size:,} bytes, got .* in {size - 4:,} bytes"):
        open_shards(folder)
    shard.unlink()
    with pytest.raises(
        DataError, match=r"00002.npy: expected a file that can be read, got no such"
    ):
        open_shards(folder)


def test_a_pickled_store_opens_its_folder_again(folder):
    content = pickle.dumps(open_shards(folder))
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content).read(np.arange(8)), padded())


def test_open_files_are_bounded(folder, monkeypatch):
    monkeypatch.setattr(sharding, "_MAX_OPEN_FILES", 1)
    store = open_shards(folder)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        np.testing.assert_array_equal(store.read(np.arange(8)), padded())
    assert len(os.listdir("/proc/self/fd")) <= before + 1


def test_threads_share_a_store(folder):
    store, wrong = open_shards(folder), []

    def read(seed):
        chance = np.random.default_rng(seed)
        for _ in range(50):
            indices = chance.integers(0, 8, 5)
            if (store.read(indices) != padded()[indices]).any():
                wrong.append(indices)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def with_(**changes):
    return lambda index: index.update(changes)


def of_shard(**changes):
    return lambda index: index["shards"][1].update(changes)


BAD_INDEXES = {
    "format": (with_(format="other"), "got format 'other'"),
    "unknown key": (with_(more=1), "unexpected keyword argument"),
    "missing key": (lambda index: index.pop("lengths"), "required positional argument: 'lengths'"),
    "text for a number": (with_(channels="3"), "no number, or out of range"),
    "truth for a number": (with_(persons=True), "no number, or out of range"),
    "zero joints": (with_(joints=0), "no number, or out of range"),
    "huge": (with_(num_frames=2**60), "no number, or out of range"),
    "fewer labels": (lambda index: index["labels"].pop(), "8 ids, 7 labels, 8 lengths"),
    "no samples": (with_(ids=[], labels=[], lengths=[], shards=[]), "0 ids, 0 labels, 0 lengths"),
    "negative length": (with_(lengths=[-1] * 8), "a length outside [0, 12]"),
    "lengths of another shard": (with_(lengths=[1] * 8), "do not add up to"),
    "id that is no text": (with_(ids=[1] * 8), "that is not text"),
    "outside": (of_shard(file="../skeletons-00001.npy"), "a shard file outside the folder"),
    "absolute": (of_shard(file="/etc/passwd"), "a shard file outside the folder"),
    "number for a file": (of_shard(file=3), "a shard file outside the folder"),
    "missing shard": (lambda index: index["shards"].pop(), "samples in shards, 8 ids"),
}


@pytest.mark.parametrize("name", BAD_INDEXES)
def test_an_index_that_does_not_add_up_is_refused(folder, name):
    change, received = BAD_INDEXES[name]
    index = json.loads((folder / INDEX_NAME).read_text())
    change(index)
    (folder / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(DataError) as caught:
        open_shards(folder)
    assert str(caught.value).startswith(f"{folder / INDEX_NAME}: expected a")
    assert received in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000])
def test_an_index_that_is_no_index_is_refused(folder, content):
    (folder / INDEX_NAME).write_bytes(content)
    with pytest.raises(DataError, match=r"index.json: expected an index of format kineme-skel"):
        open_shards(folder)
