"""Normalisation and augmentation of skeleton windows, for a whole batch at once.

Shapes: x (R, C, T, V, M) rows, channels, frames, joints, persons. The first D channels
are axes (x, y[, z]); what follows is a confidence and is never moved.
`present` (R, 1, T, V, M) bool is False where a joint is missing, or None when none is.
Promises: every function works where `x` lies (CPU or GPU) and keeps missing joints at
zero; every random number arrives as an argument, so a draw depends on (seed, epoch,
index) and on nothing else; nothing is changed in place.
Leaves out: choosing frames (data/sampling.py), the order of steps (dataset.py).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kineme.pose_classification.layouts import Layout

MOVE_ANGLES = (-10.0, -5.0, 0.0, 5.0, 10.0)  # degrees; contract of upstream's random_move
MOVE_SCALES = (0.9, 1.0, 1.1)
MOVE_SHIFTS = (-0.2, -0.1, 0.0, 0.1, 0.2)
AT_ZERO = 1e-6  # what a joint that is there has in place of zero, which means missing to models


def present_joints(x: Tensor) -> Tensor | None:
    """Where a joint has a channel that is not zero; None when that is everywhere."""
    if x.numel() and bool(x[:, 0].abs().amin() > 0):  # the usual case, and cheap to tell
        return None
    present = x[:, 0] != 0
    for channel in range(1, x.shape[1]):
        present |= x[:, channel] != 0
    return None if bool(present.all()) else present.unsqueeze(1)


def fill_gaps(x: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Each joint in the frames that miss it: on the line between the nearest two that have it,
    at the ends as in the nearest one, confidence and all. A joint that no frame has stays missing,
    and so does a person before the first frame and after the last that has any of their joints.
    """
    if present is None:
        return x, None
    num_frames = x.shape[2]
    frame = torch.arange(num_frames, device=x.device)[:, None, None]
    ago = torch.where(present, frame, -1).cummax(dim=2).values
    ahead = torch.where(present, frame, num_frames).flip(2).cummin(dim=2).values.flip(2)
    start = torch.where(ago < 0, ahead, ago).clamp(max=num_frames - 1)
    end = torch.where(ahead == num_frames, ago, ahead).clamp(min=0)
    share = ((frame - start) / (end - start).clamp(min=1)).to(x.dtype)
    filled = torch.lerp(x.gather(2, start.expand(x.shape)), x.gather(2, end.expand(x.shape)), share)
    someone = present.any(dim=3, keepdim=True).to(torch.uint8)
    came, stays = someone.cummax(dim=2).values, someone.flip(2).cummax(dim=2).values.flip(2)
    known = present.any(dim=2, keepdim=True) & (came & stays).bool()
    return hide(filled, known), None if bool(known.all()) else known


def hide(x: Tensor, present: Tensor | None) -> Tensor:
    """Set what is not present to zero."""
    return x if present is None else x.masked_fill(~present, 0)


def without(present: Tensor | None, hidden: Tensor, shape: torch.Size) -> Tensor:
    """`present` less what is `hidden` (bool, broadcastable); `shape` is that of x."""
    left = ~hidden.expand(shape[0], 1, *shape[2:])
    return left if present is None else present & left


def told_apart(x: Tensor, present: Tensor | None) -> Tensor:
    """x for a model: a joint that is there and lies at zero gets AT_ZERO on its first axis."""
    is_zero = (x == 0).all(dim=1, keepdim=True)
    if present is not None:
        is_zero &= present
    if x.device.type == "cpu" and not bool(is_zero.any()):
        return x
    first = x.new_zeros(1, x.shape[1], 1, 1, 1)
    first[:, 0] = AT_ZERO
    return torch.where(is_zero, first, x)


def with_centre(present: Tensor, layout: Layout) -> Tensor:
    """`present` with the centre joint wherever its person has any other joint."""
    present = present.clone()
    present[..., layout.centre_index, :] |= present.any(dim=3)
    return present


def origins(x: Tensor, present: Tensor | None, layout: Layout) -> Tensor:
    """(R, D): the centre joint of the first person there in the first frame that has them.

    Where it is missing there, the mean of the joints that frame has; where there is
    nobody at all, zero.
    """
    if present is None:
        return x[:, : num_axes(x, layout), 0, layout.centre_index, 0]
    person, there = _first_person(x, present)
    axes = person[:, : num_axes(x, layout)]
    first, seen = _first_frame(axes, there, list(range(x.shape[3])))
    mean = first.sum(-1) / seen.sum(-1, keepdim=True).clamp(min=1)
    return torch.where(seen[:, layout.centre_index, None], first[..., layout.centre_index], mean)


def _first_person(x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """(R, C, T, V) of the first person of whom there is anything; (R, T, V): what is there."""
    which = present.any(dim=(1, 2, 3)).to(torch.uint8).argmax(dim=1)  # the first maximum
    rows = torch.arange(len(x), device=x.device)
    return x[rows, ..., which], present[rows, 0, ..., which]


def _first_frame(axes: Tensor, there: Tensor, joints: list[int]) -> tuple[Tensor, Tensor]:
    """(R, D, V): the first frame with any of a person's `joints`; (R, V): which are there."""
    frame = there[:, :, joints].any(dim=2).to(torch.uint8).argmax(dim=1)
    rows = torch.arange(len(axes), device=axes.device)
    return axes.transpose(1, 2)[rows, frame], there[rows, frame]


def facing_turns(x: Tensor, present: Tensor | None, layout: Layout) -> Tensor | None:
    """(R, 3, 3) rotations about the vertical (y) axis that make the first person there face us.

    In the first frame that has both, the line from right to left shoulder (hips where the
    layout has no shoulders) comes to lie in the x-y plane, as Shahroudy et al. 2016 do for
    NTU RGB+D.
    Rows that miss one of the two joints are not turned; flat data never is (None).
    """
    pair = facing_pair(layout)
    if num_axes(x, layout) < 3 or pair is None:
        return None
    if present is None:
        across = x[:, :3, 0, pair[0], 0] - x[:, :3, 0, pair[1], 0]  # (R, 3)
        return about_y(torch.atan2(across[:, 2], across[:, 0]))
    person, there = _first_person(x, present)
    has_both = there[:, :, list(pair)].all(dim=2)  # (R, T)
    frame = has_both.to(torch.uint8).argmax(dim=1)
    seen = person[torch.arange(len(x), device=x.device), :3, frame]  # (R, 3, V)
    across = seen[..., pair[0]] - seen[..., pair[1]]
    return about_y(torch.atan2(across[:, 2], across[:, 0]) * has_both.any(dim=1))


def facing_pair(layout: Layout) -> tuple[int, int] | None:
    """The (left, right) joints that tell where a person faces: shoulders, else hips."""
    for part in ("shoulder", "hip"):
        names = (f"left_{part}", f"right_{part}")
        if all(name in layout.joints for name in names):
            return layout.joints.index(names[0]), layout.joints.index(names[1])
    return None


def random_turns(draws: Tensor, *, max_degrees: float, scale: tuple[float, float]) -> Tensor:
    """(R, 3, 3): rotations about x and y by up to `max_degrees`, times a scale; draws (R, 3)."""
    angles = (draws[:, :2] * 2 - 1) * math.radians(max_degrees)
    factor = scale[0] + draws[:, 2] * (scale[1] - scale[0])
    return torch.bmm(about_y(angles[:, 1]), about_x(angles[:, 0])) * factor[:, None, None]


def random_shears(draws: Tensor, largest: float) -> Tensor:
    """(R, 3, 3): to each axis up to `largest` of each other one is added; draws (R, 6) in [0, 1).

    As of Rao et al. 2021 (Augmented skeleton based contrastive action learning).
    """
    matrix = torch.eye(3, dtype=draws.dtype, device=draws.device).repeat(len(draws), 1, 1)
    apart = ~torch.eye(3, dtype=torch.bool, device=draws.device)
    matrix[:, apart] = (draws * 2 - 1) * largest
    return matrix


def about_x(angle: Tensor) -> Tensor:
    """(R, 3, 3) rotations by `angle` (R,) radians about the x axis, y turning towards z."""
    return _rotations(angle, 1, 2)


def about_y(angle: Tensor) -> Tensor:
    """(R, 3, 3) rotations by `angle` (R,) radians about the y axis, z turning towards x."""
    return _rotations(angle, 2, 0)


def _rotations(angle: Tensor, i: int, j: int) -> Tensor:
    """Rotations that turn axis i towards axis j."""
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    matrix[:, i, i], matrix[:, i, j] = cos, -sin
    matrix[:, j, i], matrix[:, j, j] = sin, cos
    return matrix


def move(
    x: Tensor, present: Tensor | None, layout: Layout, *, origin: Tensor, turn: Tensor | None
) -> Tensor:
    """turn @ (x - origin) in one pass; origin (R, D), turn (R, 3, 3) or None.

    Flat data turns as a flat figure does in space, seen from the front: the upper left
    2 x 2 part of `turn`.
    """
    dims = num_axes(x, layout)
    axes = x[:, :dims]
    if turn is None:
        moved = axes - origin[:, :, None, None, None]
    else:
        turn = turn[:, :dims, :dims].to(x.dtype)
        shift = -torch.bmm(turn, origin.unsqueeze(2))  # (R, D, 1)
        moved = torch.baddbmm(shift, turn, axes.flatten(2)).view_as(axes)
    if dims < x.shape[1]:
        moved = torch.cat([moved, x[:, dims:]], dim=1)
    return hide(moved, present)


def min_max(x: Tensor, present: Tensor | None, layout: Layout) -> Tensor:
    """Scale each axis of each row to [-1, 1] over all joints that are present.

    An axis without extent becomes 0.
    """
    dims = num_axes(x, layout)
    axes = x[:, :dims].flatten(2)  # (R, D, T V M)
    if present is None:
        low, high = axes.amin(2, keepdim=True), axes.amax(2, keepdim=True)  # aminmax: 30x slower
    else:
        missing = ~present.flatten(2)
        low = axes.masked_fill(missing, math.inf).amin(2, keepdim=True)
        high = axes.masked_fill(missing, -math.inf).amax(2, keepdim=True)
    extent = high - low
    factor = 2 / extent
    usable = extent.isfinite() & factor.isfinite()  # 2 / 1e-40 is none
    factor = torch.where(usable, factor, torch.zeros_like(extent))
    offset = torch.where(usable, -1 - low * factor, torch.zeros_like(extent))
    scaled = (axes * factor).add_(offset).view_as(x[:, :dims])
    if dims < x.shape[1]:
        scaled = torch.cat([scaled, x[:, dims:]], dim=1)
    return hide(scaled, present)


def flip(x: Tensor, chosen: Tensor, layout: Layout) -> Tensor:
    """Mirror the rows in `chosen` (R,) bool: x changes sign, left and right joints swap."""
    mirrored = x[chosen][:, :, :, torch.as_tensor(layout.mirror, device=x.device)]
    mirrored[:, 0] = -mirrored[:, 0]
    return x.index_put((chosen.nonzero(as_tuple=True)[0],), mirrored)


def flip_mask(present: Tensor, chosen: Tensor, layout: Layout) -> Tensor:
    """Which joints are present after `flip`."""
    swapped = present[:, :, :, torch.as_tensor(layout.mirror, device=present.device)]
    return torch.where(chosen[:, None, None, None, None], swapped, present)


def jitter(
    x: Tensor, present: Tensor | None, layout: Layout, *, noise: Tensor, std: float
) -> Tensor:
    """Add `noise` (R, D, T or 1, V, M), standard normal, times `std` to the axes."""
    dims = num_axes(x, layout)
    moved = torch.cat([x[:, :dims] + noise * std, x[:, dims:]], dim=1)
    return hide(moved, present)


def random_move(x: Tensor, present: Tensor | None, picks: Tensor) -> Tensor:
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
    return hide(torch.cat([torch.stack([new_x, new_y], dim=1), x[:, 2:]], dim=1), present)


def _drift(picks: Tensor, table: tuple[float, ...], ramp: Tensor) -> Tensor:
    """(R, T, 1, 1) values going linearly from the first picked entry to the second."""
    values = torch.tensor(table, dtype=ramp.dtype, device=ramp.device)
    ends = values[(picks * len(table)).long()]  # (R, 2)
    return (ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * ramp)[:, :, None, None]


def dropped_joints(draws: Tensor, probability: float) -> Tensor:
    """(R, 1, 1, V, 1) bool: each joint is hidden for the whole window; draws (R, V)."""
    return (draws < probability)[:, None, None, :, None]


def dropped_limb(draws: Tensor, probability: float, layout: Layout) -> Tensor:
    """(R, 1, 1, V, 1) bool: with `probability` one limb of the layout is hidden; draws (R, 2).

    A layout whose joints have none of the usual names has no limbs: nothing is hidden.
    """
    return _dropped_part(draws, probability, list(layout.limbs.values()), layout)


def dropped_side(draws: Tensor, probability: float, layout: Layout) -> Tensor:
    """(R, 1, 1, V, 1) bool: with `probability` the left or right side is hidden; draws (R, 2)."""
    return _dropped_part(draws, probability, [side for side in layout.sides if side], layout)


def _dropped_part(
    draws: Tensor, probability: float, parts: Sequence[Sequence[int]], layout: Layout
) -> Tensor:
    """With `probability` one of `parts`, which are joints, is hidden."""
    if not parts:
        shape = (len(draws), 1, 1, layout.num_joints, 1)
        return torch.zeros(shape, dtype=torch.bool, device=draws.device)
    joints = torch.zeros(len(parts), layout.num_joints, dtype=torch.bool)
    for row, part in enumerate(parts):
        joints[row, list(part)] = True
    which = (draws[:, 1] * len(parts)).long()
    hidden = joints.to(draws.device)[which] & (draws[:, :1] < probability)
    return hidden[:, None, None, :, None]


def swap_persons(x: Tensor, present: Tensor | None, chosen: Tensor) -> tuple[Tensor, Tensor | None]:
    """Let the first two people change places in the rows `chosen` (R,) bool."""
    order = [1, 0, *range(2, x.shape[4])]
    rows = chosen[:, None, None, None, None]
    swapped = torch.where(rows, x[..., order], x)
    return swapped, None if present is None else torch.where(rows, present[..., order], present)


def dropped_time(draws: Tensor, probability: float, someone: Tensor) -> Tensor:
    """(R, 1, T, 1, 1) bool: with `probability` a block of up to half the frames is hidden.

    Of the frames from the first to the last with someone, (R, T) bool; draws (R, 3): whether, how
    long, where.
    """
    frame = torch.arange(someone.shape[1], device=draws.device)
    first = torch.where(someone, frame, someone.shape[1]).amin(dim=1)
    seen = (torch.where(someone, frame, -1).amax(dim=1) + 1 - first).clamp(min=0)
    length = (draws[:, 1] * seen / 2).ceil()
    start = first + (draws[:, 2] * (seen - length + 1)).floor()
    inside = (frame >= start[:, None]) & (frame < (start + length)[:, None])
    return (inside & (draws[:, :1] < probability))[:, None, :, None, None]


def mixup(x: Tensor, partners: Tensor, share: float) -> Tensor:
    """Every row with `share` of the row in `partners` (R,), at the joints that both have; x is as
    models get it. What is missing stays missing (Zhang et al. 2018).
    """
    other = x[partners]
    both = (x != 0).any(dim=1, keepdim=True) & (other != 0).any(dim=1, keepdim=True)
    return torch.where(both, torch.lerp(x, other, share), x)


def num_axes(x: Tensor, layout: Layout) -> int:
    """How many of the leading channels of x are coordinates."""
    return min(x.shape[1], layout.num_axes)
