"""What lies in a folder of results is of one run, wherever that run was stopped or killed."""

import contextlib
import os
import pathlib
import shutil

import pytest

from acting import act, run, scene_of, write_scene
from kineme.errors import DataError, SpecError
from kineme.people.follower import Follower
from kineme.people.sources import StoredSource

RESULTS = {
    "report.html", "timeline.json", "timeline.csv", "timeline.jsonl", "repetitions.csv",
    "tracks.npz", "annotated.mp4",
}  # fmt: skip


class Killed(BaseException):
    """As if the process ended here."""


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """(video, key points) of two videos, and a folder with the results of each, counts and all."""
    folder = tmp_path_factory.mktemp("films")
    made = {}
    for name, num_frames in (("first", 12), ("second", 9)):
        scene = scene_of(act("still", num_frames, seed=num_frames))
        video, points = write_scene(folder, scene, name=name)
        run(video, points, folder / f"{name}-out", "--repetitions")
        assert {path.name for path in (folder / f"{name}-out").iterdir()} == RESULTS
        made[name] = (video, points, folder / f"{name}-out")
    return made


def test_of_a_run_that_ended_early_nothing_lies_beside_what_an_earlier_one_left(
    films, tmp_path, monkeypatch
):
    video, points, _ = films["second"]
    shutil.copytree(films["first"][2], tmp_path / "out")
    look = Follower.look

    def stops(self, moment, known=None):
        if moment.index == 5:
            raise Killed
        return look(self, moment, known)

    monkeypatch.setattr(Follower, "look", stops)
    with pytest.raises(Killed):
        run(video, points, tmp_path / "out")
    assert not RESULTS & {path.name for path in (tmp_path / "out").iterdir()}


def test_what_is_a_result_itself_is_no_source_of_results_in_its_folder(films, tmp_path):
    shutil.copytree(films["first"][2], tmp_path / "out")
    _, points, _ = films["first"]
    with pytest.raises(SpecError, match="--out: expected a folder other than that of the video"):
        run(tmp_path / "out" / "annotated.mp4", points, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS
    run(tmp_path / "out" / "annotated.mp4", points, tmp_path / "other")


def test_a_run_that_sees_no_frame_leaves_what_was_there(films, tmp_path, monkeypatch):
    shutil.copytree(films["first"][2], tmp_path / "out")
    video, points, _ = films["second"]

    def damaged(self):
        raise DataError(str(video), "a video", "damage")
        yield

    monkeypatch.setattr(StoredSource, "moments", damaged)
    with pytest.raises(DataError, match="damage"):
        run(video, points, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} >= RESULTS


def test_of_a_source_without_frames_nothing_of_an_earlier_run_is_left(films, tmp_path, monkeypatch):
    shutil.copytree(films["first"][2], tmp_path / "out")
    video, points, _ = films["second"]
    monkeypatch.setattr(StoredSource, "moments", lambda self: (one for one in ()))
    run(video, points, tmp_path / "out")
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left & {"repetitions.csv", "annotated.mp4"} == set()
    report = (tmp_path / "out" / "report.html").read_text()
    assert "second.mp4" in report
    assert "first.mp4" not in report


def test_i02_killed_at_any_change_of_a_file_results_are_of_one_run_or_have_no_report(
    films, tmp_path, monkeypatch
):
    video, points, whole = films["second"]
    old = films["first"][2]
    changes = []  # of files, the last of which kills
    for module, name in ((os, "replace"), (pathlib.Path, "unlink")):
        _kills_at(monkeypatch, module, name, changes)
    states = set()
    for last in range(1, 100):
        out = tmp_path / f"{last}"
        shutil.copytree(old, out)
        changes[:] = [None] * last
        with contextlib.suppress(Killed):
            run(video, points, out, "--no-video", "--repetitions")
        there = RESULTS & {path.name for path in out.iterdir()}
        tables = {name for name in there if name in ("timeline.csv", "repetitions.csv")}
        of_run = {path: _is_of(out, path, tables) for path in (old, whole)}
        assert any(of_run.values())
        if "report.html" in there:
            (one,) = [path for path, is_of in of_run.items() if is_of]
            assert there == RESULTS - ({"annotated.mp4"} if one == whole else set())
            states.add(one)
        if changes:  # it came to its end
            break
    assert states == {old, whole}
    assert 10 < last < 99


def _kills_at(monkeypatch, module, name, changes):
    real = getattr(module, name)

    def change(*words, **more):
        if not changes:
            raise Killed
        changes.pop()
        return real(*words, **more)

    monkeypatch.setattr(module, name, change)


def _is_of(out, run_folder, tables):
    return all((out / name).read_bytes() == (run_folder / name).read_bytes() for name in tables)
