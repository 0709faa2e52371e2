"""Files that are not there, are no files, or change while they are read (D12, D27, D28)."""

import os
import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest

from kineme.data.arrays import open_skeletons
from kineme.data.inputs import InputFile, read_bytes
from kineme.errors import DataError


@pytest.fixture
def data():
    return np.random.default_rng(0).standard_normal((10, 3, 6, 4, 2)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train_data.npy"


CUT_WHILE_READ = """
import os, sys
import numpy as np
from kineme.data.arrays import open_skeletons
from kineme.errors import KinemeError
array = open_skeletons(sys.argv[1])
array.read(np.arange(4))
os.truncate(sys.argv[1], 4096)
try:
    array.read(np.arange(300))
except KinemeError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_d12_a_file_cut_while_it_is_read_is_a_data_error_and_no_bus_error(path):
    np.save(path, np.ones((300, 3, 100, 17, 1), np.float32))
    done = subprocess.run(
        [sys.executable, "-c", CUT_WHILE_READ, str(path)], capture_output=True, text=True
    )
    assert done.returncode == 3
    assert done.stdout.startswith(f"{path}: expected no change while it is read, got 4,096 bytes, ")


def test_d12_a_file_cut_between_check_and_read_is_a_data_error(path, data, monkeypatch):
    np.save(path, data)
    array = open_skeletons(path)
    monkeypatch.setattr(type(array._file), "check_descriptor", lambda self: None)
    os.truncate(path, 1000)
    with pytest.raises(DataError, match=r"bytes or more, got 1,000 bytes: the file ends early"):
        array.read(np.arange(10))


def expect_refusal(path, received):
    with pytest.raises(DataError) as caught:
        open_skeletons(path)
    assert f", got {received}." in str(caught.value)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert caught.value.exit_code == 3


def test_d27_missing(path):
    expect_refusal(path, "no such file or directory")


def test_d27_a_file_where_a_folder_should_be(path):
    path.write_bytes(b"")
    expect_refusal(path / "train_data.npy", "not a directory")


def test_d27_folder(tmp_path):
    expect_refusal(tmp_path, "a folder")


def test_d27_dangling_link(path):
    path.symlink_to("nowhere.npy")
    expect_refusal(path, "a link to 'nowhere.npy', which does not exist")


@pytest.mark.timeout(5)
def test_d27_fifo_never_blocks(path):
    os.mkfifo(path)
    expect_refusal(path, "a FIFO")


def test_d27_socket_and_device(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(DataError, match="got a socket"):
            open_skeletons("s")
    with pytest.raises(DataError, match="got a device"):
        open_skeletons("/dev/zero")


def test_d27_zero_byte_in_the_name():
    with pytest.raises(DataError, match="got a path that cannot exist"):
        open_skeletons("a\0b.npy")


def test_d27_permission_denied(path, data):
    np.save(path, data)
    path.chmod(0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        expect_refusal(path, "permission denied")
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


def test_d27_deleted_while_read(path, data):
    np.save(path, data)
    array = open_skeletons(path)
    path.unlink()
    np.testing.assert_array_equal(array.read(np.arange(2)), data[:2])  # it is open, and whole
    with pytest.raises(DataError, match="expected a file that can be read, got no such file"):
        pickle.loads(pickle.dumps(array))


def rewritten(path, data):
    with open(path, "r+b") as file:
        file.seek(200)
        file.write(b"\0\0\0\0")


def appended(path, data):
    with open(path, "ab") as file:
        file.write(b"\0\0\0\0")


def replaced(path, data):
    np.save(path.with_name("new.npy"), data)
    os.replace(path.with_name("new.npy"), path)


@pytest.mark.parametrize("change", [rewritten, appended, replaced])
def test_d28_a_file_that_another_process_writes_is_noticed(path, data, change):
    np.save(path, data)
    os.utime(path, (1, 1))
    array = open_skeletons(path)
    before = array.read(np.arange(2))
    copy = pickle.dumps(array)
    change(path, data)
    with pytest.raises(DataError, match="expected no change while it is read, got") as caught:
        pickle.loads(copy)
    assert "Wait until whatever writes it has finished" in str(caught.value)
    if change is replaced:  # the file that is open was not touched
        np.testing.assert_array_equal(array.read(np.arange(2)), before)
    else:
        with pytest.raises(DataError, match="no change while it is read"):
            array.read(np.arange(2))


def test_a_failing_disk_is_a_data_error_that_names_the_file(path, data, monkeypatch):
    np.save(path, data)
    array = open_skeletons(path)

    def fail(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("kineme.data.inputs.os.preadv", fail)
    with pytest.raises(DataError, match="expected a readable file, got Input/output error"):
        array.read(np.arange(2))


def test_a_file_longer_than_allowed_is_not_read(path):
    path.write_bytes(bytes(100))
    assert read_bytes(path, max_bytes=100) == bytes(100)
    with pytest.raises(DataError, match="expected at most 99 bytes, got 100 bytes"):
        read_bytes(path, max_bytes=99)


def test_a_file_is_closed_with_its_object(path):
    path.write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))
    file = InputFile(path)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    del file
    assert len(os.listdir("/proc/self/fd")) == before
