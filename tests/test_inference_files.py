"""What an inference over many videos leaves: failed inputs, clips, annotated videos."""

import json
import signal
import tracemalloc

import numpy as np
import pytest
from av.codec.codec import Codec, UnknownCodecError

from clips_made import full_decode, make_video, picture
from images_made import save_image
from inferred import LABELS, SKELETONS, VIDEOS, make_data, spec_of, untrained, words_of
from kineme.action_recognition.dataset import ClipDataset
from kineme.actions import inference
from kineme.cli import main
from kineme.data.video import writing
from kineme.errors import DataError, PartialError, ResourceError
from kineme.network import Footage, load_network
from kineme.report.annotate import draw_text, file_names, write_annotated
from kineme.signals import Interrupted


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return untrained(VIDEOS, tmp_path_factory.mktemp("videos"))


def infer(checkpoint, data, out, *words):
    words = words_of(VIDEOS, checkpoint, data, out, *words)
    return inference.run(load_network(VIDEOS), spec_of(VIDEOS, words))


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    """100 videos of which 7, 50 and 93 are broken, each in its own way."""
    folder = make_data(VIDEOS, tmp_path_factory.mktemp("hundred"), 100)
    (folder / "007.mp4").write_bytes(b"")
    (folder / "050.mp4").write_bytes((folder / "050.mp4").read_bytes()[:200])
    (folder / "093.mp4").write_bytes(b"<html>404</html>" * 50)
    return folder


def test_i01_as_many_bad_videos_as_are_allowed_end_with_0(checkpoint, hundred, tmp_path, capsys):
    facts = infer(
        checkpoint, hundred, tmp_path, "inference.max_bad=0.03", "inference.batch_size=20"
    )
    assert facts["samples"] == 97
    folder = tmp_path / "inference"
    failed = lines_of(folder / "failed.jsonl")
    assert [line["id"] for line in failed] == ["007.mp4", "050.mp4", "093.mp4"]
    assert all(line["reason"].startswith("expected ") for line in failed)
    answered = [line["id"] for line in lines_of(folder / "predictions.jsonl")]
    assert answered == [f"{k:03d}.mp4" for k in range(100) if k not in (7, 50, 93)]
    note = "failed.jsonl: of 100 samples, 3 that failed, the first '007.mp4': expected "
    assert note in capsys.readouterr().err
    assert lines_of(folder / "status.json")[-1]["status"] == "SUCCESS"


def some_bad(folder, count, num_bad):
    data = make_data(VIDEOS, folder, count)
    for k in range(num_bad):
        (data / f"{k:03d}.mp4").write_bytes(b"no video" * 100)
    return data


def test_i01_more_bad_videos_than_are_allowed_end_with_8(checkpoint, tmp_path, capsys):
    data = some_bad(tmp_path, 9, 2)
    words = words_of(VIDEOS, checkpoint, data, tmp_path)
    assert main([VIDEOS, "inference", *words, "--max-bad", "20%"]) == 8
    said = capsys.readouterr().err
    assert "failed.jsonl: expected at most 20 % of 9 samples to fail, got 2 that failed" in said
    assert len(lines_of(tmp_path / "inference" / "failed.jsonl")) == 2
    assert len(lines_of(tmp_path / "inference" / "predictions.jsonl")) == 7


def test_a_single_bad_video_ends_with_8_unless_told_otherwise(checkpoint, tmp_path):
    with pytest.raises(PartialError, match=r"all 4 samples to be answered, got 1 that failed"):
        infer(checkpoint, some_bad(tmp_path, 4, 1), tmp_path)


def no_frames(self, video, index, epoch):
    raise DataError(video.id, "frames that can be decoded", "none")


def test_inputs_that_all_fail_leave_their_reasons_and_no_answers(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(ClipDataset, "_read", no_frames)
    data = make_data(VIDEOS, tmp_path, 3)
    with pytest.raises(PartialError, match=r"got 3 that failed, the first '000\.mp4'"):
        infer(checkpoint, data, tmp_path)
    assert infer(checkpoint, data, tmp_path, "inference.max_bad=1")["samples"] == 0
    folder = tmp_path / "inference"
    assert len(lines_of(folder / "failed.jsonl")) == 3
    assert (folder / "predictions.jsonl").read_text() == ""
    assert (folder / "results.txt").read_text() == ""


def huge(folder, wrong):
    """Five skeletons of which the `wrong` are wider than the largest number of float32."""
    data = make_data(SKELETONS, folder, 5)
    x = np.load(data)
    x[wrong, :, ::2] = 3e38
    x[wrong, :, 1::2] = -3e38
    np.save(data, x)
    return data


def test_a_sample_that_gets_no_finite_score_fails_alone(tmp_path, capsys):
    looks = ("dataset.sampling=uniform", "dataset.num_frames=8", "dataset.normalize=center")
    weights, data = untrained(SKELETONS, tmp_path, *looks), huge(tmp_path, [1])
    words = words_of(SKELETONS, weights, data, tmp_path, "inference.num_clips=2")
    assert main([SKELETONS, "inference", *words]) == 8
    said = capsys.readouterr().err
    assert "expected all 5 samples to be answered, got 1 that failed, the first '1': " in said
    assert "the model gives it no finite score" in said
    folder = tmp_path / "inference"
    assert [line["id"] for line in lines_of(folder / "failed.jsonl")] == ["1"]
    answered = ["0", "2", "3", "4"]
    assert [line["id"] for line in lines_of(folder / "predictions.jsonl")] == answered
    clips = (folder / "clips.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in clips] == [name for name in answered for _ in range(2)]
    assert main([SKELETONS, "inference", *words, "--max-bad", "20%"]) == 0


def test_a_model_without_a_finite_score_is_no_matter_of_samples(tmp_path, capsys):
    weights = untrained(SKELETONS, tmp_path, "dataset.normalize=center")
    data = huge(tmp_path, slice(None))
    words = words_of(SKELETONS, weights, data, tmp_path, "inference.max_bad=1")
    assert main([SKELETONS, "inference", *words]) == 7
    assert "model: expected finite scores for every sample, got none for 5 of 5" in (
        capsys.readouterr().err
    )


def test_inputs_that_failed_before_a_stop_are_not_tried_again(checkpoint, tmp_path, monkeypatch):
    data, tried = some_bad(tmp_path, 6, 2), []
    read = ClipDataset.read

    def stopped_at_the_fifth(self, indices, epoch):
        if 4 in indices and 4 not in tried:
            tried.append(4)
            raise Interrupted.by(signal.SIGTERM)
        tried.extend(indices.tolist())
        return read(self, indices, epoch)

    monkeypatch.setattr(ClipDataset, "read", stopped_at_the_fifth)
    with pytest.raises(Interrupted):
        infer(checkpoint, data, tmp_path)
    infer(checkpoint, data, tmp_path, "inference.resume=true", "inference.max_bad=0.5")
    assert tried == [0, 1, 2, 3, 4, 4, 5]
    failed = [line["id"] for line in lines_of(tmp_path / "inference" / "failed.jsonl")]
    assert failed == ["000.mp4", "001.mp4"]
    answered = [line["id"] for line in lines_of(tmp_path / "inference" / "predictions.jsonl")]
    assert answered == ["002.mp4", "003.mp4", "004.mp4", "005.mp4"]


def test_files_of_an_earlier_run_do_not_stay_beside_newer_ones(checkpoint, tmp_path):
    (tmp_path / "a").mkdir()
    infer(
        checkpoint, some_bad(tmp_path / "a", 5, 1), tmp_path, "inference.max_bad=1",
        "inference.video_inf_mode=all",
    )  # fmt: skip
    folder = tmp_path / "inference"
    assert (folder / "failed.jsonl").exists()
    infer(checkpoint, make_data(VIDEOS, tmp_path, 2), tmp_path)
    assert not (folder / "failed.jsonl").exists()
    assert not (folder / "clips.csv").exists()


# Annotated videos


@pytest.fixture(scope="module")
def annotated(checkpoint, tmp_path_factory):
    """(folder with the data, folder with the results) of videos in every form."""
    folder = tmp_path_factory.mktemp("forms")
    data = folder / "data"
    (data / "frames" / "rgb").mkdir(parents=True)
    odd = [picture(k, height=61, width=79) for k in range(6)]
    make_video(data / "odd.mp4", frames=odd, height=61, width=79, pixels="yuv444p", fps=10)
    make_video(data / "plain.avi", 30, codec="mpeg4", b_frames=0)
    for k in range(5):
        save_image(data / "frames" / "rgb" / f"{k:04d}.png", picture(k, height=48, width=64))
    (folder / "list.csv").write_text(
        "path,start,end\ndata/odd.mp4,,\ndata/frames,,\ndata/plain.avi,0.4,0.8\n"
    )
    infer(checkpoint, folder / "list.csv", folder, "inference.annotate=true")
    return data, folder / "inference"


def check_annotated(written, original, height, width):
    """Below the strip it is the original; the strip is darker, with light letters."""
    frames = full_decode(written)
    assert len(frames) == len(original)
    tall = draw_text("x", height, width).shape[0]
    for frame, before in zip(frames, original, strict=True):
        assert frame.shape == (height + height % 2, width + width % 2, 3)
        below = np.abs(frame[tall + 2 : height, :width].astype(int) - before[tall + 2 :])
        assert below.mean() < 6
        assert np.median(frame[:tall]) < 90
        assert frame[:tall].max() > 150


def test_i18_a_video_of_odd_size_is_annotated_frame_by_frame(annotated):
    data, out = annotated
    check_annotated(out / "annotated/data/odd.mp4", full_decode(data / "odd.mp4"), 61, 79)


def test_i18_a_folder_of_frames_becomes_a_video(annotated):
    original = [picture(k, height=48, width=64) for k in range(5)]
    check_annotated(annotated[1] / "annotated/data/frames.mp4", original, 48, 64)


def test_i18_a_stretch_of_a_video_has_its_own_frames_alone(annotated):
    data, out = annotated
    original = full_decode(data / "plain.avi")[10:20]
    (path,) = (out / "annotated/data").glob("plain*")
    check_annotated(path, original, 64, 80)


def test_every_answered_video_is_annotated_and_no_journal_stays(annotated):
    assert len(list((annotated[1] / "annotated").rglob("*.mp4"))) == 3
    assert sorted(path.name for path in annotated[1].iterdir()) == [
        "annotated", "experiment.yaml", "log.txt", "predictions.csv", "predictions.jsonl",
        "results.txt", "status.json",
    ]  # fmt: skip


def test_what_was_annotated_before_a_stop_stays_as_it_is(checkpoint, tmp_path, monkeypatch):
    from kineme.report import annotate

    data, real, calls = make_data(VIDEOS, tmp_path, 4), annotate.write_annotated, []

    def stopped_at_the_third(path, footage, text):
        calls.append(path.name)
        if len(calls) == 3:
            raise ResourceError(str(path), "enough disk space to write it", "0 bytes free")
        return real(path, footage, text)

    monkeypatch.setattr(annotate, "write_annotated", stopped_at_the_third)
    with pytest.raises(ResourceError):
        infer(checkpoint, data, tmp_path, "inference.annotate=true")
    infer(checkpoint, data, tmp_path, "inference.annotate=true", "inference.resume=true")
    assert calls == ["000.mp4", "001.mp4", "002.mp4", "002.mp4", "003.mp4"]


def test_a_video_that_cannot_be_read_to_its_end_is_counted(checkpoint, tmp_path, monkeypatch):
    from kineme.action_recognition import clips

    class Torn(clips.FrameReader):
        def at(self, indices):
            yield from ()
            if self.path.name == "001.mp4":
                raise DataError(str(self.path), "frames that can be decoded", "none")
            yield from super().at(indices)

    monkeypatch.setattr(clips, "FrameReader", Torn)
    notes = []
    monkeypatch.setattr("kineme.engine.results.note", notes.append)
    infer(checkpoint, make_data(VIDEOS, tmp_path, 3), tmp_path, "inference.annotate=true")
    (note,) = [note for note in notes if "annotated" in note]
    assert note.startswith(
        "1 of 3 videos have a label but could not be annotated, the first '001.mp4': "
    )
    folder = tmp_path / "inference" / "annotated"
    assert sorted(path.name for path in folder.iterdir()) == ["000.mp4", "002.mp4"]


def test_annotate_on_the_command_line_is_the_setting(checkpoint, tmp_path, capsys):
    words = words_of(VIDEOS, checkpoint, make_data(VIDEOS, tmp_path, 1), tmp_path)
    assert main([VIDEOS, "inference", "--annotate", *words]) == 0
    assert len(full_decode(tmp_path / "inference/annotated/000.mp4")) == 5
    assert main(["pose_classification", "inference", "--annotate"]) == 2
    assert "an action that has it (action_recognition inference)" in capsys.readouterr().err


def without(monkeypatch, *missing):
    def codec(name, mode):
        if name in missing:
            raise UnknownCodecError(name)
        return Codec(name, mode)

    monkeypatch.setattr(writing, "Codec", codec)


def footage_of(num_frames, height=64, width=80):
    return Footage((picture(k, height=height, width=width) for k in range(num_frames)), 0.0)


def test_i18_without_h264_the_video_is_mpeg4_and_the_user_is_told(tmp_path, monkeypatch):
    assert writing.encoder_note() == ""
    without(monkeypatch, "libx264")
    assert write_annotated(tmp_path / "x.mp4", footage_of(8), "99.0 %  jump") == 8
    check_annotated(tmp_path / "x.mp4", [picture(k) for k in range(8)], 64, 80)
    assert writing.encoder_note().startswith("This build of FFmpeg has no H.264 encoder")


def test_i18_without_any_encoder_the_error_says_what_to_install(tmp_path, monkeypatch):
    without(monkeypatch, "libx264", "mpeg4")
    with pytest.raises(ResourceError) as caught:
        write_annotated(tmp_path / "x.mp4", footage_of(8), "99.0 %  jump")
    assert str(caught.value) == (
        "PyAV: expected an encoder libx264 or mpeg4, got none. Install PyAV's own wheel."
    )
    assert list(tmp_path.iterdir()) == []


def test_i18_memory_stays_flat_however_long_the_video(tmp_path):
    write_annotated(tmp_path / "short.mp4", footage_of(5, 120, 160), "99.0 %  jump")
    tracemalloc.start()
    write_annotated(tmp_path / "x.mp4", footage_of(200, 120, 160), "99.0 %  jump")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * 120 * 160 * 3  # the frames of all of it would be 200 of these


def test_letters_fit_into_any_frame_and_show_any_name():
    for height, width in ((480, 640), (64, 80), (8, 8), (1, 1), (2000, 30)):
        for text in ("99.1 %  jump", LABELS[2], "прыжок 跳", "x" * 500, ""):
            letters = draw_text(text, height, width)
            assert letters.shape[1] == width
            assert 1 <= letters.shape[0] <= max(height // 8, 14, 1)
            assert letters.shape[0] <= height
    whole = draw_text("99.1 %  jump", 480, 640)
    right = np.flatnonzero(whole.any(axis=0))[-1]
    assert whole.max() == 255
    assert 150 < right < 400
    assert draw_text("99.1 %  " + "m" * 60, 480, 640)[:, -8:].max() == 0


def test_every_id_has_a_file_of_its_own_inside_the_folder():
    ids = ["a/b.mp4", "a/b", "a/b-2", "../x/y.avi", "/etc/v.mov", "", "..", "c\n", "c.avi#0.4-0.8"]
    assert file_names(ids) == [
        "a/b.mp4", "a/b-2.mp4", "a/b-2-2.mp4", "x/y.avi.mp4", "etc/v.mov.mp4", "unnamed.mp4",
        "unnamed-2.mp4", "c_.mp4", "c.avi#0.4-0.8.mp4",
    ]  # fmt: skip
    assert max(len(name.encode()) for name in file_names(["é" * 200])) <= 255
