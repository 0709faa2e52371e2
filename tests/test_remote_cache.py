"""What was fetched: kept by content, shown under its names, found damaged, fetched once."""

import json
import os
import resource
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

from kineme.data.remote import cache as remote_cache
from kineme.data.remote.addresses import Address, parse
from kineme.data.remote.cache import fetched
from kineme.errors import DataError, ResourceError, ServiceError
from stores import KEY_ID, SECRET, Faulty, answer, moto, store_at

FILES = {
    "a.npy": b"a" * 1000,
    "deep/b.npy": b"b" * 2000,
    "deep/er/c c.txt": b"c",
    "same": b"a" * 1000,
}


@pytest.fixture(scope="module")
def url():
    with moto() as url:
        yield url


class Counted:
    """A bucket of its own for one test, and which objects were fetched from it."""

    def __init__(self, url, bucket, cache):
        self.store, self.bucket, self.cache = store_at(url), bucket, cache
        self.client, self.gets, self.told = self.store._client, [], []
        self.client.create_bucket(Bucket=bucket)
        get = self.client.get_object
        self.client.get_object = lambda **words: self.gets.append(words["Key"]) or get(**words)

    def put(self, files):
        for key, data in files.items():
            self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def fetch(self, key):
        address = Address("s3", self.bucket, key)
        return fetched(address, store=self.store, cache=self.cache, tell=self.told.append)


@pytest.fixture
def bucket(url, tmp_path, request):
    name = f"bucket-{zlib.crc32(request.node.name.encode())}"
    return Counted(url, name, tmp_path / "cache")


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_an_object_is_a_file_of_its_own_name(bucket):
    bucket.put({"data/train_data.npy": b"x" * 99})
    path = bucket.fetch("data/train_data.npy")
    assert (path.name, path.read_bytes()) == ("train_data.npy", b"x" * 99)
    assert bucket.told == [f"fetching s3://{bucket.bucket}/data/train_data.npy (99 bytes)"]


@pytest.mark.parametrize("key", ["data/", "data"])
def test_a_folder_is_its_tree_and_equal_bytes_are_kept_once(bucket, key):
    bucket.put({f"data/{name}": data for name, data in FILES.items()})
    bucket.put({"data/": b"", "data/empty/": b"", "database": b"another"})
    folder = bucket.fetch(key)
    assert tree(folder) == FILES
    assert (folder / "a.npy").stat().st_ino == (folder / "same").stat().st_ino
    first = f"s3://{bucket.bucket}/data/a.npy"
    assert bucket.told == [f"fetching {first} and 3 more (4,001 bytes)"]


def test_the_whole_bucket_is_a_folder_too(bucket):
    bucket.put(FILES)
    assert tree(bucket.fetch("")) == FILES


def test_what_is_there_is_not_fetched_again(bucket):
    bucket.put(FILES)
    first = bucket.fetch("")
    bucket.gets.clear()
    assert bucket.fetch("") == first
    assert bucket.fetch("a.npy").read_bytes() == FILES["a.npy"]
    assert bucket.gets == []


def test_only_what_changed_is_fetched_and_the_older_tree_stays_as_it_was(bucket):
    bucket.put(FILES)
    before = bucket.fetch("")
    bucket.gets.clear()
    bucket.put({"a.npy": b"new"})
    bucket.client.delete_object(Bucket=bucket.bucket, Key="same")
    after = bucket.fetch("")
    assert bucket.gets == ["a.npy"]
    assert tree(after) == {**{k: v for k, v in FILES.items() if k != "same"}, "a.npy": b"new"}
    assert tree(before) == FILES


def test_nothing_there_is_one_line(bucket):
    with pytest.raises(ServiceError, match="expected an object, or objects below it, got none"):
        bucket.fetch("none")


# J21


def damage(path):
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def test_j21_a_damaged_file_is_found_by_its_checksum_and_fetched_again(bucket):
    bucket.put(FILES)
    folder = bucket.fetch("")
    bucket.gets.clear()
    bucket.told.clear()
    damage(folder / "deep/b.npy")
    assert tree(bucket.fetch("")) == FILES
    assert bucket.gets == ["deep/b.npy"]
    place = f"s3://{bucket.bucket}/deep/b.npy"
    assert bucket.told[0] == f"1 cached files were damaged; first: that of {place}."


@pytest.mark.parametrize("harm", ["gone", "short", "link", "folder"])
def test_j21_whatever_became_of_a_file_it_is_whole_again(bucket, harm, tmp_path):
    bucket.put(FILES)
    path = bucket.fetch("") / "a.npy"
    path.unlink()
    if harm == "short":
        path.write_bytes(b"a")
    elif harm == "link":
        (tmp_path / "other").write_bytes(b"other")
        path.symlink_to(tmp_path / "other")
    elif harm == "folder":
        for kept in (bucket.cache / "remote" / "objects").rglob("*"):
            if kept.is_file():
                kept.unlink()
    assert tree(bucket.fetch("")) == FILES
    if harm == "link":
        assert (tmp_path / "other").read_bytes() == b"other"


def test_j21_a_cache_that_was_moved_is_hashed_once_and_kept(bucket, tmp_path):
    bucket.put(FILES)
    bucket.fetch("")
    for path in (bucket.cache / "remote" / "trees").rglob("*.npy"):
        os.utime(path)
    bucket.gets.clear()
    hashed = []
    real = remote_cache.InputFile.sha256
    remote_cache.InputFile.sha256 = lambda file: hashed.append(file.path.name) or real(file)
    try:
        bucket.fetch("")
        assert sorted(hashed) == ["a.npy", "b.npy", "same"]
        bucket.fetch("")
        assert len(hashed) == 3
    finally:
        remote_cache.InputFile.sha256 = real
    assert bucket.gets == []


def test_j21_records_that_are_no_json_cost_a_download(bucket):
    bucket.put(FILES)
    bucket.fetch("")
    for path in (bucket.cache / "remote").rglob("*.json"):
        path.write_text("{")
    bucket.gets.clear()
    assert tree(bucket.fetch("")) == FILES
    assert sorted(bucket.gets) == sorted(FILES)


def test_j21_of_many_that_want_it_one_fetches(url, tmp_path):
    store = store_at(url)
    store._client.create_bucket(Bucket="concurrent")
    store._client.put_object(Bucket="concurrent", Key="x/big", Body=b"x" * 3_000_000)
    gets, found = [], []
    get = store._client.get_object
    store._client.get_object = lambda **words: gets.append(words["Key"]) or get(**words)

    def fetch(key):
        found.append(fetched(Address("s3", "concurrent", key), store=store, cache=tmp_path))

    threads = [threading.Thread(target=fetch, args=(key,)) for key in ["x/big", "x/"] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gets == ["x/big"]
    assert len(found) == 8
    assert len(set(found)) == 2


def test_j21_of_two_processes_one_fetches(url, tmp_path):
    store = store_at(url)
    store._client.create_bucket(Bucket="processes")
    store._client.put_object(Bucket="processes", Key="big", Body=b"x" * 3_000_000)
    code = (
        "from kineme.data.remote.cache import fetched\n"
        "from kineme.data.remote.addresses import parse\n"
        "told = []\n"
        "fetched(parse('s3://processes/big'), tell=told.append)\n"
        "print(len(told))"
    )
    environment = {
        **os.environ, "KINEME_CACHE": str(tmp_path), "S3_ENDPOINT_URL": url,
        "ACCESS_KEY": KEY_ID, "SECRET_KEY": SECRET,
    }  # fmt: skip
    running = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert sorted(process.communicate()[0].strip() for process in running) == [b"0", b"1"]


def test_j21_a_disk_that_is_too_small_is_told_before_anything_is_fetched(bucket, monkeypatch):
    bucket.put(FILES)
    usage = type("Usage", (), {"free": 3000})
    monkeypatch.setattr(remote_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(
        ResourceError, match="expected 4,001 bytes of disk, got 3,000 free"
    ) as error:
        bucket.fetch("")
    assert "KINEME_CACHE" in str(error.value)
    assert error.value.exit_code == 5
    assert bucket.gets == []


def test_j21_a_disk_that_fills_up_ends_with_5_and_gets_its_bytes_back(bucket):
    bucket.put({"big": b"x" * 3_000_000})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))  # as if the disk ended there
    try:
        with pytest.raises(ResourceError) as error:
            bucket.fetch("big")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.exit_code == 5
    assert "KINEME_CACHE" in str(error.value)
    left = [path for path in bucket.cache.rglob("*") if path.is_file() and path.stat().st_size]
    assert left == []
    assert bucket.fetch("big").stat().st_size == 3_000_000


def test_j21_where_one_object_fails_the_others_are_stopped(bucket):
    bucket.put({f"{number:03d}": os.urandom(10) for number in range(100)})
    get = bucket.client.get_object

    def failing(**words):
        if words["Key"] == "003":
            raise ServiceError("s3://b/003", "it", "not it")
        return get(**words)

    bucket.client.get_object = failing
    with pytest.raises(ServiceError, match="got not it"):
        bucket.fetch("")
    assert len(bucket.gets) < 100
    bucket.client.get_object = get
    assert len(tree(bucket.fetch(""))) == 100
    assert len(bucket.gets) == 100  # none of them twice


def test_a_cache_that_cannot_be_written_is_a_note_and_a_temporary_folder(bucket, tmp_path):
    bucket.put(FILES)
    (tmp_path / "file").write_text("")
    bucket.cache = tmp_path / "file"
    with pytest.warns(UserWarning, match=r"cannot be written \(not a directory\)"):
        path = bucket.fetch("a.npy")
    assert path.read_bytes() == FILES["a.npy"]


# J22: names out of a store


def listing(*keys):
    objects = "".join(
        f"<Contents><Key>{key}</Key><Size>1</Size><ETag>&quot;e&quot;</ETag></Contents>"
        for key in keys
    )
    text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{objects}</ListBucketResult>"
    return answer(body=text.encode(), Content_Type="application/xml")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("data/../../../etc/cron.d/x", "a part that is . or .."),
        ("data/..", "a part that is . or .."),
        ("data//etc/passwd", "an empty part (//)"),
        ("data/a\\b", "a backslash in it"),
        ("data/a&#10;b", "a control character in it"),
        ("data/" + "x" * 300, "more than 1024 bytes"),
    ],
)
def test_j22_a_name_that_would_leave_its_folder_is_refused(tmp_path, key, reason):
    with Faulty(listing("data/good", key)) as one:
        with pytest.raises(DataError) as error:
            fetched(parse("s3://bucket/data/"), store=store_at(one.url), cache=tmp_path / "cache")
        assert len(one.requests) == 1
    assert f"got {reason}" in str(error.value)
    assert "Nothing was fetched." in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_an_object_that_is_a_folder_too_is_refused(tmp_path):
    with Faulty(listing("data/a", "data/a/b")) as one, pytest.raises(DataError, match="both"):
        fetched(parse("s3://bucket/data/"), store=store_at(one.url), cache=tmp_path)


def test_what_lies_in_the_cache_is_what_its_page_says(bucket):
    bucket.put({"x/a": b"a" * 10})
    folder = bucket.fetch("x/")
    shelf = bucket.cache / "remote"
    (kept,) = [path for path in (shelf / "objects").rglob("*") if path.is_file()]
    assert kept.parent.name == kept.name[:2]
    assert folder.parent == shelf / "trees"
    record = json.loads(Path(f"{folder}.json").read_text())
    assert record["a"][:2] == [kept.name, 10]
    assert (folder / "a").stat().st_mode & 0o777 == 0o444
