"""Normalisation and augmentation of skeleton windows, for a whole batch at once.

Shapes: x (R, C, T, V, M) rows, channels (x, y[, z]), frames, joints, persons.
Promises: every function works where `x` lies (CPU or GPU) and keeps missing joints
(zero in every channel) at zero; every random number arrives as an argument, so a draw
depends on (seed, epoch, index) and on nothing else.
Leaves out: choosing frames (data/sampling.py) and reading files (dataset.py).
"""

import math

import torch
from torch import Tensor

from kineme.pose_classification.layouts import Layout

MOVE_ANGLES = (-10.0, -5.0, 0.0, 5.0, 10.0)  # degrees; contract of upstream's random_move
MOVE_SCALES = (0.9, 1.0, 1.1)
MOVE_SHIFTS = (-0.2, -0.1, 0.0, 0.1, 0.2)


def present_joints(x: Tensor) -> Tensor:
    """(R, 1, T, V, M) bool: False where a joint is zero in every channel, that is, missing."""
    return x.ne(0).any(dim=1, keepdim=True)


def centre(x: Tensor, present: Tensor, layout: Layout) -> Tensor:
    """Move the origin to the first person's centre joint in the first frame.

    A row whose centre joint is missing there takes the mean of the joints it has in that
    frame; a row whose first frame is empty stays where it is.
    """
    first, seen = x[:, :, 0, :, 0], present[:, :, 0, :, 0]  # (R, C, V), (R, 1, V)
    mean = first.sum(-1) / seen.sum(-1).clamp(min=1)
    at_centre = seen[..., layout.centre_index]
    origin = torch.where(at_centre, first[..., layout.centre_index], mean)  # (R, C)
    return (x - origin[:, :, None, None, None]) * present


def align(x: Tensor, layout: Layout) -> Tensor:
    """Turn each row about the vertical (y) axis so that the first person faces the camera.

    In the first frame the line from right to left shoulder (hips where the layout has no
    shoulders) is brought into the x-y plane, as Shahroudy et al. 2016 do for NTU RGB+D.
    Rows that miss one of the two joints, and 2-D data, stay as they are.
    """
    pair = facing_pair(layout)
    if x.shape[1] < 3 or pair is None:
        return x
    across = x[:, :3, 0, pair[0], 0] - x[:, :3, 0, pair[1], 0]  # (R, 3), right to left
    has_both = x[:, :, 0, list(pair), 0].ne(0).any(dim=1).all(dim=-1)
    yaw = torch.atan2(across[:, 2], across[:, 0])
    return rotate(x, about_y(torch.where(has_both, yaw, torch.zeros_like(yaw))))


def facing_pair(layout: Layout) -> tuple[int, int] | None:
    """The (left, right) joints that tell where a person faces: shoulders, else hips."""
    for part in ("shoulder", "hip"):
        names = (f"left_{part}", f"right_{part}")
        if all(name in layout.joints for name in names):
            return layout.joints.index(names[0]), layout.joints.index(names[1])
    return None


def min_max(x: Tensor, present: Tensor) -> Tensor:
    """Scale each axis of each row to [-1, 1] over all joints that are present."""
    dims = (2, 3, 4)
    low = x.masked_fill(~present, math.inf).amin(dims, keepdim=True)
    high = x.masked_fill(~present, -math.inf).amax(dims, keepdim=True)
    extent = high - low
    usable = extent.isfinite() & (extent > 0)
    scaled = (x - low) / torch.where(usable, extent, torch.ones_like(extent)) * 2 - 1
    return torch.where(usable & present, scaled, torch.zeros_like(x))


def about_x(angle: Tensor) -> Tensor:
    """(R, 3, 3) rotations by `angle` (R,) radians about the x axis."""
    return _about(angle, 1, 2)


def about_y(angle: Tensor) -> Tensor:
    """(R, 3, 3) rotations by `angle` (R,) radians about the y axis, z turning towards x."""
    return _about(-angle, 0, 2)


def _about(angle: Tensor, i: int, j: int) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    matrix[:, i, i], matrix[:, i, j] = cos, -sin
    matrix[:, j, i], matrix[:, j, j] = sin, cos
    return matrix


def rotate(x: Tensor, matrix: Tensor) -> Tensor:
    """Apply (R, C, C) matrices to the first C = 2 or 3 channels; zero stays zero."""
    size = matrix.shape[-1]
    turned = torch.bmm(matrix.to(x.dtype), x[:, :size].flatten(2)).view_as(x[:, :size])
    return turned if size == x.shape[1] else torch.cat([turned, x[:, size:]], dim=1)


def random_view(x: Tensor, draws: Tensor, *, max_degrees: float, scale: tuple[float, float]) -> Tensor:
    """Rotate about x and y by up to `max_degrees` and scale; draws (R, 3) in [0, 1).

    2-D data is rotated in its plane.
    """
    angles = (draws[:, :2] * 2 - 1) * math.radians(max_degrees)
    factor = scale[0] + draws[:, 2] * (scale[1] - scale[0])
    if x.shape[1] >= 3:
        matrix = torch.bmm(about_y(angles[:, 1]), about_x(angles[:, 0]))
    else:
        matrix = _about(angles[:, 0], 0, 1)[:, :2, :2]
    return rotate(x, matrix * factor[:, None, None])


def flip(x: Tensor, chosen: Tensor, layout: Layout) -> Tensor:
    """Mirror the rows in `chosen` (R,) bool: x changes sign, left and right joints swap."""
    mirrored = x[:, :, :, torch.as_tensor(layout.mirror, device=x.device), :].clone()
    mirrored[:, 0] = -mirrored[:, 0]
    return torch.where(chosen[:, None, None, None, None], mirrored, x)


def jitter(x: Tensor, present: Tensor, noise: Tensor, std: float) -> Tensor:
    """Add `noise` (standard normal, shape of x) times `std` to present joints."""
    return x + noise * std * present


def random_move(x: Tensor, present: Tensor, picks: Tensor) -> Tensor:
    """Upstream's random_move: one linear drift of rotation, scale and shift over the window.

    picks (R, 4, 2) in [0, 1): for angle, scale, shift x, shift y, the choice at the start
    and at the end. Channels 0 and 1 move; unlike upstream, missing joints stay at zero.
    """
    tables = (MOVE_ANGLES, MOVE_SCALES, MOVE_SHIFTS, MOVE_SHIFTS)
    ramp = torch.linspace(0, 1, x.shape[2], dtype=x.dtype, device=x.device)
    angle, scale, shift_x, shift_y = (
        _drift(picks[:, row], table, ramp) for row, table in enumerate(tables)
    )
    cos, sin = (angle * math.pi / 180).cos() * scale, (angle * math.pi / 180).sin() * scale
    old_x, old_y = x[:, 0], x[:, 1]  # (R, T, V, M)
    new_x = cos * old_x - sin * old_y + shift_x
    new_y = sin * old_x + cos * old_y + shift_y
    moved = torch.stack([new_x, new_y], dim=1) * present
    return torch.cat([moved, x[:, 2:]], dim=1)


def _drift(picks: Tensor, table: tuple[float, ...], ramp: Tensor) -> Tensor:
    """(R, T, 1, 1) values going linearly from the first picked entry to the second."""
    values = torch.tensor(table, dtype=ramp.dtype, device=ramp.device)
    ends = values[(picks * len(table)).long()]  # (R, 2)
    return (ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * ramp)[:, :, None, None]


def hide(x: Tensor, hidden: Tensor) -> Tensor:
    """Make joints missing: `hidden` is bool, broadcastable to x."""
    return x.masked_fill(hidden, 0)


def dropped_joints(draws: Tensor, probability: float) -> Tensor:
    """(R, 1, 1, V, 1) bool: each joint is hidden for the whole window; draws (R, V)."""
    return (draws < probability)[:, None, None, :, None]


def dropped_limb(draws: Tensor, probability: float, layout: Layout) -> Tensor:
    """(R, 1, 1, V, 1) bool: with `probability` one limb of the layout is hidden; draws (R, 2)."""
    limbs = torch.zeros(len(layout.limbs), layout.num_joints, dtype=torch.bool)
    for row, joints in enumerate(layout.limbs.values()):
        limbs[row, list(joints)] = True
    which = (draws[:, 1] * len(layout.limbs)).long()
    hidden = limbs.to(draws.device)[which] & (draws[:, :1] < probability)
    return hidden[:, None, None, :, None]


def dropped_time(draws: Tensor, probability: float, num_frames: int) -> Tensor:
    """(R, 1, T, 1, 1) bool: with `probability` a block of up to half the window is hidden.

    draws (R, 3): whether, how long, where.
    """
    length = (draws[:, 1] * num_frames / 2).ceil()
    start = (draws[:, 2] * (num_frames - length + 1)).floor()
    frame = torch.arange(num_frames, device=draws.device)
    inside = (frame >= start[:, None]) & (frame < (start + length)[:, None])
    return (inside & (draws[:, :1] < probability))[:, None, :, None, None]
