"""The next items are made in a thread of their own while the last one is looked at.

Promises: every item in order; an error comes where it happened; no more than `num_ahead` items
wait; once this is exhausted or closed the thread has ended and `items` is closed.
Leaves out: items that may not come for long (streams.py): closing waits for the one being made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(items: Generator[T], *, num_ahead: int = 3) -> Generator[T]:
    """`items`, none of which may be None. Close it (contextlib.closing) if you may stop early."""
    with ThreadPoolExecutor(1, "read ahead") as thread:
        waiting = deque(thread.submit(next, items, None) for _ in range(num_ahead))
        try:
            while (item := waiting.popleft().result()) is not None:
                waiting.append(thread.submit(next, items, None))
                yield item
        finally:
            for one in waiting:
                one.cancel()
            thread.submit(items.close)  # there, as it may be at work on the next one
