"""Streams on this machine, made up: MPEG transport streams served over TCP, as tests want them."""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction

import av
import numpy as np


def shade(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """A frame that tells its number, below 256: two grays, of 16 each."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, : width // 2], frame[:, width // 2 :] = (15 * digit for digit in divmod(number, 16))
    return frame


def number_of(frame: np.ndarray) -> int:
    """The number that `shade` made the frame of."""
    middle = frame.shape[1] // 2
    high, low = frame[:, : middle - 16].mean(), frame[:, middle + 16 :].mean()
    return 16 * round(float(high) / 15) + round(float(low) / 15)


def packets(
    num_frames: int, *, fps: int = 20, size: tuple[int, int] = (48, 64), first: int = 0
) -> list[bytes]:
    """The bytes of each frame of a transport stream."""
    buffer = io.BytesIO()
    parts = []
    with av.open(buffer, "w", format="mpegts") as output:
        stream = output.add_stream("mpeg2video", rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.gop_size = 1
        stream.codec_context.max_b_frames = 0
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(shade(first + number, *size), format="rgb24")
            output.mux(stream.encode(frame))
            parts.append(buffer.getvalue())
            buffer.seek(0)
            buffer.truncate()
        output.mux(stream.encode(None))
    parts.append(buffer.getvalue())
    return parts


def send_paced(parts: list[bytes], fps: float) -> Callable[[socket.socket], None]:
    """What sends one part after the other at `fps`."""

    def send(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)
            time.sleep(1 / fps)

    return send


@contextlib.contextmanager
def served(*turns: Callable[[socket.socket], None], port: int = 0) -> Iterator[int]:
    """A port where the first connection gets the first turn, the next the next; then it closes."""
    server = socket.create_server(("127.0.0.1", port))
    thread = threading.Thread(target=_serve, args=(server, turns), daemon=True)
    thread.start()
    try:
        yield server.getsockname()[1]
    finally:
        server.close()


def _serve(server: socket.socket, turns: tuple[Callable[[socket.socket], None], ...]) -> None:
    with contextlib.suppress(OSError):
        for turn in turns:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                turn(connection)
    server.close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
