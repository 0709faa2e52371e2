"""Two made-up people in one picture who exercise and drift about, with the truth of it.

Promises: the same (seed, index) gives the same scene; who does what, where every joint is and
whether the other hides it is known for every frame; in a scene without contact the outlines of
the two never touch, in one with it they change sides and the nearer hides the farther.
Leaves out: how people move (synthetic.py) and are drawn (rendering.py), walking: they glide.

Shapes: P = 2 people, T frames, V joints of figures.JOINTS; metres; pixels count from the top left
corner of a picture of WIDTH x HEIGHT.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kineme.figures import Array, Body, seen_from
from kineme.rendering import AIM, Frames, Seen, film_people, hold_camera, is_behind, project
from kineme.synthetic import (
    CLASS_NAMES,
    HELD_OUT_BODIES,
    HELD_OUT_VIEWS,
    Draws,
    Part,
    View,
    pose_parts,
)

WIDTH, HEIGHT = 640, 416  # pixels; both even, as video wants it
_TOP = (WIDTH - HEIGHT) // 2  # rows of the renderer's square above the picture
_MARGIN_METRES = 0.12  # of flesh and clothes around joints
_APART_METRES = 0.1  # by which those without contact are moved until they do not touch


@dataclass(frozen=True, eq=False)
class Scene:
    """people: P of them as the camera sees them. labels: (P, T) numbers of CLASS_NAMES.
    shift: (T, 2) of the camera. draws: rows for the room and for each person."""

    people: tuple[Seen, ...]
    labels: NDArray[np.int64]
    shift: Array
    fps: float
    draws: tuple[Draws, ...]

    @property
    def num_frames(self) -> int:
        return len(self.shift)

    def joints(self, person: int) -> Array:
        """(T, V, 2) in pixels of the picture."""
        return np.asarray(self.people[person].pixels - np.array([0, _TOP]))

    def boxes(self, person: int) -> Array:
        """(T, 4) x0, y0, x1, y1 of the whole outline."""
        joints, seen = self.joints(person), self.people[person]
        margin = _MARGIN_METRES * seen.pixels_per_metre.max(axis=1)[:, None]
        return np.concatenate([joints.min(axis=1) - margin, joints.max(axis=1) + margin], axis=1)

    def is_hidden(self, person: int) -> NDArray[np.bool_]:
        """(T, V) by the other one."""
        hidden = [is_behind(self.people[person], one) for one in self.people]
        hidden[person][:] = False
        return np.asarray(np.logical_or.reduce(hidden))

    def frames(self) -> Iterator[Frames]:
        """(HEIGHT, WIDTH, 3) of each moment."""
        room, *people = self.draws
        for frame in film_people(self.people, people, room, self.shift, WIDTH):
            yield np.ascontiguousarray(frame[_TOP : _TOP + HEIGHT])


def make_scene(
    seed: int,
    index: int,
    *,
    has_contact: bool,
    seconds: float = 20.0,
    fps: float = 15.0,
    num_parts: int = 3,
    bodies: Sequence[Body] = HELD_OUT_BODIES,
    views: Sequence[View] = HELD_OUT_VIEWS,
) -> Scene:
    """Scene `index` of set `seed`. num_parts: exercises of each person, one after another."""
    times = np.arange(round(seconds * fps)) / fps
    room = Draws(seed, np.array([3 * index]))
    own = tuple(Draws(seed, np.array([3 * index + 1 + person])) for person in (0, 1))
    distance, shown = room("distance", 5.5, 7.5), room("metres shown", 4.8, 5.4)
    camera = hold_camera(room, times, WIDTH, drifts=False)
    camera = camera._replace(distance=distance, focal_length=distance * WIDTH / shown)
    elevation = np.array([views[room.choice("view", len(views))[0]].elevation])
    figures, labels = [], []
    for draw in own:
        parts = _parts(draw, seconds, num_parts)
        body = bodies[draw.choice("body", len(bodies))[0]]
        azimuth = np.array([views[draw.choice("view", len(views))[0]].azimuth])
        posed = pose_parts(body, parts, draw, times) - np.array(AIM)
        figures.append(seen_from(posed[None], azimuth, elevation))
        ends = np.array([part.end for part in parts[:-1]])
        names = np.array([CLASS_NAMES.index(part.exercise) for part in parts])
        labels.append(names[np.searchsorted(ends, times, side="right")])
    paths = (_crossing if has_contact else _side_by_side)(room, times)
    while True:
        people = []
        for figure, path in zip(figures, paths, strict=True):
            ground = np.stack([path[:, 0], 0 * times, -path[:, 1]], axis=-1)[None, :, None]
            seen = figure + seen_from(ground, 0 * elevation, elevation)
            pixels, scale = project(seen, camera, WIDTH)
            people.append(Seen(pixels[0], scale[0], seen[0, ..., 2] + distance[0, 0]))
        scene = Scene(tuple(people), np.stack(labels), camera.shift[0], fps, (room, *own))
        if has_contact or not _touch(scene):
            return scene
        paths = paths + np.array([-_APART_METRES, _APART_METRES])[:, None, None] * [1, 0]


def _parts(draw: Draws, seconds: float, num_parts: int) -> tuple[Part, ...]:
    """Exercises that fill the time, none twice in a row, borders up to a sixth off even ones."""
    length = seconds / num_parts
    borders = [0.0]
    borders += [
        (number + draw(f"border {number}", -1 / 6, 1 / 6)[0, 0]) * length
        for number in range(1, num_parts)
    ]
    names: list[str] = []
    for number in range(num_parts):
        others = [name for name in CLASS_NAMES if name not in names[-1:]]
        names.append(others[draw.choice(f"exercise {number}", len(others))[0]])
    ends = [*borders[1:], seconds]
    return tuple(Part(*part) for part in zip(names, borders, ends, strict=True))


def _crossing(draw: Draws, seconds: Array) -> Array:
    """(P, T, 2) metres right and away: they stand apart, change sides in 3 to 7 s, stand apart."""
    middle = seconds[-1] * draw("when", 0.35, 0.65)[0, 0]
    takes, gap = draw("takes", 3, 7)[0, 0], draw("gap", 0.6, 1.2)[0, 0]
    way = np.clip((seconds - middle) / takes + 0.5, 0, 1)
    way = way * way * (3 - 2 * way)
    sides = draw("side", 1.1, 1.3)[0, 0] * (2 * way - 1)
    near = 1 if draw("near", 0, 1)[0, 0] < 0.5 else -1
    depth = np.full(len(seconds), near * gap / 2)
    return np.stack([np.stack([sides, depth], -1), np.stack([-sides, -depth], -1)])


def _side_by_side(draw: Draws, seconds: Array) -> Array:
    """(P, T, 2): both drift on their own sides, to and fro, nearer and farther."""
    paths = []
    for person, side in enumerate((-1.0, 1.0)):
        waves = []
        for axis, size in (("x", 0.2), ("z", 0.4)):
            turns = seconds * draw(f"{axis} rate {person}", 0.04, 0.12)[0, 0]
            turns = turns + draw(f"{axis} phase {person}", 0, 1)[0, 0]
            waves.append(size * np.sin(2 * np.pi * turns))
        paths.append(np.stack([side + waves[0], waves[1]], -1))
    return np.stack(paths)


def _touch(scene: Scene) -> bool:
    left, right = scene.boxes(0), scene.boxes(1)
    return bool((left[:, 2] >= right[:, 0]).any())
