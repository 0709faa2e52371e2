"""A skeleton as a graph: joints with names, bones between them, and partitions of both.

Promises: `adjacency` gives the partitions that public ST-GCN weights were trained with.
Legend: V joints, K partitions.
Leaves out: the known skeletons (layouts.py), torch, and numpy until `adjacency` is
called, so that specs can read layouts at no cost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from kineme.errors import SpecError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Layout:
    """A skeleton: joint names by index, bones as pairs of names, and the centre joint.

    num_axes: coordinates per joint, 2 where joints lie in the picture (a third channel is
    then a confidence). num_persons and num_frames are what data sets of it usually hold.
    """

    name: str
    joints: tuple[str, ...]
    bones: tuple[tuple[str, str], ...]
    centre: str
    source: str
    num_persons: int = 1
    num_frames: int = 300
    num_axes: int = 3

    @property
    def num_joints(self) -> int:
        return len(self.joints)

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """The bones as pairs of joint indices."""
        return tuple((self.joints.index(a), self.joints.index(b)) for a, b in self.bones)

    @property
    def centre_index(self) -> int:
        return self.joints.index(self.centre)

    @cached_property
    def mirror(self) -> tuple[int, ...]:
        """(V,) the joint of the other side, by name; a joint without one is its own mirror."""
        index = {name: i for i, name in enumerate(self.joints)}
        return tuple(index.get(_other_side(name), i) for i, name in enumerate(self.joints))

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """(V,) the next joint towards the centre; the centre is its own parent."""
        parents = walk(self.num_joints, self.edges, self.centre_index)
        return tuple(parents[joint] for joint in range(self.num_joints))

    @cached_property
    def limbs(self) -> Mapping[str, tuple[int, ...]]:
        """Joints of left_arm, right_arm, left_leg, right_leg, trunk, head and hands.

        An arm reaches from the shoulder to the finger tips, a leg from the hip to the
        toes. Only limbs that the layout has are listed.
        """
        limbs = {
            f"{side}_{limb}": self._named(f"{side}_{part}" for part in parts)
            for limb, parts in (("arm", _ARM), ("leg", _LEG))
            for side in ("left", "right")
        }
        limbs["trunk"] = self._named(_TRUNK) or self._named(_sided(("shoulder", "hip")))
        limbs["head"] = self._named(("head", "nose", *_sided(_FACE)))
        limbs["hands"] = self._named(_sided(_HAND)) or self._named(_sided(("wrist",)))
        return {limb: joints for limb, joints in limbs.items() if joints}

    @cached_property
    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The joints of the left and of the right side, by name."""
        left, right = (
            self._named(name for name in self.joints if name.startswith(side))
            for side in ("left_", "right_")
        )
        return left, right

    def _named(self, names: Iterable[str]) -> tuple[int, ...]:
        wanted = set(names)
        return tuple(i for i, name in enumerate(self.joints) if name in wanted)


STRATEGIES = ("distance", "spatial", "uniform")


def adjacency(layout: Layout, strategy: str) -> NDArray[np.float32]:
    """The partitions (K, V, V) of the normalised graph; entry [k, v, w] carries v to w.

    uniform: K = 1, joint and neighbours alike. distance: K = 2, the joint itself, then its
    neighbours. spatial: K = 3, the joint itself, neighbours no nearer to the centre than
    the joint, neighbours nearer. Each column of the sum over K adds up to 1.
    Hop counts stop at one (beyond it, all joints are equally far from the centre): a quirk
    of the published graph on which trained weights rely.
    """
    import numpy as np

    num_joints = layout.num_joints
    hops = np.full((num_joints, num_joints), np.inf)
    for a, b in layout.edges:
        hops[a, b] = hops[b, a] = 1
    np.fill_diagonal(hops, 0)

    near = hops <= 1
    itself, neighbour = hops == 0, hops == 1
    to_centre = hops[:, layout.centre_index]
    nearer = to_centre[:, None] < to_centre[None, :]
    partitions = {
        "uniform": [near],
        "distance": [itself, neighbour],
        "spatial": [itself, neighbour & ~nearer, neighbour & nearer],
    }
    if strategy not in partitions:
        choices = ", ".join(STRATEGIES)
        raise SpecError("model.graph_strategy", f"one of {choices}", repr(strategy))
    normalised = near / near.sum(axis=0)
    parts: NDArray[np.float32] = np.stack(partitions[strategy]).astype(np.float32)
    parts *= normalised.astype(np.float32)
    return parts


def walk(num_joints: int, edges: Iterable[tuple[int, int]], start: int) -> dict[int, int]:
    """Breadth first from `start`: for each joint reached, the joint it was reached from."""
    neighbours: list[set[int]] = [set() for _ in range(num_joints)]
    for a, b in edges:
        neighbours[a].add(b)
        neighbours[b].add(a)
    reached_from, ring = {start: start}, [start]
    while ring:
        ring = [
            b
            for a in ring
            for b in sorted(neighbours[a])
            if b not in reached_from and reached_from.setdefault(b, a) == a
        ]
    return reached_from


def _other_side(name: str) -> str:
    side, _, part = name.partition("_")
    return {"left": f"right_{part}", "right": f"left_{part}"}.get(side, name)


def _sided(parts: Iterable[str]) -> list[str]:
    return [f"{side}_{part}" for part in parts for side in ("left", "right")]


_HAND = ("hand", "hand_tip", "thumb", "index", "middle", "pinky")
_ARM = ("shoulder", "elbow", "wrist", *_HAND)
_LEG = ("hip", "knee", "ankle", "foot", "heel", "big_toe", "small_toe")
_TRUNK = ("pelvis", "spine", "chest", "neck")
_FACE = ("mouth", "eye", "ear", "eye_inner", "eye_outer")
