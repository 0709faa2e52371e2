"""Decoders that hang or crash in processes of their own harm no other file (V16)."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clips_made import Made, full_decode
from kineme.data import decode_pool
from kineme.data.decode_pool import DecodePool, ReadRequest, probe_all
from kineme.data.video import Clip, VideoFacts, probe
from kineme.errors import DataError, ResourceError


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("clips"))


MISBEHAVING = """
import os, signal, time
from kineme.data import decode_worker
from kineme.data.video import probe
def misbehave(path):
    name = os.path.basename(path)
    if "hang" in name:
        while 1: pass
    if "crash" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "greedy" in name:
        bytearray(decode_worker.MAX_BYTES)
    return probe(path)
decode_worker.probe = misbehave
decode_worker.main()
"""


@pytest.fixture
def misbehaving(monkeypatch):
    monkeypatch.setattr(decode_pool, "_COMMAND", (sys.executable, "-c", MISBEHAVING))


def copies(made, folder, names):
    content = made.kind("plain.mp4").read_bytes()
    for name in names:
        (folder / name).write_bytes(content)
    return [folder / name for name in names]


def test_many_files_are_looked_at_in_order_and_the_bad_ones_said(made, tmp_path):
    paths = [made.kind("plain.mp4"), tmp_path / "none.mp4", made.kind("two_frames.mp4")] * 3
    answers = probe_all(paths, deadline_seconds=30, num_workers=2)
    for path, answer in zip(paths, answers, strict=True):
        if path.name == "none.mp4":
            assert isinstance(answer, DataError)
            assert str(answer) == (
                f"{path}: expected a file that can be read, got no such file or directory."
            )
        else:
            assert answer == probe(path)


def test_no_files_need_no_process():
    assert probe_all([], deadline_seconds=1, num_workers=2) == []


def test_v16_a_decoder_that_hangs_is_stopped_and_only_its_file_fails(made, tmp_path, misbehaving):
    names = ["a.mp4", "hang1.mp4", "b.mp4", "hang2.mp4", "c.mp4", "d.mp4"]
    start = time.monotonic()
    answers = probe_all(copies(made, tmp_path, names), deadline_seconds=1, num_workers=2)
    assert time.monotonic() - start < 30
    for name, answer in zip(names, answers, strict=True):
        if "hang" in name:
            assert str(answer) == (
                f"{tmp_path / name}: expected an answer within 1 s, got none: the decoder was "
                "stopped. Remove the file or re-encode it."
            )
        else:
            assert isinstance(answer, VideoFacts)


def test_v16_a_decoder_that_crashes_or_wants_too_much_memory_fails_alone(
    made, tmp_path, misbehaving
):
    paths = copies(made, tmp_path, ["a.mp4", "crash.mp4", "greedy.mp4", "b.mp4"])
    first, crashed, greedy, last = probe_all(paths, deadline_seconds=30, num_workers=1)
    assert first.num_frames == last.num_frames == 30
    assert "got a decoder that crashed (SIGSEGV)" in str(crashed)
    assert "a video that is decoded within 4 GiB of memory, got more" in str(greedy)


def test_v16_a_pool_stays_good_after_a_hang_and_leaves_no_process(made, tmp_path, misbehaving):
    hang, good = copies(made, tmp_path, ["hang.mp4", "good.mp4"])
    with DecodePool(num_workers=1, deadline_seconds=1) as pool:
        assert isinstance(next(pool.probe([hang])), DataError)
        assert next(pool.probe([good])).num_frames == 30
        children = _children()
        assert len(children) == 1
    assert _children() == []


def test_clips_read_by_a_pool_are_those_read_here(made):
    path = made.kind("long_group.mp4")
    truth = full_decode(path)
    requests = [ReadRequest(path, np.array([k, 59 - k])) for k in range(12)]
    requests.append(ReadRequest(path, np.array([3]), size=(16, 24)))
    with DecodePool(num_workers=2) as pool:
        *clips, small = pool.read(iter(requests))
    for k, clip in enumerate(clips):
        assert isinstance(clip, Clip)
        assert np.array_equal(clip.frames, np.stack([truth[k], truth[59 - k]]))
        clip.frames[:] = 0  # the caller's own
    assert small.frames.shape == (1, 16, 24, 3)


def test_a_frame_that_is_none_is_refused_in_a_pool_too(made):
    with (
        DecodePool(num_workers=1) as pool,
        pytest.raises(IndexError, match="frames 99 to 99 of 30"),
    ):
        next(pool.read([ReadRequest(made.kind("plain.mp4"), np.array([99]))]))


def test_a_pool_that_is_left_early_leaves_no_process(made):
    with DecodePool(num_workers=2) as pool:
        next(pool.probe([made.kind("plain.mp4")] * 50))
    assert _children() == []


def test_a_worker_that_cannot_start_is_said(made, monkeypatch):
    monkeypatch.setattr(decode_pool, "_COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(ResourceError, match=r"a process that starts, got .*\(exit code 3\)"):
        probe_all([made.kind("plain.mp4")], deadline_seconds=1, num_workers=1)


def _children():
    """Processes whose parent this is, by /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(words[1]) == os.getpid():
            found.append(int(folder.name))
    return found
