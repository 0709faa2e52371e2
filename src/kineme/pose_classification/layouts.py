"""The known skeleton layouts, and reading a user's own.

Promises: one vocabulary of joint names across layouts, so that skeletons can be mapped
between them by name; a layout file is refused with all its problems at once.
Leaves out: what follows from joints and bones (graph.py).

Vocabulary: left_/right_ are the person's own sides. `pelvis` lies between the hips,
`spine` in the middle of the back, `neck` at the base of the neck; where a layout has one
more joint below it at the height of the shoulders, that one is `chest`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from kineme.errors import Problem, SpecError
from kineme.pose_classification.graph import STRATEGIES, Layout, adjacency, walk

__all__ = [
    "LAYOUTS",
    "STRATEGIES",
    "Layout",
    "adjacency",
    "layout_facts",
    "layout_of",
    "layouts_with",
    "load_layout",
]


def layouts_with(num_joints: int) -> tuple[str, ...]:
    """Names of the known layouts that have `num_joints` joints, sorted."""
    return tuple(sorted(n for n, layout in LAYOUTS.items() if layout.num_joints == num_joints))


def layout_of(model_section: Any) -> Layout:
    """The layout a spec's `model` block asks for: its own (`layout`), else `graph_layout`."""
    if model_section.layout:
        return load_layout(model_section.layout)
    return LAYOUTS[model_section.graph_layout]


def layout_facts(layout: Layout) -> dict[str, Any]:
    """The layout in the form that layout files and checkpoints hold."""
    return {
        "name": layout.name,
        "joints": list(layout.joints),
        "bones": [list(bone) for bone in layout.bones],
        "centre": layout.centre,
        "source": layout.source,
        "num_persons": layout.num_persons,
        "num_frames": layout.num_frames,
        "num_axes": layout.num_axes,
    }


def load_layout(path: str | Path) -> Layout:
    """A user's own layout from a YAML file, or from its text, which starts with `{`.

    All its problems are in one SpecError.
    Keys: name, joints (list of names), bones (list of chains of two or more names, each
    tied to the next), centre; optional: source, num_persons, num_frames, num_axes.
    """
    is_text = str(path).startswith("{")
    try:
        text = str(path) if is_text else Path(path).read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        where = "model.layout" if is_text else str(path)
        raise SpecError(where, "a readable YAML file with a layout", reason) from error
    problems = _problems_of(content, "model.layout" if is_text else str(path))
    if problems:
        raise SpecError.of(problems)
    return Layout(
        name=content["name"],
        joints=tuple(content["joints"]),
        bones=tuple(pair for chain in content["bones"] for pair in _pairs(chain)),
        centre=content["centre"],
        source=content.get("source", str(path)),
        num_persons=content.get("num_persons", 1),
        num_frames=content.get("num_frames", 300),
        num_axes=content.get("num_axes", 3),
    )


def _problems_of(content: Any, where: str) -> list[Problem]:
    """What keeps `content` (parsed YAML) from being a layout; joints first, graph last."""
    if not isinstance(content, dict):
        received = type(content).__name__
        return [Problem(where, "a mapping with name, joints, bones and centre", received)]
    problems = [
        Problem(f"{where}: {key}", f"only the keys {', '.join(_KEYS)}", repr(key))
        for key in content
        if key not in _KEYS
    ]
    for key, (kind, is_right) in _KEYS.items():
        if key in content and not is_right(content[key]):
            problems.append(Problem(f"{where}: {key}", kind, repr(content[key])))
        elif key not in content and key in ("name", "joints", "bones", "centre"):
            problems.append(Problem(f"{where}: {key}", kind, "nothing", f"Add {key}:."))
    if problems:
        return problems
    return _problems_of_graph(content["joints"], content["bones"], content["centre"], where=where)


def _problems_of_graph(
    joints: list[str], chains: list[list[str]], centre: str, *, where: str
) -> list[Problem]:
    problems = [
        Problem(f"{where}: joints", "every name once", f"{name!r} {joints.count(name)} times")
        for name in dict.fromkeys(joints)
        if joints.count(name) > 1
    ]
    used = [(f"bones[{i}]", name) for i, chain in enumerate(chains) for name in chain]
    for key, name in [*used, ("centre", centre)]:
        if name not in joints:
            close = difflib.get_close_matches(name, joints, n=1)
            fix = f"Did you mean {close[0]!r}?" if close else ""
            problems.append(Problem(f"{where}: {key}", "a name listed in joints", repr(name), fix))
    pairs = [pair for chain in chains for pair in _pairs(chain)]
    loops = sorted({a for a, b in pairs if a == b})
    if loops:
        received = f"{', '.join(map(repr, loops))} tied to itself"
        problems.append(Problem(f"{where}: bones", "bones between two joints", received))
    if not problems:
        edges = [(joints.index(a), joints.index(b)) for a, b in pairs]
        reached = walk(len(joints), edges, joints.index(centre))
        lost = [name for i, name in enumerate(joints) if i not in reached]
        if lost:
            expected = f"bones that tie every joint to the centre {centre!r}"
            received = f"no way to {', '.join(map(repr, lost))}"
            problems.append(Problem(f"{where}: bones", expected, received))
    return problems


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_texts(value: Any, at_least: int = 1) -> bool:
    return isinstance(value, list) and len(value) >= at_least and all(map(_is_text, value))


def _is_chains(value: Any) -> bool:
    return isinstance(value, list) and all(_is_texts(chain, 2) for chain in value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_KEYS = {  # of a layout file: what each holds, and the check
    "name": ("a name", _is_text),
    "joints": ("a list of joint names", _is_texts),
    "bones": ("a list of chains of two or more joint names", _is_chains),
    "centre": ("the name of a joint", _is_text),
    "source": ("a text", _is_text),
    "num_persons": ("a whole number of at least 1", _is_count),
    "num_frames": ("a whole number of at least 1", _is_count),
    "num_axes": ("2 or 3", lambda value: value in (2, 3)),
}


def _pairs(chain: Iterable[str]) -> list[tuple[str, str]]:
    return list(pairwise(chain))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _chains(*chains: str) -> tuple[tuple[str, str], ...]:
    """Bones from chains of names: "a b c" ties a to b and b to c."""
    return tuple(pair for chain in chains for pair in _pairs(chain.split()))


_ARMS_OF_KINECT = (
    "left_shoulder left_elbow left_wrist left_hand",
    "right_shoulder right_elbow right_wrist right_hand",
)
_LEGS_OF_KINECT = (
    "pelvis left_hip left_knee left_ankle left_foot",
    "pelvis right_hip right_knee right_ankle right_foot",
)

_TABLE = (
    Layout(
        name="nvidia",
        joints=_names(
            "pelvis left_hip right_hip spine left_knee right_knee neck left_ankle right_ankle "
            "left_big_toe right_big_toe left_small_toe right_small_toe left_heel right_heel nose "
            "left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
            "right_elbow left_wrist right_wrist left_pinky right_pinky left_middle right_middle "
            "left_index right_index left_thumb right_thumb"
        ),
        bones=_chains(
            "pelvis spine neck nose",
            "nose left_eye left_ear",
            "nose right_eye right_ear",
            "pelvis left_hip left_knee left_ankle left_big_toe left_small_toe",
            "pelvis right_hip right_knee right_ankle right_big_toe right_small_toe",
            "left_ankle left_heel",
            "right_ankle right_heel",
            "left_hip left_shoulder neck right_shoulder right_hip",
            "left_shoulder left_elbow left_wrist left_pinky",
            "right_shoulder right_elbow right_wrist right_pinky",
            "left_middle left_wrist left_index",
            "right_middle right_wrist right_index",
            "left_wrist left_thumb",
            "right_wrist right_thumb",
        ),
        centre="pelvis",
        source="TAO pose classification; DeepStream BodyPose 3D",
    ),
    Layout(
        name="openpose",
        joints=_names(
            "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
            "right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye left_eye "
            "right_ear left_ear"
        ),
        bones=_chains(
            "neck nose left_eye left_ear",
            "nose right_eye right_ear",
            "neck left_shoulder left_elbow left_wrist",
            "neck right_shoulder right_elbow right_wrist",
            "left_shoulder left_hip left_knee left_ankle",
            "right_shoulder right_hip right_knee right_ankle",
        ),
        centre="neck",
        source="OpenPose COCO model with neck, 18 key points; Kinetics-skeleton",
        num_axes=2,
    ),
    Layout(
        name="human3.6m",
        joints=_names(
            "pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle spine chest "
            "neck head left_shoulder left_elbow left_wrist right_shoulder right_elbow right_wrist"
        ),
        bones=_chains(
            "head neck chest spine",
            "spine right_hip pelvis left_hip spine",
            "right_hip right_knee right_ankle",
            "left_hip left_knee left_ankle",
            "neck left_shoulder left_elbow left_wrist",
            "neck right_shoulder right_elbow right_wrist",
        ),
        centre="chest",
        source="Human3.6M, 17 joints",
        num_frames=3163,
    ),
    Layout(
        name="ntu-rgb+d",
        joints=_names(
            "pelvis spine neck head left_shoulder left_elbow left_wrist left_hand right_shoulder "
            "right_elbow right_wrist right_hand left_hip left_knee left_ankle left_foot right_hip "
            "right_knee right_ankle right_foot chest left_hand_tip left_thumb right_hand_tip "
            "right_thumb"
        ),
        bones=_chains(
            "pelvis spine chest neck head",
            "left_shoulder chest right_shoulder",
            *_ARMS_OF_KINECT,
            *_LEGS_OF_KINECT,
            "left_hand left_thumb left_hand_tip",
            "right_hand right_thumb right_hand_tip",
        ),
        centre="chest",
        source="NTU RGB+D, Kinect v2, 25 joints",
        num_persons=2,
    ),
    Layout(
        name="ntu_edge",
        joints=_names(
            "pelvis spine neck head left_shoulder left_elbow left_wrist left_hand right_shoulder "
            "right_elbow right_wrist right_hand left_hip left_knee left_ankle left_foot right_hip "
            "right_knee right_ankle right_foot left_hand_tip left_thumb right_hand_tip right_thumb"
        ),
        bones=_chains(
            "pelvis spine neck head",
            "left_shoulder spine right_shoulder",
            *_ARMS_OF_KINECT,
            *_LEGS_OF_KINECT,
            "left_hand left_thumb left_hand_tip",
            "right_hand right_thumb right_hand_tip",
        ),
        centre="neck",
        source="NTU RGB+D without the chest joint, 24 joints",
        num_persons=2,
    ),
    Layout(
        name="coco",
        joints=_names(
            "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
            "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee "
            "left_ankle right_ankle"
        ),
        bones=_chains(
            "left_eye nose right_eye left_eye",
            "left_eye left_ear left_shoulder",
            "right_eye right_ear right_shoulder",
            "left_shoulder right_shoulder right_hip left_hip left_shoulder",
            "left_shoulder left_elbow left_wrist",
            "right_shoulder right_elbow right_wrist",
            "left_hip left_knee left_ankle",
            "right_hip right_knee right_ankle",
        ),
        centre="nose",
        source="COCO key points, 17 joints",
        num_axes=2,
    ),
    Layout(
        name="mediapipe-33",
        joints=_names(
            "nose left_eye_inner left_eye left_eye_outer right_eye_inner right_eye right_eye_outer "
            "left_ear right_ear left_mouth right_mouth left_shoulder right_shoulder left_elbow "
            "right_elbow left_wrist right_wrist left_pinky right_pinky left_index right_index "
            "left_thumb right_thumb left_hip right_hip left_knee right_knee left_ankle right_ankle "
            "left_heel right_heel left_big_toe right_big_toe"
        ),
        bones=_chains(
            "nose left_eye_inner left_eye left_eye_outer left_ear",
            "nose right_eye_inner right_eye right_eye_outer right_ear",
            "nose left_mouth right_mouth nose",
            "left_shoulder nose right_shoulder",  # MediaPipe itself leaves the head loose
            "left_shoulder right_shoulder right_hip left_hip left_shoulder",
            "left_shoulder left_elbow left_wrist left_pinky left_index left_wrist left_thumb",
            "right_shoulder right_elbow right_wrist right_pinky right_index right_wrist "
            "right_thumb",
            "left_hip left_knee left_ankle left_heel left_big_toe left_ankle",
            "right_hip right_knee right_ankle right_heel right_big_toe right_ankle",
        ),
        centre="nose",
        source="MediaPipe Pose (BlazePose), 33 landmarks; head tied to the shoulders here",
    ),
    Layout(
        name="kinect-20",
        joints=_names(
            "pelvis spine neck head left_shoulder left_elbow left_wrist left_hand right_shoulder "
            "right_elbow right_wrist right_hand left_hip left_knee left_ankle left_foot right_hip "
            "right_knee right_ankle right_foot"
        ),
        bones=_chains(
            "pelvis spine neck head",
            "left_shoulder neck right_shoulder",
            *_ARMS_OF_KINECT,
            *_LEGS_OF_KINECT,
        ),
        centre="spine",
        source="Kinect v1, 20 joints; NW-UCLA",
    ),
    Layout(
        name="body-25",
        joints=_names(
            "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist "
            "pelvis right_hip right_knee right_ankle left_hip left_knee left_ankle right_eye "
            "left_eye right_ear left_ear left_big_toe left_small_toe left_heel right_big_toe "
            "right_small_toe right_heel"
        ),
        bones=_chains(
            "pelvis neck nose",
            "nose left_eye left_ear",
            "nose right_eye right_ear",
            "neck left_shoulder left_elbow left_wrist",
            "neck right_shoulder right_elbow right_wrist",
            "pelvis left_hip left_knee left_ankle left_big_toe left_small_toe",
            "pelvis right_hip right_knee right_ankle right_big_toe right_small_toe",
            "left_ankle left_heel",
            "right_ankle right_heel",
        ),
        centre="neck",
        source="OpenPose BODY_25",
        num_axes=2,
    ),
    Layout(
        name="sbu-15",
        joints=_names(
            "head neck spine left_shoulder left_elbow left_hand right_shoulder right_elbow "
            "right_hand left_hip left_knee left_foot right_hip right_knee right_foot"
        ),
        bones=_chains(
            "head neck spine",
            "neck left_shoulder left_elbow left_hand",
            "neck right_shoulder right_elbow right_hand",
            "spine left_hip left_knee left_foot",
            "spine right_hip right_knee right_foot",
        ),
        centre="spine",
        source="SBU Kinect interaction, 15 joints",
        num_persons=2,
    ),
    Layout(
        name="halpe-26",
        joints=_names(
            "nose left_eye right_eye left_ear right_ear left_shoulder right_shoulder left_elbow "
            "right_elbow left_wrist right_wrist left_hip right_hip left_knee right_knee left_ankle "
            "right_ankle head neck pelvis left_big_toe right_big_toe left_small_toe "
            "right_small_toe left_heel right_heel"
        ),
        bones=_chains(
            "pelvis neck head nose",
            "nose left_eye left_ear",
            "nose right_eye right_ear",
            "neck left_shoulder left_elbow left_wrist",
            "neck right_shoulder right_elbow right_wrist",
            "pelvis left_hip left_knee left_ankle left_heel left_big_toe",
            "pelvis right_hip right_knee right_ankle right_heel right_big_toe",
            "left_heel left_small_toe",
            "right_heel right_small_toe",
        ),
        centre="neck",
        source="Halpe, 26 body key points; nose tied to the head here",
        num_axes=2,
    ),
)

LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in _TABLE}
