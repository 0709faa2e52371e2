"""Gaps in an MPEG transport stream, which its reader passes over: it is made for lossy lines.

Promises: a stream whose packets are all there and in order is never accused.
Leaves out: what the packets hold. The format is ISO/IEC 13818-1, 2.4.3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kineme.data.inputs import InputFile

_PACKET, _SYNC = 188, 0x47
_PACKETS_AT_ONCE = 50_000
_NULL_PID = 0x1FFF


def count_gaps(file: InputFile) -> int:
    """Places where packets are damaged, missing or cut off. 0 for other packet sizes than 188."""
    whole, rest = divmod(file.stamp.size, _PACKET)
    if whole == 0 or file.read(0, 1)[0] != _SYNC:
        return 0
    gaps = int(rest > 0)
    last: dict[int, int] = {}  # program -> continuity counter
    for first in range(0, whole, _PACKETS_AT_ONCE):
        count = min(_PACKETS_AT_ONCE, whole - first)
        data = file.read(first * _PACKET, count * _PACKET)
        packets = np.frombuffer(data, np.uint8).reshape(count, _PACKET)
        gaps += int((packets[:, 0] != _SYNC).sum())
        gaps += int((packets[:, 1] >> 7).sum())  # the sender's own mark of an error
        gaps += _count_jumps(packets[packets[:, 0] == _SYNC], last)
    return gaps


def _count_jumps(packets: NDArray[np.uint8], last: dict[int, int]) -> int:
    """Counters that do not go on by one (a packet may be sent twice). Updates `last`."""
    program = (packets[:, 1] & 0x1F).astype(np.int64) << 8 | packets[:, 2]
    counts = packets[:, 3] & 0x10 > 0  # only packets with a payload count
    restarts = (packets[:, 3] & 0x20 > 0) & (packets[:, 4] > 0) & (packets[:, 5] & 0x80 > 0)
    jumps = 0
    for pid in np.unique(program[counts]).tolist():
        if pid == _NULL_PID:
            continue
        mine = counts & (program == pid)
        counter = (packets[mine, 3] & 0x0F).astype(np.int64)
        before = np.concatenate([[last.get(pid, (counter[0] - 1) & 0x0F)], counter[:-1]])
        step = (counter - before) & 0x0F
        jumps += int(((step > 1) & ~restarts[mine]).sum())
        last[pid] = int(counter[-1])
    return jumps
