"""The log of a job: bounded on the disk, readable at once, whatever was printed."""

import itertools
import json
import os
import random
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kineme.jobs import log as log_module
from kineme.jobs.log import LogWriter, follow, last_error, shown, tail


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.log"


def write(path, *blocks, **options):
    writer = LogWriter(path, **options)
    for block in blocks:
        writer.write(block)
    writer.close()
    return writer


def test_what_is_printed_is_in_the_log_byte_for_byte(path):
    data = random.Random(0).randbytes(300_000)
    write(path, data[:1], data[1:70_000], data[70_000:])
    assert path.read_bytes() == data
    assert [entry.name for entry in path.parent.iterdir()] == ["job.log"]


def test_j15_a_log_without_end_is_kept_in_bounded_space_and_its_end_is_whole(path):
    lines = [f"line {i}\n".encode() for i in range(20_000)]
    writer = LogWriter(path, max_bytes=10_000)
    for line in lines:
        writer.write(line)
        assert path.stat().st_size <= 10_000
    writer.close()
    kept = path.with_name("job.log.1").read_bytes() + path.read_bytes()
    assert 10_000 < len(kept) <= 20_000
    assert b"".join(lines).endswith(kept)
    assert kept.startswith(b"line ")
    assert len(list(path.parent.iterdir())) == 2
    assert tail(path, 3) == ["line 19997", "line 19998", "line 19999"]
    count = kept.count(b"\n")
    assert tail(path, 100_000) == [f"line {i}" for i in range(20_000 - count, 20_000)]


def test_j15_without_line_ends_it_is_kept_in_bounded_space_too(path):
    writer = LogWriter(path, max_bytes=10_000)
    for _ in range(100):
        writer.write(b"x" * 999)
    writer.close()
    assert path.stat().st_size <= 10_000
    assert path.with_name("job.log.1").stat().st_size <= 10_000
    assert tail(path, 5, max_bytes=12_000) == ["x" * 12_000]


def test_j15_of_a_line_without_end_both_ends_are_shown(path):
    write(path, b"begin" + b"." * 2_000_000 + b"end")
    (line,) = tail(path, 5)
    assert line.startswith("." * 8192 + " ... 1,032,192 bytes ... ")  # the last MiB of it
    assert line.endswith("...end")
    assert len(line) == 2 * 8192 + len(" ... 1,032,192 bytes ... ")


def test_j15_the_end_of_a_log_of_10_gb_is_read_at_once_in_little_memory(path):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.ftruncate(descriptor, 10 << 30)  # 10 GiB of zeros, none of which lies on the disk
    os.lseek(descriptor, 0, os.SEEK_END)
    os.write(descriptor, b"\nfirst\nlast\n")
    os.close(descriptor)
    tracemalloc.start()
    began = time.monotonic()
    assert tail(path, 2) == ["first", "last"]
    assert next(follow(path, lambda: True, num_lines=1)) == "last"
    assert tail(path, 3)[1:] == ["first", "last"]
    assert time.monotonic() - began < 1
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"plain", "plain"),
        (b"\x1b[1;31mred\x1b[0m and \x1b]0;title\x07clear\x1b[2J", "red and clear"),
        (b" 10%\r 50%\r100%", "100%"),
        (b"windows\r\n", "windows"),
        (b"\xff\xfe\x00\x07", "\ufffd\ufffd\\x00\\x07"),
        ("caf\u00e9 \u202e".encode(), "caf\u00e9 \\u202e"),
        (b"a\tb", "a    b"),
    ],
)
def test_j15_what_a_terminal_is_given_cannot_command_it(line, expected):
    assert shown(line) == expected


@given(st.binary(max_size=300))
def test_j15_any_line_can_be_shown(line):
    text = shown(line)
    assert all(letter.isprintable() or letter == " " for letter in text)


def test_a_log_that_is_not_there_has_no_lines(path):
    assert tail(path) == []
    assert list(follow(path, lambda: True)) == []


@pytest.mark.parametrize(("asked", "expected"), [(0, []), (1, ["c"]), (2, ["b", "c"]), (9, "abc")])
def test_the_last_lines_are_as_many_as_asked_for(path, asked, expected):
    path.write_bytes(b"a\nb\nc")
    assert tail(path, asked) == list(expected)
    path.write_bytes(b"a\nb\nc\n")
    assert tail(path, asked) == list(expected)


def test_the_last_lines_come_from_before_a_rotation_too(path):
    path.with_name("job.log.1").write_bytes(b"a\nb\nc\n")
    path.write_bytes(b"d\n")
    assert tail(path, 3) == ["b", "c", "d"]


@pytest.mark.parametrize("max_bytes", [200, 1 << 20])
def test_j15_following_gives_every_line_once_and_ends_with_the_job(path, max_bytes):
    generator, numbers = random.Random(1), iter(range(300))
    writer = LogWriter(path, max_bytes=max_bytes)
    written = []

    def has_ended():  # asked between two looks: at most one rotation, at any place
        for number in itertools.islice(numbers, generator.randint(0, 15)):
            written.append(f"line {number}")
            writer.write(f"line {number}\n".encode())
        if len(written) == 300:
            writer.write(b"no end of line")
            writer.close()
        return len(written) == 300

    lines = list(follow(path, has_ended, num_lines=0, poll_seconds=0))
    assert lines == [*written, "no end of line"]


def test_following_begins_with_the_last_lines_and_misses_none_after_them(path):
    path.write_bytes(b"1\n2\n3\nhal")
    asked = []

    def has_ended():
        asked.append(1)
        if len(asked) == 2:
            with open(path, "ab") as file:
                file.write(b"f\n4\n")
        return len(asked) == 3

    assert list(follow(path, has_ended, num_lines=2, poll_seconds=0)) == ["2", "3", "half", "4"]


def test_following_says_where_something_was_missed(path):
    path.write_bytes(b"1\n")
    lines = follow(path, lambda: path.stat().st_size > 2, poll_seconds=0)
    assert next(lines) == "1"
    path.unlink()  # two rotations since the last look
    path.write_bytes(b"700\n")
    note = "note: the log grew too fast; a part of it is not shown"
    assert list(lines) == [note, "700"]


def test_j15_a_line_without_end_is_followed_in_pieces(path):
    size = 3 * (8 << 10) + 5
    path.write_bytes(b"")
    ends = iter([False, True])

    def has_ended():
        path.write_bytes(b"y" * size)
        return next(ends)

    pieces = list(follow(path, has_ended, poll_seconds=0))
    assert [len(piece) for piece in pieces] == [8 << 10] * 3 + [5]


@pytest.mark.parametrize("secret", ["hunter2", "aab", "schl\u00fcssel\u00df"])
def test_j16_secrets_are_replaced_wherever_blocks_end(path, secret):
    data = f"key {secret}, again {secret}{secret} and {secret[:-1]}".encode()
    expected = f"key ***, again ****** and {secret[:-1]}".encode()
    for cut in range(len(data)):
        path.unlink(missing_ok=True)
        write(path, data[:cut], data[cut:], secrets=[secret])
        assert path.read_bytes() == expected


def test_j16_secrets_that_become_known_later_are_replaced_from_then_on(path):
    writer = LogWriter(path)
    writer.hide(["secret"])
    writer.write(b"a secret\n")
    writer.close()
    assert path.read_bytes() == b"a ***\n"


def test_j11_on_a_full_disk_nothing_is_raised_and_the_last_words_have_room(path, monkeypatch):
    writer = LogWriter(path)
    writer.write(b"before\n")
    assert path.with_name(".job.log.spare").stat().st_size == 16 << 10
    real, room = os.write, [5]

    def full(descriptor, data):
        if not room[0]:
            raise OSError(28, "No space left on device")
        size, room[0] = min(room[0], len(data)), 0
        return real(descriptor, data[:size])

    monkeypatch.setattr(log_module.os, "write", full)
    writer.write(b"12345678\n")
    writer.write(b"more\n")
    assert writer.lost_bytes == 9
    monkeypatch.setattr(log_module.os, "write", real)  # the room of the spare file
    writer.close()
    expected = (
        "before\n12345\nnote: the disk was full; 9 bytes are not here; the last words:\n"
        "before\n12345678\nmore\n"
    )
    assert path.read_text() == expected


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("", ""),
        ("fine\n", ""),
        ("error: one\nmore\n", "one"),
        ("error: one\nmore\nerror: two\nerror: three\nExecution status: FAIL\n", "two\nthree"),
        ("".join(f"error: {i}\n" for i in range(7)), "0\n1\n2\n3\n4\nand 2 more"),
        ("an error: none\n", ""),
        (
            json.dumps({"level": "error", "where": "a", "expected": "b", "received": "c"}),
            "a: expected b, got c.",
        ),
        (json.dumps({"level": "error", "message": "interrupted"}), "interrupted"),
        ('{"level": "error"', ""),
    ],
)
def test_the_last_words_of_a_command_are_found(printed, expected):
    assert last_error(printed.encode()) == expected
