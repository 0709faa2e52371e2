"""What the protocol of hidden joints hides, joint by joint."""

import numpy as np
import pytest

from kineme.network import TEST
from kineme.pose_classification.layouts import LAYOUTS
from kineme.pose_classification.network import NETWORK
from kineme.pose_classification.occlusion import LIMBS, OccludedDataset, limb_joints
from test_pose_dataset import folder_of, skeletons, spec_of

NUM, FRAMES, LAYOUT = 6, 40, LAYOUTS["nvidia"]
LENGTHS = np.array([40, 20, 10, 30, 12, 38])


@pytest.fixture
def folder(tmp_path):
    """Six sequences of different lengths, about a pelvis that always lies at zero."""
    data = skeletons(NUM, frames=FRAMES)
    for row, length in enumerate(LENGTHS):
        data[row, :, length:] = 0
    data[:, :, :, LAYOUT.centre_index] = 0
    return folder_of(tmp_path / "data", data, np.arange(NUM), prefix="test")


def shown(folder, kind, amount, *words):
    """(N, T, V): which joints a model is shown."""
    dataset = NETWORK.build_dataset(spec_of(folder, *words, action="evaluate"), TEST)
    damaged = OccludedDataset(dataset, kind, amount)
    indices = np.arange(NUM)
    batch = damaged.transform(damaged.read(indices, 0), 0)
    return (batch.inputs["skeleton"] != 0).any(dim=1)[..., 0].numpy()


@pytest.mark.parametrize("normalize", ["none", "center", "center_minmax"])
@pytest.mark.parametrize("limb", LIMBS)
def test_a_hidden_limb_is_gone_and_all_else_is_there(folder, limb, normalize):
    """The pelvis too, at zero where it is shown, and with the trunk where that is hidden."""
    seen = shown(folder, limb, 0.0, f"dataset.normalize={normalize}")
    expected = np.ones((NUM, FRAMES, LAYOUT.num_joints), bool)
    expected[:, :, list(limb_joints(LAYOUT, limb))] = False
    for row, length in enumerate(LENGTHS):
        expected[row, length:] = False
    assert LAYOUT.centre_index in limb_joints(LAYOUT, "trunk")
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_block_of_frames_is_a_share_of_the_frames_that_there_are(folder, share):
    seen = shown(folder, "frames", share).any(axis=2)
    for row, length in enumerate(LENGTHS):
        hidden = np.flatnonzero(~seen[row, :length])
        assert len(hidden) == round(share * length)
        assert hidden[-1] - hidden[0] == len(hidden) - 1


def test_random_joints_are_a_share_of_them_and_the_same_ones_throughout(folder):
    seen = shown(folder, "joints", 0.5)
    for row, length in enumerate(LENGTHS):
        assert (seen[row, :length] == seen[row, 0]).all()
        assert seen[row, 0].sum() == LAYOUT.num_joints - round(0.5 * LAYOUT.num_joints)


def test_gaps_that_are_filled_are_shown_in_their_place(folder):
    plain = shown(folder, "frames", 0.5).any(axis=2)
    seen = shown(folder, "frames", 0.5, "dataset.fill_gaps=true").any(axis=2)
    for row in range(NUM):
        frames = np.flatnonzero(plain[row])
        assert (np.flatnonzero(seen[row]) == np.arange(frames[0], frames[-1] + 1)).all()
