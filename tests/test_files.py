"""Files are whole or absent, whatever the disk does (T12)."""

import contextlib
import errno
import time

import pytest
import torch

from kineme import files
from kineme.engine import checkpoint as checkpoints
from kineme.errors import ResourceError


@pytest.mark.parametrize("code", ["EIO", "ESTALE", "EDQUOT"])
@pytest.mark.parametrize("failures", [2, 3, 4])
def test_t12_a_passing_fault_is_tried_three_times_more(tmp_path, monkeypatch, code, failures):
    path = tmp_path / "a.pth"
    checkpoints.save(path, {"state_dict": {"w": torch.zeros(3)}})
    before, left, waits = path.read_bytes(), [failures], []

    def fail(descriptor):
        if left[0]:
            left[0] -= 1
            raise OSError(getattr(errno, code), "trouble")

    monkeypatch.setattr("kineme.files.os.fsync", fail)
    monkeypatch.setattr(time, "sleep", waits.append)
    if failures <= 3:
        checkpoints.save(path, {"state_dict": {"w": torch.ones(3)}})
        assert checkpoints.load_checkpoint(path).weights["w"].tolist() == [1, 1, 1]
    else:
        with pytest.raises(ResourceError) as caught:
            checkpoints.save(path, {"state_dict": {"w": torch.ones(3)}})
        assert caught.value.exit_code == 5
        assert path.read_bytes() == before
    assert waits == list(files._PAUSES_SECONDS)[: min(failures, 3)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("code", ["ENOSPC", "EROFS", "EACCES"])
def test_t12_a_fault_that_does_not_pass_is_told_at_once(tmp_path, monkeypatch, code):
    calls = []

    def fail(descriptor):
        calls.append(descriptor)
        raise OSError(getattr(errno, code), "trouble")

    monkeypatch.setattr("kineme.files.os.fsync", fail)
    with pytest.raises(ResourceError):
        files.write_text(tmp_path / "a.txt", "text")
    assert len(calls) == 1


def test_temporaries_of_the_dead_are_swept_and_those_of_other_machines_are_not(tmp_path):
    """A number of a process says nothing on another machine that shares the folder."""
    mine = files.temporary_beside(tmp_path / "a.zip")
    machine, _, token = mine.name.removeprefix(".a.zip.tmp-").split("-")
    dead, other = f".b.tmp-{machine}-999999999-{token}", f".b.tmp-{'0' * 8}-999999999-{token}"
    for name in (mine.name, dead, other, f".c.tmp-999999999-{token}", "d.tmp-1", ".e"):
        (tmp_path / name).write_text("x")
    assert files.sweep_temporaries(tmp_path) == 2  # the third has a name of earlier versions
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {mine.name, other, "d.tmp-1", ".e"}
    assert files.sweep_temporaries(tmp_path, is_ours_alone=True) == 1
    assert not (tmp_path / other).exists()


def test_a_copy_is_whole_or_not_there(tmp_path, monkeypatch):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(bytes(range(256)) * 10_000)
    files.copy_atomically(source, target)
    assert target.read_bytes() == source.read_bytes()
    source.write_bytes(b"newer")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("kineme.files.os.fsync", full)
    with pytest.raises(ResourceError, match="b: expected enough disk space to write it"):
        files.copy_atomically(source, target)
    assert target.read_bytes() == bytes(range(256)) * 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("is_symbolic", [True, False])
def test_a_second_name_shows_what_it_should_when_the_first_is_written_anew(tmp_path, is_symbolic):
    source, target = tmp_path / "a", tmp_path / "b"
    target.write_text("before")
    source.write_text("old")
    for _ in range(2):  # a name that is there already may be made again
        files.link_or_copy(source, target, is_symbolic=is_symbolic)
        assert target.read_text() == "old"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    files.write_text(source, "new")
    assert target.read_text() == ("new" if is_symbolic else "old")
    assert target.is_symlink() is is_symbolic


@pytest.mark.parametrize("is_symbolic", [True, False])
def test_where_links_fail_a_whole_copy_is_made(tmp_path, monkeypatch, is_symbolic):
    def fail(*paths):
        raise OSError(errno.EPERM, "no links here")

    synced = []
    monkeypatch.setattr("kineme.files.os.symlink", fail)
    monkeypatch.setattr("kineme.files.os.link", fail)
    monkeypatch.setattr("kineme.files.os.fsync", synced.append)
    (tmp_path / "a").write_text("text")
    files.link_or_copy(tmp_path / "a", tmp_path / "b", is_symbolic=is_symbolic)
    assert (tmp_path / "b").read_text() == "text"
    assert not (tmp_path / "b").is_symlink()
    assert len(synced) == 2  # the copy, then its folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    ("code", "is_told"), [("EINVAL", False), ("ENOTSUP", False), ("EIO", True)]
)
def test_a_disk_that_cannot_sync_folders_is_borne(tmp_path, monkeypatch, code, is_told):
    def fail(descriptor):
        raise OSError(getattr(errno, code), "trouble")

    monkeypatch.setattr("kineme.files.os.fsync", fail)
    with pytest.raises(OSError, match="trouble") if is_told else contextlib.nullcontext():
        files.sync(tmp_path)
