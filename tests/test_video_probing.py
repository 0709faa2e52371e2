"""Decoders that hang or crash in processes of their own harm no other file (V16)."""

import os
import time
from pathlib import Path

import pytest

from clips_made import Made
from kineme.data.video import VideoFacts, probe
from kineme.data.video.probing import probe_all
from kineme.errors import DataError


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return Made(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def misbehaving(monkeypatch):
    """Workers find the tasks of tests by PYTHONPATH."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setattr("kineme.data.video.probing._TASK", "tiny_tasks:probe_badly")


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


@pytest.mark.usefixtures("misbehaving")
def test_v16_a_decoder_that_hangs_is_stopped_and_only_its_file_fails(made, tmp_path):
    names = ["a.mp4", "hang1.mp4", "b.mp4", "hang2.mp4", "c.mp4", "d.mp4"]
    start = time.monotonic()
    paths = copies(made, tmp_path, names)
    answers = probe_all(paths, deadline_seconds=2, num_workers=2)
    assert time.monotonic() - start < 60
    for name, answer in zip(names, answers, strict=True):
        if "hang" in name:
            assert str(answer).startswith(f"{tmp_path / name}: expected a sign of life every ")
            assert str(answer).endswith("got none: the worker was ended. Remove or re-encode it.")
        else:
            assert isinstance(answer, VideoFacts)
    assert workers_left() == []


@pytest.mark.usefixtures("misbehaving")
def test_v16_a_decoder_that_crashes_or_wants_too_much_memory_fails_alone(made, tmp_path):
    paths = copies(made, tmp_path, ["a.mp4", "crash.mp4", "greedy.mp4", "b.mp4"])
    first, crashed, greedy, last = probe_all(paths, deadline_seconds=60, num_workers=1)
    assert first.num_frames == last.num_frames == 30
    assert "the death of the worker by signal 11 (SIGSEGV)" in str(crashed)
    assert "a video that is decoded within 4 GiB of memory, got more" in str(greedy)
    assert workers_left() == []


def workers_left():
    """Workers whose parent this process is, by /proc."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "stat").read_text().rsplit(")", 1)[1].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(words[1]) == os.getpid() and b"kineme.data.workers" in command:
            found.append(int(folder.name))
    return found
