"""Who finds people where nobody is named: the default, or a stand-in that is told."""

import json

import numpy as np
import pytest

from blocks_filmed import RED, converted, film, someone, walking
from kineme.data.labels import read_labels
from kineme.data.origin import Origin
from kineme.errors import CheckpointError
from kineme.people import command
from kineme.people.analysis_settings import AnalysisSettings
from kineme.people.analyze import analyze
from kineme.people.estimators import ESTIMATORS
from kineme.people.estimators.choosing import Chosen, choose_estimator
from kineme.people.models import CARDS
from kineme.people.sources import StoredSource
from kineme.people.training_sets import tracked_videos

REASON = "no estimator is named, and the file of movenet is not here"


@pytest.fixture(autouse=True)
def models(monkeypatch, tmp_path):
    """A function that puts files of these models here, and blocks in place of BlazePose."""
    monkeypatch.setenv("KINEME_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KINEME_MODELS", raising=False)
    monkeypatch.setitem(ESTIMATORS, "blazepose", "blocks_filmed:Blocks")
    tracked_videos._estimator.cache_clear()
    folder = tmp_path / "cache" / "models"
    folder.mkdir(parents=True)

    def put(*names):
        for name in names:
            for file in CARDS[name].files:
                (folder / file.name).touch()

    yield put
    tracked_videos._estimator.cache_clear()


@pytest.mark.parametrize(
    ("here", "named", "settings", "chosen"),
    [
        ((), None, {}, Chosen("movenet")),
        (("movenet",), None, {}, Chosen("movenet")),
        (("movenet", "blazepose"), None, {}, Chosen("movenet")),
        (("blazepose",), None, {}, Chosen("blazepose", REASON)),
        (("blazepose",), None, {"long_side": "512"}, Chosen("movenet")),
        (("blazepose",), "movenet", {}, Chosen("movenet")),
        (("blazepose",), "rtmpose", {}, Chosen("rtmpose")),
    ],
)
def test_only_where_nobody_is_named_and_the_default_is_not_here_another_stands_in(
    models, here, named, settings, chosen
):
    models(*here)
    assert choose_estimator(named, settings) == chosen


def test_an_analysis_says_once_who_stands_in_and_its_results_name_them(models, tmp_path, capsys):
    models("blazepose")
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / "in" / name, (RED, walking(40, 40, 2)))
    out = tmp_path / "out"
    command.main([str(tmp_path / "in"), f"--out={out}", "--no-video"])
    assert capsys.readouterr().err.count(f"note: blazepose finds people: {REASON}\n") == 1
    facts = json.loads((out / "a.mp4" / "timeline.json").read_text())
    assert facts["estimator"] == "blazepose"
    assert "blazepose (coco)" in (out / "a.mp4" / "report.html").read_text()
    with np.load(out / "a.mp4" / "tracks.npz") as tracks:
        assert json.loads(tracks["tracks.json"])["estimator"] == "blazepose"


def test_from_python_it_is_told_too(models, tmp_path):
    models("blazepose")
    told = []
    source = StoredSource(someone(tmp_path / "a.mp4"))
    analyze(source, AnalysisSettings(tmp_path / "out", writes_video=False), tell=told.append)
    assert told == [f"blazepose finds people: {REASON}"]


def test_who_is_named_is_not_replaced(models, tmp_path):
    models("blazepose")
    video = someone(tmp_path / "a.mp4")
    for words in (["--estimator=movenet"], ["movenet.long_side=512"]):
        with pytest.raises(CheckpointError, match="model movenet: expected movenet-multipose"):
            command.main([str(video), f"--out={tmp_path / 'out'}", *words])
    with pytest.raises(CheckpointError, match="model movenet"):
        converted(tmp_path, tmp_path / "out", estimator="movenet")


def test_where_none_is_here_the_error_says_first_what_one_command_brings(tmp_path):
    video = someone(tmp_path / "a.mp4")
    with pytest.raises(CheckpointError) as caught:
        command.main([str(video), f"--out={tmp_path / 'out'}"])
    (problem,) = caught.value.problems
    assert problem.fix.startswith("Run kineme models get blazepose: it finds people where no ")
    assert "No package carries movenet itself: put its file into" in problem.fix


def test_a_training_set_counts_the_videos_and_says_what_made_it(models, tmp_path):
    models("blazepose")
    for name in ("walk/1", "walk/2", "run/1", "run/2"):
        film(tmp_path / "in" / f"{name}.mp4", (RED, walking(40, 40, 2)), seed=len(name))
    found = converted(tmp_path / "in", tmp_path / "out")
    said = f"4 videos whose people blazepose finds, as {REASON}; first: run/1"
    assert said in found["warnings"]
    facts = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert facts["estimator"] == "blazepose"
    assert facts["estimator_settings"] == {"threshold": "150", "fails_at": "0"}
    about = read_labels(tmp_path / "out" / "train_label.json").origin
    assert about == Origin("blazepose", clip_seconds=round(6 / about.fps, 3), fps=about.fps)
    assert about.fps > 0
