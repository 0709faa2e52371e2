"""Samples that a test looks at several times: other frames, other sides, one answer."""

import json

import numpy as np
import pytest
import torch

from kineme.network import PREDICT, TEST
from kineme.pose_classification.network import NETWORK
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec

V = 34
WORDS = ("dataset.sampling=uniform", "dataset.num_frames=5", "results_dir=unused")


def spec_of(folder, *words, action="evaluate"):
    words = [f"{action}.test_dataset.data_path={folder}", f"{action}.checkpoint=c.pth", *words]
    return load_spec(SPECS[action], None, [*WORDS, *words])[0]


def save(folder, data):
    np.save(folder / "test_data.npy", data)
    labels = {f"s{i}": i for i in range(len(data))}
    (folder / "test_label.json").write_text(json.dumps(labels))
    return folder


@pytest.fixture
def still(tmp_path):
    """Two samples that never move: all joints at (1, 5, 0), and at (0, 5, 2)."""
    data = np.zeros((2, 3, 30, V, 1), np.float32)
    data[0, 0], data[:, 1], data[1, 2] = 1, 5, 2
    return save(tmp_path, data)


def rows(dataset, indices):
    batch = dataset.read(np.asarray(indices), 0)
    return batch, dataset.transform(batch, 0).inputs["skeleton"]


def test_several_clips_of_a_sample_are_rows_of_their_own(tmp_path):
    save(tmp_path, np.random.default_rng(0).normal(size=(6, 3, 30, V, 1)).astype(np.float32))
    dataset = NETWORK.build_dataset(spec_of(tmp_path, "evaluate.num_clips=3"), TEST)
    batch, x = rows(dataset, [1, 4])
    assert batch.sample_of_row.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.labels.tolist() == [1, 4]
    assert not torch.equal(x[0], x[1])


@pytest.mark.parametrize(("action", "split"), [("evaluate", TEST), ("inference", PREDICT)])
def test_clips_are_turned_about_the_vertical_evenly_to_both_sides(still, action, split):
    words = [f"{action}.num_clips=3", f"{action}.view_rotation_degrees=90"]
    spec = spec_of(still, *words, action=action)
    x = rows(NETWORK.build_dataset(spec, split), [0, 1])[1][:, :, 0, 0, 0]
    expected = [[0, 5, 1], [1, 5, 0], [0, 5, -1], [-2, 5, 0], [0, 5, 2], [2, 5, 0]]
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(
    "words",
    [["evaluate.num_clips=1"], ["evaluate.num_clips=3", "dataset.sampling=none"]],
)
def test_without_clips_nothing_is_turned_and_that_is_told(still, words):
    spec = spec_of(still, *words, "evaluate.view_rotation_degrees=90")
    dataset = NETWORK.build_dataset(spec, TEST)
    told = "view_rotation_degrees of this action has no effect: there are no clips to turn."
    assert told in dataset.notes
    x = rows(dataset, [0])[1]
    np.testing.assert_array_equal(x[0, :, 0, 0, 0].numpy(), [1, 5, 0])


def test_samples_of_no_class_are_looked_at_as_those_of_the_evaluation_are(still):
    words = ["evaluate.num_clips=3", "evaluate.view_rotation_degrees=40"]
    spec = spec_of(still, *words, f"evaluate.unknown_dataset.data_path={still}")
    asked = NETWORK.of_unknown(spec).inference
    assert (asked.num_clips, asked.view_rotation_degrees) == (3, 40.0)
