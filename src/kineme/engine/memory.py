"""Freed memory that stays with the process, for training on a CPU.

glibc hands blocks above 32 MB back to the kernel when they are freed and gets them anew,
zeroed page by page, when the next activation of that size is made. In float32 training of
ST-GCN that is a quarter of the time. Promises: nothing but speed and resident memory
changes. Leaves out: allocators other than glibc's, and memory of GPUs.
"""

import contextlib
import ctypes

# Parameters of glibc's mallopt(3), by their numbers in malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4

_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 1 << 26}
_RETURN = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 1 << 25, _TRIM_THRESHOLD: 1 << 26, _TOP_PAD: 1 << 17}


def keep_freed_memory() -> bool:
    """Keep what is freed, so that the process stays at its peak; False where glibc is not."""
    return _mallopt(_KEEP)


def return_freed_memory() -> bool:
    """As a process that has used big blocks does by default; for comparing the two."""
    is_done = _mallopt(_RETURN)
    if is_done:
        ctypes.CDLL(None).malloc_trim(0)
    return is_done


def _mallopt(options: dict[int, int]) -> bool:
    with contextlib.suppress(OSError, AttributeError):  # not Linux, or musl
        mallopt = ctypes.CDLL(None).mallopt
        return all(bool(mallopt(name, value)) for name, value in options.items())
    return False
