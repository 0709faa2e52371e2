"""Optical flow: right to a fraction of a pixel, the same sign everywhere, and kept whole."""

import json
import os
import tracemalloc
import zipfile

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from images_made import save_image
from kineme.data.flow import (
    METHODS,
    encode_flow,
    frame_ranges,
    iterate_flow,
)
from kineme.data.flow.store import FlowSettings, FlowStore, build_store, read_flow, resize_flow
from kineme.data.images import read_flow_images
from kineme.errors import DataError, SpecError
from moving import compute_flow, decode_flow, inside, moving

QUICK = FlowSettings(short_side=0)


@pytest.fixture
def folder_of_frames(tmp_path):
    """Six frames that move by (1.5, -1) as PNG."""
    for number, frame in enumerate(moving(6, dx=1.5, dy=-1.0), start=1):
        save_image(tmp_path / "clip" / f"{number:06d}.png", frame)
    return tmp_path / "clip"


@pytest.mark.parametrize(("dx", "dy"), [(0.5, 0.0), (1.25, -0.75), (-2.3, 1.6)])
@pytest.mark.parametrize("method", METHODS)
def test_flow_is_the_motion_to_a_tenth_of_a_pixel(method, dx, dy):
    """x grows to the right and y downwards, in pixels from one frame to the next."""
    flow = compute_flow(moving(2, dx=dx, dy=dy), method=method)
    assert flow.shape == (1, 64, 96, 2)
    assert flow.dtype == np.float32
    np.testing.assert_allclose(np.median(inside(flow), axis=0), [dx, dy], atol=0.1)


@pytest.mark.parametrize("method", METHODS)
def test_the_flow_of_a_mirrored_clip_is_mirrored_and_runs_the_other_way(method):
    frames = moving(2, dx=1.5, dy=-1.0)
    expected = compute_flow(frames, method=method)[:, :, ::-1] * [-1, 1]
    mirrored = compute_flow(frames[:, :, ::-1], method=method)
    assert np.median(np.abs(inside(mirrored - expected)), axis=0).max() < 0.08
    np.testing.assert_allclose(np.median(inside(mirrored), axis=0), [-1.5, -1.0], atol=0.1)


def test_a_stream_of_frames_gives_the_same_flow_with_memory_for_two_of_them():
    frames = moving(4, dx=1.0, dy=0.5)
    for whole, pair in zip(compute_flow(frames), iterate_flow(iter(frames)), strict=True):
        np.testing.assert_array_equal(pair, whole)
    still = np.zeros((200, 200, 3), np.uint8)
    peaks = []
    for count in (10, 60):
        tracemalloc.start()
        for _ in iterate_flow(still.copy() for _ in range(count)):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.1


def test_flow_does_not_depend_on_the_number_of_threads_and_leaves_it_as_it_was():
    frames, flows = moving(2, dx=1.0, dy=0.5, height=128), []
    before = cv2.getNumThreads()
    for threads in (1, 3):
        cv2.setNumThreads(threads)
        flows.append(compute_flow(frames))
        assert cv2.getNumThreads() == threads
    cv2.setNumThreads(before)
    np.testing.assert_array_equal(*flows)


def test_one_frame_has_no_flow():
    assert list(iterate_flow(moving(1, dx=0, dy=0))) == []


def test_frames_too_small_or_of_two_sizes_are_refused():
    with pytest.raises(DataError, match="at least 12 x 12 pixels for optical flow, got 8 x 96"):
        compute_flow(np.zeros((2, 8, 96, 3), np.uint8))
    frames = [np.zeros((20, 30, 3), np.uint8), np.zeros((20, 31, 3), np.uint8)]
    with pytest.raises(DataError, match="frames of one size, got 20 x 30 and 20 x 31"):
        list(iterate_flow(frames))


def test_a_build_without_tvl1_is_told_what_to_install(monkeypatch):
    monkeypatch.delattr(cv2, "optflow")
    with pytest.raises(SpecError, match="pip install opencv-contrib-python-headless; or use dis"):
        compute_flow(moving(2, dx=0, dy=0), method="tvl1")


def test_fixed_scaling_by_hand():
    """Bound 127.5 makes a step of one pixel: byte b holds motions from b - 128 to b - 127."""
    u = [0.0, -0.0, 0.25, -0.25, 1.0, -1.0, 126.9, 127.5, 500.0, -127.5, -500.0]
    expected = [128, 128, 128, 127, 129, 126, 254, 255, 255, 0, 0]
    flow = np.zeros((1, 1, len(u), 2), np.float32)
    flow[0, 0, :, 0] = u
    encoded = encode_flow(flow, scaling="fixed", bound=127.5)
    assert encoded[0, 0, :, 0].tolist() == expected
    assert encoded[0, 0, :, 1].tolist() == [128] * len(u)
    decoded = decode_flow(encoded, scaling="fixed", bound=127.5)
    assert decoded[0, 0, :4, 0].tolist() == [0.5, 0.5, 0.5, -0.5]
    assert decoded[0, 0, 8, 0] == 127.5


@given(
    motion=st.floats(-50, 50, width=32).filter(lambda f: f != 0), bound=st.sampled_from([1.0, 20.0])
)
def test_fixed_scaling_is_symmetric_and_off_by_half_a_step_at_most(motion, bound):
    flow = np.array([[[motion, -motion]]], np.float32)
    u, v = encode_flow(flow, scaling="fixed", bound=bound)[0, 0].tolist()
    assert u == 255 - v
    decoded = decode_flow(np.array([[[u, v]]], np.uint8), scaling="fixed", bound=bound)
    assert abs(decoded[0, 0, 0] - np.clip(motion, -bound, bound)) <= bound / 255 * 1.001


def test_per_frame_scaling_by_hand():
    """Two frames of two pixels. The longest motions are 5 = |(3, -4)| and, below one pixel, 1."""
    flow = np.array([[[[3.0, -4.0], [0.0, 1.0]]], [[[0.5, -0.25], [0.0, 0.0]]]], np.float32)
    assert frame_ranges(flow).tolist() == [5.0, 1.0]
    # 3/5 * 127.999 + 128 = 204.7994; -4/5 -> 25.6008; 1/5 -> 153.5998
    # 0.5 * 127.999 + 128 = 191.9995; -0.25 -> 96.00025
    assert encode_flow(flow, scaling="per_frame").tolist() == [
        [[[204, 25], [128, 153]]],
        [[[191, 96], [128, 128]]],
    ]


def test_per_frame_scaling_keeps_to_a_byte_at_its_ends_and_decodes_with_its_ranges():
    flow = np.zeros((3, 2, 2, 2), np.float32)
    flow[:, 0, 0, 0], flow[:, 1, 1, 0] = (7.7, 0.2, 300.0), (-7.7, -0.2, -300.0)
    encoded = encode_flow(flow, scaling="per_frame")
    assert encoded[:, 0, 0, 0].tolist() == [255, 153, 255]
    assert encoded[:, 1, 1, 0].tolist() == [0, 102, 0]
    ranges = frame_ranges(flow)
    decoded = decode_flow(encoded, scaling="per_frame", bound=ranges)
    assert (np.abs(decoded - flow) <= ranges[:, None, None, None] / 255).all()


@pytest.mark.parametrize("scaling", ["fixed", "per_frame"])
def test_motion_that_is_not_finite_is_refused(scaling):
    with pytest.raises(DataError, match="flow: expected finite numbers, got NaN or infinity"):
        encode_flow(np.full((1, 2, 2, 2), np.nan, np.float32), scaling=scaling)


def test_a_store_gives_the_flow_of_any_pairs_in_any_order(folder_of_frames, tmp_path):
    facts = build_store(folder_of_frames, tmp_path / "s.zip", QUICK)
    assert (facts.num_pairs, facts.height, facts.width, facts.scale) == (5, 64, 96, 1.0)
    store = FlowStore(tmp_path / "s.zip")
    assert store.facts == facts
    whole = store.read(np.arange(5))
    exact = encode_flow(compute_flow(moving(6, dx=1.5, dy=-1.0)), scaling="fixed")
    assert np.abs(whole.astype(int) - exact).mean() < 1.0  # JPEG
    assert np.abs(np.median(inside(decode_flow(whole, scaling="fixed")), 0) - [1.5, -1]).max() < 0.2
    for wanted in ([], [4], [4, 0, 0, 3], [0, 2, 4]):
        indices = np.array(wanted, np.int64)
        np.testing.assert_array_equal(store.read(indices), whole[indices])
    for wanted in ([5], [-1]):
        with pytest.raises(IndexError, match="of 5"):
            store.read(np.array(wanted))


def test_a_store_is_a_zip_of_taos_names_with_a_manifest(folder_of_frames, tmp_path):
    settings = FlowSettings(method="farneback", scaling="per_frame", short_side=32)
    build_store(folder_of_frames, tmp_path / "s.zip", settings, sha256="abc")
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        manifest = json.loads(archive.read("manifest.json"))
        archive.extractall(tmp_path / "flow")
    assert names[:3] == ["u/000001.jpg", "v/000001.jpg", "u/000002.jpg"]
    assert names[-3:] == ["v/000005.jpg", "index", "manifest.json"]
    told = {key: manifest[key] for key in ("method", "scaling", "bound", "quality", "short_side")}
    assert told == {
        "method": "farneback", "scaling": "per_frame", "bound": None, "quality": 90,
        "short_side": 32,
    }  # fmt: skip
    assert (manifest["num_pairs"], manifest["height"], manifest["width"]) == (5, 32, 48)
    assert manifest["scale"] == 0.5
    assert manifest["source"]["sha256"] == "abc"
    assert manifest["versions"]["opencv"] == cv2.__version__
    u, v = ([tmp_path / "flow" / name / f"{k:06d}.jpg" for k in range(1, 6)] for name in "uv")
    np.testing.assert_array_equal(
        read_flow_images(u, v), read_flow(tmp_path / "s.zip", np.arange(5))
    )


def test_a_store_of_frames_made_smaller_measures_in_the_smaller_pixels(folder_of_frames, tmp_path):
    build_store(folder_of_frames, tmp_path / "s.zip", FlowSettings(short_side=32, bound=8.0))
    flow = decode_flow(read_flow(tmp_path / "s.zip", np.arange(5)), scaling="fixed", bound=8.0)
    np.testing.assert_allclose(np.median(inside(flow), axis=0), [0.75, -0.5], atol=0.1)


def test_the_same_flow_makes_the_same_bytes(folder_of_frames, tmp_path):
    for name in ("a.zip", "b.zip"):
        build_store(folder_of_frames, tmp_path / name, QUICK)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_resized_flow_keeps_its_values():
    flow = np.empty((2, 20, 30, 2), np.uint8)
    flow[..., 0], flow[..., 1] = 200, 90
    for size in ((10, 10), (40, 45), (20, 30)):
        resized = resize_flow(flow, size)
        assert resized.shape == (2, *size, 2)
        assert (resized == [200, 90]).all()
    flow[:, :10] = 0
    assert resize_flow(flow, (2, 1))[0, :, 0, 0].tolist() == [0, 200]


def test_every_changed_byte_of_the_flow_is_noticed(folder_of_frames, tmp_path):
    path = tmp_path / "s.zip"
    build_store(folder_of_frames, path, QUICK)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        begin = archive.getinfo("u/000003.jpg").header_offset + 30 + len("u/000003.jpg")
    path.write_bytes(whole[: begin + 50] + b"\xff" + whole[begin + 51 :])
    store = FlowStore(path)
    store.read(np.array([0, 1, 3, 4]))
    expected = "expected u/000003.jpg with its checksum, got a damaged optical flow store"
    with pytest.raises(DataError, match=expected):
        store.read(np.array([2]))
    with pytest.raises(DataError, match=expected):
        store.verify()


@pytest.mark.parametrize("kept", [0, 10, 60, 0.3, 0.9, -1])
def test_a_store_that_is_cut_short_is_refused(folder_of_frames, tmp_path, kept):
    path = tmp_path / "s.zip"
    build_store(folder_of_frames, path, QUICK)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if 0 < kept < 1 else kept])
    with pytest.raises(DataError, match="a whole store of format kineme-flow-1"):
        FlowStore(path)


def test_a_damaged_manifest_or_index_is_refused(folder_of_frames, tmp_path):
    path = tmp_path / "s.zip"
    build_store(folder_of_frames, path, QUICK)
    whole = path.read_bytes()
    for text in (b'"num_pairs": 5', b'"format"'):
        at = whole.rindex(text)
        path.write_bytes(whole[:at] + b"#" + whole[at + 1 :])
        with pytest.raises(DataError, match=r"manifest\.json with its checksum"):
            FlowStore(path)
    at = whole.index(b"manifest.json") - 40  # the end of the index
    path.write_bytes(whole[:at] + b"#" + whole[at + 1 :])
    with pytest.raises(DataError, match="index with its checksum"):
        FlowStore(path)


def test_a_store_is_read_by_forked_processes_at_once(folder_of_frames, tmp_path):
    """Many readers of one open descriptor would disturb each other if they shared its position."""
    build_store(folder_of_frames, tmp_path / "s.zip", QUICK)
    store = FlowStore(tmp_path / "s.zip")
    whole = store.read(np.arange(5))
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            same = all((store.read(np.arange(5)) == whole).all() for _ in range(40))
            os._exit(0 if same else 1)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]


def test_a_video_of_one_frame_has_no_store(tmp_path):
    save_image(tmp_path / "clip" / "1.png", moving(1, dx=0, dy=0)[0])
    with pytest.raises(DataError, match="at least 2 frames for optical flow, got 1"):
        build_store(tmp_path / "clip", tmp_path / "s.zip", QUICK)
    assert not (tmp_path / "s.zip").exists()
