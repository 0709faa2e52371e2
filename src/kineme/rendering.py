"""The made-up people of synthetic.py on film: solid, dressed and lit, in a room of their own.

Promises: the same (seed, index) gives the same clip in any set; room, light, clothes and
camera are drawn for each clip and know nothing of its label; joints are where `project` says.
What makes films hard is what does so in life: a camera held by hand blurs what moves, rooms,
clothes, light and grain what is seen. Writes nothing.
Leaves out: who moves how (synthetic.py), video files (data/video), and faces.

Shapes: N clips, T frames, V joints, P bones; frames (T, S, S, 3) uint8 RGB, S pixels a side.
A camera's axes are x right, y down, z away, in metres. Pixels count from the top left corner.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from kineme.figures import JOINTS, Array, Body
from kineme.synthetic import TRAIN_BODIES, TRAIN_VIEWS, Draws, View, look_at, pose_exercises

Frames = NDArray[np.uint8]
AIM = (0.0, 1.0, 0.0)  # metres; what the camera points at, above where the figure stands


class Film(NamedTuple):
    """A clip: its name, its label, and frames (T, S, S, 3)."""

    id: str
    label: int
    frames: Frames


class Camera(NamedTuple):
    """Of N clips: metres to the figure (N, 1), focal lengths (N, 1) and shifts (N, T, 2) in
    pixels, right and down."""

    distance: Array
    focal_length: Array
    shift: Array


def film_exercises(
    num_samples: int,
    seed: int,
    *,
    bodies: Sequence[Body] = TRAIN_BODIES,
    views: Sequence[View] = TRAIN_VIEWS,
    num_frames: int = 24,
    fps: float = 10.0,
    size: int = 64,
) -> Iterator[Film]:
    """The exercises of `synthetic.make_exercises`, as clips of `size` x `size` pixels."""
    figures = pose_exercises(num_samples, seed, bodies=bodies, num_frames=num_frames, fps=fps)
    aimed = figures._replace(positions=figures.positions - np.array(AIM))
    seen, ids = look_at(aimed, seed, bodies=bodies, views=views)
    draw = Draws(seed, num_samples)
    camera = hold_camera(draw, np.arange(num_frames) / fps, size)
    pixels, pixels_per_metre = project(seen, camera, size)
    for i, name in enumerate(ids):
        own = Draws(seed, np.array([i]))
        strokes = _plan_strokes(own, pixels[i], pixels_per_metre[i], seen[i, :, :, 2])
        frames = _paint(_build_scene(own, size), strokes, camera.shift[i], size)
        yield Film(name, int(figures.labels[i]), _expose(own, frames))


class Seen(NamedTuple):
    """Somebody before a camera: pixels (T, V, 2), pixels_per_metre and depths (T, V)."""

    pixels: Array
    pixels_per_metre: Array
    depths: Array


def film_people(
    people: Sequence[Seen], draws: Sequence[Draws], room: Draws, shift: Array, size: int
) -> Iterator[Frames]:
    """Frames (S, S, 3) of several people in one room, the nearer before the farther.

    draws: for each of them a row that dresses them; room: a row for the room and the picture.
    shift: (T, 2) of the camera, as in Camera.
    """
    plans = [_plan_strokes(own, *one) for own, one in zip(draws, people, strict=True)]
    bones = [one.depths[:, _STARTS] + one.depths[:, _ENDS] for one in people]
    strokes = _Strokes(
        np.concatenate([plan.ends for plan in plans], axis=1),
        np.concatenate([plan.widths for plan in plans], axis=1),
        _from_far_to_near(np.concatenate(bones, axis=1)),
        np.concatenate([plan.colours for plan in plans]),
    )
    frames = _painted(_build_scene(room, size), strokes, shift, size)
    yield from _exposed(room, frames, len(shift), size)


def is_behind(joints: Seen, other: Seen) -> NDArray[np.bool_]:
    """(T, V) which joints of somebody a bone of `other` hides."""
    starts, ends = other.pixels[:, None, _STARTS], other.pixels[:, None, _ENDS]  # (T, 1, P, 2)
    bones = ends - starts
    away = joints.pixels[:, :, None] - starts
    along = (away * bones).sum(-1) / np.maximum((bones**2).sum(-1), 1e-9)
    along = np.clip(along, 0, 1)
    distance = np.linalg.norm(away - along[..., None] * bones, axis=-1)

    def at_point(values: Array) -> Array:
        first, last = values[:, None, _STARTS], values[:, None, _ENDS]
        return np.asarray(first + along * (last - first))

    is_inside = distance < _RADII * at_point(other.pixels_per_metre)
    is_nearer = at_point(other.depths) < joints.depths[:, :, None]
    return np.asarray((is_inside & is_nearer).any(axis=2))


def hold_camera(draw: Draws, seconds: Array, size: int, *, drifts: bool = True) -> Camera:
    """Cameras held by hand: none is quite still, some shake by a pixel or two.

    drifts: off their aim more and more, as people do who film a short clip.
    """
    distance = draw("distance", 3.5, 6.0)
    metres_shown = draw("metres shown", 2.4, 2.7)
    shake = draw("shake", 0, 1) ** 2 * size / 80
    paths = []
    for axis in ("x", "y"):
        middle = draw(f"{axis} middle", -1, 1) * size / 32
        drift = drifts * draw(f"{axis} drift", -1, 1) * size / 64  # in a second
        path = middle + drift * (seconds - seconds.mean())
        for wave, slowest_hertz in enumerate((0.4, 1.2, 2.5)):
            turns = seconds * draw(f"{axis} rate {wave}", slowest_hertz, 2 * slowest_hertz)
            turns = turns + draw(f"{axis} phase {wave}", 0, 1)
            path = path + shake / (1 + wave) * np.sin(2 * np.pi * turns)
        paths.append(path)
    return Camera(distance, distance * size / metres_shown, np.stack(paths, -1))


def project(seen: Array, camera: Camera, size: int) -> tuple[Array, Array]:
    """Where points (N, T, V, 3) of the camera's axes, away from what it points at, are in
    the picture (N, T, V, 2), and how many pixels a metre has there (N, T, V)."""
    pixels_per_metre = camera.focal_length[..., None] / (seen[..., 2] + camera.distance[..., None])
    middle = size / 2 + camera.shift[:, :, None]
    return middle + seen[..., :2] * pixels_per_metre[..., None], pixels_per_metre


# The figure ------------------------------------------------------------------------------

_SIDES = ("left", "right")
_BONES = (  # from, to, radius in metres, colour
    *(
        (f"{side}_{start}", f"{side}_{end}", radius, colour)
        for side in _SIDES
        for start, end, radius, colour in (
            ("hip", "knee", 0.075, "trousers"),
            ("knee", "ankle", 0.055, "trousers"),
            ("heel", "big_toe", 0.04, "shoes"),
            ("shoulder", "elbow", 0.05, "shirt"),
            ("elbow", "wrist", 0.04, "skin"),
            ("wrist", "middle", 0.045, "skin"),
            ("shoulder", "hip", 0.06, "shirt"),
        )
    ),
    ("neck", "spine", 0.09, "shirt"),
    ("spine", "pelvis", 0.13, "shirt"),
    ("left_shoulder", "right_shoulder", 0.07, "shirt"),
    ("left_hip", "right_hip", 0.09, "trousers"),
    ("neck", "nose", 0.05, "skin"),
    ("left_ear", "right_ear", 0.10, "hair"),
    ("nose", "nose", 0.07, "skin"),
)
_STARTS, _ENDS = ([JOINTS.index(bone[at]) for bone in _BONES] for at in (0, 1))
_RADII = np.array([bone[2] for bone in _BONES])
_COLOURS = tuple(bone[3] for bone in _BONES)
_FINER = 2  # drawn at so many times the size, then averaged: smooth edges
_FRACTION_BITS = 4  # of a coordinate, in OpenCV's drawing


class _Strokes(NamedTuple):
    """Two lines for each bone, its shaded whole and its lit part: ends (T, P, 2, 2, 2) and
    widths (T, P, 2) in fine pixels, order (T, P) from far to near, colours (P, 2, 3)."""

    ends: NDArray[np.int64]
    widths: NDArray[np.int64]
    order: NDArray[np.int64]
    colours: Array


def _plan_strokes(draw: Draws, pixels: Array, pixels_per_metre: Array, depths: Array) -> _Strokes:
    """Of one figure: pixels (T, V, 2), pixels_per_metre and depths (T, V)."""
    scale = _FINER * (pixels_per_metre[:, _STARTS] + pixels_per_metre[:, _ENDS])
    widths = _RADII * scale
    bones = np.stack([pixels[:, _STARTS], pixels[:, _ENDS]], axis=2) * _FINER - 0.5
    angle = draw("light", 0, 2 * np.pi)[0, 0]
    to_light = np.array([np.cos(angle), np.sin(angle)])
    lit = bones + 0.16 * widths[:, :, None, None] * to_light
    ends = np.stack([bones, lit], axis=2) * 2**_FRACTION_BITS
    clothes = _dress(draw)
    colours = np.array([clothes[name] for name in _COLOURS])
    return _Strokes(
        np.rint(ends).astype(np.int64),
        np.maximum(np.rint(np.stack([widths, 0.6 * widths], -1)), 1).astype(np.int64),
        _from_far_to_near(depths[:, _STARTS] + depths[:, _ENDS]),
        np.minimum(np.stack([0.75 * colours, 1.1 * colours], axis=1), 255),
    )


def _from_far_to_near(depths: Array) -> NDArray[np.int64]:
    """(T, P) the order in which bones at these depths are drawn."""
    return np.argsort(-depths, axis=1, kind="stable")


def _dress(draw: Draws) -> Mapping[str, Array]:
    """RGB (3,) of what is worn and of who wears it."""
    clothes = {name: draw(name, 10, 150, size=3)[0] for name in ("shirt", "trousers", "shoes")}
    skin = np.array([235.0, 190.0, 160.0]) * draw("skin", 0.35, 1)[0]
    hair = np.array([120.0, 90.0, 60.0]) * draw("hair", 0.2, 1.6)[0]
    return {**clothes, "skin": skin, "hair": hair}


# Room and picture ------------------------------------------------------------------------


def _build_scene(draw: Draws, size: int) -> Frames:
    """A wall, a floor and some furniture, all of uneven paint: (2 S, 2 S, 3) in fine pixels,
    half as large again as what the camera shows, for it moves."""
    side = _FINER * size * 3 // 2
    room = draw("wall", 130, 215)[0] + draw("wall tint", -18, 18, size=3)[0]
    room = room + _unevenness(draw, "coarse", 5, side) * draw("coarse size", 2, 10)[0]
    room += _unevenness(draw, "fine", 21, side) * draw("fine size", 1, 6)[0]
    horizon = int(draw("horizon", 0.5, 0.8)[0, 0] * side)
    room[horizon:] += draw("floor", -60, 20)[0] + draw("floor tint", -15, 15, size=3)[0]
    for piece in range(4):
        place = draw(f"piece {piece}", 0, 1, size=4)[0] * side * (1, 0.7, 0.3, 0.4)
        left, top, width, height = place.astype(int)
        tint = draw(f"piece tint {piece}", -20, 20, size=3)[0]
        room[top : top + height, left : left + width] += (
            draw(f"piece shade {piece}", -30, 30)[0] + tint
        )
    painted: Frames = np.clip(room, 0, 255).astype(np.uint8)
    return painted


def _unevenness(draw: Draws, name: str, num_cells: int, side: int) -> Array:
    """Smooth noise of about [-1, 1], (side, side, 3)."""
    cells = draw(name, -1, 1, size=num_cells * num_cells * 3).reshape(num_cells, num_cells, 3)
    return np.asarray(cv2.resize(cells, (side, side), interpolation=cv2.INTER_CUBIC), np.float64)


def _paint(scene: Frames, strokes: _Strokes, shift: Array, size: int) -> Frames:
    """(T, S, S, 3): the frames of `_painted`."""
    frames = np.empty((len(shift), size, size, 3), np.uint8)
    for frame, painted in zip(frames, _painted(scene, strokes, shift, size), strict=True):
        frame[:] = painted
    return frames


def _painted(scene: Frames, strokes: _Strokes, shift: Array, size: int) -> Iterator[Frames]:
    """What is drawn before the room, both moved by `shift` (T, 2): frames (S, S, 3)."""
    fine = _FINER * size
    corner = (scene.shape[0] - fine) / 2
    ends, widths, order = (part.tolist() for part in strokes[:3])
    colours = strokes.colours.tolist()
    for t, (right, down) in enumerate(_FINER * shift):
        move = np.array([[1.0, 0.0, right - corner], [0.0, 1.0, down - corner]])
        canvas = cv2.warpAffine(scene, move, (fine, fine), borderMode=cv2.BORDER_REPLICATE)
        for bone in order[t]:
            for (start, end), width, colour in zip(
                ends[t][bone], widths[t][bone], colours[bone], strict=True
            ):
                cv2.line(canvas, start, end, colour, width, cv2.LINE_AA, _FRACTION_BITS)
        yield np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _expose(draw: Draws, frames: Frames) -> Frames:
    """Too bright or too dark, with grain that is another in every frame."""
    return np.stack(list(_exposed(draw, frames, *frames.shape[:2])))


def _exposed(draw: Draws, frames: Iterable[Frames], num_frames: int, size: int) -> Iterator[Frames]:
    grain = draw.normal("grain", size * size * 3).reshape(size, size, 3).astype(np.float32)
    grain *= np.float32(draw("grain size", 1, 5)[0, 0])
    exposure = np.float32(draw("exposure", 0.7, 1.15)[0, 0])
    moves = draw("grain place", 0, size, size=2 * num_frames).reshape(-1, 2).astype(int)
    for frame, move in zip(frames, moves, strict=True):
        exposed = frame * exposure
        exposed += np.roll(grain, move, axis=(0, 1))
        yield np.clip(exposed, 0, 255).astype(np.uint8)
