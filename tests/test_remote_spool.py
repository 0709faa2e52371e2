"""Results on their way to a store: outages, deleted files, kills; nothing lost, nothing partial."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from kineme import files
from kineme.data.remote import journal as journal_module
from kineme.data.remote import s3, spool
from kineme.data.remote.addresses import Address
from kineme.data.remote.journal import Journal
from kineme.data.remote.patience import UnavailableError
from kineme.data.remote.spool import Uploader, is_excluded
from kineme.errors import ResourceError, ServiceError
from stores import KEY_ID, SECRET, Faulty, free_port, moto, refusal, store_at

FAST = 0.02  # seconds between looks


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(spool, "FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(spool, "LONGEST_PAUSE_SECONDS", 0.1)


@pytest.fixture(scope="module")
def url():
    with moto() as url:
        store_at(url)._client.create_bucket(Bucket="results")
        yield url


@pytest.fixture
def place(request):
    return Address("s3", "results", request.node.name.replace("[", "/").replace("]", ""))


def uploader(folder, place, url, **words):
    words = {"poll_seconds": FAST, **words}
    return Uploader(folder, place, store=store_at(url, words.pop("deadline", 5.0)), **words)


def held(url, place):
    """What is in the store, by relative name."""
    client, start = store_at(url)._client, len(place.as_folder().key)
    found = store_at(url).list(place.as_folder())
    return {
        e.address.key[start:]: client.get_object(Bucket=e.address.bucket, Key=e.address.key)[
            "Body"
        ].read()
        for e in found
    }


def write(folder, files_):
    for name, data in files_.items():
        with files.atomic_write(folder / name) as file:
            file.write(data)


def test_a_folder_is_sent_with_what_comes_later(url, place, tmp_path):
    write(tmp_path, {"a": b"1", "train/b.pth": b"2" * 1000})
    with uploader(tmp_path, place, url) as sending:
        write(tmp_path, {"train/c": b"3"})
        drained = sending.drain(20)
    assert drained == spool.Drained(3, (), None)
    assert held(url, place) == {"a": b"1", "train/b.pth": b"2" * 1000, "train/c": b"3"}
    assert sorted(sending.journal.sent) == ["a", "train/b.pth", "train/c"]
    assert (tmp_path / "a").read_bytes() == b"1"
    assert list((tmp_path / ".kineme-upload" / "spool").iterdir()) == []


def test_what_was_sent_is_not_sent_again_after_a_restart(url, place, tmp_path):
    write(tmp_path, {"a": b"1", "b": b"2"})
    with uploader(tmp_path, place, url) as sending:
        assert sending.drain(20).num_sent == 2
    write(tmp_path, {"b": b"3"})
    with uploader(tmp_path, place, url) as sending:
        assert sending.drain(20).num_sent == 1
    assert held(url, place) == {"a": b"1", "b": b"3"}


def test_what_grows_is_sent_whole_at_the_end(url, place, tmp_path):
    with uploader(tmp_path, place, url) as sending:
        with open(tmp_path / "log.txt", "a") as log:
            for number in range(50):
                print("line", number, file=log, flush=True)
                time.sleep(0.005)
        assert sending.drain(20).is_complete
        assert sending.num_sent < 10  # not once for every line
    assert held(url, place)["log.txt"] == (tmp_path / "log.txt").read_bytes()


@pytest.mark.parametrize(
    ("name", "patterns", "is_out"),
    [
        ("inputs/a", ["inputs/"], True), ("inputs/a/b", ["inputs/"], True),
        ("x/inputs/a", ["inputs/"], False), ("inputs.txt", ["inputs/"], False),
        ("a.tmp", ["*.tmp"], True), ("x/a.tmp", ["*.tmp"], True), ("a.tmpx", ["*.tmp"], False),
        ("train/a.pth", ["train/*.pth"], True), ("a.pth", ["train/*.pth"], False),
        ("a", [], False), ("train/x/y", ["train/x/", "b"], True), ("x/a", ["./x/"], True),
    ],
)  # fmt: skip
def test_upload_excludes_are_folders_and_patterns(name, patterns, is_out):
    assert is_excluded(name, patterns) is is_out


def test_what_is_excluded_hidden_or_leads_out_is_not_sent(url, place, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    write(outside, {"secret": b"s"})
    folder = tmp_path / "run"
    write(folder, {"a": b"1", "inputs/x": b"2", "x.tmp": b"3", ".hidden": b"4", ".d/x": b"5"})
    (folder / "inside").symlink_to("a")
    (folder / "out").symlink_to(outside / "secret")
    (folder / "folder").symlink_to(outside)
    told = []
    excludes = ["inputs/", "*.tmp"]
    with uploader(folder, place, url, excludes=excludes, tell=told.append) as sending:
        assert sending.drain(20).is_complete
    assert held(url, place) == {"a": b"1", "inside": b"1"}
    assert told == [f"out leads out of {folder}: not sent."]


# J19


def test_j19_a_training_goes_on_while_the_store_is_away_and_nothing_is_lost(place, tmp_path):
    """Checkpoints come and are deleted again (the last two stay), as trainings do it."""
    port, told = free_port(), []
    place = Address("s3", "outage", "run")
    url = f"http://127.0.0.1:{port}"
    with uploader(tmp_path, place, url, deadline=0.2, tell=told.append) as sending:
        for epoch in range(6):
            began = time.monotonic()
            write(tmp_path, {f"epoch_{epoch}.pth": bytes([epoch]) * 1000, "latest": bytes([epoch])})
            assert time.monotonic() - began < 2  # it does not wait for the store
            seen = time.monotonic() + 10
            name = f"epoch_{epoch}.pth"
            while name not in sending.journal.pending and time.monotonic() < seen:
                time.sleep(0.01)
            if epoch >= 2:
                (tmp_path / f"epoch_{epoch - 2}.pth").unlink()
        kept = tmp_path / ".kineme-upload" / "spool"
        assert len(list(kept.iterdir())) == 7  # six checkpoints and the newest `latest`
        while not told:  # until the first attempts are over
            time.sleep(0.01)
        assert sending.num_sent == 0
        with moto(port) as url:
            store_at(url)._client.create_bucket(Bucket="outage")
            assert sending.drain(30).is_complete
            assert list(kept.iterdir()) == []
            expected = {f"epoch_{epoch}.pth": bytes([epoch]) * 1000 for epoch in range(6)}
            assert held(url, place) == {**expected, "latest": bytes([5])}
    assert told[0].startswith("Uploads wait, and nothing else does: s3://outage/run/")
    assert sorted(p.name for p in tmp_path.glob("epoch*")) == ["epoch_4.pth", "epoch_5.pth"]


def test_j19_what_could_not_be_sent_is_told_and_sent_by_the_next(url, place, tmp_path):
    write(tmp_path, {"a": b"1"})
    away = f"http://127.0.0.1:{free_port()}"
    with uploader(tmp_path, place, away, deadline=0.1) as sending:
        while sending.error is None:  # until the first attempt is over, however slow the machine
            time.sleep(0.01)
        drained = sending.drain(0.0)
        assert not sending.journal.sent
    assert drained.pending == ("a",)
    assert isinstance(drained.error, UnavailableError)
    (tmp_path / "a").unlink()  # by now it is in the spool alone
    with uploader(tmp_path, place, url) as sending:
        assert sending.drain(20).is_complete
    assert held(url, place) == {"a": b"1"}


def test_j19_a_store_that_refuses_ends_a_drain_at_once(place, tmp_path):
    write(tmp_path, {"a": b"1", "b": b"2"})
    denied = refusal("403 Forbidden", "AccessDenied")
    with Faulty(denied) as one, uploader(tmp_path, place, one.url) as sending:
        began = time.monotonic()
        drained = sending.drain(60)
        assert time.monotonic() - began < 10
    assert drained.pending == ("a", "b")
    assert "403 AccessDenied" in str(drained.error)


def test_j19_one_file_that_is_refused_holds_up_no_other(url, place, tmp_path):
    write(tmp_path, {"a": b"1", "b": b"2", "c": b"3"})
    sending = uploader(tmp_path, place, url)
    upload = sending._store.upload

    def picky(path, address, **words):
        if address.name == "a":
            raise ServiceError(str(address), "access to it", "403 AccessDenied")
        return upload(path, address, **words)

    sending._store.upload = picky
    with sending:
        drained = sending.drain(20)
    assert drained.pending == ("a",)
    assert held(url, place) == {"b": b"2", "c": b"3"}


def test_j19_a_copy_is_kept_until_the_store_has_said_what_it_holds(url, place, tmp_path):
    """Here the store says something else after the first upload."""
    write(tmp_path, {"a": b"1" * 100})
    sending = uploader(tmp_path, place, url)
    client = sending._store._client
    put, seen = client.put_object, []

    def damaging(**words):
        answered = put(**words)
        if not seen:
            words["Body"] = b"2"
            put(**{name: words[name] for name in ("Bucket", "Key", "Body")})
        spool_folder = tmp_path / ".kineme-upload" / "spool"
        seen.append([path.read_bytes() for path in spool_folder.iterdir()])
        return answered

    client.put_object = damaging
    with sending:
        deadline = time.monotonic() + 10
        while sending.num_sent == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert sending.drain(20).is_complete
    assert seen == [[b"1" * 100], [b"1" * 100]]
    assert held(url, place) == {"a": b"1" * 100}


def test_j19_a_file_that_is_replaced_before_it_was_sent_is_sent_once(url, place, tmp_path):
    sending = uploader(tmp_path, place, url)
    for number in range(5):
        write(tmp_path, {"latest": bytes([number])})
        sending.scan()
    assert len(sending.journal.waiting()) == 1
    with sending:
        assert sending.drain(20).num_sent == 1
    assert held(url, place) == {"latest": bytes([4])}


# J20

CHILD = """
import sys, time
from pathlib import Path
from kineme.data.remote import s3
from kineme.data.remote.addresses import parse
from kineme.data.remote.spool import Uploader

s3.PART_BYTES = 5 << 20
put_part = s3.S3Store._put_part

def slowly(store, address, upload_id, number, data, md5):
    etag = put_part(store, address, upload_id, number, data, md5)
    if number == 2:
        print("two parts are there", flush=True)
        time.sleep(60)
    return etag

s3.S3Store._put_part = slowly
with Uploader(Path(sys.argv[1]), parse(sys.argv[2]), poll_seconds=0.05) as sending:
    sending.drain(60)
"""


def test_j20_an_upload_that_is_killed_shows_nothing_and_is_done_by_the_next_start(
    url, place, tmp_path, monkeypatch
):
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    data = os.urandom(1 << 20) * 12
    write(tmp_path, {"big.pth": data})
    environment = {
        **os.environ, "S3_ENDPOINT_URL": url, "ACCESS_KEY": KEY_ID, "SECRET_KEY": SECRET,
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path), str(place)],
        env=environment, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout.readline() == b"two parts are there\n"
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()
    client = store_at(url)._client

    def begun():
        found = client.list_multipart_uploads(Bucket="results", Prefix=place.key)
        return [one["UploadId"] for one in found.get("Uploads", ())]

    assert held(url, place) == {}
    (left,) = begun()
    (tmp_path / "big.pth").unlink()  # the journal and the spool are enough
    told = []
    with uploader(tmp_path, place, url, tell=told.append) as sending:
        drained = sending.drain(60)
    assert (drained.num_sent, told) == (1, [])
    assert begun() == []
    assert held(url, place) == {"big.pth": data}
    assert left not in begun()


def test_j20_the_journal_is_right_wherever_it_was_cut(tmp_path):
    """Whatever a kill leaves of it is a state in which nothing that was queued is lost."""
    for name in ("a", "b", "c"):
        (tmp_path / name).write_bytes(name.encode())
    journal = Journal.opened(tmp_path / "own")
    journal.queue("a", tmp_path / "a", (1, 1, 1))
    journal.queue("b", tmp_path / "b", (1, 2, 2))
    journal.begin_parts("b")
    sent = journal.pending["a"]
    journal.finish(sent)
    journal.queue("c", tmp_path / "c", (1, 3, 3))
    whole = (tmp_path / "own" / "journal.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    ends = [sum(map(len, lines[: n + 1])) for n in range(len(lines))]
    for cut in sorted(
        {0, *ends, *(end + by for end in ends for by in (-9, -1, 1) if end < len(whole))}
    ):
        folder = tmp_path / f"cut{cut}"
        (folder / "spool").mkdir(parents=True)
        (folder / "journal.jsonl").write_bytes(whole[:cut])
        found = Journal.opened(folder)
        num_done = sum(end - 1 <= cut for end in ends)  # the line feed may be missing
        pending = [["a"], ["a", "b"], ["a", "b"], ["b"], ["b", "c"]]
        assert list(found.pending) == ([] if num_done == 0 else pending[num_done - 1])
        assert found.sent == ({"a": (1, 1, 1)} if num_done >= 4 else {})
        assert found.begun == ({"b"} if num_done >= 3 else set())
        again = Journal.opened(folder)  # what was rewritten says the same
        assert (again.pending, again.sent, again.begun) == (
            found.pending, found.sent, found.begun,
        )  # fmt: skip


def test_the_journal_grows_with_files_and_not_with_how_often_they_change(tmp_path, monkeypatch):
    monkeypatch.setattr(journal_module, "sync", lambda path: None)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(journal_module, "MAX_LINES", 20)
    (tmp_path / "log").write_bytes(b"x")
    journal = Journal.opened(tmp_path / "own")
    journal.begin_parts("large")
    longest = 0
    for time_ns in range(100):
        journal.queue("log", tmp_path / "log", (1, time_ns, 1))
        journal.finish(journal.pending["log"])
        longest = max(longest, (tmp_path / "own" / "journal.jsonl").read_bytes().count(b"\n"))
    assert longest <= 30
    again = Journal.opened(tmp_path / "own")
    assert (again.sent, again.begun, again.pending) == ({"log": (1, 99, 1)}, {"large"}, {})


def test_j20_lines_that_are_no_events_cost_nothing(tmp_path):
    (tmp_path / "journal.jsonl").write_text('null\n[]\n{"event": 1}\n{"event":"qu\n\n')
    assert Journal.opened(tmp_path).pending == {}
    assert json.loads((tmp_path / "journal.jsonl").read_text() or "null") is None


def test_a_folder_is_sent_by_one_process_at_a_time(url, place, tmp_path):
    first = uploader(tmp_path, place, url)
    with pytest.raises(ResourceError, match="no other process sends"):
        uploader(tmp_path, place, url)
    first.close()
    uploader(tmp_path, place, url).close()


def test_threads_end_with_their_uploader(url, place, tmp_path):
    before = threading.active_count()
    with uploader(tmp_path, place, url) as sending:
        sending.drain(5)
    assert threading.active_count() <= before + 1  # the watch over attempts stays, once


def test_a_disk_without_links_gets_copies(url, place, tmp_path, monkeypatch):
    def unlinkable(*_):
        raise OSError(95, "not supported")

    monkeypatch.setattr(os, "link", unlinkable)
    write(tmp_path, {"a": b"1"})
    with uploader(tmp_path, place, url) as sending:
        assert sending.drain(20).is_complete
    assert held(url, place) == {"a": b"1"}
