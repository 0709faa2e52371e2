"""Streams that drop, stall, change and run ahead, served on this machine."""

import http.server
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from kineme.errors import ServiceError
from kineme.people import sources
from kineme.people.streams import Stream, StreamSettings, is_stream, shown_address
from streaming import free_port, number_of, packets, send_paced, served

FPS = 20
QUICK = StreamSettings(give_up_seconds=0.5)


def numbers_of(stream, *, limit=1000):
    """(number that the frame tells, seconds) of what comes."""
    found = []
    for _, seconds, frame in stream.frames():
        found.append((number_of(frame), seconds))
        if len(found) >= limit:
            break
    return found


def send_all(parts):
    return lambda connection: [connection.sendall(part) for part in parts]


def test_numbers_and_addresses_are_streams_and_paths_are_not():
    assert [is_stream(word) for word in ("0", "rtsp://a/b", "http://a/b.mp4")] == [True] * 3
    assert [is_stream(word) for word in ("a.mp4", "folder/0", "C:/a.mp4")] == [False] * 3


def test_an_address_is_shown_without_user_and_password():
    assert shown_address("rtsp://me:secret@host:554/a?b=c") == "rtsp://host:554/a?b=c"
    assert shown_address("rtsp://host/a@b") == "rtsp://host/a@b"


def test_results_name_a_stream_without_user_and_password(monkeypatch):
    class OneFrame:
        fps = FPS

        def __init__(self, word, settings):
            assert word == "rtsp://me:secret@host/a"

        def first(self):
            return np.zeros((4, 6, 3), np.uint8)

        def close(self):
            pass

    monkeypatch.setattr(sources, "Stream", OneFrame)
    source = sources.open_source("rtsp://me:secret@host/a", QUICK)
    assert (source.name, source.width, source.height) == ("rtsp://host/a", 6, 4)


def test_frames_come_in_order_with_the_times_of_the_stream():
    with served(send_paced(packets(30, fps=FPS), FPS)) as port:
        stream = Stream(f"tcp://127.0.0.1:{port}", QUICK)
        found = numbers_of(stream)
    numbers, seconds = zip(*found, strict=True)
    assert list(numbers) == sorted(numbers)
    assert seconds[0] == 0
    assert [b - a for a, b in pairwise(numbers)] == pytest.approx(
        [(b - a) * FPS for a, b in pairwise(seconds)], abs=0.1
    )
    assert stream.fps == FPS


def test_i10_a_dropped_stream_is_back_within_2_seconds_and_its_gap_is_an_event():
    port = free_port()
    back_at = []

    def serve_again():
        time.sleep(2.0)
        back_at.append(time.monotonic())
        with served(send_paced(packets(60, fps=FPS, first=40), FPS), port=port):
            time.sleep(4.0)

    with served(send_paced(packets(20, fps=FPS), FPS), port=port):
        stream = Stream(f"tcp://127.0.0.1:{port}", StreamSettings())
        stream.first()
        thread = threading.Thread(target=serve_again)
        thread.start()
        seen = [(number, seconds, time.monotonic()) for number, seconds in _until(stream, 45)]
        stream.close()
        thread.join()
    before = [one for one in seen if one[0] < 40]
    after = [one for one in seen if one[0] >= 40]
    assert before
    assert after
    assert after[0][2] - back_at[0] < 2
    (gap,) = stream.events
    assert gap.kind == "gap"
    assert gap.duration_seconds == pytest.approx(after[0][1] - before[-1][1], abs=0.3)
    assert gap.text.startswith(f"no frames for {gap.duration_seconds:.1f} s (it ended)")


def _until(stream, number):
    for _, seconds, frame in stream.frames():
        found = number_of(frame)
        yield found, seconds
        if found >= number:
            return


def test_i11_a_stream_that_falls_silent_is_connected_again_after_the_watchdogs_time():
    assert StreamSettings().stall_seconds == 5
    settings = StreamSettings(stall_seconds=0.5, give_up_seconds=0.3)
    stalled = []

    def send_and_stall(connection):
        send_paced(packets(20, fps=FPS), FPS)(connection)
        stalled.append(connection.dup())  # nothing more comes, and it is not closed

    with served(send_and_stall, send_all(packets(15, fps=FPS, first=30))) as port:
        stream = Stream(f"tcp://127.0.0.1:{port}", settings)
        numbers = [number for number, _ in numbers_of(stream)]
    stalled[0].close()
    assert min(numbers) < 20
    assert max(numbers) >= 30
    assert stream.events[0].kind == "gap"
    assert "no answer in time" in stream.events[0].text
    assert 0.5 <= stream.events[0].duration_seconds < 3


class _Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(401 if "secret" in self.path else 404)

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing_port():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("path", "reason"), [("/live.ts", "404"), ("/secret.ts", "authorization")])
def test_i12_a_stream_that_is_refused_is_told_at_once_with_the_reason(refusing_port, path, reason):
    began = time.monotonic()
    with pytest.raises(ServiceError) as caught:
        Stream(f"http://127.0.0.1:{refusing_port}{path}", StreamSettings()).first()
    assert time.monotonic() - began < 3
    assert caught.value.exit_code == 6
    assert reason in caught.value.problems[0].received
    assert "--wait" in caught.value.problems[0].fix


def test_i12_a_name_that_cannot_be_resolved_and_a_closed_port_are_told():
    with pytest.raises(ServiceError, match=r"the name nowhere\.invalid cannot be resolved"):
        Stream("rtsp://nowhere.invalid/a", StreamSettings()).first()
    with pytest.raises(ServiceError, match="Connection refused"):
        Stream(f"tcp://127.0.0.1:{free_port()}", StreamSettings()).first()
    with pytest.raises(ServiceError, match="none of that number"):
        Stream("97", StreamSettings()).first()
    with pytest.raises(ServiceError, match="an address that starts with one of rtsp"):
        Stream("file:///etc/passwd", StreamSettings())


def test_i12_with_wait_a_stream_may_come_later():
    port = free_port()
    stream = Stream(f"tcp://127.0.0.1:{port}", StreamSettings(waits=True, give_up_seconds=0.3))
    time.sleep(0.5)
    with served(send_paced(packets(15, fps=FPS), FPS), port=port):
        assert stream.first().shape == (48, 64, 3)
        stream.close()


def test_i13_who_is_slower_than_the_stream_gets_the_newest_frames_and_the_rest_is_counted():
    window = 0.5
    with served(send_paced(packets(60, fps=FPS), FPS)) as port:
        stream = Stream(f"tcp://127.0.0.1:{port}", QUICK)
        delays, numbers = [], []
        for number, seconds, _ in stream.frames():
            time.sleep(0.15)  # three frames come meanwhile
            delays.append(stream.now - seconds)
            numbers.append(number)
    assert sorted(delays)[int(0.99 * len(delays))] < 2 * window
    assert stream.num_dropped > 20
    assert stream.num_dropped + len(numbers) == numbers[-1] + 1


@pytest.fixture
def file_address():
    """Where a file of 30 frames is served."""
    content = b"".join(packets(30, fps=FPS))

    class Serving(_Refusing):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Serving)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/a.ts"
    server.shutdown()
    server.server_close()


def test_a_file_behind_http_loses_no_frame_however_slow_one_looks(file_address):
    stream = Stream(file_address, QUICK)
    found = numbers_of(stream)
    assert [number for number, _ in found] == list(range(30))
    assert [seconds for _, seconds in found] == pytest.approx([n / FPS for n in range(30)])
    assert (stream.num_dropped, stream.events) == (0, [])


def test_a_file_behind_http_is_not_played_again_live(file_address):
    stream = Stream(file_address, StreamSettings(is_live=True))
    assert [number for number, _ in numbers_of(stream, limit=40)] == list(range(30))
    assert (stream.num_dropped, stream.events) == (0, [])


def test_i14_another_resolution_midway_is_one_event_and_frames_keep_their_size():
    first = send_paced(packets(20, fps=FPS), FPS)
    second = send_paced(packets(20, fps=FPS, size=(96, 128), first=40), FPS)
    with served(first, second) as port:
        stream = Stream(f"tcp://127.0.0.1:{port}", QUICK)
        shapes = {frame.shape for _, _, frame in stream.frames()}
    assert shapes == {(48, 64, 3)}
    changed = [event for event in stream.events if event.kind == "changed"]
    assert [event.text for event in changed] == [
        "pictures changed from 64 x 48 (yuv420p) to 128 x 96 (yuv420p); they are scaled to the "
        "first size"
    ]


def test_a_stream_that_never_comes_back_is_given_up_and_that_is_an_event():
    with served(send_paced(packets(15, fps=FPS), FPS)) as port:
        stream = Stream(f"tcp://127.0.0.1:{port}", StreamSettings(give_up_seconds=0.3))
        assert numbers_of(stream)
    assert [event.kind for event in stream.events] == ["ended"]
    assert "given up" in stream.events[0].text
