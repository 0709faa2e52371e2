"""One object from and to a store: what is retried, resumed, verified, and how failure is told."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time

import pytest

from kineme.data.remote import s3
from kineme.data.remote.addresses import Address, parse
from kineme.data.remote.patience import UnavailableError
from kineme.data.remote.s3 import S3Store
from kineme.errors import ServiceError, SpecError
from stores import KEY_ID, SECRET, Faulty, answer, dripping, moto, refusal, silent, store_at

PLACE = parse("s3://bucket/data/train.npy")
DATA = bytes(range(256)) * 400  # 102,400 bytes
MD5 = hashlib.md5(DATA).hexdigest()
HEAD = answer(Content_Length=str(len(DATA)), ETag=f'"{MD5}"')


@pytest.fixture(scope="module")
def url():
    with moto() as url:
        store_at(url)._client.create_bucket(Bucket="bucket")
        yield url


@pytest.fixture
def store(url):
    return store_at(url)


def put(store, key, data, **facts):
    store._client.put_object(Bucket="bucket", Key=key, Body=data, **facts)
    return Address("s3", "bucket", key)


def whole(etag=MD5):
    return answer(body=DATA, ETag=f'"{etag}"')


def body_from(offset, data=DATA):
    return answer(
        "206 Partial Content",
        data[offset:],
        ETag=f'"{MD5}"',
        Content_Range=f"bytes {offset}-{len(DATA) - 1}/{len(DATA)}",
    )


def the_line(error):
    (problem,) = error.value.problems
    text = str(problem)
    assert "\n" not in text
    assert KEY_ID not in text
    assert SECRET not in text
    return text


# What is right


def test_what_goes_up_comes_down_with_its_checksum(store, tmp_path):
    (tmp_path / "a").write_bytes(DATA)
    place = Address("s3", "bucket", "up/a")
    facts = store.upload(tmp_path / "a", place)
    assert (facts.size, facts.etag) == (len(DATA), MD5)
    sha256 = hashlib.sha256(DATA).hexdigest()
    assert dict(facts.checksums) == {"sha256": sha256, "md5": MD5}
    assert store.download(place, tmp_path / "b") == sha256
    assert (tmp_path / "b").read_bytes() == DATA
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_large_files_go_in_parts_and_carry_their_sha256(store, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    data = os.urandom(1 << 20) * 12
    (tmp_path / "a").write_bytes(data)
    place = Address("s3", "bucket", "parts/a")
    facts = store.upload(tmp_path / "a", place)
    parts = [data[i : i + (5 << 20)] for i in range(0, len(data), 5 << 20)]
    sums = b"".join(hashlib.md5(part).digest() for part in parts)
    assert facts.etag == f"{hashlib.md5(sums).hexdigest()}-3"
    assert dict(facts.checksums)["sha256"] == hashlib.sha256(data).hexdigest()
    store.download(place, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == data


def test_empty_objects_and_odd_names_are_objects_like_others(store, tmp_path):
    for key in ("odd/empty", "odd/a b+c&d=e?f#g%2e", "odd/ä/é🤸"):
        data = b"" if key.endswith("empty") else key.encode()
        (tmp_path / "a").write_bytes(data)
        store.upload(tmp_path / "a", Address("s3", "bucket", key))
        store.download(Address("s3", "bucket", key), tmp_path / "b")
        assert (tmp_path / "b").read_bytes() == data
    found = [entry.address.key for entry in store.list(parse("s3://bucket/odd/"))]
    assert found == ["odd/a b+c&d=e?f#g%2e", "odd/empty", "odd/ä/é🤸"]


def test_listings_of_many_pages_are_whole(store):
    for number in range(7):
        put(store, f"many/{number}", b"x")
    pages = list(store._pages(parse("s3://bucket/many/"), num_keys=3))
    assert [len(page["Contents"]) for page in pages] == [3, 3, 1]
    assert len(store.list(parse("s3://bucket/many/"))) == 7


def test_whether_something_is_there(store):
    put(store, "there/a", b"x")
    places = ("s3://bucket/there/a", "s3://bucket/there/", "s3://bucket/there", "s3://bucket/")
    assert all(store.exists(parse(place)) for place in places)
    assert not store.exists(parse("s3://bucket/ther"))
    assert not store.exists(parse("s3://bucket/there/b"))


# J17


def test_j17_a_bucket_and_an_object_that_are_missing_are_told_apart(store, tmp_path):
    with pytest.raises(ServiceError) as error:
        store.download(parse("s3://no-such-bucket/x"), tmp_path / "x")
    assert the_line(error).startswith(
        "s3://no-such-bucket/x: expected a bucket 'no-such-bucket', got 404 NoSuchBucket. "
    )
    with pytest.raises(ServiceError) as error:
        store.download(parse("s3://bucket/none"), tmp_path / "x")
    assert the_line(error) == "s3://bucket/none: expected an object there, got 404. Check the key."
    assert error.value.exit_code == 6


@pytest.mark.parametrize(
    ("status", "code", "expected", "fix"),
    [
        ("403 Forbidden", "AccessDenied", "access to it", "Check AWS_ACCESS_KEY_ID"),
        ("403 Forbidden", "InvalidAccessKeyId", "access to it", "Check AWS_ACCESS_KEY_ID"),
        ("400 Bad Request", "ExpiredToken", "credentials that are valid", "Renew AWS_SESSION"),
        ("403 Forbidden", "RequestTimeTooSkewed", "a clock that is right", "Set this machine's"),
        ("404 Not Found", "NoSuchBucket", "a bucket 'bucket'", "Check the name"),
    ],
)
def test_j17_what_will_not_pass_is_told_at_once(tmp_path, status, code, expected, fix):
    with Faulty(answer(status, Date="Thu, 26 Nov 2026 03:00:00 GMT"), refusal(status, code)) as one:
        with pytest.raises(ServiceError) as error:
            store_at(one.url).download(PLACE, tmp_path / "x")
        # HEAD, whose answers have no words, and what is wrong; boto3 asks a 400 for the region
        assert len(one.requests) == (3 if status.startswith("400") else 2)
    text = the_line(error)
    assert text.startswith(f"{PLACE}: expected {expected}, got {status[:3]} {code}")
    assert fix in text
    assert not isinstance(error.value, UnavailableError)
    assert os.listdir(tmp_path) == []


def test_j17_a_wrong_clock_is_told_with_that_of_the_store():
    skewed = refusal("403 Forbidden", "RequestTimeTooSkewed")
    skewed = skewed.replace(b"\r\n", b"\r\nDate: Thu, 26 Nov 2026 03:00:00 GMT\r\n", 1)
    with Faulty(skewed) as one, pytest.raises(ServiceError) as error:
        store_at(one.url).list(PLACE)
    assert "(the store's clock: Thu, 26 Nov 2026 03:00:00 GMT)" in the_line(error)


def test_j17_slow_down_three_times_and_then_an_answer(tmp_path):
    slow = refusal("503 Slow Down", "SlowDown")
    with Faulty(slow, slow, slow, HEAD, whole()) as one:
        store_at(one.url).download(PLACE, tmp_path / "x")
        assert len(one.requests) == 5
    assert (tmp_path / "x").read_bytes() == DATA


def test_j17_slow_down_for_ever_ends_at_the_deadline(tmp_path):
    with Faulty(refusal("503 Slow Down", "SlowDown")) as one:
        store = store_at(one.url, 0.5)
        began = time.monotonic()
        with pytest.raises(UnavailableError) as error:
            store.list(PLACE)
        assert len(one.requests) >= 3
        assert time.monotonic() - began < 5
    assert "expected an object store that answers, got 503 SlowDown for 0.5 s" in the_line(error)


def reset_after(count):
    """Send so many bytes of the body, then a reset."""

    def answering(head, connection):
        connection.sendall(whole()[: -len(DATA) + count])
        time.sleep(0.1)  # so that they are read first
        linger = (1).to_bytes(4, "little") + (0).to_bytes(4, "little")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    return answering


def range_of(request):
    match = re.search(r"^range: bytes=(\d+)-", request, re.M | re.I)
    return int(match.group(1)) if match else None


def rest(head, connection):
    connection.sendall(body_from(range_of(head)))


def test_j17_a_reset_goes_on_where_it_was_and_only_with_the_same_version(tmp_path):
    with Faulty(HEAD, reset_after(50_000), rest) as one:
        store_at(one.url).download(PLACE, tmp_path / "x")
        assert 0 < range_of(one.requests[2]) <= 50_000
        assert all(f'if-match: "{MD5}"' in request.lower() for request in one.requests[1:])
    assert (tmp_path / "x").read_bytes() == DATA


def test_j17_a_body_that_is_cut_short_goes_on(tmp_path):
    cut = answer(body=DATA[:30_000], ETag=f'"{MD5}"', Content_Length=str(len(DATA)))
    with Faulty(HEAD, cut, rest) as one:
        store_at(one.url).download(PLACE, tmp_path / "x")
        assert range_of(one.requests[2]) == 30_000
    assert (tmp_path / "x").read_bytes() == DATA


def test_j17_a_store_that_knows_no_ranges_sends_all_of_it_again(tmp_path):
    cut = answer(body=DATA[:30_000], ETag=f'"{MD5}"', Content_Length=str(len(DATA)))
    with Faulty(HEAD, cut, whole()) as one:
        store_at(one.url).download(PLACE, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


def test_j17_bytes_that_are_not_those_of_the_etag_are_fetched_again_then_refused(tmp_path):
    other = b"!" + DATA[1:]
    wrong = answer(body=other, ETag=f'"{MD5}"')
    with Faulty(HEAD, wrong, HEAD, whole()) as one:
        store_at(one.url).download(PLACE, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    (tmp_path / "x").unlink()
    with Faulty(HEAD, wrong, HEAD, wrong, HEAD, wrong) as one:
        with pytest.raises(ServiceError) as error:
            store_at(one.url).download(PLACE, tmp_path / "x")
        assert len(one.requests) == 6
    found = hashlib.md5(other).hexdigest()
    assert f"{PLACE}: expected the bytes that the store promises" in the_line(error)
    assert f"their md5 is {found}, not {MD5}" in the_line(error)
    assert os.listdir(tmp_path) == []


def test_j17_a_body_that_is_too_long_is_refused(tmp_path):
    long = answer(body=DATA + b"more", ETag=f'"{MD5}"')
    with Faulty(*[HEAD, long] * 3) as one, pytest.raises(ServiceError) as error:
        store_at(one.url).download(PLACE, tmp_path / "x")
    assert "102,404 bytes in place of 102,400" in the_line(error)


def test_j17_an_object_that_is_replaced_meanwhile_is_fetched_anew(store, tmp_path):
    place = put(store, "replaced", DATA)
    before = store.find(place)
    put(store, "replaced", DATA[::-1])
    store.download(place, tmp_path / "x", facts=before)
    assert (tmp_path / "x").read_bytes() == DATA[::-1]


def test_j17_the_stores_own_checksum_is_held_against_the_bytes(tmp_path):
    crc32 = answer(
        Content_Length=str(len(DATA)), ETag='"made-otherwise-1"', x_amz_checksum_crc32="AAAAAA=="
    )
    body = answer(body=DATA, ETag='"made-otherwise-1"')
    with Faulty(*[crc32, body] * 3) as one, pytest.raises(ServiceError) as error:
        store_at(one.url).download(PLACE, tmp_path / "x")
    assert re.search(r"their crc32 is [0-9a-f]{8}, not 00000000", the_line(error))


def test_j17_a_part_that_an_earlier_process_left_is_gone_on_from(store, tmp_path):
    place = put(store, "left", DATA)
    facts = store.find(place)
    denied = refusal("403 Forbidden", "AccessDenied")
    with Faulty(HEAD, reset_after(50_000), denied) as one, pytest.raises(ServiceError):
        store_at(one.url).download(PLACE, tmp_path / "x")
    (partial,) = tmp_path.iterdir()
    assert partial.name.endswith(".partial")
    left = partial.stat().st_size
    assert 0 < left <= 50_000
    asked = []
    get = store._client.get_object
    store._client.get_object = lambda **words: asked.append(words) or get(**words)
    store.download(place, tmp_path / "x", facts=facts)
    assert asked[0]["Range"] == f"bytes={left}-"
    assert (tmp_path / "x").read_bytes() == DATA
    assert os.listdir(tmp_path) == ["x"]


def test_j17_an_answer_that_is_none_is_told():
    page = answer(body=b"<html>Log in to the hotel</html>", Content_Type="text/html")
    with Faulty(page) as one:
        for ask in (store_at(one.url).list, store_at(one.url).find):
            with pytest.raises(ServiceError) as error:
                ask(PLACE)
            assert the_line(error).startswith(f"{PLACE}: expected an answer of an object store, ")


def test_no_credentials_is_one_line(monkeypatch, tmp_path, url):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("S3_ENDPOINT_URL", url)
    with pytest.raises(ServiceError) as error:
        S3Store(deadline_seconds=1).list(PLACE)
    assert the_line(error).startswith(f"{PLACE}: expected credentials for it, got none. Set AWS_")


def test_without_boto3_the_extra_is_named():
    code = (
        "import sys; sys.modules['boto3'] = None\n"
        "from kineme.data.remote.s3 import S3Store\n"
        "from kineme.errors import SpecError\n"
        "try: S3Store()\n"
        "except SpecError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'kineme[s3]'" in done.stdout


def test_nothing_of_it_imports_boto3_or_numpy_before_it_is_needed():
    code = (
        "import sys, kineme.data.remote.spool, kineme.data.remote.staging\n"
        "print([n for n in ('boto3', 'botocore', 'numpy', 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_with_size_and_etag_known_one_request_is_enough(store, tmp_path):
    place = put(store, "known", DATA)
    facts = s3.Facts(len(DATA), MD5)
    store._client.head_object = None  # as calling it would show
    assert store.download(place, tmp_path / "x", facts=facts) == hashlib.sha256(DATA).hexdigest()


def test_j17_damage_is_seen_without_asking_for_checksums_first(tmp_path):
    wrong = answer(body=b"!" + DATA[1:], ETag=f'"{MD5}"')
    with Faulty(wrong, HEAD, whole()) as one:
        store_at(one.url).download(PLACE, tmp_path / "x", facts=s3.Facts(len(DATA), MD5))
    assert (tmp_path / "x").read_bytes() == DATA


def test_an_etag_of_an_encrypted_object_is_no_checksum(tmp_path):
    kms = {"ETag": f'"{"0" * 32}"', "x_amz_server_side_encryption": "aws:kms"}
    with Faulty(answer(body=DATA, **kms), answer(Content_Length=str(len(DATA)), **kms)) as one:
        store_at(one.url).download(PLACE, tmp_path / "x", facts=s3.Facts(len(DATA), "0" * 32))
    assert (tmp_path / "x").read_bytes() == DATA


# J18


@pytest.mark.parametrize("server", [silent, dripping])
def test_j18_a_store_that_says_nothing_is_given_up_at_the_deadline(server, tmp_path):
    with Faulty(server) as one:
        store = store_at(one.url, 0.6)
        began = time.monotonic()
        with pytest.raises(UnavailableError) as error:
            store.download(PLACE, tmp_path / "x")
        assert 0.4 < time.monotonic() - began < 5
    assert the_line(error).startswith(
        f"{PLACE}: expected an object store that answers, got silence for 0.6 s."
    )
    assert error.value.exit_code == 6


def test_j18_a_body_that_stops_is_given_up_and_what_came_is_kept(tmp_path):
    def stopping(head, connection):
        begin = range_of(head) or 0
        text = body_from(begin) if begin else whole()
        connection.sendall(text[: -len(DATA) + begin + (40_000 if not begin else 0)])
        silent(head, connection)

    began = time.monotonic()
    with Faulty(HEAD, stopping) as one, pytest.raises(UnavailableError):
        store_at(one.url, 0.6).download(PLACE, tmp_path / "x")
    assert time.monotonic() - began < 5
    (partial,) = tmp_path.iterdir()
    assert 32_768 <= partial.stat().st_size <= 40_000


def test_j18_an_upload_that_nobody_takes_is_given_up(tmp_path):
    (tmp_path / "a").write_bytes(bytes(12 << 20))  # more than the system keeps on its way
    took = threading.Event()

    def never_reading(head, connection):
        took.wait(10)

    with Faulty(never_reading) as one:
        store = store_at(one.url, 0.6)
        began = time.monotonic()
        with pytest.raises(UnavailableError, match=r"got silence for 0\.6 s"):
            store.upload(tmp_path / "a", PLACE)
        assert time.monotonic() - began < 6
        took.set()


def test_j18_the_deadline_is_a_minute_unless_told_otherwise(url):
    assert S3Store(store_at(url).access).deadline_seconds == 60


# J20


def test_j20_parts_of_an_upload_that_fails_are_dropped(store, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    (tmp_path / "a").write_bytes(bytes(11 << 20))
    place = Address("s3", "bucket", "failing/a")
    send, sent = store._client.upload_part, []

    def failing(**words):
        sent.append(words["PartNumber"])
        if len(sent) == 2:
            raise ServiceError("it", "to go on", "an end")
        return send(**words)

    monkeypatch.setattr(store._client, "upload_part", failing)
    with pytest.raises(ServiceError, match="got an end"):
        store.upload(tmp_path / "a", place)
    assert store.find(place) is None
    assert "Uploads" not in store._client.list_multipart_uploads(Bucket="bucket")


def test_j20_only_unfinished_uploads_of_the_very_key_are_dropped(store):
    for key in ("abort/a", "abort/ab"):
        store._client.create_multipart_upload(Bucket="bucket", Key=key)
    assert store.abort_parts(Address("s3", "bucket", "abort/a")) == 1
    (left,) = store._client.list_multipart_uploads(Bucket="bucket")["Uploads"]
    assert left["Key"] == "abort/ab"
    store._client.abort_multipart_upload(Bucket="bucket", Key="abort/ab", UploadId=left["UploadId"])


def test_j20_an_upload_that_another_overwrites_is_not_counted_as_done(store, tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(DATA)
    place = Address("s3", "bucket", "raced")
    send = store._client.put_object

    def raced(**words):
        answered = send(**words)
        send(Bucket="bucket", Key="raced", Body=b"other")
        return answered

    monkeypatch.setattr(store._client, "put_object", raced)
    with pytest.raises(ServiceError, match=r"102,400 bytes, ETag .* got 5 bytes"):
        store.upload(tmp_path / "a", place)


def test_threads_share_a_store(store, tmp_path):
    place = put(store, "shared", DATA)
    threads = [
        threading.Thread(target=store.download, args=(place, tmp_path / str(n))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {(tmp_path / str(n)).read_bytes() for n in range(8)} == {DATA}


def test_the_access_shows_no_secrets():
    access = store_at("http://127.0.0.1:9").access
    assert SECRET not in repr(access)
    assert KEY_ID not in repr(access)
    with pytest.raises(SpecError):
        parse(f"s3://{KEY_ID}:{SECRET}@bucket/x")
