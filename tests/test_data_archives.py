"""Archives extracted once, whole, by one process; where data begin (V25 to V31)."""

import gzip
import hashlib
import io
import os
import resource
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kineme.data import archives
from kineme.data.archives import data_root, extract, resolve_inside
from kineme.data.archives.unpacking import unpack
from kineme.data.cache import default_cache, temporary_cache
from kineme.errors import DataError, ResourceError, printable
from packed import FRAMES, leftovers, refusal, tar_of, tree, zip_of


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


# What goes well


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.tar", lambda path: tar_of(path, FRAMES)),
        ("a.tar.gz", lambda path: tar_of(path, FRAMES, "w:gz")),
        ("a.tgz", lambda path: tar_of(path, FRAMES, "w:gz", format=tarfile.USTAR_FORMAT)),
        ("a.zip", lambda path: zip_of(path, FRAMES)),
        ("stored.zip", lambda path: zip_of(path, FRAMES, zipfile.ZIP_STORED)),
        ("zip-named.tar", lambda path: zip_of(path, FRAMES)),
        ("plain-named.tar.gz", lambda path: tar_of(path, FRAMES)),
        ("gzip-named.zip", lambda path: tar_of(path, FRAMES, "w:gz", format=tarfile.GNU_FORMAT)),
        ("without-ending", lambda path: tar_of(path, FRAMES)),
    ],
)
def test_v25_content_decides_and_every_member_comes_out(tmp_path, cache, name, pack):
    folder = extract(pack(tmp_path / name), cache)
    assert tree(folder) == FRAMES
    assert leftovers(cache) == [folder.name]


def test_the_folder_is_named_by_the_sha256_of_the_archive(tmp_path, cache):
    path = tar_of(tmp_path / "a.tar", FRAMES)
    folder = extract(path, cache)
    assert folder == cache / "archives" / hashlib.sha256(path.read_bytes()).hexdigest()
    shutil.copy(path, tmp_path / "copy.tar")
    assert extract(tmp_path / "copy.tar", cache) == folder
    tar_of(path, {"a.txt": b"another"})
    assert tree(extract(path, cache)) == {"a.txt": b"another"}


def test_an_archive_is_hashed_and_extracted_once(tmp_path, cache, monkeypatch):
    path = tar_of(tmp_path / "a.tar", FRAMES)
    folder = extract(path, cache)
    for place, name in ((archives.InputFile, "sha256"), (archives, "_extract_whole")):
        monkeypatch.setattr(place, name, lambda *_: pytest.fail("done again"))
    assert extract(path, cache) == folder
    monkeypatch.chdir(tmp_path)
    assert extract("a.tar", Path("cache")) == folder


def test_a_stamp_that_says_nothing_is_counted_again(tmp_path, cache):
    path = tar_of(tmp_path / "a.tar", FRAMES)
    folder = extract(path, cache)
    (stamp,) = (cache / "archives" / "stamps").iterdir()
    stamp.write_bytes(b"../../elsewhere")
    assert extract(path, cache) == folder


def test_folders_dots_and_owners_do_not_matter(tmp_path, cache):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, mode in (("./", 0o700), ("./a/", 0o2775), ("./a/b", 0o000)):
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uid = tarfile.DIRTYPE, mode, 12345
            tar.addfile(member)
        member = tarfile.TarInfo("./a//b/./1.png")
        member.size, member.mode = 100, 0o001
        tar.addfile(member, io.BytesIO(bytes(100)))
    folder = extract(path, cache)
    assert tree(folder) == {"a/b/1.png": bytes(100)}
    status = (folder / "a/b/1.png").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode) & 0o7111) == (os.geteuid(), 0)
    assert (folder / "a").stat().st_mode & 0o2000 == 0


def test_long_names_of_every_dialect(tmp_path, cache):
    name = "/".join(["x" * 60] * 5) + "/1.png"
    for dialect in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        path = tar_of(tmp_path / f"{dialect}.tar", {name: b"1" * 99}, format=dialect)
        assert tree(extract(path, cache)) == {name: b"1" * 99}
    name = "p" * 90 + "/" + "n" * 90  # in the prefix of ustar
    path = tar_of(tmp_path / "ustar.tar", {name: b"1" * 99}, format=tarfile.USTAR_FORMAT)
    assert tree(extract(path, cache)) == {name: b"1" * 99}


def test_several_gzip_streams_with_zeros_after_them_are_one_file(tmp_path, cache):
    content = tar_of(tmp_path / "a.tar", FRAMES).read_bytes()
    for cut in (1, 5000, len(content)):
        path = tmp_path / f"{cut}.tar.gz"
        path.write_bytes(gzip.compress(content[:cut]) + gzip.compress(content[cut:]) + bytes(700))
        assert tree(extract(path, cache)) == FRAMES


def test_an_archive_inside_is_a_file_like_others(tmp_path, cache):
    inner = tar_of(tmp_path / "inner.tar", FRAMES).read_bytes()
    folder = extract(tar_of(tmp_path / "a.tar", {"train/inner.tar": inner}), cache)
    assert tree(folder) == {"train/inner.tar": inner}


def test_the_attributes_that_finder_adds_are_no_data(tmp_path, cache):
    files = {"a/1.png": b"1" * 99, "__MACOSX/a/._1.png": b"2" * 99}
    assert tree(extract(zip_of(tmp_path / "a.zip", files), cache)) == {"a/1.png": b"1" * 99}


def test_zip64_fields_are_read(tmp_path, cache):
    path = tmp_path / "a.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("a/1.png", "w", force_zip64=True) as member,
    ):
        member.write(b"1" * 1000)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"PK\x01\x02")
    name_end = at + 46 + len("a/1.png")
    packed, size = struct.unpack_from("<2I", content, at + 20)
    struct.pack_into("<2I", content, at + 20, 0xFFFFFFFF, 0xFFFFFFFF)
    extra = struct.pack("<2H2Q", 1, 16, size, packed)
    struct.pack_into("<H", content, at + 30, len(extra))
    content[name_end:name_end] = extra
    end = content.rindex(b"PK\x05\x06")
    directory = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, end - at, at)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    last = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(bytes(content[:end]) + directory + locator + last)
    assert tree(extract(path, cache)) == {"a/1.png": b"1" * 1000}


def test_zip_names_without_a_code_page_are_utf8_or_that_of_pcs(tmp_path, cache):
    for raw, name in (("é".encode(), "é"), (b"\x82", "é"), (b"\xe1", "ß")):
        path = zip_of(tmp_path / "a.zip", {"?" * len(raw): b"1" * 99})
        path.write_bytes(path.read_bytes().replace(b"?" * len(raw), raw))
        assert tree(extract(path, cache)) == {name: b"1" * 99}


ODD_NAMES = ["a b", "a\nb", "-rf", "%s", "{}", "🤸", "\x1b[31mred", "$HOME;`id`", "*", "~", " "]


def test_v29_odd_names_are_kept(tmp_path, cache):
    files = {f"{name}/{name}.png": name.encode() * 99 for name in ODD_NAMES}
    for path in (tar_of(tmp_path / "a.tar", files), zip_of(tmp_path / "a.zip", files)):
        assert tree(extract(path, cache)) == files


def test_v29_names_that_are_no_utf8_are_kept(tmp_path, cache):
    for dialect in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        name = b"caf\xe9/\xff.png".decode("utf-8", "surrogateescape")
        path = tar_of(tmp_path / f"{dialect}.tar", {name: b"1" * 99}, format=dialect)
        folder = os.fsencode(extract(path, cache))
        assert os.listdir(folder + b"/caf\xe9") == [b"\xff.png"]


def test_v29_odd_names_are_printed_escaped(tmp_path, cache):
    message = refusal(tar_of(tmp_path / "a.tar", {"../\x1b[31m\nb\udcff": b""}), cache)
    assert message == printable(message)
    assert "/a.tar: '../\\x1b[31m\\nb\\udcff': expected a plain file or folder" in message


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.dictionaries(
        st.lists(st.sampled_from(["a", "b", "é", " ", "c.png"]), min_size=1, max_size=4).map(
            "/".join
        ),
        st.binary(max_size=600),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["w", "w:gz", "zip"]),
)
def test_any_tree_comes_out_as_it_went_in_or_is_refused_as_a_clash(tmp_path, cache, files, kind):
    clashes = any(a != b and b.startswith(a + "/") for a in files for b in files)
    path = tmp_path / "a"
    path = zip_of(path, files) if kind == "zip" else tar_of(path, files, kind)
    if clashes:
        assert "a name that " in refusal(path, cache)
        return
    assert tree(extract(path, cache)) == files
    shutil.rmtree(cache)


# V26, V27: killed, and together


EXTRACT = """
import sys, time
from pathlib import Path
from kineme.data import archives
from kineme.data.archives import unpacking
if sys.argv[3] == "slow":
    add_file = unpacking._Tree.add_file
    def slow(self, member, parts):
        add_file(self, member, parts)
        print("file", flush=True)
        time.sleep(0.2 if self.num_files < 3 else 0)
    unpacking._Tree.add_file = slow
whole = archives._extract_whole
def told(archive, folder):
    print("extracts", flush=True)
    whole(archive, folder)
archives._extract_whole = told
print("ready", flush=True)
print(archives.extract(sys.argv[1], Path(sys.argv[2])), flush=True)
"""


def start(path, cache, speed="fast"):
    return subprocess.Popen(
        [sys.executable, "-c", EXTRACT, str(path), str(cache), speed],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_v26_killed_half_way_leaves_nothing_that_is_taken_for_data(tmp_path, cache):
    path = tar_of(tmp_path / "a.tar", FRAMES)
    process = start(path, cache, "slow")
    lines = [process.stdout.readline() for _ in range(3)]
    assert lines == ["ready\n", "extracts\n", "file\n"]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = leftovers(cache)
    assert left.startswith(".")
    assert ".tmp-" in left
    folder = extract(path, cache)
    assert tree(folder) == FRAMES
    assert leftovers(cache) == [folder.name]


def test_v27_of_two_processes_one_extracts_and_one_waits(tmp_path, cache):
    path = tar_of(tmp_path / "a.tar", FRAMES)
    processes = [start(path, cache, "slow"), start(path, cache, "slow")]
    outputs = [process.communicate(timeout=60)[0].splitlines() for process in processes]
    assert sorted(line for lines in outputs for line in lines if line == "extracts") == ["extracts"]
    assert outputs[0][-1] == outputs[1][-1]
    assert tree(outputs[0][-1]) == FRAMES


def test_an_interrupt_leaves_nothing(tmp_path, cache, monkeypatch):
    def interrupted(*_):
        (next((cache / "archives").glob(".*")) / "half.png").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(archives, "unpack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(tar_of(tmp_path / "a.tar", FRAMES), cache)
    assert leftovers(cache) == []


def test_an_archive_that_changes_meanwhile_is_refused(tmp_path, cache, monkeypatch):
    path = tar_of(tmp_path / "a.tar", FRAMES)

    def with_change(*arguments):
        unpack(*arguments)
        os.utime(path)

    monkeypatch.setattr(archives, "unpack", with_change)
    with pytest.raises(DataError, match="expected no change while it is read"):
        extract(path, cache)
    assert leftovers(cache) == []


def test_a_full_disk_is_a_resource_error_and_leaves_nothing(tmp_path, cache):
    path = tar_of(tmp_path / "a.tar", FRAMES)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))  # as if no more had room
    try:
        with pytest.raises(ResourceError) as caught:
            extract(path, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value) == (
        f"{cache}/archives: expected a disk that takes the members of 'a.tar', got file too "
        "large. Free space, or choose another cache folder (KINEME_CACHE, where the spec names "
        "none). What was there is intact."
    )
    assert leftovers(cache) == []


# V31: a cache that cannot be written


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    """A path below a file, where nobody can make a folder; temporary files in tmp_path."""
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    for remembered in (archives._temporary_shelf, temporary_cache):
        remembered.cache_clear()
    yield tmp_path / "file" / "cache"
    for remembered in (archives._temporary_shelf, temporary_cache):
        remembered.cache_clear()


def test_v31_without_a_cache_a_temporary_folder_is_used_and_said_once(tmp_path, no_cache):
    path = tar_of(tmp_path / "a.tar", FRAMES)
    with pytest.warns(UserWarning, match="cannot be written") as caught:
        folders = [extract(path, no_cache) for _ in range(3)]
    assert [str(note.message) for note in caught] == [
        f"{no_cache}/archives cannot be written (not a directory): archives are extracted to a "
        "temporary folder, at every start; choose another cache folder (KINEME_CACHE, where the "
        "spec names none)."
    ]
    assert caught[0].filename == archives.__file__  # so the command shows it as a note
    assert len(set(folders)) == 1
    assert tree(folders[0]) == FRAMES
    assert (tmp_path / "tmp") in folders[0].parents


def test_v31_the_temporary_folder_goes_with_the_process(tmp_path, no_cache):
    path = tar_of(tmp_path / "a.tar", FRAMES)
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run(
        [sys.executable, "-c", EXTRACT, str(path), str(no_cache), "fast"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0
    assert str(tmp_path / "tmp") in done.stdout
    assert done.stderr.count("cannot be written") == 1
    assert os.listdir(tmp_path / "tmp") == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs to become another user")
def test_v31_a_cache_that_others_filled_is_used_though_it_is_read_only(recwarn):
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        path = tar_of(Path(name) / "a.tar", FRAMES)
        folder = extract(path, Path(name) / "cache")
        os.seteuid(65534)
        try:
            assert extract(path, Path(name) / "cache") == folder
        finally:
            os.seteuid(0)
    assert [str(note.message) for note in recwarn] == []


# Folders


def test_the_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("KINEME_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert default_cache() == tmp_path / ".cache" / "kineme"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache() == tmp_path / ".cache" / "kineme"
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache() == Path("/xdg/kineme")
    monkeypatch.setenv("KINEME_CACHE", "~/mine")
    assert default_cache() == tmp_path / "mine"
    monkeypatch.setenv("KINEME_CACHE", "")
    assert default_cache() == Path("/xdg/kineme")


@pytest.mark.parametrize(
    ("files", "root"),
    [
        (["train/catch/clip1/rgb/1.png", "train/smile/clip2/rgb/1.png"], "train"),
        (["catch/clip1/rgb/1.png", "smile/clip2/rgb/1.png"], "."),
        (["smile/clip1/rgb/1.png"], "."),  # one class, for inference
        (["train/smile/clip1/rgb/1.png", "README.txt", ".git/x", "train/.hidden/x"], "train"),
        (["train/smile/clip1/rgb/1.png", "__MACOSX/._train"], "train"),
        (["Test/val/smile/clip1/rgb/1.png"], "Test/val"),
        (["train/a/b.mp4", "test/a/c.mp4"], "."),
        (["data/train/a/b.mp4"], "."),
    ],
)
def test_data_begin_below_lone_folders_named_as_a_split(tmp_path, files, root):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert data_root(tmp_path) == tmp_path / root


def test_v28_links_inside_are_followed_and_others_refused(tmp_path):
    root = tmp_path / "data"
    (root / "a" / "clip").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "b").symlink_to("a")
    (root / "c").symlink_to(tmp_path / "outside")
    (root / "d").symlink_to("missing")
    (root / "e").symlink_to("f")
    (root / "f").symlink_to("e")
    (root / "a" / "above").symlink_to("..")
    (root / "a" / "self").symlink_to(".")
    assert resolve_inside(root, root / "a" / "clip") == (root / "a" / "clip").resolve()
    assert resolve_inside(root, root / "b") == (root / "a").resolve()
    assert resolve_inside(root, root / "b" / "clip") == (root / "a" / "clip").resolve()
    assert resolve_inside(root, root) == root.resolve()
    for name, received in (
        ("c", f"a link to {str((tmp_path / 'outside').resolve())!r}"),
        ("d", "no such file or directory"),
        ("e", "too many levels of symbolic links"),
        ("a/above", repr(str(root.resolve()))),
        ("a/self", repr(str((root / "a").resolve()))),
        ("../outside", f"a link to {str((tmp_path / 'outside').resolve())!r}"),
    ):
        with pytest.raises(DataError) as caught:
            resolve_inside(root, root / name)
        assert str(caught.value).startswith(f"{root / name}: expected a ")
        assert f", got {received}." in str(caught.value)


def test_v28_a_data_set_that_is_itself_reached_by_a_link(tmp_path):
    (tmp_path / "real" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    real = (tmp_path / "real" / "a").resolve()
    assert resolve_inside(tmp_path / "link", tmp_path / "link" / "a") == real
