"""Addresses, endpoints and connections: what is one, and what is never asked."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kineme import cli
from kineme.data.remote.addresses import Address, endpoint_url, is_address, parse, reach_of
from kineme.data.remote.client import Access, _Bounds
from kineme.errors import ServiceError, SpecError
from stores import Faulty, answer, store_at


def test_an_address_is_a_bucket_and_a_key():
    place = parse("s3://bucket/a/b c.npy")
    assert place == Address("s3", "bucket", "a/b c.npy")
    assert str(place) == "s3://bucket/a/b c.npy"
    assert (place.name, place.is_folder) == ("b c.npy", False)
    assert (parse("S3://bucket/a/").name, parse("s3://bucket/a/").is_folder) == ("a", True)
    assert parse("s3://bucket") == parse("s3://bucket/") == Address("s3", "bucket", "")
    assert parse("s3://bucket").name == "bucket"
    assert str(parse("s3://bucket/a").below("b/c")) == "s3://bucket/a/b/c"


BAD_ADDRESSES = {
    "s3://": "got none",
    "s3:///key": "got none",
    "s3://b/key": "got 'b'",
    "s3://Bucket/key": "got 'Bucket'",
    "s3://buc_ket/key": "got 'buc_ket'",
    "s3://-bucket/key": "got '-bucket'",
    "s3://buc..ket/key": "got 'buc..ket'",
    "s3://../../x": "got '..'",
    "s3://169.254.169.254/latest": "got '169.254.169.254'",
    "s3://bucket:80/x": "got 'bucket:80'",
    "s3://bucket\0/x": "got 'bucket\\x00'",
    "s3://bucket/../../x": "got a part that is . or ..",
    "s3://bucket/a/../b": "got a part that is . or ..",
    "s3://bucket/./b": "got a part that is . or ..",
    "s3://bucket/..": "got a part that is . or ..",
    "s3://bucket//etc/passwd": "got an empty part (//)",
    "s3://bucket/a//b": "got an empty part (//)",
    "s3://bucket/a//": "got an empty part (//)",
    "s3://bucket/a\\..\\b": "got a backslash in it",
    "s3://bucket/a\0b": "got a control character in it",
    "s3://bucket/a\nb": "got a control character in it",
    "s3://bucket/" + "x" * 256: "got more than 1024 bytes, or 255 between two /",
    "s3://bucket/" + "x/" * 513: "got more than 1024 bytes, or 255 between two /",
    "file:///etc/passwd": "got a file:// address",
    "http://169.254.169.254/": "got a http:// address",
    "bucket/key": "got text without ://",
}


@pytest.mark.parametrize("text", BAD_ADDRESSES)
def test_j22_what_is_no_address_is_refused(text):
    with pytest.raises(SpecError) as error:
        parse(text, where="evaluate.checkpoint")
    assert BAD_ADDRESSES[text] in str(error.value)
    assert str(error.value).startswith("evaluate.checkpoint: ")
    assert error.value.exit_code == 2


def test_j22_a_password_in_an_address_is_not_repeated():
    with pytest.raises(SpecError) as error:
        parse("s3://AKIAEXAMPLE:hunter2@bucket/x")
    assert "hunter2" not in str(error.value)
    assert "AKIAEXAMPLE" not in str(error.value)


@given(st.text(max_size=40))
def test_j22_any_text_is_an_address_below_its_bucket_or_refused(text):
    for whole in (text, f"s3://{text}", f"s3://bucket/{text}"):
        try:
            place = parse(whole)
        except SpecError:
            continue
        assert is_address(whole)
        parts = place.key.removesuffix("/").split("/")
        assert not place.key or not {"", ".", ".."} & set(parts)
        assert parse(str(place)) == place


SCHEMES = [
    "http://169.254.169.254/",
    "https://host/x",
    "file:///etc/passwd",
    "gs://b/x",
    "ftp://h/x",
]


@pytest.mark.parametrize("address", [*SCHEMES, "s3://", "s3://bucket/../../x"])
def test_j22_a_dataset_at_such_an_address_ends_with_2_before_anything_is_asked(
    address, capsys, monkeypatch
):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("asked"))
    words = ["results_dir=out", f"dataset.train_dataset.data_path={address}"]
    assert cli.main(["pose_classification", "train", *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "dataset.train_dataset.data_path: expected " in line


# Endpoints


def test_the_endpoint_comes_from_the_environment_tao_s_name_first():
    urls = {"S3_ENDPOINT_URL": "http://a:1", "AWS_ENDPOINT_URL": "http://b:2"}
    assert endpoint_url(urls) == "http://a:1"
    assert endpoint_url({**urls, "S3_ENDPOINT_URL": ""}) == "http://b:2"
    assert endpoint_url({}) is None


@pytest.mark.parametrize(
    "url", ["host:9000", "file:///x", "http://", "http://h:port", "http://h/?x=1", "http://h/#x",
            "http://169.254.169.254/", "http://[fd00:ec2::254]/", "http://0.0.0.0:9000"],
)  # fmt: skip
def test_j22_an_endpoint_that_is_none_is_refused_by_its_variable(url):
    with pytest.raises(SpecError, match=r"^S3_ENDPOINT_URL: "):
        endpoint_url({"S3_ENDPOINT_URL": url})


def test_a_password_in_an_endpoint_is_not_repeated():
    with pytest.raises(SpecError) as error:
        endpoint_url({"S3_ENDPOINT_URL": "https://me:hunter2@host"})
    assert "hunter2" not in str(error.value)


def test_credentials_are_those_of_aws_or_taos_never_half_of_each():
    tao = {"ACCESS_KEY": "tao", "SECRET_KEY": "tao-secret"}
    aws = {"AWS_ACCESS_KEY_ID": "aws", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t"}

    def found(environment):
        access = Access.from_environment(environment)
        return access.key_id, access.secret, access.token

    assert found(tao) == ("tao", "tao-secret", None)
    assert found({**tao, **aws}) == ("aws", "s", "t")
    assert found({**tao, "AWS_ACCESS_KEY_ID": "aws", "AWS_SESSION_TOKEN": "t"})[0] == "tao"
    assert found({"AWS_ACCESS_KEY_ID": "aws"}) == (None, None, None)
    assert Access.from_environment({"AWS_DEFAULT_REGION": "eu-west-1"}).region == "eu-west-1"


# Connections


@pytest.mark.parametrize(
    ("ip", "reach"),
    [("8.8.8.8", "public"), ("10.1.2.3", "private"), ("192.168.0.1", "private"),
     ("127.0.0.1", "loopback"), ("::1", "loopback"), ("::ffff:127.0.0.1", "loopback"),
     ("169.254.169.254", "never"), ("::ffff:169.254.169.254", "never"), ("fe80::1%eth0", "never"),
     ("0.0.0.0", "never"), ("::", "never"), ("224.0.0.1", "never"), ("100.100.100.200", "never"),
     ("fd00:ec2::254", "never"), ("fd12::1", "private"), ("a.name", "public")],
)  # fmt: skip
def test_how_far_an_address_reaches(ip, reach):
    assert reach_of(ip) == reach


def test_j22_a_name_that_was_public_is_not_followed_inwards_when_its_address_changes():
    bounds = _Bounds("store.example")
    bounds.judge("8.8.8.8")
    for ip in ("127.0.0.1", "10.0.0.1", "169.254.169.254"):
        with pytest.raises(ServiceError, match=f"got {ip}, which is"):
            bounds.judge(ip)
    bounds.judge("9.9.9.9")


def test_j22_amazons_names_may_lie_in_a_private_network_not_on_this_machine():
    _Bounds(None).judge("10.0.0.1")
    with pytest.raises(ServiceError, match="loopback"):
        _Bounds(None).judge("127.0.0.1")


def test_j22_a_connection_is_judged_by_the_address_it_reached(monkeypatch):
    """Whatever a name resolves to by then; here it is made to look like a metadata service."""
    monkeypatch.setattr(
        "kineme.data.remote.client.reach_of", lambda ip: {"127.0.0.1": "never"}.get(ip, "public")
    )
    with Faulty(answer()) as one:
        with pytest.raises(ServiceError, match=r"got 127\.0\.0\.1, which is reserved"):
            store_at(one.url.replace("127.0.0.1", "localhost")).list(parse("s3://bucket/"))
        assert one.requests == []


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"])
def test_j22_redirects_to_other_hosts_are_not_followed(status):
    with Faulty(answer(body=b"secret")) as other:
        body = (
            "<Error><Code>PermanentRedirect</Code><Bucket>bucket</Bucket>"
            f"<Endpoint>{other.url.removeprefix('http://')}</Endpoint></Error>"
        )
        to_other = answer(
            status, body.encode(), Location=f"{other.url}/bucket", x_amz_bucket_region="eu-west-1"
        )
        with Faulty(to_other) as one, pytest.raises(ServiceError, match=f"got {status[:3]}"):
            store_at(one.url).list(parse("s3://bucket/"))
        assert other.requests == []


def test_j22_a_request_for_another_host_is_not_sent():
    with Faulty(answer()) as one, Faulty(answer()) as other:
        store = store_at(one.url)

        def elsewhere(request, **_):
            request.url = request.url.replace("127.0.0.1", "localhost")

        store._client.meta.events.register_first("before-send.s3", elsewhere)
        with pytest.raises(ServiceError, match="a redirect to 'localhost'"):
            store.list(parse("s3://bucket/"))
        assert one.requests == other.requests == []
