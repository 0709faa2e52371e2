"""The file of tracks: exact round trips, and strangers' files refused in one line."""

import json
import re
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kineme.data.tracks import INDEX_NAME, Track, Tracks
from kineme.errors import DataError
from tracks_made import NAMES, NAN, made_track, made_tracks

ONE = made_track(1, [3, 4, 9], np.arange(18).reshape(3, 3, 2))
HALF = np.array([[[1, 2], [NAN, NAN], [5, 6]], [[NAN, NAN]] * 3], np.float32)
TWO = made_track(4, [0, 49], HALF)
BOTH = made_tracks(ONE, TWO, cuts=(7, 30))
FACTS = ("layout", "joint_names", "width", "height", "fps", "source", "num_frames", "num_axes")
COLUMNS = ("frames", "seconds", "joints", "confidence", "boxes", "scores")


def check_equal(first: Tracks, second: Tracks) -> None:
    for name in (*FACTS, "cuts"):
        assert getattr(first, name) == getattr(second, name)
    assert [track.id for track in first.tracks] == [track.id for track in second.tracks]
    for a, b in zip(first.tracks, second.tracks, strict=True):
        for name in COLUMNS:
            one, other = getattr(a, name), getattr(b, name)
            assert one.dtype == other.dtype
            assert one.shape == other.shape
            assert one.tobytes() == other.tobytes(), name


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    BOTH.save(tmp_path / "a.npz")
    check_equal(Tracks.load(tmp_path / "a.npz"), BOTH)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.npz"]


def test_a_video_without_people_is_tracks_too(tmp_path: Path) -> None:
    made_tracks().save(tmp_path / "a.npz")
    loaded = Tracks.load(tmp_path / "a.npz")
    assert loaded.tracks == ()
    assert loaded.num_rows == 0
    assert loaded.num_frames == 50


@given(
    rows=st.lists(st.integers(1, 6), max_size=4),
    num_joints=st.integers(1, 5),
    num_axes=st.sampled_from([2, 3]),
    seed=st.integers(0, 2**32 - 1),
    source=st.text(max_size=20).filter(lambda text: text.isprintable()),
)
@settings(max_examples=40, deadline=None)
def test_any_tracks_come_back(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[int],
    num_joints: int,
    num_axes: int,
    seed: int,
    source: str,
) -> None:
    rng = np.random.default_rng(seed)
    tracks = []
    for number, length in enumerate(rows, start=1):
        joints = rng.normal(0, 1e3, (length, num_joints, num_axes)).astype(np.float32)
        joints[rng.random((length, num_joints)) < 0.3] = np.nan
        frames = np.sort(rng.choice(50, length, replace=False)).tolist()
        tracks.append(made_track(number, frames, joints))
    whole = made_tracks(*tracks, num_axes=num_axes, source=source)
    path = tmp_path_factory.mktemp("tracks") / "a.npz"
    whole.save(path)
    check_equal(Tracks.load(path), whole)


def test_equal_tracks_make_equal_files(tmp_path: Path) -> None:
    BOTH.save(tmp_path / "a.npz")
    BOTH.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_numpy_opens_the_file_without_pickle(tmp_path: Path) -> None:
    BOTH.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert file["frames"].tolist() == [3, 4, 9, 0, 49]
        np.testing.assert_array_equal(file["joints"], np.concatenate([ONE.joints, HALF]))
        assert json.loads(file[INDEX_NAME])["tracks"] == [
            {"id": 1, "rows": 3},
            {"id": 4, "rows": 2},
        ]


def test_a_file_packed_again_by_others_is_read(tmp_path: Path) -> None:
    BOTH.save(tmp_path / "a.npz")
    rewrite(tmp_path / "a.npz", {}, zipfile.ZIP_DEFLATED)
    check_equal(Tracks.load(tmp_path / "a.npz"), BOTH)


# Tracks that do not hold together


@pytest.mark.parametrize(
    ("track", "wrong"),
    [
        (replace(ONE, frames=np.array([3, 3, 9])), "frames that do not rise within the 50"),
        (replace(ONE, frames=np.array([3, 4, 50])), "frames that do not rise within the 50"),
        (replace(ONE, frames=np.array([-1, 4, 9])), "frames that do not rise within the 50"),
        (replace(ONE, seconds=np.array([0.3, 0.2, 1])), "seconds that go back"),
        (
            replace(ONE, seconds=np.array([0.3, np.nan, 1])),
            "seconds that go back or are no numbers",
        ),
        (replace(ONE, joints=np.full((3, 3, 2), np.inf, np.float32)), "neither numbers nor NaN"),
        (replace(ONE, confidence=ONE.confidence * 0), "seen without confidence, or missing with"),
        (replace(TWO, confidence=ONE.confidence[:2]), "seen without confidence, or missing with"),
        (replace(ONE, confidence=ONE.confidence * 3), "confidence outside [0, 1]"),
        (replace(ONE, confidence=ONE.confidence * NAN), "confidence outside [0, 1]"),
        (replace(ONE, boxes=ONE.boxes * [1, 1, 1, NAN]), "boxes of float64 (3, 4), not float32"),
        (replace(ONE, scores=ONE.scores + 1), "scores outside [0, 1]"),
        (replace(ONE, joints=ONE.joints[:2]), "joints of float32 (2, 3, 2), not float32 (3, 3, 2)"),
        (replace(ONE, id=0), "track ids that do not rise from 1"),
    ],
)
def test_tracks_that_do_not_hold_together_are_a_bug_of_the_caller(track: Track, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        made_tracks(track)


@pytest.mark.parametrize(
    ("facts", "wrong"),
    [
        ({"width": 0}, "width 0"),
        ({"height": 1.5}, "height 1.5"),
        ({"fps": float("nan")}, "fps nan"),
        ({"num_frames": True}, "num_frames True"),
        ({"cuts": (3, 3)}, "cuts that are no rising frame numbers"),
        ({"layout": None}, "layout, source or estimator that is no text"),
        ({"estimator": 1}, "layout, source or estimator that is no text"),
        ({"num_axes": 4}, "num_axes 4, neither 2 nor 3"),
    ],
)
def test_facts_that_cannot_be_are_a_bug_of_the_caller(facts: dict[str, object], wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        made_tracks(**facts)  # type: ignore[arg-type]


def test_ids_have_to_rise() -> None:
    with pytest.raises(ValueError, match="track ids that do not rise from 1"):
        made_tracks(ONE, replace(TWO, id=1))


# Strangers' files


def rewrite(path: Path, changed: dict[str, bytes | None], method: int = zipfile.ZIP_STORED) -> None:
    """Members replaced, added or (None) left out."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members |= changed  # type: ignore[arg-type]
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            if content is not None:
                archive.writestr(name, content)


def member(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return archive.read(name)


def message_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        Tracks.load(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"joints.npy": None}, "expected all columns of tracks, got none of joints"),
        ({"other.npy": b"x"}, "each once, got 'other.npy'"),
        ({"joints.npy": b"no numbers"}, "joints.npy: expected numbers of type <f4"),
        ({"joints.npy": b"\x93NUMPY\x01\x00\xff\xff"}, "joints.npy: expected numbers of type <f4"),
        ({"frames.npy": b"x" * 2000}, "expected at most 1,064 bytes in frames.npy, got more"),
        ({INDEX_NAME: b"[1]"}, f"{INDEX_NAME}: expected format 'kineme-tracks-1', got [1]"),
        ({INDEX_NAME: b"{"}, f"{INDEX_NAME}: expected an index of tracks, got"),
        ({INDEX_NAME: b"[" * 100_000}, f"{INDEX_NAME}: expected an index of tracks, got"),
        ({INDEX_NAME: b"\xff"}, f"{INDEX_NAME}: expected an index of tracks, got"),
    ],
)  # fmt: skip
def test_members_that_are_wrong_are_named(
    tmp_path: Path, changed: dict[str, bytes | None], message: str
) -> None:
    BOTH.save(tmp_path / "a.npz")
    rewrite(tmp_path / "a.npz", changed)
    assert message in message_of(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "kineme-tracks-2"}, "expected format 'kineme-tracks-1', got 'kineme-tracks-2'"),
        ({"width": "wide"}, "expected an index of tracks, got \"width 'wide'\""),
        ({"joint_names": []}, "joint_names that are not 1 to 10,000 texts"),
        ({"joint_names": "abc"}, "joint_names that are not 1 to 10,000 texts"),
        ({"tracks": [{"id": 1, "rows": -5}]}, "an id and a number of rows for each track"),
        ({"tracks": [{"id": 1}]}, "expected the key 'rows', got none"),
        ({"tracks": 3}, "expected an index of tracks"),
        (
            {"tracks": [{"id": 1, "rows": 2**40}]},
            "can hold, got 1,099,511,627,776 rows",
        ),
        ({"tracks": [{"id": 2, "rows": 2}, {"id": 1, "rows": 3}]}, "track ids that do not rise"),
        ({"tracks": [{"id": 1, "rows": 0}, {"id": 2, "rows": 5}]}, "track 1: no rows"),
        ({"num_frames": 20}, "track 4: frames that do not rise within the 20 of the video"),
        ({"num_axes": 3}, "joints.npy: expected <f4 of shape (5, 3, 3) in 180 bytes"),
        ({"joint_names": ["a", "a", "b"]}, "joint_names that are not all different"),
    ],
)
def test_an_index_that_says_other_things_than_the_columns_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "a.npz"
    BOTH.save(path)
    index = json.loads(member(path, INDEX_NAME)) | change
    rewrite(path, {INDEX_NAME: json.dumps(index).encode()})
    assert message in message_of(path)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    BOTH.save(path)
    index = json.loads(member(path, INDEX_NAME))
    del index["fps"]
    rewrite(path, {INDEX_NAME: json.dumps(index).encode()})
    assert "expected the key 'fps', got none" in message_of(path)


def test_an_object_array_is_refused_and_its_pickle_never_runs(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    BOTH.save(path)
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (5,), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    ran = tmp_path / "ran"
    pickled = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    rewrite(path, {"scores.npy": content + pickled})
    assert "scores.npy: expected numbers of type <f4, got another header" in message_of(path)
    assert not ran.exists()


def test_other_archives_and_other_files_are_told_apart(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    assert "expected tracks.json as the first member, got 'x.npy'" in message_of(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"GIF89a")
    assert "expected tracks (.npz), got a file that starts with" in message_of(tmp_path / "b.npz")
    (tmp_path / "c.npz").write_bytes(b"")
    assert "expected tracks (.npz), got a file that starts with" in message_of(tmp_path / "c.npz")
    with pytest.raises(DataError, match="no such file"):
        Tracks.load(tmp_path / "d.npz")


def test_a_small_file_that_claims_to_be_huge_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    BOTH.save(path)
    index = json.loads(member(path, INDEX_NAME))
    index["tracks"] = [{"id": 1, "rows": 30_000_000}]
    rows = np.zeros(30_000_000, np.uint8).tobytes()
    rewrite(path, {INDEX_NAME: json.dumps(index).encode(), "frames.npy": rows}, 8)
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    message = message_of(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "can hold, got 30,000,000 rows, 2,160,000,000 bytes of numbers" in message
    assert peak < 1 << 20


def test_no_cut_and_no_changed_byte_gives_anything_but_data_errors(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    BOTH.save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    num_refused = 0
    for trial in range(200):
        content = bytearray(whole)
        if trial % 4 == 0:
            del content[int(rng.integers(len(whole))) :]
        for place in rng.integers(0, max(len(content), 1), 3):
            if place < len(content):
                content[place] = rng.integers(256)
        path.write_bytes(content)
        try:
            check_equal(Tracks.load(path), BOTH)  # bytes that say nothing, such as dates
        except DataError:
            num_refused += 1
    assert num_refused > 150


def test_names_of_joints_travel_with_the_file(tmp_path: Path) -> None:
    BOTH.save(tmp_path / "a.npz")
    assert Tracks.load(tmp_path / "a.npz").joint_names == NAMES
