"""Red and blue blocks on film, an estimator that takes them for people, and data made of both."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from clips_made import make_video
from format_files import run
from kineme.people.poses import PersonPose, build_pose

HEIGHT, WIDTH, SIDE = 120, 200, 40
RED, BLUE = (220, 20, 20), (20, 20, 220)
Where = Callable[[int], tuple[float, float]]


@dataclass(frozen=True)
class BlockSettings:
    threshold: int = 150
    fails_at: int = field(default=0)


class Blocks:
    """Finds red and blue blocks: 17 joints down the diagonal of each."""

    layout: str = "coco"
    settings_type: ClassVar[type[BlockSettings]] = BlockSettings
    looked: ClassVar[list[int]] = []
    stops_after: ClassVar[int] = 10**9

    def __init__(self, settings: BlockSettings) -> None:
        self.settings = settings

    def reset(self) -> None:
        """Nothing is remembered."""

    def detect(self, frame: np.ndarray) -> tuple[PersonPose, ...]:
        if len(self.looked) >= self.stops_after:
            raise KeyboardInterrupt
        self.looked.append(1)
        found = []
        for channel in (0, 2):
            rest = frame[..., 2 - channel]
            ys, xs = np.nonzero((frame[..., channel] > self.settings.threshold) & (rest < 100))
            if len(xs) < SIDE * SIDE // 2:
                continue
            along = np.linspace(-SIDE / 2, SIDE / 2, 17)
            joints = np.stack([xs.mean() + along, ys.mean() + along], axis=1)
            box = [*joints.min(axis=0), *joints.max(axis=0)]
            found.append(build_pose(joints, np.full(17, 0.5), box=box, score=0.9))
        return tuple(found)


def film(
    path: Path, *people: tuple[tuple[int, int, int], Where], num_frames: int = 6, seed: int = 0
) -> Path:
    """A video of blocks whose middles are where each function says."""
    frames = []
    for number in range(num_frames):
        frame = np.full((HEIGHT, WIDTH, 3), 60 + 3 * seed % 64, np.uint8)
        for colour, where in people:
            x, y = (round(v) for v in where(number))
            frame[y - SIDE // 2 : y + SIDE // 2, x - SIDE // 2 : x + SIDE // 2] = colour
        frames.append(frame)
    path.parent.mkdir(parents=True, exist_ok=True)
    return make_video(path, frames=frames, height=HEIGHT, width=WIDTH)


def still(x: float, y: float) -> Where:
    return lambda number: (x, y)


def walking(x: float, y: float, step: float) -> Where:
    return lambda number: (x + step * number, y)


def someone(path: Path, seed: int = 0) -> Path:
    return film(path, (RED, walking(40, 40, 2)), seed=seed, num_frames=4)


def converted(data: Path, out: Path, **settings: Any) -> dict[str, Any]:
    return run(data, out, format="videos", workers=0, **settings)


def ids_in(path: Path) -> list[str]:
    """The samples that a label file names."""
    return [one["id"] for one in json.loads(path.read_text())["samples"]]


def sides(out: Path) -> dict[str, list[str]]:
    """The samples of each split there is."""
    paths = {stem: out / f"{stem}_label.json" for stem in ("train", "val", "test")}
    found = {stem: ids_in(path) for stem, path in paths.items() if path.exists()}
    return {stem: ids for stem, ids in found.items() if ids}
