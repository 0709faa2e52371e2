"""Where what is costly to make again is kept: unpacked archives, optical flow, scans.

Leaves out: what lies there, and emptying it. It may be deleted at any time.
"""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path


def default_cache() -> Path:
    """$KINEME_CACHE, or kineme in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    if own := os.environ.get("KINEME_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "kineme"


@functools.cache
def temporary_cache(kind: str) -> Path:
    """A folder in place of one that cannot be written; it goes with the process that asked."""
    folder, owner = tempfile.mkdtemp(prefix=f"kineme-{kind}-"), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)
    return Path(folder)
