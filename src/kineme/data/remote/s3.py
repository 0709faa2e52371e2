"""One object store: what is there, objects brought here and files sent there, whole or not at all.

Promises: a download is a file of its final name only after its length and checksum were right;
one that broke goes on where it was, with If-Match, so that two versions never mix; an upload is
seen under its key only when it is whole, and is counted as done only after the store has said
what it holds. Waiting and repeating: patience.py.
Leaves out: folders of objects (cache.py), what is sent when (spool.py).
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kineme.data.inputs import InputFile
from kineme.data.remote.addresses import Address
from kineme.data.remote.client import Access, build_client
from kineme.data.remote.partial import Facts, Partial
from kineme.data.remote.patience import (
    DEADLINE_SECONDS,
    NUM_SILENCES,
    CutShortError,
    Watch,
    error_code,
    persistently,
)
from kineme.errors import DataError, ServiceError
from kineme.files import write_errors_named

PART_BYTES = 16 << 20  # of an upload; S3 takes no smaller ones than 5 MiB
MAX_PARTS = 10_000
MAX_OBJECTS = 5_000_000
NUM_VERSIONS = 3  # of an object that changes or arrives damaged, before it is given up
SHA256_NAME = "kineme-sha256"  # of our uploads

_READ_BYTES = 16 << 10  # at a time; fewer in a third of the deadline is no progress
_HASHED_BYTES = 1 << 20
_CHANGING = "another version at every attempt"
_WORDLESS = ("400", "403", "404")  # how HEAD is refused, whatever the cause
_MD5 = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """One object of a listing."""

    address: Address
    size: int
    etag: str


class S3Store:
    """A store and who asks it. Threads may share it."""

    def __init__(
        self, access: Access | None = None, *, deadline_seconds: float = DEADLINE_SECONDS
    ) -> None:
        self.access = access or Access.from_environment()
        self.deadline_seconds = deadline_seconds
        self._client = build_client(self.access, attempt_seconds=deadline_seconds / NUM_SILENCES)

    def list(self, folder: Address) -> tuple[Entry, ...]:
        """Every object whose key begins with that of `folder`, by key."""
        entries = []
        for page in self._pages(folder):
            for found in page.get("Contents", ()):
                address = Address(folder.scheme, folder.bucket, found["Key"])
                entries.append(Entry(address, int(found["Size"]), found["ETag"].strip('"')))
            if len(entries) > MAX_OBJECTS:
                raise DataError(str(folder), f"at most {MAX_OBJECTS:,} objects", "more")
        return tuple(sorted(entries, key=lambda entry: entry.address.key))

    def find(self, address: Address) -> Facts | None:
        """The object there; None where there is none. Raises ServiceError without its bucket."""

        def attempt(_: Watch) -> Any:
            from botocore.exceptions import ClientError

            named = {"Bucket": address.bucket, "Key": address.key}
            try:
                return self._client.head_object(**named, ChecksumMode="ENABLED")
            except ClientError as error:
                if error_code(error) not in _WORDLESS:
                    raise
                # an answer to HEAD has no words; a listing says what is wrong
                self._client.list_objects_v2(Bucket=address.bucket, Prefix=address.key, MaxKeys=1)
                if error_code(error) == "404":
                    return None
                raise

        answer = persistently(address, attempt, deadline_seconds=self.deadline_seconds)
        if answer is not None and "ETag" not in answer:
            raise _foreign(address, "one without an ETag")
        return None if answer is None else _facts(answer)

    def exists(self, address: Address) -> bool:
        """Whether an object is there, or anything below a folder."""
        if not address.is_folder and self.find(address) is not None:
            return True
        first = next(self._pages(address.as_folder(), num_keys=1))
        return bool(first.get("Contents"))

    def download(
        self,
        address: Address,
        path: Path,
        *,
        facts: Facts | None = None,
        beat: Callable[[], None] = lambda: None,
    ) -> str:
        """Bring the object to `path`; returns its sha256.

        facts: of the version to take, where they are known; size and ETag are enough. beat: called
        now and then; what it raises ends the download. A part of the same version that an earlier
        call left beside `path` is continued.
        Raises ServiceError, and ResourceError where the disk is full.
        """
        reason = ""
        for _ in range(NUM_VERSIONS):
            facts = facts or self.find(address)
            if facts is None:
                raise ServiceError(str(address), "an object there", "404", "Check the key.")
            with write_errors_named(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                with Partial(path, facts) as partial:
                    partial.check_space(path)
                    is_same = self._continue(address, facts, partial, beat)
                    sums = self._checksums(address, facts, partial.learnt) if is_same else {}
                    reason, sha256 = partial.verdict(sums) if is_same else (_CHANGING, "")
                    if not reason:
                        partial.publish(path)
                        return sha256
                    partial.discard()
            facts = None
        fix = "Check what writes it, and the way to the store."
        raise ServiceError(str(address), "the bytes that the store promises", reason, fix)

    def upload(self, path: Path, address: Address, *, size: int | None = None) -> Facts:
        """Send the file, or its first `size` bytes, and see that it arrived.

        Above PART_BYTES it goes in parts; those of an upload that a kill ended are dropped by
        `abort_parts`. Raises ServiceError, and DataError where the file changes under it.
        """
        file = InputFile(path)
        try:
            size = file.stamp.size if size is None else size
            if size <= PART_BYTES:
                etag = self._put(address, file.read(0, size))
            else:
                etag = self._put_parts(address, file, size)
        finally:
            file.close()
        facts = self.find(address)
        if facts is None or (facts.size, facts.etag) != (size, etag):
            received = "nothing" if facts is None else f"{facts.size:,} bytes, ETag {facts.etag}"
            expected = f"{size:,} bytes, ETag {etag}, which were sent"
            raise ServiceError(str(address), expected, received, "Does something else write it?")
        return facts

    def abort_parts(self, address: Address) -> int:
        """Drop every upload in parts to this very key that was not finished; returns how many."""

        def listed(_: Watch) -> Any:
            return self._client.list_multipart_uploads(Bucket=address.bucket, Prefix=address.key)

        found = persistently(address, listed, deadline_seconds=self.deadline_seconds)
        begun = [one for one in found.get("Uploads", ()) if one["Key"] == address.key]
        for one in begun:
            self._abort(address, one["UploadId"])
        return len(begun)

    def _pages(self, folder: Address, num_keys: int = 1000) -> Iterator[Any]:
        token: dict[str, str] = {}
        while True:
            asked = {"Bucket": folder.bucket, "Prefix": folder.key, "MaxKeys": num_keys, **token}
            page = persistently(
                folder,
                lambda _, asked=asked: self._client.list_objects_v2(**asked),  # type: ignore[misc]
                deadline_seconds=self.deadline_seconds,
            )
            if "IsTruncated" not in page:
                raise _foreign(folder, "something else")
            yield page
            following = page.get("NextContinuationToken")
            if not page.get("IsTruncated") or not following:
                return
            if token.get("ContinuationToken") == following:
                raise ServiceError(str(folder), "a listing that ends", "the same page again")
            token = {"ContinuationToken": following}

    def _continue(
        self, address: Address, facts: Facts, partial: Partial, beat: Callable[[], None]
    ) -> bool:
        """Fetch what is missing of `partial`; False where the object is another by now."""
        if not facts.size:
            return True

        def attempt(watch: Watch) -> bool:
            from botocore.exceptions import ClientError

            offset = partial.size
            if offset >= facts.size:
                return True
            asked = {"Bucket": address.bucket, "Key": address.key, "IfMatch": f'"{facts.etag}"'}
            if offset:
                asked["Range"] = f"bytes={offset}-"
            try:
                answer = self._client.get_object(**asked)
            except ClientError as error:
                if error_code(error) in ("PreconditionFailed", "412", "InvalidRange", "416"):
                    return False
                raise
            begin = _first_byte(answer)
            if answer.get("ETag", "").strip('"') != facts.etag or begin not in (0, offset):
                return False
            partial.learnt = dict(_facts(answer).checksums)
            body = answer["Body"]
            try:
                partial.seek(begin)
                while chunk := body.read(_READ_BYTES):
                    partial.append(chunk)
                    watch.beat(is_kept=True)
                    beat()
                    if partial.size > facts.size:
                        return True  # the verdict is about its length
            finally:
                body.close()
            if partial.size < facts.size:
                raise CutShortError(f"{partial.size:,} of {facts.size:,} bytes")
            return True

        return persistently(address, attempt, deadline_seconds=self.deadline_seconds)

    def _checksums(
        self, address: Address, facts: Facts, learnt: Mapping[str, str]
    ) -> Mapping[str, str]:
        """What the bytes are held against: what was known, came with them, or else is asked for."""
        known = {**dict(facts.checksums), **learnt}
        if known or not facts.size:
            return known
        now = self.find(address)
        return dict(now.checksums) if now is not None and now.etag == facts.etag else {}

    def _put(self, address: Address, data: bytes) -> str:
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        sha256 = hashlib.sha256(data).hexdigest()

        def attempt(watch: Watch) -> Any:
            return self._client.put_object(
                Bucket=address.bucket, Key=address.key, Body=_Beating(data, watch),
                ContentMD5=base64.b64encode(md5).decode(), Metadata={SHA256_NAME: sha256},
            )  # fmt: skip

        answer = persistently(address, attempt, deadline_seconds=self.deadline_seconds)
        return str(answer["ETag"].strip('"'))

    def _put_parts(self, address: Address, file: InputFile, size: int) -> str:
        """Send `size` bytes in parts; gives the ETag of the whole."""
        declared = _sha256_of(file, size)
        named = {"Bucket": address.bucket, "Key": address.key}
        begun = persistently(
            address,
            lambda _: self._client.create_multipart_upload(
                **named, Metadata={SHA256_NAME: declared}
            ),
            deadline_seconds=self.deadline_seconds,
        )
        upload_id = begun["UploadId"]
        is_done = False
        try:
            parts, sent, md5 = [], hashlib.sha256(), hashlib.md5(usedforsecurity=False)
            for number, data in enumerate(_parts(file, size), 1):
                sent.update(data)
                digest = hashlib.md5(data, usedforsecurity=False).digest()
                md5.update(digest)
                etag = self._put_part(address, upload_id, number, data, digest)
                parts.append({"ETag": etag, "PartNumber": number})
            if sent.hexdigest() != declared:
                raise DataError(
                    str(file.path), "no change while it is sent", "a file that was written to"
                )
            expected = f"{md5.hexdigest()}-{len(parts)}"
            etag = self._complete(address, upload_id, parts, expected)
            is_done = True
            return etag
        finally:
            if not is_done:
                self._abort(address, upload_id)

    def _put_part(
        self, address: Address, upload_id: str, number: int, data: bytes, md5: bytes
    ) -> str:
        def attempt(watch: Watch) -> Any:
            return self._client.upload_part(
                Bucket=address.bucket, Key=address.key, UploadId=upload_id, PartNumber=number,
                Body=_Beating(data, watch), ContentMD5=base64.b64encode(md5).decode(),
            )  # fmt: skip

        answer = persistently(address, attempt, deadline_seconds=self.deadline_seconds)
        return str(answer["ETag"])

    def _complete(
        self, address: Address, upload_id: str, parts: Sequence[dict[str, Any]], expected: str
    ) -> str:
        def attempt(_: Watch) -> str:
            from botocore.exceptions import ClientError

            try:
                answer = self._client.complete_multipart_upload(
                    Bucket=address.bucket, Key=address.key, UploadId=upload_id,
                    MultipartUpload={"Parts": [*parts]},
                )  # fmt: skip
            except ClientError as error:
                if error_code(error) != "NoSuchUpload":
                    raise
                return (
                    expected  # completed by an attempt whose answer was lost, if its ETag is this
                )
            return str(answer["ETag"].strip('"'))

        return persistently(address, attempt, deadline_seconds=self.deadline_seconds)

    def _abort(self, address: Address, upload_id: str) -> None:
        """Drop the parts of an upload, if the store can be asked; the next start tries again."""
        from botocore.exceptions import BotoCoreError, ClientError

        named = {"Bucket": address.bucket, "Key": address.key, "UploadId": upload_id}
        try:
            self._client.abort_multipart_upload(**named)
        except (BotoCoreError, ClientError):  # unreachable, or there no more
            return


class _Beating(io.BytesIO):
    """Bytes that tell the watch whenever some of them are taken."""

    def __init__(self, data: bytes, watch: Watch) -> None:
        super().__init__(data)
        self._watch = watch

    def read(self, size: int | None = -1) -> bytes:
        taken = super().read(size)
        if taken:
            self._watch.beat()
        return taken


def _facts(answer: dict[str, Any]) -> Facts:
    """What an answer to HEAD says of an object."""
    etag = answer["ETag"].strip('"')
    sums = {}
    own = answer.get("Metadata", {}).get(SHA256_NAME, "")
    if _SHA256.fullmatch(own):
        sums["sha256"] = own
    for name in ("SHA256", "SHA1", "CRC32"):
        text = answer.get(f"Checksum{name}", "")
        if text and "-" not in text:  # else it is one of the sums of parts
            sums[name.lower()] = base64.b64decode(text).hex()
    is_plain = answer.get("ServerSideEncryption", "AES256") == "AES256"
    if _MD5.fullmatch(etag) and is_plain and "SSECustomerAlgorithm" not in answer:
        sums["md5"] = etag
    return Facts(int(answer["ContentLength"]), etag, tuple(sums.items()))


def _foreign(address: Address, received: str) -> ServiceError:
    fix = "Check S3_ENDPOINT_URL, and what lies between (a proxy, a log-in page)."
    return ServiceError(str(address), "an answer of an object store", received, fix)


def _first_byte(answer: dict[str, Any]) -> int:
    """Where the body of an answer begins in its object."""
    match = re.match(r"bytes (\d+)-", answer.get("ContentRange") or "")
    return int(match.group(1)) if match else 0


def _sha256_of(file: InputFile, size: int) -> str:
    digest = hashlib.sha256()
    for offset in range(0, size, _HASHED_BYTES):
        digest.update(file.read(offset, min(_HASHED_BYTES, size - offset)))
    return digest.hexdigest()


def _parts(file: InputFile, size: int) -> Iterator[bytes]:
    part_bytes = max(PART_BYTES, math.ceil(size / MAX_PARTS))
    for offset in range(0, size, part_bytes):
        yield file.read(offset, min(part_bytes, size - offset))
