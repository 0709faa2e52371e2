"""Normalisation of one person's skeletons a frame at a time.

Windows are moved and scaled by what all of the window says (transforms.py). A stream does not know
what comes, so here
- none: nothing is changed, and steps see what windows see.
- center: the origin is the mean place of the centre joint over the window that ends with the
  frame, not its place in the window's first frame. The two agree where people stay in one place.
- center_align: as center, turned by the mean line between the shoulders over that window.
- center_minmax, center_align_minmax: the first window's frames wait until all of it is known, and
  are turned and scaled as the window would be; every later frame is as in the window that ends
  with it.
Gaps are filled as in the window that ends with the frame: with the last place that is known.
docs/models.md says how often labels are those of windows.
Legend: C channels, V joints, D axes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import torch
from torch import Tensor

from kineme.pose_classification import transforms
from kineme.pose_classification.layouts import Layout


class SteppedValues:
    """Frames of a person, (1, C, V, 1), as the model is given them, in order.

    normalize, fill_gaps: as in the spec. window: frames.
    """

    def __init__(
        self, normalize: str, layout: Layout, window: int, *, fill_gaps: bool = False
    ) -> None:
        self.normalize, self.layout, self.window = normalize, layout, window
        self.fill_gaps, self._waits = fill_gaps, normalize.endswith("minmax")
        self.num_frames = 0  # taken
        self._frames: deque[Tensor] = deque(maxlen=window)  # (1, C, V, 1), if needed
        self._places: deque[Tensor | None] = deque(maxlen=window)  # (D) of the centre
        self._lines: deque[Tensor | None] = deque(maxlen=window)  # (D) from right to left

    def update(self, frame: Tensor) -> list[Tensor]:
        """Take the next frame; those that are ready."""
        self.num_frames += 1
        if self._waits or self.fill_gaps:
            self._frames.append(frame)
        if not self._waits:
            frame = self._kept()[0][:, :, -1] if self.fill_gaps else frame
            return [frame if self.normalize == "none" else self._moved(frame)]
        if self.num_frames < self.window:
            return []
        ready = self._scaled()
        return ready if self.num_frames == self.window else ready[-1:]

    def rest(self) -> list[Tensor]:
        """Those that wait, when the person is gone."""
        is_short = 0 < len(self._frames) < self.window
        waiting = self._scaled() if self._waits and is_short else []
        self._frames.clear()
        return waiting

    def _moved(self, frame: Tensor) -> Tensor:
        """About the mean place of the last window, turned as it says. (1, C, V, 1)."""
        axes = frame[0, : transforms.num_axes(frame, self.layout), :, 0]  # (D, V)
        seen = (frame[0, :, :, 0] != 0).any(dim=0)  # (V)
        centre = self.layout.centre_index
        place = axes[:, centre] if seen[centre] else axes[:, seen].mean(dim=1)
        self._places.append(place if seen.any() else None)
        origin, turn = _mean(self._places, len(axes))[None], None
        pair = transforms.facing_pair(self.layout)
        if self.normalize == "center_align" and len(axes) == 3 and pair is not None:
            is_known = bool(seen[list(pair)].all())
            self._lines.append(axes[:, pair[0]] - axes[:, pair[1]] if is_known else None)
            across = _mean(self._lines, 3)
            turn = transforms.about_y(torch.atan2(across[2:], across[:1]))
        x, present = frame[:, :, None], seen[None, None, None, :, None]
        moved = transforms.move(x, present, self.layout, origin=origin, turn=turn)
        return transforms.told_apart(moved, present)[:, :, 0]

    def _scaled(self) -> list[Tensor]:
        """The frames that are kept, turned and scaled together, as a window's are."""
        x, present = self._kept()
        if self.normalize == "center_align_minmax":
            turn = transforms.facing_turns(x, present, self.layout)
            origin = x.new_zeros(1, transforms.num_axes(x, self.layout))
            x = transforms.move(x, present, self.layout, origin=origin, turn=turn)
        x = transforms.min_max(x, present, self.layout)
        return list(transforms.told_apart(x, present).unbind(2))

    def _kept(self) -> tuple[Tensor, Tensor | None]:
        """(1, C, T, V, 1) of the frames that are kept, and which joints are in them."""
        x = torch.stack(list(self._frames), dim=2)
        present = transforms.present_joints(x)
        return transforms.fill_gaps(x, present) if self.fill_gaps else (x, present)


def _mean(values: Iterable[Tensor | None], size: int) -> Tensor:
    """(size,) of those that are there; zero where none is."""
    there = [value for value in values if value is not None]
    return torch.stack(there).mean(dim=0) if there else torch.zeros(size)
