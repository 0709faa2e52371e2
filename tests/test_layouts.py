"""Layouts and their graphs: upstream's tables exactly, hand-computed cases, files refused well."""

import json
import os

import numpy as np
import pytest

from kineme.errors import SpecError
from kineme.pose_classification.layouts import (
    LAYOUTS,
    STRATEGIES,
    Layout,
    adjacency,
    layout_facts,
    layouts_with,
    load_layout,
)

EVERY = pytest.mark.parametrize("name", sorted(LAYOUTS))

# Upstream's edges, as published: 0-based for the first three, 1-based for the rest.
UPSTREAM_EDGES = {
    "nvidia": (
        0,
        "0-1 0-2 0-3 1-4 2-5 3-6 4-7 5-8 7-9 8-10 9-11 10-12 7-13 8-14 6-15 15-16 15-17 16-18 "
        "17-19 1-20 2-21 6-20 6-21 20-22 21-23 22-24 23-25 24-26 25-27 24-28 25-29 24-30 25-31 "
        "24-32 25-33",
    ),
    "openpose": (
        0,
        "4-3 3-2 7-6 6-5 13-12 12-11 10-9 9-8 11-5 8-2 5-1 2-1 0-1 15-0 14-0 17-15 16-14",
    ),
    "human3.6m": (
        0,
        "9-10 8-9 7-8 1-7 4-7 0-1 0-4 9-11 9-14 11-12 14-15 12-13 15-16 1-2 2-3 4-5 5-6",
    ),
    "ntu-rgb+d": (
        1,
        "1-2 2-21 3-21 4-3 5-21 6-5 7-6 8-7 9-21 10-9 11-10 12-11 13-1 14-13 15-14 16-15 17-1 "
        "18-17 19-18 20-19 22-23 23-8 24-25 25-12",
    ),
    "ntu_edge": (
        1,
        "1-2 3-2 4-3 5-2 6-5 7-6 8-7 9-2 10-9 11-10 12-11 13-1 14-13 15-14 16-15 17-1 18-17 "
        "19-18 20-19 21-22 22-8 23-24 24-12",
    ),
    "coco": (
        1,
        "16-14 14-12 17-15 15-13 12-13 6-12 7-13 6-7 8-6 9-7 10-8 11-9 2-3 2-1 3-1 4-2 5-3 4-6 5-7",
    ),
}
# joints, persons, frames, centre; non-zeros of the spatial and of the distance partitions
UPSTREAM_FACTS = {
    "nvidia": (34, 1, 300, 0, [34, 62, 8], [34, 70]),
    "openpose": (18, 1, 300, 1, [18, 25, 9], [18, 34]),
    "human3.6m": (17, 1, 3163, 8, [17, 27, 7], [17, 34]),
    "ntu-rgb+d": (25, 2, 300, 20, [25, 40, 8], [25, 48]),
    "ntu_edge": (24, 2, 300, 2, [24, 41, 5], [24, 46]),
    "coco": (17, 1, 300, 0, [17, 34, 4], [17, 38]),
}
CHAIN = Layout("chain", ("a", "b", "c"), (("a", "b"), ("b", "c")), "a", "by hand")


@pytest.mark.parametrize("name", sorted(UPSTREAM_EDGES))
def test_upstream_layouts_have_exactly_the_published_bones(name: str) -> None:
    base, text = UPSTREAM_EDGES[name]
    published = {frozenset(int(end) - base for end in pair.split("-")) for pair in text.split()}
    assert {frozenset(edge) for edge in LAYOUTS[name].edges} == published
    assert len(LAYOUTS[name].edges) == len(text.split())


@pytest.mark.parametrize("name", sorted(UPSTREAM_FACTS))
def test_upstream_layouts_have_the_published_sizes_and_partition_counts(name: str) -> None:
    layout = LAYOUTS[name]
    joints, persons, frames, centre, spatial, distance = UPSTREAM_FACTS[name]
    assert (layout.num_joints, layout.num_persons) == (joints, persons)
    assert (layout.num_frames, layout.centre_index) == (frames, centre)
    assert [int(part.astype(bool).sum()) for part in adjacency(layout, "spatial")] == spatial
    assert [int(part.astype(bool).sum()) for part in adjacency(layout, "distance")] == distance


def test_joint_names_of_the_layouts_others_order_differently() -> None:
    assert LAYOUTS["nvidia"].joints[6] == "neck"
    assert LAYOUTS["nvidia"].joints[33] == "right_thumb"
    assert LAYOUTS["kinect-20"].joints[:4] == ("pelvis", "spine", "neck", "head")
    assert LAYOUTS["sbu-15"].joints[3:6] == ("left_shoulder", "left_elbow", "left_hand")
    assert LAYOUTS["body-25"].joints[8] == "pelvis"
    assert LAYOUTS["halpe-26"].joints[17:20] == ("head", "neck", "pelvis")
    assert LAYOUTS["mediapipe-33"].joints[11:13] == ("left_shoulder", "right_shoulder")


@EVERY
def test_every_layout_is_one_connected_graph_of_distinct_joints(name: str) -> None:
    layout = LAYOUTS[name]
    assert layout.name == name
    assert len(set(layout.joints)) == layout.num_joints
    assert len({frozenset(edge) for edge in layout.edges}) == len(layout.edges)
    assert layout.centre in layout.joints
    assert len(layout.parents) == layout.num_joints  # raises KeyError for a joint out of reach
    assert layout.source


@EVERY
def test_parents_lead_to_the_centre_along_bones(name: str) -> None:
    layout = LAYOUTS[name]
    bones = {frozenset(edge) for edge in layout.edges}
    assert layout.parents[layout.centre_index] == layout.centre_index
    for joint in range(layout.num_joints):
        steps = 0
        while joint != layout.centre_index:
            assert frozenset((joint, layout.parents[joint])) in bones
            joint, steps = layout.parents[joint], steps + 1
            assert steps < layout.num_joints


@EVERY
def test_mirror_swaps_sides_and_leaves_the_middle(name: str) -> None:
    layout = LAYOUTS[name]
    assert sorted(layout.mirror) == list(range(layout.num_joints))
    for joint, other in enumerate(layout.mirror):
        assert layout.mirror[other] == joint
        is_sided = layout.joints[joint].startswith(("left_", "right_"))
        assert (joint != other) == is_sided
    bones = {frozenset(edge) for edge in layout.edges}
    assert {frozenset(layout.mirror[j] for j in bone) for bone in bones} == bones


@EVERY
def test_limbs_cover_every_joint_and_mirror_each_other(name: str) -> None:
    layout = LAYOUTS[name]
    assert set(layout.limbs) == {
        "left_arm", "right_arm", "left_leg", "right_leg", "trunk", "head", "hands",
    }  # fmt: skip
    assert {joint for limb in layout.limbs.values() for joint in limb} == set(
        range(layout.num_joints)
    )
    for limb in ("arm", "leg"):
        mirrored = sorted(layout.mirror[joint] for joint in layout.limbs[f"left_{limb}"])
        assert mirrored == sorted(layout.limbs[f"right_{limb}"])


def test_limbs_of_ntu_by_hand() -> None:
    assert LAYOUTS["ntu-rgb+d"].limbs == {
        "left_arm": (4, 5, 6, 7, 21, 22),
        "right_arm": (8, 9, 10, 11, 23, 24),
        "left_leg": (12, 13, 14, 15),
        "right_leg": (16, 17, 18, 19),
        "trunk": (0, 1, 2, 20),
        "head": (3,),
        "hands": (7, 11, 21, 22, 23, 24),
    }


def test_parents_of_a_chain_by_hand() -> None:
    assert CHAIN.parents == (0, 0, 1)


def test_adjacency_of_a_chain_of_three_by_hand() -> None:
    half, third = 1 / 2, 1 / 3  # columns of a-b-c hold 2, 3 and 2 entries
    whole = [[half, third, 0], [half, third, half], [0, third, half]]
    itself = np.diag([half, third, half])
    # From b to a leads to the centre: a is nearer (0 < 1). c is beyond one hop of a, so its
    # distance is unknown and b (1) is nearer than c.
    nearer = [[0, third, 0], [0, 0, half], [0, 0, 0]]
    farther = [[0, 0, 0], [half, 0, 0], [0, third, 0]]
    np.testing.assert_allclose(adjacency(CHAIN, "uniform"), [whole], rtol=1e-6)
    np.testing.assert_allclose(adjacency(CHAIN, "distance"), [itself, whole - itself], rtol=1e-6)
    np.testing.assert_allclose(adjacency(CHAIN, "spatial"), [itself, farther, nearer], rtol=1e-6)


def test_beyond_one_hop_all_joints_count_as_equally_far() -> None:
    layout = Layout("four", ("a", "b", "c", "d"), (("a", "b"), ("b", "c"), ("c", "d")), "a", "")
    _, farther, nearer = adjacency(layout, "spatial")
    assert farther[2, 3] > 0  # c is truly nearer to a than d, but both are beyond one hop
    assert nearer[2, 3] == 0


@EVERY
@pytest.mark.parametrize(
    ("strategy", "partitions"), [("uniform", 1), ("distance", 2), ("spatial", 3)]
)
def test_partitions_add_up_to_columns_of_one(name: str, strategy: str, partitions: int) -> None:
    graph = adjacency(LAYOUTS[name], strategy)
    joints = LAYOUTS[name].num_joints
    assert graph.shape == (partitions, joints, joints)
    assert graph.dtype == np.float32
    np.testing.assert_allclose(graph.sum(axis=(0, 1)), np.ones(joints), rtol=1e-6)
    assert ((graph > 0).sum(axis=0) <= 1).all()


def test_an_unknown_strategy_names_the_choices() -> None:
    with pytest.raises(SpecError) as caught:
        adjacency(CHAIN, "spacial")
    assert str(caught.value) == (
        "model.graph_strategy: expected one of distance, spatial, uniform, got 'spacial'."
    )
    assert STRATEGIES == ("distance", "spatial", "uniform")


def test_layouts_are_found_by_their_number_of_joints() -> None:
    assert layouts_with(25) == ("body-25", "ntu-rgb+d")
    assert layouts_with(17) == ("coco", "human3.6m")
    assert layouts_with(99) == ()


def test_a_layout_file_is_read(tmp_path) -> None:
    path = tmp_path / "hand.yaml"
    path.write_text(
        "name: hand\njoints: [wrist, thumb, index, tip]\n"
        "bones: [[wrist, index, tip], [wrist, thumb]]\ncentre: wrist\nnum_persons: 2\n"
    )
    layout = load_layout(path)
    assert layout.bones == (("wrist", "index"), ("index", "tip"), ("wrist", "thumb"))
    assert layout.parents == (0, 0, 0, 2)
    assert (layout.num_persons, layout.num_frames) == (2, 300)
    assert layout.source == "hand.yaml"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert load_layout(path.rename(elsewhere / "hand.yaml")) == layout


def problems_of(path, text) -> SpecError:
    """What is wrong with a layout file of this text."""
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        load_layout(path)
    return caught.value


def test_a_bad_layout_file_names_all_its_problems_at_once(tmp_path) -> None:
    path = tmp_path / "bad.yaml"
    error = problems_of(
        path,
        "name: bad\njoints: [neck, left_hip, left_hip, nose]\n"
        "bones: [[neck, left_hipp], [nose, nose]]\ncentre: pelvis\n",
    )
    assert str(error).splitlines() == [
        f"{path}: joints: expected every name once, got 'left_hip' 2 times.",
        f"{path}: bones[0]: expected a name listed in joints, got 'left_hipp'. "
        "Did you mean 'left_hip'?",
        f"{path}: centre: expected a name listed in joints, got 'pelvis'.",
        f"{path}: bones: expected bones between two joints, got 'nose' tied to itself.",
    ]
    assert error.exit_code == 2


def test_what_is_wrong_with_a_key_hides_nothing_of_the_others(tmp_path) -> None:
    path = tmp_path / "bad.yaml"
    error = problems_of(
        path,
        "joints: [neck, nose, nose]\nbones: [[neck, chin]]\nname: bad\nnum_axes: 4\n"
        "edges: []\nname: worse\n",
    )
    assert [problem.where.removeprefix(str(path)) for problem in error.problems] == [
        ":6: name", "", ": centre", ": num_axes", ": joints", ": bones[0]",
    ]  # fmt: skip


def test_joints_out_of_reach_of_the_centre_are_named(tmp_path) -> None:
    path = tmp_path / "loose.yaml"
    path.write_text("name: loose\njoints: [a, b, c, d]\nbones: [[a, b], [c, d]]\ncentre: a\n")
    with pytest.raises(SpecError, match="no way to 'c', 'd'"):
        load_layout(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1, 2]", "layout (a mapping of keys to values), got a list."),
        ("name: x\njoints: [a]\nbones: []\n", "centre: expected the name of a joint, got nothing."),
        ("name: x\njoints: [a, 3]\nbones: []\ncentre: a\n", "joints: expected a list of joint"),
        ("name: x\njoints: [a]\nbones: [[a]]\ncentre: a\n", "bones: expected a list of chains"),
        ("name: x\njoints: [a]\nbones: []\ncentre: a\nnum_frames: 0", "got 0."),
        ("name: x\njoints: [a]\nbones: []\ncentre: a\nnum_persons: 5000000", "from 1 to 1,000,000"),
        ("name: x\njoints: [a]\nbones: []\ncentre: a\nname: y", "yaml:5: name: expected each key"),
        (
            "name: x\njoints: &a [b]\nbones: [*a]\ncentre: b",
            "yaml:2: expected a readable YAML file "
            "with a layout (plain values), got a YAML anchor or alias.",
        ),
        ("name: x\njoints: !!set {a}\n", "got the YAML tag 'tag:yaml.org,2002:set'."),
        ("name: x\njoints: [a]\nbones: []\ncentre: a\nedges: []", "got 'edges'."),
        ("name: [", "expected a readable YAML file with a layout"),
    ],
)
def test_a_file_of_the_wrong_form_says_what_was_expected(tmp_path, content, message) -> None:
    path = tmp_path / "layout.yaml"
    path.write_text(content)
    with pytest.raises(SpecError) as caught:
        load_layout(path)
    assert message in str(caught.value)


def test_a_missing_layout_file_is_named(tmp_path) -> None:
    with pytest.raises(SpecError, match="got no such file"):
        load_layout(tmp_path / "absent.yaml")


def test_a_layout_in_json_is_read_as_checkpoints_hold_it() -> None:
    text = json.dumps(layout_facts(CHAIN))
    assert load_layout(text) == CHAIN
    with pytest.raises(SpecError, match=r"model.layout: expected a layout in JSON, got Expecting"):
        load_layout("{name: x}")
    with pytest.raises(SpecError, match=r"got (maximum recursion|brackets)"):
        load_layout('{"name": ' + "[" * 100_000)


def test_what_a_stranger_wrote_is_never_repeated_at_length() -> None:
    """Nor does it take long: 10,000 names are not each held against 1,000 joints."""
    joints = [f"joint {i}" for i in range(1000)]
    bones = [[f"strange {i} {'x' * 180}", "joint 1"] for i in range(5000)]
    bad = {"name": "n" * 10**6, "joints": joints, "bones": bones, "centre": "joint 0"}
    with pytest.raises(SpecError) as caught:
        load_layout(json.dumps(bad))
    first = caught.value.problems[0]
    assert str(first) == f"model.layout: name: expected a name, got '{'n' * 56}...."
    with pytest.raises(SpecError) as caught:
        load_layout(json.dumps({**bad, "name": "n"}))
    assert len(caught.value.problems) == 21
    assert str(caught.value.problems[20]) == (
        "model.layout: bones: expected names listed in joints, got 4,980 more that are not."
    )
    with pytest.raises(SpecError, match=r"only the keys name, .*, got 'k0', 'k1', 'k2' and 997 mo"):
        load_layout(json.dumps({f"k{i}": 0 for i in range(1000)}))
    with pytest.raises(SpecError, match="a list of joint names, at most 1,000, got "):
        load_layout(json.dumps({**bad, "joints": [*joints, "one more"]}))


def test_a_fifo_is_no_layout_and_blocks_nothing(tmp_path) -> None:
    os.mkfifo(tmp_path / "layout.yaml")
    with pytest.raises(SpecError, match=r"layout \(a regular file\), got a pipe or device."):
        load_layout(tmp_path / "layout.yaml")
