"""What strangers put into archives: refused, stopped or found damaged (V23 to V25)."""

import gzip
import io
import os
import random
import stat
import struct
import tarfile
import unicodedata
import warnings
import zipfile
import zlib

import pytest

from kineme.data import archives
from kineme.data.archives import extract
from kineme.data.archives.unpacking import unpack
from kineme.errors import DataError, printable
from packed import FRAMES, refusal, tar_of, tree, zip_of


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


# V23: members that are refused


def member_of(name="a/evil", **fields):
    member = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(member, key, value)
    return member


GOOD = ("a/good.png", b"good" * 100)
BIDI = "a/gpj.\u202eexe.png"
NFC, NFD = "a/caf\u00e9.png", "a/cafe\u0301.png"
BAD_MEMBERS = {
    "up": (member_of("../evil"), "a path that leads out"),
    "up inside": (member_of("a/b/../../../evil"), "a path that leads out"),
    "up to itself": (member_of("a/../b"), "a path that leads out"),
    "absolute": (member_of("/tmp/evil"), "an absolute path"),
    "symbolic link": (member_of(type=tarfile.SYMTYPE, linkname="/tmp"), "a symbolic link"),
    "hard link": (member_of(type=tarfile.LNKTYPE, linkname="a/good.png"), "a hard link"),
    "character device": (member_of(type=tarfile.CHRTYPE), "a character device"),
    "block device": (member_of(type=tarfile.BLKTYPE), "a block device"),
    "FIFO": (member_of(type=tarfile.FIFOTYPE), "a FIFO"),
    "sparse": (member_of(type=tarfile.GNUTYPE_SPARSE), "a sparse file"),
    "pax sparse": (member_of(pax_headers={"GNU.sparse.major": "1"}), "a sparse file"),
    "setuid": (member_of(mode=0o4755), "a setuid or setgid file"),
    "setgid": (member_of(mode=0o2755), "a setuid or setgid file"),
    "unknown type": (member_of(type=b"Z"), "a member of type b'Z'"),
    "twice": (member_of("a/good.png"), "a name that occurs twice"),
    "twice by dots": (member_of("./a/./good.png"), "a name that occurs twice"),
    "file and folder": (member_of("a/good.png/b"), "a name that is a file and a folder"),
    "folder and file": (member_of("a"), "a name that is a file and a folder"),
    "file below a file": (member_of("a/good.png/b/c"), "a name that is a file and a folder"),
    "folder named as a file": (
        member_of("a/good.png/", type=tarfile.DIRTYPE),
        "a name that is a file and a folder",
    ),
    "4096 characters": (member_of("a/" + "x" * 4094), "a name of 4,096 bytes"),
    "256 characters": (member_of("a/" + "x" * 256), "a name of more than 255 bytes"),
    "zero byte": (member_of("a/b\0c"), "a name with a zero byte"),
    "backslash": (member_of("..\\evil"), "a name with a backslash"),
    "bidi": (member_of(BIDI), "a name with characters that turn the direction of reading"),
    "no name": (member_of("."), "a file without a name"),
}


@pytest.mark.parametrize("compressed", ["", ":gz"])
@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_v23_bad_tar_members_are_refused_by_name(tmp_path, cache, case, compressed):
    member, reason = BAD_MEMBERS[case]
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w" + compressed, format=tarfile.PAX_FORMAT) as tar:
        good = tarfile.TarInfo(GOOD[0])
        good.size = len(GOOD[1])
        tar.addfile(good, io.BytesIO(GOOD[1]))
        tar.addfile(member)
    shown = member.name if len(member.name) <= 100 else member.name[:100] + "..."
    assert refusal(path, cache) == printable(
        f"{path}: {shown!r}: expected a plain file or folder inside the archive, got {reason}. "
        "Nothing was extracted. Pack the archive again without it, if you trust it."
    )


def test_v23_a_write_through_a_link_never_happens(tmp_path, cache):
    victim = tmp_path / "victim"
    victim.mkdir()
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(member_of("door", type=tarfile.SYMTYPE, linkname=str(victim)))
        tar.addfile(member_of("door/owned"))
    assert "'door': expected a plain file or folder inside the archive, got a sym" in refusal(
        path, cache
    )
    assert os.listdir(victim) == []


@pytest.mark.parametrize("pack", [tar_of, zip_of])
@pytest.mark.parametrize(
    ("first", "second"), [(NFC, NFD), (NFD, NFC), ("\u00e9/1.png", "e\u0301/2.png")]
)
def test_v23_two_unicode_forms_of_one_name_are_refused(tmp_path, cache, pack, first, second):
    assert unicodedata.normalize("NFC", second)[0] == unicodedata.normalize("NFC", first)[0]
    path = pack(tmp_path / "a", {first: b"1" * 99, second: b"2" * 99})
    assert f"{second!r}: expected" in refusal(path, cache)
    assert "got a name that occurs twice, in two Unicode forms" in refusal(path, cache)
    assert tree(extract(pack(tmp_path / "b", {second: b"1"}), cache)) == {second: b"1"}


ZIP_MODES = {
    stat.S_IFLNK | 0o777: "a symbolic link",
    stat.S_IFIFO | 0o644: "a device, FIFO or socket",
    stat.S_IFCHR | 0o644: "a device, FIFO or socket",
    stat.S_IFREG | 0o4755: "a setuid or setgid file",
}


@pytest.mark.parametrize("mode", ZIP_MODES)
def test_v23_bad_zip_members_are_refused_by_kind(tmp_path, cache, mode):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(*GOOD)
        info = zipfile.ZipInfo("a/evil")
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, "/etc/passwd")
    assert (
        f"'a/evil': expected a plain file or folder inside the archive, got {ZIP_MODES[mode]}"
        in (refusal(path, cache))
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil", "a path that leads out"),
        ("/abs", "an absolute path"),
        ("..\\evil", "a name with a backslash"),
        (BIDI, "a name with characters that turn the direction of reading"),
        ("a/b?c", "a name with a zero byte"),
        ("a/good.png", "a name that occurs twice"),
        ("a/good.png/b", "a name that is a file and a folder"),
    ],
)
def test_v23_bad_zip_members_are_refused_by_name(tmp_path, cache, name, reason):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(*GOOD)
        archive.writestr(name, b"1" * 99)
    path.write_bytes(path.read_bytes().replace(b"b?c", b"b\0c"))
    assert f"got {reason}. Nothing was extracted." in refusal(path, cache)


def test_zip_members_that_are_encrypted_or_packed_otherwise_are_refused(tmp_path, cache):
    path = zip_of(tmp_path / "a.zip", dict([GOOD]), zipfile.ZIP_BZIP2)
    assert "got a file packed by method 12, neither stored nor deflated" in refusal(path, cache)
    path = zip_of(tmp_path / "b.zip", dict([GOOD]))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "got an encrypted file" in refusal(path, cache)


# V24: bombs


@pytest.fixture
def written(monkeypatch):
    """Sizes of the files that were there when unpacking ended, well or not."""
    sizes = []

    def watched(where, members, folder):
        try:
            unpack(where, members, folder)
        finally:
            sizes.extend(map(len, tree(folder).values()))

    monkeypatch.setattr(archives, "unpack", watched)
    return sizes


def stopped(path, cache):
    message = refusal(path, cache)
    assert message.endswith(
        "It is stopped as a bomb; extract it yourself and give the folder, if you trust it."
    )
    return message


@pytest.mark.parametrize("kind", ["w:gz", "zip"])
def test_v24_little_that_becomes_much_is_stopped_while_it_does(
    tmp_path, cache, kind, written, monkeypatch
):
    monkeypatch.setattr("kineme.data.archives.unpacking.RATIO_FROM_BYTES", 1 << 20)
    path, files = tmp_path / "a", {"a/bomb.png": bytes(40 << 20)}
    zip_of(path, files) if kind == "zip" else tar_of(path, files, kind)
    assert path.stat().st_size < 50_000
    assert "expected at most 200 bytes out of one, got " in stopped(path, cache)
    assert 0 < written[0] < 16 << 20


def test_v24_what_compresses_well_but_is_small_is_no_bomb(tmp_path, cache):
    files = {f"a/{number}.png": bytes(1 << 20) for number in range(12)}
    assert tree(extract(tar_of(tmp_path / "a.tgz", files, "w:gz"), cache)) == files


@pytest.mark.parametrize("is_folder", [False, True])
@pytest.mark.parametrize("kind", ["tar", "tgz", "zip"])
def test_v24_members_without_content_are_stopped_at_a_thousand(
    tmp_path, cache, kind, is_folder, written
):
    path = tmp_path / "a"
    names = [f"a/{number}" for number in range(1100)]
    if kind == "zip":
        zip_of(path, {name + "/" * is_folder: b"" for name in names})
    else:
        with tarfile.open(path, "w" if kind == "tar" else "w:gz") as tar:
            for name in names:
                tar.addfile(member_of(name, type=tarfile.DIRTYPE if is_folder else tarfile.REGTYPE))
    assert (
        "expected few folders and files of under 64 bytes, got 1,001, and 0 files with more"
    ) in stopped(path, cache)
    assert written == [0] * (0 if is_folder else 1000)


def test_v24_small_files_beside_as_many_frames_are_no_bomb(tmp_path, cache, monkeypatch):
    monkeypatch.setattr("kineme.data.archives.unpacking.NUM_SMALL_FREE", 5)
    files = {f"a/{n}{ending}": b"x" * size for n in range(20) for ending, size in
             ((".png", 64), (".txt", 4))}  # fmt: skip
    assert tree(extract(tar_of(tmp_path / "a.tar", files), cache)) == files


def test_v24_more_members_or_bytes_than_any_data_set_are_stopped(tmp_path, cache, monkeypatch):
    path = tar_of(tmp_path / "a.tgz", FRAMES, "w:gz")
    monkeypatch.setattr("kineme.data.archives.unpacking.MAX_BYTES", 1 << 20)
    assert "expected at most 1,048,576 bytes, got more" in stopped(path, cache)
    monkeypatch.undo()
    monkeypatch.setattr("kineme.data.archives.unpacking.MAX_MEMBERS", 3)
    assert "expected at most 3 members, got more" in stopped(path, cache)


def test_v24_zip_members_that_share_bytes_are_refused(tmp_path, cache):
    """The content of member a is the whole of member b, header included (Fifield 2019)."""

    def header(name, content):
        crc, size = zlib.crc32(content), len(content)
        return struct.pack("<5H3I2H", 20, 0, 0, 0, 0, crc, size, size, len(name), 0) + name

    def entry(name, content, offset):
        rest = header(name, content)
        tail = struct.pack("<3H2I", 0, 0, 0, 0, offset)
        return b"PK\x01\x02\x14\0" + rest[:-1] + tail + name

    inner = b"PK\x03\x04" + header(b"b", b"1" * 99) + b"1" * 99
    outer = b"PK\x03\x04" + header(b"a", inner) + inner
    entries = entry(b"a", inner, 0) + entry(b"b", b"1" * 99, len(outer) - len(inner))
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2, 2, len(entries), len(outer), 0)
    path = tmp_path / "a.zip"
    path.write_bytes(outer + entries + end)
    with zipfile.ZipFile(path) as others:  # of which some look for overlaps, too, when they read
        assert others.namelist() == ["a", "b"]
    assert "got members that overlap or lie outside the file" in refusal(path, cache)


def test_v24_a_header_that_claims_a_gigabyte_costs_none(tmp_path, cache):
    path = tmp_path / "a.tar"
    for kind in (tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):
        header = member_of("a/long", type=kind, size=1 << 30)
        path.write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(1 << 20))
        assert "got an extension header of 1,073,741,824 bytes" in refusal(path, cache)


# V25: damage


@pytest.mark.parametrize("kind", ["w", "w:gz", "zip"])
def test_v25_an_archive_cut_anywhere_is_refused_and_nothing_stays(tmp_path, cache, kind):
    path = tmp_path / "a"
    content = (zip_of(path, FRAMES) if kind == "zip" else tar_of(path, FRAMES, kind)).read_bytes()
    tail = 10240 if kind == "w" else 1  # zero blocks at the end may miss
    for cut in (5, 100, 600, len(content) // 2, len(content) - tail):
        path.write_bytes(content[:cut])
        message = refusal(path, cache)
        assert "expected a whole archive" in message or "expected a tar, tar.gz or zip" in message


@pytest.mark.parametrize("kind", ["w:gz", "zip"])
def test_v25_damage_is_found_by_the_check_sums(tmp_path, cache, kind):
    files = {"a/1.png": os.urandom(20_000)}
    path = tmp_path / "a"
    content = (zip_of(path, files) if kind == "zip" else tar_of(path, files, kind)).read_bytes()
    for at in range(40, len(content) - 1, len(content) // 29):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        refusal(path, cache)


def test_v25_a_broken_check_sum_is_said(tmp_path, cache):
    path = tar_of(tmp_path / "a.tgz", FRAMES, "w:gz")
    content = path.read_bytes()
    path.write_bytes(content[:-8] + bytes(4) + content[-4:])
    assert (
        "got gzip data that are damaged (Error -3 while decompressing data: incorrect data ch"
        in (refusal(path, cache))
    )
    path = zip_of(tmp_path / "a.zip", {"a/1.png": b"1" * 99}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes().replace(b"1" * 99, b"1" * 98 + b"2"))
    assert "'a/1.png': expected a whole archive, got bytes that fail their check (CRC-32)" in (
        refusal(path, cache)
    )


def test_v25_a_zip_member_that_lies_about_its_size_is_refused(tmp_path, cache):
    path = zip_of(tmp_path / "a.zip", {"a/1.png": b"1" * 5000})
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.rindex(b"PK\x01\x02") + 24, 10)
    path.write_bytes(content)
    assert "got more than the 10 bytes it should have" in refusal(path, cache)


def test_v25_local_and_central_names_must_agree(tmp_path, cache):
    path = zip_of(tmp_path / "a.zip", {"a/1.png": b"1" * 500})
    path.write_bytes(path.read_bytes().replace(b"a/1.png", b"a/2.png", 1))
    assert "got a header other than the directory says" in refusal(path, cache)


def test_v25_data_after_the_end_of_a_tar_file_are_refused_not_dropped(tmp_path, cache):
    first = tar_of(tmp_path / "a.tar", dict([GOOD])).read_bytes()
    (tmp_path / "a.tar").write_bytes(first + first)
    assert "got data after its end mark" in refusal(tmp_path / "a.tar", cache)


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b"", "an empty file"),
        (b"BZh91AY&SY", "a bzip2 file"),
        (b"\xfd7zXZ\0\0", "an xz file"),
        (b"\x28\xb5\x2f\xfd\x00", "a zstd file"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z file"),
        (b"Rar!\x1a\x07\x00", "a rar file"),
        (b"<html>not found" * 100, "other bytes, b'<html>no'..."),
    ],
)
def test_v25_what_is_no_archive_is_named(tmp_path, cache, content, received):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(content)
    assert refusal(path, cache) == (
        f"{path}: expected a tar, tar.gz or zip file, got {received}. Pack it again, or extract it."
    )


def test_v25_gzip_without_a_tar_file_in_it(tmp_path, cache):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(b"just text" * 100))
    assert "got no tar header at byte 0" in refusal(path, cache)


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_an_archive_without_files_is_refused(tmp_path, cache, pack):
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(bytes(1024)))
    assert "expected an archive of files, got one without any" in refusal(path, cache)
    assert "expected an archive of files" in refusal(zip_of(path, {"a/": b""}), cache)


def test_a_path_that_is_no_file(tmp_path, cache):
    with pytest.raises(DataError, match="expected a regular file, got a folder"):
        extract(tmp_path, cache)
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(DataError, match="expected a regular file, got a FIFO"):
        extract(tmp_path / "a.tar", cache)


@pytest.mark.parametrize("kind", ["w", "w:gz", "zip"])
def test_mutated_archives_give_a_tree_or_a_data_error_and_never_more(tmp_path, cache, kind):
    files = {"a/1.png": b"1" * 300, "b/2.png": b"2" * 300}
    path = tmp_path / "a"
    content = (zip_of(path, files) if kind == "zip" else tar_of(path, files, kind)).read_bytes()
    content = content if kind != "w" else content[:4096]
    draws, outcomes = random.Random(3), set()
    for _ in range(60):
        mutated = bytearray(content)
        for _ in range(draws.choice((1, 2, 8))):
            mutated[draws.randrange(len(mutated))] = draws.choice((0, 255, draws.randrange(256)))
        path.write_bytes(mutated)
        try:
            extract(path, cache)
            outcomes.add("extracted")
        except DataError as error:
            outcomes.add(error.exit_code)
        assert sorted(os.listdir(tmp_path)) == ["a", "cache"]
    assert 3 in outcomes
    assert outcomes <= {3, "extracted"}
