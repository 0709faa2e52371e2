"""Files are whole or absent, whatever the disk does (T12)."""

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
