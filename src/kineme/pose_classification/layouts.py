"""The known skeleton layouts.

Promises: one vocabulary of joint names across layouts, so that skeletons can be mapped
between them by name.
Leaves out: what follows from joints and bones (graph.py), and a user's own (layout_files.py).

Vocabulary: left_/right_ are the person's own sides. `pelvis` lies between the hips,
`spine` in the middle of the back, `neck` at the base of the neck; where a layout has one
more joint below it at the height of the shoulders, that one is `chest`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from kineme.pose_classification.graph import STRATEGIES, Layout, adjacency
from kineme.pose_classification.layout_files import layout_facts, load_layout

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


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _chains(*chains: str) -> tuple[tuple[str, str], ...]:
    """Bones from chains of names: "a b c" ties a to b and b to c."""
    return tuple(pair for chain in chains for pair in pairwise(chain.split()))


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
