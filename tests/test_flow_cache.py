"""Flow stores of a data set: computed once, shared by programs, whole after any kill."""

import os
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from images_made import save_image
from kineme.data import frames
from kineme.data.flow import cache as flow_cache
from kineme.data.flow.cache import build_stores, store_name
from kineme.data.flow.store import FlowSettings, FlowStore, build_store, read_flow
from kineme.data.video import read_frames, write_video
from kineme.errors import ResourceError
from moving import decode_flow, inside, moving

QUICK = FlowSettings(short_side=0)


@pytest.fixture
def videos(tmp_path):
    """Two video files, a folder of frames and three that are no videos."""
    for number in range(2):
        frames = moving(5, dx=1.0 + number, dy=0.0, seed=number)
        write_video(tmp_path / "data" / f"{number}.mp4", iter(frames), 25)
    for number, frame in enumerate(moving(3, dx=0.0, dy=1.0)):
        save_image(tmp_path / "data" / "frames" / f"{number}.png", frame)
    (tmp_path / "data" / "text.mp4").write_text("no video")
    (tmp_path / "data" / "empty").mkdir()
    names = ("0.mp4", "text.mp4", "frames", "1.mp4", "gone.mp4", "empty", "0.mp4")
    return [tmp_path / "data" / name for name in names]


def test_stores_of_files_and_folders_are_built_and_what_has_none_says_why(videos, tmp_path):
    steps = []
    found = build_stores(
        videos, tmp_path / "cache", QUICK, num_workers=2, progress=lambda *step: steps.append(step)
    )
    lengths = [len(FlowStore(path)) if isinstance(path, Path) else str(path) for path in found]
    assert [lengths[i] for i in (0, 2, 3, 6)] == [4, 2, 4, 4]
    assert "expected a video" in lengths[1]
    assert "gone.mp4: expected a video, got no such file or directory" in lengths[4]
    assert "empty: expected a folder of frames, got one without images" in lengths[5]
    assert found[0] == found[6]
    assert steps == [(2, 6), (3, 6), (4, 6), (5, 6), (6, 6)]
    flow = decode_flow(read_flow(found[3], np.arange(4)), scaling="fixed")
    np.testing.assert_allclose(np.median(inside(flow), axis=0), [2.0, 0.0], atol=0.2)


def test_stores_that_are_there_are_not_computed_nor_hashed_again(videos, tmp_path, monkeypatch):
    usable = [videos[i] for i in (0, 2, 3)]
    found = build_stores(usable, tmp_path / "cache", QUICK, num_workers=0)
    stamps = [path.stat().st_mtime_ns for path in found]
    monkeypatch.setattr(
        flow_cache, "run_tasks", lambda *a, **k: pytest.fail("work") if a[1] else ()
    )
    assert build_stores(usable, tmp_path / "cache", QUICK, num_workers=0) == found
    monkeypatch.undo()
    # Renamed, or touched: hashed again, the same store.
    renamed = usable[0].rename(usable[0].with_name("renamed.mp4"))
    os.utime(usable[2])
    assert build_stores([renamed, *usable[1:]], tmp_path / "cache", QUICK, num_workers=0) == found
    assert [path.stat().st_mtime_ns for path in found] == stamps


def test_other_settings_or_content_mean_another_store(videos, tmp_path):
    names = {
        store_name("ab", settings)
        for settings in (
            QUICK, FlowSettings(), FlowSettings(bound=10.0), FlowSettings(method="tvl1"),
            FlowSettings(quality=95), FlowSettings(scaling="per_frame"),
        )
    }  # fmt: skip
    assert len(names) == 6
    per_frame = FlowSettings(scaling="per_frame", bound=7.0)  # where the bound says nothing
    assert store_name("ab", per_frame) in names
    first = build_stores(videos[:1], tmp_path / "cache", QUICK, num_workers=0)
    write_video(videos[0], iter(moving(7, dx=1.0, dy=0.0)), 25)
    second = build_stores(videos[:1], tmp_path / "cache", QUICK, num_workers=0)
    assert [len(FlowStore(path)) for path in (*first, *second)] == [4, 6]


@pytest.mark.parametrize("place", [0.2, 0.5, "end"])
def test_a_damaged_store_is_computed_again_and_that_is_said(videos, tmp_path, place):
    notes = []
    first, second = build_stores(videos[2:4], tmp_path / "cache", QUICK, num_workers=0)
    whole = first.read_bytes()
    at = len(whole) - 1 if place == "end" else int(place * len(whole))
    cut = whole[:at] if place == "end" else whole[:at] + b"#" + whole[at + 1 :]
    assert cut != whole
    first.write_bytes(cut)
    again = build_stores(videos[2:4], tmp_path / "cache", QUICK, num_workers=0, note=notes.append)
    assert again == [first, second]
    assert first.read_bytes() == whole
    assert notes == [f"1 damaged flow stores were computed again; first: that of {videos[2]}"]


def test_a_damaged_video_is_noted_and_its_store_knows(videos, tmp_path):
    whole = videos[0].read_bytes()
    at = whole.index(b"mdat")
    end = at - 4 + int.from_bytes(whole[at - 4 : at])
    videos[0].write_bytes(whole[: end - 200] + bytes(200) + whole[end:])
    notes = []
    (found,) = build_stores(videos[:1], tmp_path / "cache", QUICK, num_workers=0, note=notes.append)
    assert FlowStore(found).facts.damage
    assert notes[0].startswith(f"1 videos are damaged, and so is their flow; first: {videos[0]}: ")
    build_stores(videos[:1], tmp_path / "cache", QUICK, num_workers=0, note=notes.append)
    assert notes[1:] == notes[:1]


def test_frames_read_in_stretches_are_those_read_at_once(tmp_path, monkeypatch):
    """Flow across the seams as well: the store of a long video is that of one read whole."""
    write_video(tmp_path / "v.mp4", iter(moving(23, dx=1.0, dy=0.0)), 25)
    build_store(tmp_path / "v.mp4", tmp_path / "whole.zip", QUICK)
    exact = read_frames(tmp_path / "v.mp4", np.arange(23)).frames
    monkeypatch.setattr(frames, "_STRETCH_BYTES", 5 * 64 * 96 * 3)
    np.testing.assert_array_equal(np.stack(list(frames.FrameReader(tmp_path / "v.mp4"))), exact)
    build_store(tmp_path / "v.mp4", tmp_path / "parts.zip", QUICK)
    assert (tmp_path / "whole.zip").read_bytes() == (tmp_path / "parts.zip").read_bytes()


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    for number in range(12):
        frame = np.full((16, 16, 3), number, np.uint8)
        save_image(tmp_path / "clip" / f"frame{number}.png", frame)
    reader = frames.FrameReader(tmp_path / "clip")
    assert [int(frame[0, 0, 0]) for frame in reader] == list(range(12))


def test_memory_for_a_store_grows_with_names_only_not_with_frames(tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "_STRETCH_BYTES", 10 * 32 * 40 * 3)
    peaks = []
    for count in (20, 60):
        path = tmp_path / f"{count}.mp4"
        still = moving(1, dx=0, dy=0, height=160, width=200)[0]
        write_video(path, (still for _ in range(count)), 25)
        tracemalloc.start()
        build_store(path, tmp_path / f"{count}.zip", FlowSettings(short_side=32))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    bytes_per_pair = (peaks[1] - peaks[0]) / 40
    assert bytes_per_pair < 1500  # two names and places; a frame is 3840 bytes, its flow 10240


def test_a_store_that_another_program_computes_is_waited_for(videos, tmp_path):
    folder = tmp_path / "cache" / "flow"
    folder.mkdir(parents=True)
    key = Path(store_name(frames.content_hash(videos[0]), QUICK)).stem
    ready, sign = os.pipe()
    pid = os.fork()
    if pid == 0:
        with flow_cache._locked(folder / "locks", key, wait_seconds=0.0) as is_ours:
            os.write(sign, b"1" if is_ours else b"0")
            time.sleep(0.4)
        os._exit(0)
    assert os.read(ready, 1) == b"1"
    begun = time.monotonic()
    found = build_stores([videos[3], videos[0]], tmp_path / "cache", QUICK, num_workers=0)
    os.waitpid(pid, 0)
    assert time.monotonic() - begun >= 0.35
    assert [len(FlowStore(path)) for path in found] == [4, 4]


def test_a_ledger_with_half_a_line_only_costs_time(videos, tmp_path):
    found = build_stores(videos[:1], tmp_path / "cache", QUICK, num_workers=0)
    ledger = tmp_path / "cache" / "flow" / "known.jsonl"
    ledger.write_bytes(b"\xff{[1]\n" + ledger.read_bytes()[:-30])
    assert build_stores(videos[:1], tmp_path / "cache", QUICK, num_workers=0) == found


def test_a_cache_that_cannot_be_made_is_one_error(videos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="a path that can be written"):
        build_stores(videos, tmp_path / "file" / "cache", QUICK, num_workers=0)


BUILD = """
import sys
from pathlib import Path
from kineme.data.flow.cache import FlowSettings, build_stores
root = Path(sys.argv[1])
videos = [root / "data" / f"{n}.mp4" for n in range(int(sys.argv[2]))]
settings, num_workers = FlowSettings(short_side=0), int(sys.argv[3])
found = build_stores(videos, root / "cache", settings, num_workers=num_workers)
print([str(path) for path in found])
"""


def start(root, num_videos, num_workers=1):
    command = [sys.executable, "-c", BUILD, str(root), str(num_videos), str(num_workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def counted(root):
    return len(list((root / "cache" / "flow").glob("*/*.zip")))


def wait_for_end(pid):
    """The worker of a killed program ends by itself, in its own time."""
    for _ in range(500):
        if not Path("/proc", pid).exists():
            return
        time.sleep(0.02)


def test_two_programs_share_the_work_and_find_the_same_stores(tmp_path):
    for number in range(4):
        frames = moving(3, dx=1.0, dy=0.0, height=32, width=40, seed=number)
        write_video(tmp_path / "data" / f"{number}.mp4", iter(frames), 25)
    programs = [start(tmp_path, 4, 0) for _ in range(2)]
    answers = [program.communicate()[0] for program in programs]
    assert [program.returncode for program in programs] == [0, 0]
    assert answers[0] == answers[1]
    assert counted(tmp_path) == 4


def test_kill_9_leaves_whole_stores_and_the_next_run_completes_them(tmp_path):
    for number in range(6):
        frames = moving(12, dx=1.0, dy=0.0, seed=number)
        write_video(tmp_path / "data" / f"{number}.mp4", iter(frames), 25)
    program = start(tmp_path, 6)
    while counted(tmp_path) < 2 and program.poll() is None:
        time.sleep(0.005)
    program.send_signal(signal.SIGKILL)
    program.communicate()
    before = counted(tmp_path)
    assert before >= 2
    for path in (tmp_path / "cache" / "flow").glob("*/*.zip"):
        FlowStore(path).verify()
    for path in (tmp_path / "cache" / "flow").glob("*/.*.tmp-*"):
        wait_for_end(path.name.split("-")[-2])
    program = start(tmp_path, 6, 0)
    program.communicate()
    assert program.returncode == 0
    assert counted(tmp_path) == 6
    assert not list((tmp_path / "cache" / "flow").glob("*/.*"))
