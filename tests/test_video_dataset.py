"""Batches of clips: which frames, the same for both streams, cropped, mirrored and mixed alike.

Frame k of these videos is red k (or u 140 + k), so a batch shows which frames it holds.
"""

import math
import os

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from images_made import save_image
from kineme.action_recognition import network, video_flow
from kineme.action_recognition.sources import complete, load_videos
from kineme.data import mixing
from kineme.data.randomness import uniform
from kineme.data.video import write_video
from kineme.engine.checkpoint import Checkpoint, restore_spec
from kineme.engine.feeding import Feed
from kineme.engine.predict import predict
from kineme.errors import DataError
from kineme.spec.schema import resolved
from moving import inside, moving
from video_folders import save_classes, save_flow, save_frames, save_tao, spec_for

CHANGES = "dataset.augmentation_config"
PLAIN = (  # frames as they are: no scaling, no numbers changed
    "model.input_height=12", "model.input_width=16", f"{CHANGES}.crop_smaller_edge=12",
    f"{CHANGES}.rgb_input_mean=[]", f"{CHANGES}.rgb_input_std=[]",
    f"{CHANGES}.of_input_mean=[]", f"{CHANGES}.of_input_std=[]",
)  # fmt: skip
STILL = (f"{CHANGES}.horizontal_flip_prob=0",)
EVERY = "model.sample_strategy=consecutive"
MIRRORED = (f"{CHANGES}.horizontal_flip_prob=1",)


def dataset_of(where, split="train", *words):
    spec, _ = complete(spec_for(where, split, *PLAIN, *words), split)
    return network.build_dataset(spec, split)


def reds(batch):
    """Frame numbers (R, T) of a batch that was read."""
    return batch.inputs["rgb"][:, :, 0, 0, 0].tolist()


def read(dataset, *indices, epoch=0):
    return dataset.read(np.array(indices), epoch)


# Which frames


@pytest.mark.parametrize(
    ("num_frames", "words", "expected"),
    [
        (10, ("model.rgb_seq_length=3",), [[1, 5, 8]]),
        (2, ("model.rgb_seq_length=4",), [[0, 0, 1, 1]]),
        (20, ("model.rgb_seq_length=4", EVERY), [[8, 9, 10, 11]]),
        (20, ("model.rgb_seq_length=4", EVERY, "model.sample_rate=2"), [[6, 8, 10, 12]]),
        (3, ("model.rgb_seq_length=5", EVERY), [[0, 1, 2, 2, 2]]),
        (3, ("model.rgb_seq_length=5", EVERY, "dataset.short_clip=loop"), [[0, 1, 2, 0, 1]]),
    ],
)
def test_validation_sees_the_middle(tmp_path, num_frames, words, expected):
    save_tao(tmp_path / "catch" / "v", num_frames)
    assert reds(read(dataset_of(tmp_path, "val", *words), 0)) == expected


def test_a_model_is_judged_on_short_videos_as_it_was_trained(tmp_path):
    save_tao(tmp_path / "catch" / "v", 3)
    words = ("model.rgb_seq_length=5", EVERY)
    spec, _ = complete(spec_for(tmp_path, "val", *PLAIN, *words, "dataset.short_clip=loop"), "val")
    facts = {"network": "action_recognition", "spec": resolved(spec)}
    trained = Checkpoint(tmp_path / "a.pth", {}, {}, facts)
    asked = spec_for(tmp_path, "test", f"evaluate.checkpoint={tmp_path / 'a.pth'}")
    keys = network.NETWORK.identity, network.NETWORK.inherited
    restored = restore_spec(asked, trained, *keys)
    own = spec_for(tmp_path, "test", f"evaluate.checkpoint={tmp_path / 'a.pth'}",
                   "dataset.short_clip=error")  # fmt: skip
    assert restore_spec(own, trained, *keys).dataset.short_clip == "error"
    assert reds(read(network.build_dataset(restored, "test"), 0)) == [[0, 1, 2, 0, 1]]


@pytest.mark.parametrize(
    ("mode", "segments", "num_frames", "words", "expected"),
    [
        ("conv", 3, 16, ("model.rgb_seq_length=4", EVERY),
         [[2, 3, 4, 5], [6, 7, 8, 9], [10, 11, 12, 13]]),
        ("conv", 3, 9, ("model.rgb_seq_length=3",), [[0, 3, 6], [1, 4, 7], [2, 5, 8]]),
        ("all", 1, 10, ("model.rgb_seq_length=2", EVERY, "model.sample_rate=2"),
         [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("all", 1, 5, ("model.rgb_seq_length=2", EVERY, "model.input_type=3d"),
         [[0, 1], [2, 3], [3, 4]]),
        ("center", 9, 5, ("model.rgb_seq_length=1", EVERY), [[2]]),
    ],
)  # fmt: skip
def test_clips_outside_training_are_those_of_the_mode(
    tmp_path, mode, segments, num_frames, words, expected
):
    save_tao(tmp_path / "a", num_frames)
    save_tao(tmp_path / "b", num_frames)
    asked = [f"inference.video_inf_mode={mode}", f"inference.video_num_segments={segments}"]
    dataset = dataset_of(tmp_path, "predict", *words, *asked)
    told = any("video_num_segments has no effect" in note for note in dataset.notes)
    assert told == (mode == "conv" and EVERY not in words)
    batch = read(dataset, 1, 0)
    assert reds(batch) == expected * 2
    assert batch.sample_of_row.tolist() == [0] * len(expected) + [1] * len(expected)
    assert batch.indices.tolist() == [1, 0]


def test_a_models_input_is_channel_major(tmp_path):
    save_tao(tmp_path / "catch" / "v", 10, seed=7)
    dataset = dataset_of(tmp_path, "val", "model.rgb_seq_length=3")
    x = dataset.transform(read(dataset, 0), 0).inputs["rgb"]
    assert x.shape == (1, 9, 12, 16)
    expected = torch.tensor([1, 5, 8, 7, 7, 7, 100, 100, 100]) / 255
    assert torch.equal(x, expected.view(1, 9, 1, 1).expand_as(x))
    deep = dataset_of(tmp_path, "val", "model.rgb_seq_length=3", "model.input_type=3d")
    y = deep.transform(read(deep, 0), 0).inputs["rgb"]
    assert torch.equal(y, x.view(1, 3, 3, 12, 16))


def test_normalisation_is_that_of_the_spec(tmp_path):
    save_tao(tmp_path / "catch" / "v", 3, seed=7)
    words = [
        f"{CHANGES}.rgb_input_mean=[0.5]",
        f"{CHANGES}.rgb_input_std=[0.25]", "model.rgb_seq_length=1",
    ]  # fmt: skip
    dataset = dataset_of(tmp_path, "val", *words)
    x = dataset.transform(read(dataset, 0), 0).inputs["rgb"][0, :, 0, 0]
    np.testing.assert_allclose(x, [(v / 255 - 0.5) / 0.25 for v in (1, 7, 100)], rtol=1e-6)


# Draws


def test_a_sample_is_the_same_in_any_batch_and_another_in_each_epoch(tmp_path):
    save_classes(tmp_path, 12)
    dataset = dataset_of(tmp_path, "train", "model.rgb_seq_length=4")
    together = read(dataset, 3, 1, 0, epoch=2)
    for row, index in enumerate((3, 1, 0)):
        alone = read(dataset, index, epoch=2)
        assert torch.equal(alone.inputs["rgb"][0], together.inputs["rgb"][row])
    assert reds(read(dataset, 3, epoch=2)) != reds(read(dataset, 3, epoch=3))
    assert together.labels.tolist() == [1, 0, 0]


def test_training_takes_one_frame_of_each_part_by_its_own_draw(tmp_path):
    save_classes(tmp_path, 10, per_class=1)
    dataset = dataset_of(tmp_path, "train", "model.rgb_seq_length=3")
    draws = uniform(1234, 4, np.array([0]), name="frames", size=3)[0]
    edges = [0, 3, 6, 10]  # floor(i * 10 / 3)
    expected = [int(a + int(d * (b - a))) for a, b, d in zip(edges, edges[1:], draws, strict=False)]
    assert reds(read(dataset, 0, epoch=4)) == [expected]


def test_clips_per_video_are_other_clips_of_the_same_videos(tmp_path):
    save_classes(tmp_path, 12, per_class=1)
    dataset = dataset_of(tmp_path, "train", "dataset.clips_per_video=3", "model.rgb_seq_length=4")
    assert list(dataset.ids) == ["catch/v0", "smile/v0"] * 3
    assert dataset.labels.tolist() == [0, 1] * 3
    clips = reds(read(dataset, 0, 2, 4))
    assert len({tuple(clip) for clip in clips}) > 1
    assert len(dataset_of(tmp_path, "val", "dataset.clips_per_video=3")) == 2


@pytest.fixture
def mapped(tmp_path):
    """A video whose colours and flow say where they are: green and u are 5 x, blue and v 5 y."""
    y, x = np.mgrid[:24, :32].astype(np.uint8)
    folder = tmp_path / "catch" / "v"
    for k in range(8):
        frame = np.stack([np.full_like(x, k), 5 * x, 5 * y], axis=2)
        save_image(folder / "rgb" / f"{k:06d}.png", frame)
        if k < 7:
            save_image(folder / "u" / f"{k:06d}.png", 5 * x)
            save_image(folder / "v" / f"{k:06d}.png", 5 * y)
    save_tao(tmp_path / "smile" / "v", 8, flow=True)  # one class alone cannot be learned
    return tmp_path


JOINT = ("model.model_type=joint", "model.rgb_seq_length=3", "model.of_seq_length=3",
         f"{CHANGES}.crop_smaller_edge=24")  # fmt: skip


def test_both_streams_share_their_crop(mapped):
    dataset = dataset_of(mapped, "train", *JOINT, *STILL)
    places = set()
    for epoch in range(20):
        batch = read(dataset, 0, epoch=epoch)
        rgb, flow = batch.inputs["rgb"][0], batch.inputs["flow"][0]
        assert torch.equal(rgb[..., 1:], flow)
        left, top = flow[0, 0, 0].tolist()
        assert flow[0, -1, -1].tolist() == [left + 5 * 15, top + 5 * 11]
        places.add((left // 5, top // 5))
        draws = uniform(1234, epoch, np.array([0]), name="crop", size=2)[0]
        assert (left // 5, top // 5) == (int(draws[1] * 17), int(draws[0] * 13))
    assert len(places) > 15


def test_both_streams_are_mirrored_by_one_draw_and_motion_is_turned(mapped):
    words = (*JOINT, f"{CHANGES}.horizontal_flip_prob=0.5", "model.input_type=3d")
    dataset = dataset_of(mapped, "train", *words, "dataset.clips_per_video=40")
    clips = np.arange(0, 80, 2)  # of the first of two videos
    batch = read(dataset, *clips)
    seen = dataset.transform(batch, 0).inputs
    draws = uniform(1234, 0, clips, name="flip")[:, 0]
    assert 10 < (draws < 0.5).sum() < 30
    for row, draw in enumerate(draws):
        green = (seen["rgb"][row, 1, 0] * 255).round()  # (H, W)
        u, v = (seen["flow"][row, :, 0] * 255).round()
        rises = bool((green.diff(dim=1) == 5).all())
        assert rises is bool(draw >= 0.5)
        expected = batch.inputs["flow"][row, 0].float()
        if draw < 0.5:
            expected = expected.flip(1)
            assert torch.equal(u, 255 - expected[..., 0])
        else:
            assert torch.equal(u, expected[..., 0])
        assert torch.equal(v, expected[..., 1])


@pytest.mark.parametrize(("rgb", "flow"), [(3, 3), (4, 2), (2, 4)])
@pytest.mark.parametrize("strategy", ["random_interval", "consecutive"])
def test_frames_of_the_shorter_stream_are_among_those_of_the_longer(tmp_path, rgb, flow, strategy):
    save_classes(tmp_path, 12, flow=True, per_class=1)
    words = (
        "model.model_type=joint", f"model.rgb_seq_length={rgb}", f"model.of_seq_length={flow}",
        f"model.sample_strategy={strategy}",
    )  # fmt: skip
    for split, epochs in (("train", 6), ("val", 1)):
        dataset = dataset_of(tmp_path, split, *words, *STILL)
        for epoch in range(epochs):
            batch = read(dataset, 0, epoch=epoch)
            colour = batch.inputs["rgb"][0, :, 0, 0, 0].tolist()
            motion = [int(u) - 140 for u in batch.inputs["flow"][0, :, 0, 0, 0]]
            assert (len(colour), len(motion)) == (rgb, flow)
            assert set(colour) <= set(motion) or set(motion) <= set(colour)
            assert max(colour) <= 10  # the last frame has no flow


def test_mixup_blends_each_sample_with_the_one_before(tmp_path):
    save_classes(tmp_path, 4)
    words = (f"{CHANGES}.mixup_alpha=1", "model.rgb_seq_length=1", *STILL)
    dataset = dataset_of(tmp_path, "train", *words)
    batch = read(dataset, 3, 0, 1, epoch=2)
    mixed = dataset.transform(batch, 2)
    draws = uniform(1234, 2, np.array([3]), name="mixup", size=128).reshape(64, 2)
    share = mixing.share_of(1.0, draws)
    assert 0 < share <= 0.5
    assert mixed.mixed_share == share
    assert mixed.labels.tolist() == [1, 0, 0]
    assert mixed.mixed_labels.tolist() == [0, 1, 0]
    greens = torch.tensor([11.0, 0.0, 1.0]) / 255  # seeds of the videos 3, 0, 1
    expected = greens * (1 - share) + greens.roll(1) * share
    torch.testing.assert_close(mixed.inputs["rgb"][:, 1, 0, 0], expected)


def test_nothing_is_random_outside_training(tmp_path):
    save_classes(tmp_path, 9)
    words = [
        f"{CHANGES}.mixup_alpha=1",
        f"{CHANGES}.color_jitter=1",
    ]
    dataset = dataset_of(tmp_path, "val", *words, *MIRRORED)
    first, second = (
        dataset.transform(read(dataset, 2, 0, epoch=e), e).inputs["rgb"] for e in (0, 5)
    )
    assert torch.equal(first, second)


# What is answered for a video of several clips


class _Redness(torch.nn.Module):
    """Logits (R, 2): the mean red in 0 to 255, and 0."""

    def forward(self, rgb):
        red = rgb[:, :2].mean(dim=(1, 2, 3)) * 255
        return torch.stack([red, torch.zeros_like(red)], dim=1)


def test_the_probabilities_of_the_clips_of_a_video_are_averaged(tmp_path):
    save_tao(tmp_path / "a", 4)  # clips (0, 2) and (1, 3): logits 1 and 2
    save_tao(tmp_path / "b", 2)  # one clip (0, 1): logit 1/2
    words = ("model.rgb_seq_length=2", "inference.video_inf_mode=all")
    dataset = dataset_of(tmp_path, "predict", *words)
    found = predict(Fabric(accelerator="cpu", devices=1), _Redness(), Feed(dataset), batch_size=2)

    def share(logit):
        return 1 / (1 + math.exp(-logit))

    expected = [(share(1) + share(2)) / 2, share(0.5)]
    np.testing.assert_allclose(np.exp(found.scores[:, 0]), expected, rtol=1e-6)
    np.testing.assert_allclose(np.exp(found.rows[:, 0]), [share(1), share(2), share(0.5)], 1e-6)
    assert found.sample_of_row.tolist() == [0, 0, 1]


# Frames that turn out bad


@pytest.fixture
def with_torn(tmp_path):
    """Four videos of which the second has a torn frame 2."""
    save_classes(tmp_path, 3)
    path = tmp_path / "catch" / "v1" / "rgb" / "000002.png"
    path.write_bytes(path.read_bytes()[:-20])
    return tmp_path


def test_v08_a_torn_frame_is_an_error_that_names_it(with_torn):
    dataset = dataset_of(with_torn, "train", "model.rgb_seq_length=3")
    assert len(read(dataset, 0).labels) == 1
    with pytest.raises(DataError, match=r"catch/v1/rgb/000002\.png: expected a whole PNG") as e:
        read(dataset, 0, 1)
    assert str(e.value).endswith("Write or copy it again, or set dataset.bad_sample: skip.")


def test_v08_in_training_the_next_good_video_stands_in_with_its_own_label(with_torn):
    words = ("model.rgb_seq_length=3", "dataset.bad_sample=skip", *STILL)
    dataset = dataset_of(with_torn, "train", *words)
    batch = read(dataset, 0, 1, 3)
    assert batch.inputs["rgb"][:, 0, 0, 0, 1].tolist() == [
        0,
        10,
        11,
    ]  # green: catch/v0, smile/v0, v1
    assert batch.labels.tolist() == [0, 1, 1]
    assert batch.indices.tolist() == [0, 1, 3]
    assert batch.sample_of_row.tolist() == [0, 1, 2]
    assert batch.remarks.failed == {}
    (told,) = batch.remarks.damaged.values()
    assert told == (
        "it cannot be read (expected a whole PNG, got one that is cut off or fails its check); "
        "'smile/v0' is seen in its place"
    )


def test_v08_where_no_video_can_be_read_training_ends(tmp_path):
    save_classes(tmp_path, 3, per_class=1)
    for path in tmp_path.glob("*/v0/rgb/000002.png"):
        path.write_bytes(path.read_bytes()[:-20])
    dataset = dataset_of(tmp_path, "train", "model.rgb_seq_length=3", "dataset.bad_sample=skip")
    with pytest.raises(DataError, match="catch/v0: expected a video that can be read, got none at"):
        read(dataset, 0)


def test_v08_in_answers_it_has_no_rows_and_a_reason(with_torn):
    words = ("model.rgb_seq_length=3", "dataset.bad_sample=skip")
    batch = read(dataset_of(with_torn, "test", *words), 0, 1, 2)
    assert batch.sample_of_row.tolist() == [0, 2]
    assert batch.inputs["rgb"].shape[0] == 2
    assert batch.remarks.failed == {
        1: "expected a whole PNG, got one that is cut off or fails its check"
    }


def test_v10_frames_of_another_size_are_an_error(tmp_path):
    save_tao(tmp_path / "catch" / "a", 3)
    save_frames(tmp_path / "catch" / "a" / "rgb", [2], size=(10, 16))
    dataset = dataset_of(tmp_path, "val", "model.rgb_seq_length=3")
    with pytest.raises(DataError) as caught:
        read(dataset, 0)
    assert str(caught.value).replace(str(tmp_path), "D") == (
        "D/catch/a/rgb/000002.png: expected 16 x 12 pixels, as '000000.png' of 'catch/a' has, got "
        "16 x 10. Extract the frames of this video again."
    )


def test_v10_flow_of_another_size_is_an_error_too(tmp_path):
    save_flow(tmp_path / "catch" / "a", range(2))
    save_flow(tmp_path / "catch" / "a", [2], size=(10, 16))
    dataset = dataset_of(tmp_path, "val", "model.model_type=of", "model.of_seq_length=3")
    with pytest.raises(DataError, match="expected 16 x 12 pixels"):
        read(dataset, 0)


def test_a_report_draws_what_can_be_read_and_black_otherwise(with_torn):
    dataset = dataset_of(with_torn, "val", "model.rgb_seq_length=1")
    assert dataset.frames_of(0)[:, 0, 0].tolist() == [[0, 0, 100], [1, 0, 100], [2, 0, 100]]
    assert dataset.frames_of(1).shape == (1, 96, 128, 3)
    assert dataset.frames_of(1).max() == 0


def test_a_report_draws_flow_where_there_is_no_colour(tmp_path):
    save_flow(tmp_path / "catch" / "a", range(3))
    dataset = dataset_of(tmp_path, "val", "model.model_type=of", "model.of_seq_length=2")
    shown = dataset.frames_of(0)
    assert shown.shape == (3, 96, 128, 3)
    assert shown[:, 5, 5].tolist() == [[140, 120, 128], [141, 120, 128], [142, 120, 128]]


# Flow of video files


@pytest.fixture
def film(tmp_path):
    """A video whose picture moves by (2, -1) pixels a frame, in a class folder."""
    (tmp_path / "data" / "catch").mkdir(parents=True)
    write_video(tmp_path / "data" / "catch" / "f.mp4", iter(moving(6, dx=2, dy=-1)), 25)
    return tmp_path


def test_flow_is_computed_once_and_used_again(film, monkeypatch, caplog):
    words = (
        "model.model_type=joint", "model.of_seq_length=2", "model.rgb_seq_length=2",
        f"dataset.cache_dir={film / 'cache'}", "model.input_height=64", "model.input_width=96",
        f"{CHANGES}.crop_smaller_edge=64", "dataset.flow_short_side=0",
    )  # fmt: skip
    caplog.set_level("INFO", logger="kineme")
    dataset = dataset_of(film / "data", "val", *words)
    assert [r.message for r in caplog.records if "flow" in r.message][-1] == (
        "optical flow: 1 of 1 videos"
    )
    batch = read(dataset, 0)
    u, v = np.median(inside(batch.inputs["flow"][0].numpy()), axis=0)
    assert abs(u - (127.5 + 2 * 127.5 / 20)) <= 1.5  # 2 pixels of at most 20 to the right
    assert abs(v - (127.5 - 1 * 127.5 / 20)) <= 1.5
    store = dataset.videos.items[0].flow
    before = os.stat(store)
    caplog.clear()
    monkeypatch.setattr("kineme.data.flow.cache.build_one", None)
    again = dataset_of(film / "data", "val", *words)
    assert again.videos.items[0].flow == store
    assert os.stat(store) == before
    assert [r for r in caplog.records if "flow" in r.message] == []


def test_videos_without_flow_are_all_named_or_passed_over(film):
    (film / "data" / "catch" / "one.mp4").write_bytes(b"")
    write_video(film / "data" / "catch" / "still.mp4", iter(moving(1, dx=0, dy=0)), 25)
    words = ["model.model_type=of", "model.of_seq_length=2", f"dataset.cache_dir={film / 'c'}"]
    spec, _ = complete(spec_for(film / "data", "train", *words), "train")
    with pytest.raises(DataError) as caught:
        video_flow.with_flow(load_videos(spec, "train"), spec, "train")
    assert len(caught.value.problems) == 2
    assert "still.mp4: expected two frames, as flow lies between them, got one" in str(caught.value)
    spec, _ = complete(spec_for(film / "data", "predict", *words), "predict")
    found = video_flow.with_flow(load_videos(spec, "predict"), spec, "predict")
    assert sorted(found.failed) == [1, 2]
    assert found.items[0].flow is not None
