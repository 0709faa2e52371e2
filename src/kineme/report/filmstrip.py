"""A sample as a strip of pictures: skeletons in inline SVG that follows the page's theme, or
frames of a video.

Promises: left and right limbs differ in colour; missing joints (zero or NaN in every
channel) draw no bone; padding frames are left out; nothing of the user's text is in it.
Leaves out: depth. The first two channels are drawn as the camera saw them.

Shapes: C channels, T frames, V joints, M persons; points (T, V, M, 2); frames (T, H, W, 3).
"""

import base64
import io
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kineme.network import Drawing, FrameDrawing

MAX_FRAMES = 8
FRAME_HEIGHT = 96  # pixels
CELL_HEIGHT = 100.0
_HIGH = ("head", "nose", "neck", "left_shoulder")
_LOW = ("left_foot", "left_ankle", "left_knee", "pelvis", "spine", "left_hip")


def drawer(drawing: Drawing) -> Callable[[int], str]:
    """A function from a sample's position to its strip, as markup."""
    if isinstance(drawing, FrameDrawing):
        return lambda index: draw_frames(drawing.frames(index))
    return lambda index: draw_filmstrip(
        drawing.skeletons(index),
        drawing.bones,
        joint_names=drawing.joint_names,
        centre=drawing.centre,
    )


def draw_frames(frames: NDArray[np.uint8]) -> str:
    """Up to MAX_FRAMES frames (T, H, W, 3) RGB, evenly spaced, side by side in one picture."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(len(frames), MAX_FRAMES)).round())
    pictures = [_shrunk(frames[int(i)]) for i in chosen]
    strip = Image.fromarray(np.concatenate(pictures, axis=1))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=70)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img class="strip" src="data:image/jpeg;base64,{data}" '
        f'alt="{len(pictures)} of {len(frames)} frames">'
    )


def _shrunk(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = frame.shape[:2]
    size = (max(1, round(width * FRAME_HEIGHT / height)), FRAME_HEIGHT)
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR))


def draw_filmstrip(
    skeleton: NDArray[np.floating],
    bones: Sequence[tuple[int, int]],
    *,
    joint_names: Sequence[str] = (),
    centre: int | None = None,
    num_figures: int = 8,
) -> str:
    """SVG of `num_figures` moments of a sequence (C, T, V, M), evenly spaced.

    `joint_names` tell left from right and up from down. `centre` is the joint that may be
    zero without being missing, because the data was centred on it.
    """
    is_seen = _seen(skeleton, centre)
    frames = np.flatnonzero(is_seen.any(axis=(1, 2)))
    if not len(frames):
        return '<svg class="strip" viewBox="0 0 300 20" role="img" aria-label="no joints"></svg>'
    chosen = np.unique(frames[np.linspace(0, len(frames) - 1, num_figures).round().astype(int)])
    points = np.nan_to_num(skeleton[:2]).transpose(1, 2, 3, 0)[chosen].astype(float)
    is_seen = is_seen[chosen]
    if _is_y_up(points, is_seen, joint_names):
        points[..., 1] *= -1
    points, cell_width = _fitted(points, is_seen)
    figures = [
        _figure(points[i], is_seen[i], bones, joint_names, left=i * cell_width, frame=int(frame))
        for i, frame in enumerate(chosen)
    ]
    width = cell_width * len(chosen)
    return (
        f'<svg class="strip" viewBox="0 0 {width:.0f} {CELL_HEIGHT + 12:.0f}" '
        f'preserveAspectRatio="xMinYMid" role="img" '
        f'aria-label="skeleton at frames {", ".join(map(str, chosen))}">{"".join(figures)}</svg>'
    )


def _seen(skeleton: NDArray[np.floating], centre: int | None) -> NDArray[np.bool_]:
    """(T, V, M): which joints were found."""
    is_seen = np.asarray((np.nan_to_num(skeleton) != 0).any(axis=0))
    if centre is not None:
        is_seen[:, centre] |= is_seen.any(axis=1)
    return is_seen


def _is_y_up(
    points: NDArray[np.float64], is_seen: NDArray[np.bool_], joint_names: Sequence[str]
) -> bool:
    """Whether heads have larger y than feet. Without joint names, y points down as in images."""
    high = next((joint_names.index(name) for name in _HIGH if name in joint_names), None)
    low = next((joint_names.index(name) for name in _LOW if name in joint_names), None)
    if high is None or low is None:
        return False
    both = is_seen[:, high] & is_seen[:, low]
    rise = (points[:, high, :, 1] - points[:, low, :, 1])[both]
    return bool(len(rise) and np.median(rise) > 0)


def _fitted(
    points: NDArray[np.float64], is_seen: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], float]:
    """Points in one scale for all figures, and the width that one figure needs.

    The limits leave out the wildest half percent, so that one bad joint shrinks nobody.
    """
    known = points[is_seen]
    low, high = np.percentile(known, (0.5, 99.5), axis=0)
    size = np.maximum(high - low, 1e-6)
    scale = (CELL_HEIGHT - 8) / max(size[1], size[0] / 1.6)
    cell_width = float(np.clip(size[0] * scale + 10, 34, 170))
    middle = (low + high) / 2
    placed = (points - middle) * scale + (cell_width / 2, CELL_HEIGHT / 2)
    return placed.clip(0, (cell_width, CELL_HEIGHT)), cell_width


def _figure(
    points: NDArray[np.float64],
    is_seen: NDArray[np.bool_],
    bones: Sequence[tuple[int, int]],
    joint_names: Sequence[str],
    *,
    left: float,
    frame: int,
) -> str:
    paths: dict[str, list[str]] = {"m": [], "r": [], "l": []}
    for a, b in bones:
        for person in np.flatnonzero(is_seen[a] & is_seen[b]):
            (x1, y1), (x2, y2) = points[a, person], points[b, person]
            paths[_side(joint_names, a, b)].append(f"M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}")
    drawn = "".join(f'<path class="{side}" d="{"".join(d)}"/>' for side, d in paths.items() if d)
    label = f'<text x="6" y="{CELL_HEIGHT + 9:.0f}">{frame}</text>'
    return f'<g transform="translate({left:.1f} 0)">{drawn}{label}</g>'


def _side(joint_names: Sequence[str], a: int, b: int) -> str:
    if not joint_names:
        return "m"
    sides = {joint_names[joint].split("_")[0] for joint in (a, b)} & {"left", "right"}
    return sides.pop()[0] if len(sides) == 1 else "m"
