"""The words of `kineme analyze`, its sources, and what it says where something is wrong."""

import json
import time
from pathlib import Path

import pytest

from acting import FPS, HEIGHT, WIDTH, act, run, scene_of, write_scene
from kineme.cli import main
from kineme.data.video import iterate, write_video
from kineme.errors import DataError, KinemeError, PartialError, SpecError
from kineme.people import command
from kineme.people.sources import open_source
from kineme.people.streams import StreamSettings


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """(video, key points) of one who waves."""
    return write_scene(tmp_path_factory.mktemp("film"), scene_of(act("wave", 10, x=40, seed=3)))


def points_for(names, points, folder):
    """A folder with the key points again under each name."""
    (folder / "points").mkdir()
    for name in names:
        (folder / "points" / f"{name}.json").write_bytes(Path(points).read_bytes())
    return folder / "points"


def test_every_video_of_a_folder_gets_its_own_key_points_or_nothing_begins(film, tmp_path):
    video, points = film
    (tmp_path / "videos").mkdir()
    for name in "abc":
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(video.read_bytes())
    for given, received in (
        (points, "no folder"),
        (points_for("b", points, tmp_path), "none of 2"),
    ):
        with pytest.raises(SpecError, match=received) as caught:
            run(tmp_path / "videos", given, tmp_path / "out", "--no-video")
        assert "of each of the 3 videos (a.json, " in str(caught.value)
        assert not (tmp_path / "out").exists()
    for name in "ac":
        (tmp_path / "points" / f"{name}.json").write_text("[]")  # nobody
    run(tmp_path / "videos", tmp_path / "points", tmp_path / "out", "--no-video")
    people = [
        json.loads((tmp_path / "out" / f"{name}.mp4" / "timeline.json").read_text())["people"]
        for name in "abc"
    ]
    assert [len(one) for one in people] == [0, 1, 0]


def test_key_points_of_a_file_are_of_no_stream(film, tmp_path):
    with pytest.raises(
        SpecError, match=r"files\.path: expected a video, .*, got a camera or a str"
    ):
        run("0", film[1], tmp_path / "out")


def test_of_a_folder_of_videos_each_has_results_of_its_own_and_one_that_fails_is_told(
    film, tmp_path, capsys
):
    video, points = film
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(video.read_bytes())
    (folder / "b.mp4").write_bytes(b"no video")
    with pytest.raises(PartialError, match="1 that cannot be read") as caught:
        run(folder, points_for("ab", points, tmp_path), tmp_path / "out", "--max-frames=5")
    assert caught.value.exit_code == 8
    assert (tmp_path / "out" / "a.mp4" / "timeline.csv").is_file()
    assert f"left out: {folder / 'b.mp4'}: expected" in capsys.readouterr().err
    assert not str(caught.value).endswith("..")


def test_every_event_of_a_folder_says_of_which_video_it_is(film, tmp_path, capsys):
    video, points = film
    (tmp_path / "videos").mkdir()
    paths = [str(tmp_path / "videos" / name) for name in ("a.mp4", "b.mp4")]
    for path in paths:
        Path(path).write_bytes(video.read_bytes())
    points = points_for("ab", points, tmp_path)
    run(tmp_path / "videos", points, tmp_path / "out", "--no-video", "--live")
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["event"], one["source"]) for one in told] == [
        (event, path) for path in paths for event in ("segment", "done")
    ]


def test_a_folder_of_images_is_one_video(film, tmp_path):
    from PIL import Image

    _, points = film
    (tmp_path / "images").mkdir()
    for number in range(6):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "images" / f"{number}.png")
    run(tmp_path / "images", points, tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "timeline.json").read_text())
    assert (facts["num_frames"], facts["fps"]) == (6, 25.0)


@pytest.mark.parametrize(
    ("words", "window", "told"),
    [
        (["--window=2", "--stride=1.5"], 2, ""),
        (["--window=1", "--stride=0.7"], 1, ""),
        (["--window=1", "--stride=0.3"], 1, ""),
        (["--stride=3"], 3, "note: windows of 3 s in place of 2 s: --stride 3 leaves no gap\n"),
    ],
)
def test_windows_are_as_long_as_asked_and_never_leave_gaps(
    film, tmp_path, capsys, words, window, told
):
    run(*film, tmp_path / "out", "--max-frames=3", "--no-video", *words)
    facts = json.loads((tmp_path / "out" / "timeline.json").read_text())
    assert facts["window_seconds"] == window
    assert facts["stride_seconds"] == float(words[-1].partition("=")[2])
    lines = capsys.readouterr().err.splitlines(keepends=True)
    assert "".join(line for line in lines if "windows" in line) == told


def test_results_of_another_video_are_replaced_and_that_is_told(film, tmp_path, capsys):
    video, points = film
    again = tmp_path / "again.mp4"
    again.write_bytes(video.read_bytes())
    run(video, points, tmp_path / "out", "--max-frames=3")
    assert (tmp_path / "out" / "annotated.mp4").exists()
    assert "replaced" not in capsys.readouterr().err
    run(again, points, tmp_path / "out", "--max-frames=3", "--no-video")
    assert f"has results of {video}, which are replaced" in capsys.readouterr().err
    assert not (tmp_path / "out" / "annotated.mp4").exists()


def test_what_cannot_be_analysed_leaves_no_folder(film, tmp_path):
    video, _ = film
    with pytest.raises(SpecError, match="Did you mean path"):
        command.main([str(video), "--estimator=files", "files.pat=x", f"--out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_damage_is_told_at_the_end(film, tmp_path, capsys):
    video, points = film
    cut = tmp_path / "cut.mkv"
    with iterate(video) as stream:
        write_video(cut, [frame for _, frame in stream], fps=FPS)
    content = cut.read_bytes()
    cut.write_bytes(content[: 4 * len(content) // 5])
    run(cut, points, tmp_path / "out", "--no-video")
    assert "cut.mkv is damaged: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "told"),
    [("empty", "expected a folder of images or videos"), ("a.jpg", "one image. Name the folder")],
)
def test_what_is_no_video_is_told_with_what_to_name(tmp_path, name, told):
    (tmp_path / "empty" / "walk").mkdir(parents=True)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(DataError, match=told):
        open_source(str(tmp_path / name), StreamSettings())


def test_a_source_that_is_not_there_is_told_with_what_can_be_named():
    with pytest.raises(DataError, match="a video, a folder, a camera or an address"):
        open_source("nothing.mp4", StreamSettings())


def test_all_that_is_wrong_with_the_words_is_told_at_once():
    with pytest.raises(SpecError) as caught:
        command.main(["a.mp4", "b.mp4", "--outt=x", "--max-frames=0", "--stride"])
    told = [str(problem) for problem in caught.value.problems]
    assert len(told) == 4
    assert "Several videos can be given as a folder." in told[0]
    assert "Did you mean --out?" in told[1]
    assert "a whole number of at least 1" in told[2]
    assert told[3] == "--stride: expected a value after it, got nothing."
    with pytest.raises(SpecError, match=r"at most 0\.3"):
        command.main(["a.mp4", "--min-probability=0.3", "--keep-probability=0.4"])
    with pytest.raises(SpecError, match="settings of the estimator movenet"):
        command.main(["a.mp4", "files.path=x", "movenet.long_side=512"])
    with pytest.raises(SpecError, match="settings of the estimator movenet"):
        command.main(["a.mp4", "files.path=x", "--estimator", "movenet"])


def problems_of(*words):
    """Exit code and problems, as text, of a command that is refused."""
    with pytest.raises(KinemeError) as caught:
        command.main(words)
    return caught.value.exit_code, [str(problem) for problem in caught.value.problems]


def test_estimator_settings_rules_source_and_checkpoint_are_told_together(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = ["no.mp4", "--checkpoint", "no.pth"]
    code, told = problems_of(*files, "--rules", "no.yaml", "--estimator", "foo", "--stride=90")
    assert code == 2
    begins = ("--stride: expected a number", "estimator: expected a known", "no.yaml: expected",
              "no.mp4: expected a video", "no.pth: expected a checkpoint, got no such")  # fmt: skip
    assert [one.startswith(begin) for one, begin in zip(told, begins, strict=True)] == [True] * 5
    code, told = problems_of(*files, "--rules", "no.yaml", "--estimator", "foo", "--strid=1")
    assert (code, len(told)) == (2, 1)  # of words that are not known more may follow
    code, told = problems_of(
        *files, "--rules", "no.yaml", "--estimator", "foo", "--window=1", "--stride=2"
    )
    assert code == 2
    begins = ("estimator: expected a known", "no.yaml: expected", "--stride: expected at most 1.0",
              "no.mp4: expected a video", "no.pth: expected a checkpoint, got no such")  # fmt: skip
    assert len(told) == len(begins)
    assert all(one.startswith(begin) for one, begin in zip(told, begins, strict=True))
    code, told = problems_of(*files)
    assert (code, [one.partition(":")[0] for one in told]) == (3, ["no.mp4", "no.pth"])
    (tmp_path / "no.mp4").write_bytes(b"there")
    assert problems_of(*files)[0] == 4
    wrong = ["movenet.long_side=33", "movenet.min_score=2", "blazepose.tiles=2", "blazepose.til=2"]
    code, told = problems_of("no.mp4", *wrong)
    assert (code, [one.partition(":")[0] for one in told]) == (
        2, ["movenet.long_side", "movenet.min_score", "blazepose.tiles", "blazepose.til"],
    )  # fmt: skip
    code, told = problems_of("no.mp4", *wrong, "--estimator=foo")
    assert [one.partition(":")[0] for one in told] == [
        "estimator", "movenet.long_side", "movenet.min_score", "blazepose.til"
    ]  # fmt: skip


def test_a_folder_for_results_that_cannot_be_is_a_mistake_of_the_words(film, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    video, _ = film
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_bytes(video.read_bytes())
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "a.mp4").touch()
    (tmp_path / "a-people").touch()
    for words, received in (
        (["videos", "--out", "videos"], "got videos. Name another."),
        (["videos", "--out", "copies"], "got a file (copies/a.mp4). Name another."),
        (["videos/a.mp4", "--out", "videos/a.mp4"], "got videos/a.mp4. Name another."),
        (["videos/a.mp4", "--out", "copies/a.mp4/b"], "got a file (copies/a.mp4). Name another."),
        (["videos/a.mp4"], "got a file (a-people). Name another."),
    ):
        code, (told,) = problems_of(*words)
        assert code == 2
        assert told.startswith("--out: expected a folder for the results, ")
        assert told.endswith(received)
    assert sorted(path.name for path in (tmp_path / "videos").iterdir()) == ["a.mp4"]


def test_options_without_effect_are_told_once(film, tmp_path, capsys):
    video, points = film
    (tmp_path / "videos").mkdir()
    for name in "ab":
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(video.read_bytes())
    run(
        tmp_path / "videos", points_for("ab", points, tmp_path), tmp_path / "out", "--wait",
        "--max-frames=2", "--no-video", "--alone", "--no-threshold", "--min-probability=0.6",
        "--keep-probability=0.4", "--video-side=99",
    )  # fmt: skip
    told = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert told == [
        "note: --min-probability, --keep-probability, --alone, --no-threshold have no effect: "
        "there is no --checkpoint",
        "note: --video-side has no effect: --no-video",
        "note: --wait has no effect: the source is no stream",
    ]
    run(video, points, tmp_path / "one", "--max-frames=2", "--alone", "--video-side=99")
    told = [line for line in capsys.readouterr().err.splitlines() if "no effect" in line]
    assert told == ["note: --alone has no effect: there is no --checkpoint"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max-frame", "3", "a.mp4"], ["Did you mean --max-frames?"]),
        (["a.mp4", "--out", "--no-video"], ["--out: expected a value after it, got nothing."]),
        (["checkpoint=best.pth", "a.mp4"], ["Did you mean --checkpoint?"]),
        (["a.mp4", "max_frames=3"], ["Did you mean --max-frames?"]),
        (["a.mp4", "movnet.long_side=512"], ["Did you mean movenet.long_side?"]),
        (["a.mp4", "movenet=512"], ["movenet.SETTING=VALUE; --estimator movenet chooses it."]),
        (["encription_key=secret"], ["got 'encription_key=...'. Did you mean encryption_key?"]),
    ],
)
def test_words_that_miss_are_told_once_and_what_was_meant(words, told):
    with pytest.raises(SpecError) as caught:
        command.main(words)
    assert len(caught.value.problems) == len(told)
    assert all(one in str(caught.value) for one in told)
    assert "secret" not in str(caught.value)


def test_a_source_whose_name_looks_like_a_setting_is_a_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out=a.mp4").touch()
    with pytest.raises(DataError, match="an empty file"):
        command.main(["out=a.mp4"])


def test_the_command_ends_with_the_exit_code_of_what_went_wrong(tmp_path, capsys):
    assert main(["analyze"]) == 2
    assert main(["analyze", str(tmp_path / "none.mp4")]) == 3
    assert main(["analyze", "tcp://127.0.0.1:9"]) == 6
    assert main(["analyze", "--help"]) == 0
    assert "usage: kineme analyze SOURCE" in capsys.readouterr().out
    began = time.monotonic()
    assert main(["analyze", "rtsp://user:secret@127.0.0.1:9/a"]) == 6
    assert time.monotonic() - began < 5
    assert "secret" not in capsys.readouterr().err


def test_whose_settings_are_given_is_the_estimator(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(command, "_analyze_one", lambda _, settings, __: seen.append(settings))
    monkeypatch.setattr(command, "_say", lambda *_, **__: None)
    (tmp_path / "a.mp4").touch()
    command.main([str(tmp_path / "a.mp4"), "blazepose.tiles=3", f"--out={tmp_path}"])
    assert (seen[0].estimator, dict(seen[0].estimator_settings)) == ("blazepose", {"tiles": "3"})
