"""Flow of clips that say how it was made: taken by a training, held against everything else."""

import json

import pytest

from kineme.action_recognition.sources import complete, load_videos
from kineme.action_recognition.spec import SPECS
from kineme.errors import DataError
from kineme.network import TRAIN
from kineme.spec.load import load_spec
from video_folders import save_tao

MADE = {
    "streams": ["flow"], "short_side": 0,
    "flow_method": "farneback", "flow_scaling": "fixed", "flow_bound": 5.0,
}  # fmt: skip


FLOW = ("method", "scaling", "bound", "short_side")


def clips(root, **made):
    """Two clips with flow, and what `clip.json` says of the second, beside MADE."""
    for i, name in enumerate(("catch", "smile")):
        save_tao(root / name / "v", 4, seed=i, flow=True)
        said = {"made_from": {**MADE, **(made if i else {})}}
        (root / name / "v" / "clip.json").write_text(json.dumps(said))
    return root


def spec_of(root, **settings):
    words = {"results_dir": "r", "dataset.train_dataset_dir": str(root), "model.model_type": "of"}
    return load_spec(SPECS["train"], {**words, **settings})[0]


def test_a_training_takes_what_its_clips_say(tmp_path):
    spec, notes = complete(spec_of(clips(tmp_path)), TRAIN)
    made = [getattr(spec.dataset, f"flow_{name}") for name in FLOW]
    assert made == ["farneback", "fixed", 5.0, 0]
    assert notes[-1] == (
        f"{tmp_path}: took dataset.flow_method='farneback', dataset.flow_bound=5.0, "
        "dataset.flow_short_side=0, with which its flow was made."
    )
    assert len(load_videos(spec, TRAIN).items) == 2


def test_flow_of_another_kind_is_refused_with_the_first_clip(tmp_path):
    spec, _ = complete(spec_of(clips(tmp_path), **{"dataset.flow_bound": 20}), TRAIN)
    with pytest.raises(DataError) as told:
        load_videos(spec, TRAIN)
    assert str(told.value) == (
        f"{tmp_path}/catch/v/clip.json: expected flow made with dataset.flow_bound 20.0, got 5.0 "
        "(and 1 more). Set dataset.flow_bound to what all clips were made with, or convert again."
    )


def test_flow_of_frames_of_another_size_is_another_one(tmp_path):
    spec, _ = complete(spec_of(clips(tmp_path), **{"dataset.flow_short_side": 128}), TRAIN)
    with pytest.raises(DataError, match=r"catch/.*dataset\.flow_short_side 128, got 0 \(and"):
        load_videos(spec, TRAIN)


def test_clips_that_differ_from_each_other_are_refused(tmp_path):
    spec, _ = complete(spec_of(clips(tmp_path, flow_method="dis", flow_bound=9.0)), TRAIN)
    with pytest.raises(DataError) as told:
        load_videos(spec, TRAIN)
    assert [problem.received for problem in told.value.problems] == [
        "'farneback'",
        "5.0 (and 1 more)",
    ]


def test_the_bound_is_of_no_matter_where_each_frame_has_its_own(tmp_path):
    root = clips(tmp_path, flow_scaling="per_frame", flow_bound=9.0)
    (root / "catch" / "v" / "clip.json").unlink()  # as TAO's, which say nothing
    spec, _ = complete(spec_of(root), TRAIN)
    assert spec.dataset.flow_scaling == "per_frame"
    assert len(load_videos(spec, TRAIN).items) == 2


@pytest.mark.parametrize(
    "text",
    [
        "[]", '{"made_from": 3}', "no json", '{"made_from": {}}',
        '{"made_from": {"streams": 3, "flow_method": "dis"}}',
        json.dumps({"made_from": {**MADE, "flow_bound": -1}}),
        json.dumps({"made_from": {**MADE, "flow_method": ["tvl1"]}}),
    ],
)  # fmt: skip
def test_a_file_of_the_same_name_that_says_nothing_is_passed_over(tmp_path, text):
    root = clips(tmp_path)
    for path in root.rglob("clip.json"):
        path.write_text(text)
    spec, _ = complete(spec_of(root), TRAIN)
    assert spec.dataset.flow_bound == 20
    assert len(load_videos(spec, TRAIN).items) == 2


def test_a_model_of_colours_does_not_mind(tmp_path):
    spec, _ = complete(spec_of(clips(tmp_path), **{"model.model_type": "rgb"}), TRAIN)
    assert spec.dataset.flow_method == "dis"
    assert len(load_videos(spec, TRAIN).items) == 2
