"""People too small for the estimator: told with a setting to try, and only where that can help."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from acting import act, scene_of, write_scene
from kineme.people import command
from kineme.people.estimators import ESTIMATORS
from kineme.people.estimators.blazepose import BlazePose, BlazePoseSettings
from kineme.people.estimators.eyesight import Eyesight, small_people_note
from kineme.people.estimators.files import KeypointFiles
from kineme.people.estimators.movenet import MoveNet, MoveNetSettings
from tracks_made import made_track, made_tracks


def people_of(long_side, width, height):
    """The tracks of one person whose box is so long, in a video of that size."""
    track = made_track(1, [0, 1], np.zeros((2, 3, 2)))
    track.boxes[:] = (10, 20, 10 + long_side / 3, 20 + long_side)
    track.boxes[1:] = np.nan  # a box that nobody knows
    return made_tracks(track, width=width, height=height)


def movenet(**settings):
    made = SimpleNamespace(settings=MoveNetSettings(**settings))
    return SimpleNamespace(eyesight=lambda width, height: MoveNet.eyesight(made, width, height))


def blazepose(**settings):
    made = SimpleNamespace(settings=BlazePoseSettings(**settings))
    return SimpleNamespace(eyesight=lambda width, height: BlazePose.eyesight(made, width, height))


def tried(note):
    return note.rpartition("try ")[2].partition(",")[0]


@pytest.mark.parametrize(
    ("estimator", "long_side", "size", "value"),
    [  # the first two of each as in the real street and shop
        (movenet(), 88, (768, 576), "movenet.long_side=768"),  # 44 pixels; no finer than the frame
        (movenet(), 500, (1920, 1080), "movenet.long_side=704"),  # 100 -> 168 of them
        (movenet(long_side=768), 85, (768, 576), ""),
        (movenet(long_side=704), 500, (1920, 1080), ""),
        (movenet(), 600, (1920, 1080), ""),  # somebody over half of the picture's height
        (movenet(), 100, (320, 240), ""),
        (movenet(long_side=640), 85, (768, 576), ""),  # a fifth more would not help
        (blazepose(), 420, (1920, 1080), "movenet.tiles=3"),  # 49 -> 96
        (blazepose(tiles=3), 420, (1920, 1080), ""),
        (blazepose(), 600, (1920, 1080), ""),
        (blazepose(tiles=16), 10, (7680, 4320), ""),
    ],
)
def test_a_value_to_try_is_told_where_people_are_small_and_the_frame_has_more(
    estimator, long_side, size, value
):
    assert tried(small_people_note(estimator, "movenet", people_of(long_side, *size))) == value


def test_nobody_may_be_too_small_where_the_frame_is_shrunk_to_half():
    nobody = made_tracks(width=768, height=576)
    assert small_people_note(movenet(), "movenet", nobody) == (
        "nobody was found in the picture that movenet looks at, 2.0 times smaller than the "
        "video's, and small people may be missed: try movenet.long_side=768, which is slower"
    )
    assert tried(small_people_note(blazepose(), "blazepose", nobody)) == "blazepose.tiles=3"
    assert small_people_note(movenet(), "movenet", made_tracks(width=640, height=480)) == ""


def test_estimators_that_do_not_say_how_they_see_are_not_judged():
    assert small_people_note(SimpleNamespace(), "files", people_of(9, 1920, 1080)) == ""


class Shrinking(KeypointFiles):
    """Key points of files, as if found in pictures four times smaller than the video."""

    def eyesight(self, width, height):
        return Eyesight(
            0.25, few_pixels=30, setting="side", value_for=lambda factor: round(9 * factor)
        )


def test_an_analysis_tells_it_once_on_the_terminal_and_in_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(ESTIMATORS, "movenet", "test_people_eyesight:Shrinking")
    video, points = write_scene(tmp_path, scene_of(act("still", 12, seed=2)))
    out = tmp_path / "out"
    words = ["--estimator=movenet", f"movenet.path={points}", "movenet.format=coco", "--no-video"]
    command.main([str(video), f"--out={out}", *words])
    (caution,) = json.loads((out / "timeline.json").read_text())["cautions"]
    assert caution.startswith("people are small, half of them at most 2")  # 84 / 4 pixels or so
    assert "4.0 times smaller" in caution
    assert capsys.readouterr().err.count(f"note: {caution}\n") == 1
    assert "people are small, half of them" in (out / "report.html").read_text()
