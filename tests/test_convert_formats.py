"""What the readers of other programs' files share: people, time, sets that fit together."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from format_files import landmarks, message_of, openpose_frame, points, run, write
from kineme.errors import DataError
from kineme.pose_classification.convert import READERS
from kineme.pose_classification.convert.clips import in_time, link, most_moving
from kineme.pose_classification.convert.reading import natural_key
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.settings import FORMATS


def test_every_format_of_the_spec_has_a_reader() -> None:
    assert set(READERS) == set(FORMATS)


# People


def test_someone_alone_stays_one_person_and_two_are_followed_by_distance() -> None:
    def seen(*xs: float) -> np.ndarray:
        return np.array([[[x, 0.0, 1.0]] for x in xs], np.float32).reshape(-1, 1, 3)

    alone = link([seen(0), seen(), seen(500)])
    assert alone.shape == (1, 3, 1, 3)
    assert alone[0, :, 0, 0].tolist()[::2] == [0, 500]
    assert np.isnan(alone[0, 1]).all()
    two = link([seen(0, 100), seen(99, 1), seen(2), seen(98, 3)])
    np.testing.assert_array_equal(two[:, :, 0, 0], [[0, 1, 2, 3], [100, 99, np.nan, 98]])
    assert link([]).shape == (0, 0, 0, 0)


def test_those_who_move_most_come_first_and_ties_keep_their_order() -> None:
    skeleton = np.zeros((4, 3, 1, 3), np.float32)
    skeleton[1, :, 0, 0] = [0, 1, 2]
    skeleton[2, :, 0, 0] = [0, 5, np.nan]
    order = most_moving(skeleton + np.arange(4, dtype=np.float32)[:, None, None, None], 3)
    assert order[:, 0, 0, 1].tolist() == [2, 1, 0]


def test_short_gaps_stay_open_and_long_ones_are_closed() -> None:
    tally = SimpleNamespace(seen=[], add=lambda what, name, n: tally.seen.append((what, n)))
    assert in_time([3, 4, 7, 20, 21], 2, "x", tally).tolist() == [0, 1, 4, 5, 6]  # type: ignore[arg-type]
    assert tally.seen == [
        ("gaps longer than 2 frames, closed", 1),
        ("frames missing, filled as missing", 2),
    ]


def test_numbers_in_names_sort_as_numbers() -> None:
    assert sorted(["a10", "a9", "1b", "a"], key=natural_key) == ["1b", "a", "a9", "a10"]


# What all share


def test_clips_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    for name, num_joints in (("a", 18), ("b", 25)):
        one = openpose_frame(points(99.0, 9.0, num_joints))
        write(tmp_path / "in" / name / "x_0_keypoints.json", one)
    received = message_of(tmp_path / "in", tmp_path / "out", format="openpose")
    assert received.startswith("b: expected 3 channels and 18 joints as in a, got 3 and 25.")


def test_layouts_named_by_readers_exist() -> None:
    from kineme.pose_classification.convert.pyskl import LAYOUTS as NAMES_OF_PYSKL

    assert set(NAMES_OF_PYSKL) <= set(LAYOUTS)


def test_an_existing_data_set_survives_a_conversion_that_fails(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [landmarks(0.25)])
    run(path, tmp_path / "out", format="mediapipe")
    before = {entry.name: entry.read_bytes() for entry in (tmp_path / "out").iterdir()}
    write(path, [landmarks(0.25), landmarks(0.5)[:5]])
    with pytest.raises(DataError):
        run(path, tmp_path / "out", format="mediapipe")
    assert {entry.name: entry.read_bytes() for entry in (tmp_path / "out").iterdir()} == before
