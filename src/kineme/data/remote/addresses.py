"""What an address is, and which machines may be asked for it.

Promises: only `s3://bucket/key` is an address here; a bucket or key that could mean something
else (a folder above, an empty part, a control character, an IP address, a password) is a
SpecError that does not repeat what may be secret. The endpoint comes from the environment of
whoever starts the program, never from a spec or from data.
Leaves out: talking to it (client.py, s3.py).

Which machines are asked, decided at each connection by the address that was reached, so that
neither a redirect nor a change of a name's address leads elsewhere:

- metadata services of clouds, link-local, multicast and unspecified addresses: never;
- an endpoint that the user named may be on this machine or in a private network, since stores
  for tests and in companies are; but one that was public when first reached stays public;
- Amazon's own names may lie in a private network (as companies route them), not on this machine.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal
from urllib.parse import urlsplit

from kineme.errors import SpecError, shortened

SCHEMES = ("s3",)
ENDPOINT_VARIABLES = ("S3_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
AMAZON_DOMAINS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")
MAX_KEY_BYTES = 1024
MAX_PART_BYTES = 255  # of a name on disk

Reach = Literal["public", "private", "loopback", "never"]

_BUCKET = re.compile(r"(?!.*\.\.)(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_METADATA = (ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200"))
_EXAMPLE = "Write it as s3://bucket/key."


@dataclass(frozen=True)
class Address:
    """A place in an object store. key: "" is the whole bucket, one ending in / a folder."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """The last part of the key, or the bucket."""
        return self.key.rstrip("/").rpartition("/")[2] or self.bucket

    @property
    def is_folder(self) -> bool:
        return not self.key or self.key.endswith("/")

    def as_folder(self) -> Address:
        """The same with a / at its end, so that it means what lies below."""
        return self if self.is_folder else replace(self, key=f"{self.key}/")

    def below(self, name: str) -> Address:
        """The place of `name` (a relative path) in this folder."""
        return replace(self, key=self.as_folder().key + name)


def is_address(text: str) -> bool:
    """Whether `text` begins as an address of a scheme that is read here."""
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def parse(text: str, *, where: str = "address") -> Address:
    """The address that `text` means. Raises SpecError, with `where` as its place."""
    scheme, mark, rest = text.partition("://")
    if not mark or scheme.lower() not in SCHEMES:
        shown = f"a {scheme[:20]}:// address" if mark else "text without ://"
        raise SpecError(where, "an s3:// address", shown, _EXAMPLE)
    bucket, _, key = rest.partition("/")
    if "@" in bucket:
        fix = "Put credentials into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        raise SpecError(where, "an address without a user name", "one with it", fix)
    if not _BUCKET.fullmatch(bucket):
        expected = "a bucket name (3 to 63 lower-case letters, digits, dots, hyphens)"
        raise SpecError(where, expected, shortened(bucket) if bucket else "none", _EXAMPLE)
    reason = refusal_of(key.removesuffix("/")) if key else ""
    if reason:
        raise SpecError(where, "a key that is a plain path", reason, _EXAMPLE)
    return Address(scheme.lower(), bucket, key)


def refusal_of(name: str) -> str:
    """Why a key or part of one cannot be a path below a folder of ours; "" where it can."""
    parts = name.split("/")
    if any(ord(c) < 32 or ord(c) == 127 or 0xD800 <= ord(c) < 0xE000 for c in name):
        return "a control character in it"
    if "\\" in name:
        return "a backslash in it"
    if any(part in (".", "..") for part in parts):
        return "a part that is . or .."
    if not all(parts):
        return "an empty part (//)"
    if len(name.encode()) > MAX_KEY_BYTES or any(len(p.encode()) > MAX_PART_BYTES for p in parts):
        return f"more than {MAX_KEY_BYTES} bytes, or {MAX_PART_BYTES} between two /"
    return ""


def endpoint_url(environment: Mapping[str, str] = os.environ) -> str | None:
    """The store that the environment names; None is Amazon's. Raises SpecError where it is bad."""
    variable = next((name for name in ENDPOINT_VARIABLES if environment.get(name)), None)
    if variable is None:
        return None
    url = environment[variable]
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    del port  # a bad one was refused
    if parts.username or parts.password:
        fix = "Put credentials into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        raise SpecError(variable, "a URL without a user name", "one with it", fix)
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        expected = "a URL like https://host:port"
        raise SpecError(variable, expected, shortened(url), "Correct it, or unset it.")
    if reach_of(host) == "never":
        expected = "the address of an object store"
        raise SpecError(variable, expected, f"{host!r}, a metadata or link-local address")
    return url


def reach_of(host: str) -> Reach:
    """How far away an IP address is; a name counts as public, its address is judged later."""
    try:
        ip = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return "public"
    ip = getattr(ip, "ipv4_mapped", None) or ip
    if ip in _METADATA or ip.is_link_local or ip.is_multicast or ip.is_unspecified:
        return "never"
    if ip.is_loopback:
        return "loopback"
    return "public" if ip.is_global else "private"
