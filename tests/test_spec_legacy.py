"""Specs as users of TAO bring them: of 4.0 and before, of 5.0, and what TAO itself wrote."""

import json

import pytest
import yaml

from kineme.errors import SpecError
from kineme.network import NETWORKS, load_specs
from kineme.spec.fields import settings_by_key
from kineme.spec.load import load_spec, user_set, value_at
from tao_specs import POSE_MODEL, POSE_TRAIN, TAO_WROTE, VIDEO_MODEL, VIDEO_TRAIN

POSE, VIDEO = load_specs("pose_classification"), load_specs("action_recognition")


def read(tmp_path, text, model, overrides=()):
    """What the user set, by key, and the notes."""
    path = tmp_path / "old.yaml"
    path.write_text(text)
    spec, notes = load_spec(model, path, overrides)
    return {key: value_at(spec, key) for key in user_set(spec)}, notes


def refused(tmp_path, text, model, overrides=()):
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text, model, overrides)
    return [str(problem) for problem in caught.value.problems]


# TAO 4.0 and before


def test_a_training_of_tao_4_is_read_in_todays_keys(tmp_path):
    said, notes = read(tmp_path, POSE_TRAIN, POSE["train"])
    assert said == {
        "results_dir": "/results/kinetics",
        "encryption_key": "nvidia_tao",
        "model.model_type": "ST-GCN",
        "model.input_channels": 3,
        "model.dropout": 0.25,
        "model.graph_layout": "openpose",
        "model.edge_importance_weighting": True,
        "dataset.num_classes": 3,
        "dataset.train_dataset.data_path": "train_data.npy",
        "dataset.train_dataset.label_path": "train_label.pkl",
        "dataset.val_dataset.data_path": "val_data.npy",
        "dataset.val_dataset.label_path": "val_label.pkl",
        "dataset.label_map": {"front_raises": 0, "pull_ups": 1, "deadlifting": 2},
        "dataset.random_choose": True,
        "dataset.window_size": 150,
        "dataset.num_workers": 5,
        "train.optim.lr": 0.2,
        "train.optim.lr_steps": [20, 30],
        "train.num_epochs": 50,
        "train.checkpoint_interval": 5,
        "train.grad_clip": 1.0,
    }
    assert notes == (
        f"{tmp_path / 'old.yaml'}: older keys, read as today's: model_config -> model, "
        "train_config -> train, dataset_config -> dataset, output_dir -> results_dir, "
        "model_config.in_channels -> model.input_channels, "
        "model_config.num_class -> dataset.num_classes, "
        "train_config.epochs -> train.num_epochs, "
        "dataset_config.train_data_path -> dataset.train_dataset.data_path, "
        "dataset_config.train_label_path -> dataset.train_dataset.label_path, "
        "dataset_config.val_data_path -> dataset.val_dataset.data_path, "
        "dataset_config.val_label_path -> dataset.val_dataset.label_path, "
        "dataset_config.workers -> dataset.num_workers; "
        "left out, with another default today: dataset.batch_size 16 (then 64).",
    )


def test_a_training_on_videos_of_tao_4_is_read_in_todays_keys(tmp_path):
    said, notes = read(tmp_path, VIDEO_TRAIN, VIDEO["train"])
    assert said == {
        "results_dir": "/results/rgb_3d",
        "encryption_key": "nvidia_tlt",
        "train.gpu_ids": [0, 1],
        "model.model_type": "rgb",
        "model.backbone": "resnet_18",
        "model.rgb_seq_length": 3,
        "model.input_type": "3d",
        "model.sample_strategy": "consecutive",
        "model.input_height": 240,
        "model.input_width": 320,
        "train.optim.lr": 0.001,
        "train.optim.lr_steps": [5, 15, 20],
        "train.num_epochs": 20,
        "train.checkpoint_interval": 1,
        "dataset.train_dataset_dir": "/data/train",
        "dataset.label_map": {"fall_floor": 0, "ride_bike": 1},
        "dataset.batch_size": 32,
        "dataset.workers": 4,
        "dataset.clips_per_video": 5,
        "dataset.augmentation_config.train_crop_type": "multi_scale_crop",
        "dataset.augmentation_config.rgb_input_mean": [0.5],
        "dataset.augmentation_config.rgb_input_std": [0.5],
    }
    (note,) = notes
    for row in (
        "key -> encryption_key",
        "gpu_ids -> train.gpu_ids",
        "model_config.backbone -> model.backbone (resnet18 -> resnet_18)",
        "dataset_config.output_shape -> model.input_height and model.input_width",
        "dataset.augmentation_config.train_crop_type (True -> multi_scale_crop)",
    ):
        assert row in note
    assert "nvidia_tlt" not in note
    assert "default today" not in note


@pytest.mark.parametrize("flag", [True, False])
def test_a_crop_flag_of_the_first_release_is_a_choice_today(tmp_path, flag):
    text = VIDEO_TRAIN.replace("multi_scale_crop: True", f"multi_scale_crop: {flag}")
    said, _ = read(tmp_path, text, VIDEO["train"])
    crop = said.get("dataset.augmentation_config.train_crop_type")
    assert crop == ("multi_scale_crop" if flag else None)


@pytest.mark.parametrize(
    ("action", "words", "expected"),
    [
        (
            "evaluate",
            ["model=r/ar_model_epoch=19-val_loss=0.05.tlt", "batch_size=1", "test_dataset_dir=t",
             "video_eval_mode=conv", "output_dir=r", "gpu_id=1"],
            {"evaluate.checkpoint": "r/ar_model_epoch=19-val_loss=0.05.tlt",
             "evaluate.batch_size": 1, "evaluate.test_dataset_dir": "t",
             "evaluate.video_eval_mode": "conv", "evaluate.gpu_ids": [1]},
        ),
        (
            "inference",
            ["model=m.tlt", "inference_dataset_dir=t/ride_bike", "video_inf_mode=center",
             "output_dir=r"],
            {"inference.checkpoint": "m.tlt", "inference.inference_dataset_dir": "t/ride_bike",
             "inference.video_inf_mode": "center"},
        ),
        (
            "export",
            ["model=m.tlt", "output_file=e/rgb_resnet18_3.etlt", "output_dir=r", "gpu_id=1",
             "batch_size=1"],
            {"export.checkpoint": "m.tlt", "export.onnx_file": "e/rgb_resnet18_3.onnx",
             "export.gpu_id": 1, "export.batch_size": 1},
        ),
    ],
)  # fmt: skip
def test_what_tao_4_was_told_on_the_command_line_is_understood(tmp_path, action, words, expected):
    said, notes = read(tmp_path, VIDEO_MODEL, VIDEO[action], words)
    model = {"model.model_type": "rgb", "model.backbone": "resnet_18", "model.rgb_seq_length": 3,
             "model.input_type": "3d", "model.input_height": 224, "model.input_width": 224,
             "dataset.label_map": {"fall_floor": 0, "ride_bike": 1},
             "dataset.batch_size": 32}  # fmt: skip
    assert said == {**model, **expected, "results_dir": "r"}
    assert f"model -> {action}.checkpoint" in notes[0]


@pytest.mark.parametrize(
    ("action", "words", "expected"),
    [
        ("evaluate", ["model=m.tlt", "data=d.npy", "label=l.pkl"],
         {"evaluate.checkpoint": "m.tlt", "evaluate.test_dataset.data_path": "d.npy",
          "evaluate.test_dataset.label_path": "l.pkl"}),
        ("inference", ["model=m.tlt", "data=d.npy", "output_file=results.txt"],
         {"inference.checkpoint": "m.tlt", "inference.test_dataset.data_path": "d.npy",
          "inference.output_file": "results.txt"}),
        ("export", ["model=m.tlt", "output_file=m.etlt"],
         {"export.checkpoint": "m.tlt", "export.onnx_file": "m.onnx"}),
    ],
)  # fmt: skip
def test_the_same_for_skeletons(tmp_path, action, words, expected):
    said, _ = read(tmp_path, POSE_MODEL, POSE[action], ["output_dir=r", *words])
    model = {"model.model_type": "ST-GCN", "model.input_channels": 3, "dataset.num_classes": 2,
             "model.graph_layout": "nvidia", "dataset.label_map": {"sitting": 0, "standing": 1},
             "dataset.batch_size": 16, "dataset.num_workers": 1}  # fmt: skip
    assert said == {**model, **expected, "results_dir": "r"}


def test_a_conversion_of_tao_4_has_its_keys_at_the_top(tmp_path):
    text = "pose_type: 25dbp\nnum_joints: 34\nfocal_length: 900\nsequence_length: 50\n"
    words = ["data=bodypose.json", "output_dir=out"]
    said, notes = read(tmp_path, text, POSE["dataset_convert"], words)
    assert said == {
        "dataset_convert.pose_type": "25dbp",
        "dataset_convert.num_joints": 34,
        "dataset_convert.focal_length": 900,
        "dataset_convert.sequence_length": 50,
        "dataset_convert.data": "bodypose.json",
        "results_dir": "out",
    }
    assert len(notes) == 1


def test_overrides_with_old_names_win_over_the_file(tmp_path):
    words = ["model_config.dropout=0.1", "train_config={optim: {lr: 0.3}, epochs: 7}",
             "resume_training_checkpoint_path=a=1.tlt"]  # fmt: skip
    said, _ = read(tmp_path, POSE_TRAIN, POSE["train"], words)
    assert said["model.dropout"] == 0.1
    assert said["train.optim.lr"] == 0.3
    assert said["train.num_epochs"] == 7
    assert said["train.resume_training_checkpoint_path"] == "a=1.tlt"


def test_an_old_key_on_the_command_line_stays_text_and_hidden(tmp_path):
    said, _ = read(tmp_path, POSE_MODEL, POSE["export"], ["key=1_0", "model=m", "output_dir=r"])
    assert said["encryption_key"] == "1_0"
    words = ["key=[s3cr3t", "model=m", "output_dir=r"]
    (problem,) = refused(tmp_path, POSE_MODEL, POSE["export"], words)
    assert "command line: key: expected" in problem
    assert "s3cr3t" not in problem


def test_references_by_old_names_are_followed(tmp_path):
    text = POSE_TRAIN.replace("train_data.npy", "${output_dir}/${model_config.graph_layout}.npy")
    said, _ = read(tmp_path, text, POSE["train"])
    assert said["dataset.train_dataset.data_path"] == "/results/kinetics/openpose.npy"


def test_old_specs_in_json_and_as_mappings_are_the_same(tmp_path):
    tree = yaml.safe_load(POSE_TRAIN)
    (tmp_path / "old.json").write_text(json.dumps(tree))
    expected, _ = read(tmp_path, POSE_TRAIN, POSE["train"])
    for source in (tmp_path / "old.json", tree):
        spec, notes = load_spec(POSE["train"], source)
        assert {key: value_at(spec, key) for key in user_set(spec)} == expected
        assert len(notes) == 1


def test_what_cannot_be_translated_is_named_with_its_line(tmp_path):
    text = (
        VIDEO_TRAIN.replace("rgb_seq_length: 3", "rgb_seq_lenth: 3")
        .replace("[240, 320]", "224")
        .replace("epochs: 20", "epochs: many")
    )
    path = tmp_path / "old.yaml"
    assert refused(tmp_path, text, VIDEO["train"]) == [
        f"{path}:7: model_config.rgb_seq_lenth: expected a known key, got an unknown key. "
        "Did you mean model.rgb_seq_length?",
        f"{path}:17: dataset_config.output_shape: expected 2 values, for model.input_height and "
        "model.input_width, got 224.",
        f"{path}:12: train_config.epochs: expected an integer >= 1, got 'many'.",
    ]


def test_old_and_new_names_that_contradict_are_refused(tmp_path):
    text = POSE_TRAIN + "train: {num_epochs: 51}\n"
    path = tmp_path / "old.yaml"
    assert refused(tmp_path, text, POSE["train"]) == [
        f"{path}:28: train.num_epochs: expected what {path}:16: train_config.epochs says, 50, "
        "got 51. Keep one of them.",
    ]


def test_a_block_that_is_no_block_is_refused(tmp_path):
    (problem,) = refused(tmp_path, "output_dir: r\ntrain_config: 3\n", VIDEO["export"],
                         ["model=m.tlt"])  # fmt: skip
    assert "old.yaml:2: train_config: expected a block with keys (" in problem


def test_a_path_is_no_model_where_an_action_needs_none(tmp_path):
    (problem,) = refused(tmp_path, POSE_TRAIN, POSE["train"], ["model=m.tlt"])
    assert "command line: model: expected a block with keys (" in problem


def test_todays_short_keys_keep_their_meaning_in_todays_files(tmp_path):
    words = ["batch_size=4", "evaluate.checkpoint=m.pth", "evaluate.test_dataset_dir=t"]
    said, notes = read(tmp_path, "results_dir: r\n", VIDEO["evaluate"], words)
    assert said["dataset.batch_size"] == 4
    assert "evaluate.batch_size" not in said
    assert notes == ("command line: batch_size is read as dataset.batch_size.",)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_row_of_the_tables_leads_to_a_setting(name):
    for action, model in load_specs(name).items():
        known = settings_by_key(model)
        legacy = model.legacy
        rows = {**legacy.keys, **legacy.by_action[action]}
        for old, new in rows.items():
            for key in (new,) if isinstance(new, str) else new:
                is_ours = known[key].rule.ours if key in known else False
                assert key in known, old
                assert not is_ours or key == "inference.output_file", old
        assert legacy.defaults.keys() | legacy.values.keys() <= known.keys()
        for old in rows.keys() | legacy.idle.keys() | legacy.refused.keys():
            assert old not in known


# TAO 5.0 and later


@pytest.mark.parametrize(
    ("model", "data"),
    [(VIDEO["evaluate"], "evaluate.test_dataset_dir=t"),
     (POSE["evaluate"], "evaluate.test_dataset.data_path=t.npy")],
)  # fmt: skip
def test_one_gpu_of_tao_5_is_a_list_of_one(tmp_path, model, data):
    text = "results_dir: r\nevaluate: {checkpoint: m.tlt, gpu_id: 2}\ninference: {gpu_id: 1}\n"
    said, notes = read(tmp_path, text, model, [data])
    assert said["evaluate.gpu_ids"] == [2]
    assert said["inference.gpu_ids"] == [1]
    assert notes == (
        f"{tmp_path / 'old.yaml'}: older keys, read as today's: "
        "evaluate.gpu_id -> evaluate.gpu_ids (2 -> [2]), "
        "inference.gpu_id -> inference.gpu_ids (1 -> [1]).",
    )


def test_what_means_nothing_here_is_told_and_what_is_unknown_is_refused(tmp_path):
    text = "version: 1\nngc_key: abc\n" + POSE_TRAIN
    _, notes = read(tmp_path, text, POSE["train"])
    assert (
        "; keys without a meaning here: version (the number that TAO's service gives its own "
        "schema), ngc_key (a credential; nothing is downloaded here); "
    ) in notes[0]
    assert "abc" not in notes[0]
    (problem,) = refused(tmp_path, "telemetry: true\n" + POSE_TRAIN, POSE["train"])
    assert problem.startswith(f"{tmp_path / 'old.yaml'}:1: telemetry: expected a known key")


def test_a_label_map_in_two_forms_is_refused_with_what_to_do(tmp_path):
    text = "results_dir: r\ndataset: {train_dataset_dir: t, label_map_3d: {catch: 0, smile: 1}}\n"
    assert refused(tmp_path, text, VIDEO["train"]) == [
        f"{tmp_path / 'old.yaml'}:2: dataset.label_map_3d: expected a known key, got a key of an "
        "older TAO. Name the one that belongs to model.input_type dataset.label_map, without the "
        "other.",
    ]


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_spec_that_tao_wrote_beside_its_results_reads_back(tmp_path, name):
    model = load_specs(name)["train"]
    said, notes = read(tmp_path, TAO_WROTE[name], model)
    assert notes == ()
    assert said["train.num_epochs"] == 30
    unset = [key for key, value in said.items() if value in (None, "", "???")]
    assert unset == []


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_field_of_tao_is_in_it(name):
    """So that the test above says something of all of them."""
    fields = settings_by_key(load_specs(name)["train"])
    taos = {key for key, declared in fields.items() if not declared.rule.ours}
    written = {key for key in flat(yaml.safe_load(TAO_WROTE[name])) if key in fields}
    assert taos <= written


def flat(tree, prefix=""):
    for name, value in tree.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")


@pytest.mark.parametrize("mark", ["???", "??", "''", "null"])
def test_what_must_be_given_is_not_given_yet(tmp_path, mark):
    text = f"results_dir: r\nevaluate:\n  checkpoint: {mark}\n  test_dataset_dir: t\n"
    (problem,) = refused(tmp_path, text, VIDEO["evaluate"])
    assert "expected a value for evaluate.checkpoint, got nothing" in problem
    said, _ = read(tmp_path, text, VIDEO["evaluate"], ["evaluate.checkpoint=m.pth"])
    assert said["evaluate.checkpoint"] == "m.pth"


# Class maps as users write them


def test_names_in_a_list_are_numbered_in_their_order(tmp_path):
    text = "results_dir: r\ndataset: {train_dataset_dir: t, label_map: [walk, run]}\n"
    said, _ = read(tmp_path, text, VIDEO["train"])
    assert said["dataset.label_map"] == {"walk": 0, "run": 1}
    said, _ = read(tmp_path, text, VIDEO["train"], ["dataset.label_map=[a, b, c]"])
    assert said["dataset.label_map"] == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize("value", ["[walk, walk]", "[walk, 3]", "{0: walk, 1: run}", "labels.txt"])
def test_what_could_mean_anything_is_no_class_map(tmp_path, value):
    text = f"results_dir: r\ndataset: {{train_dataset_dir: t, label_map: {value}}}\n"
    (problem,) = refused(tmp_path, text, VIDEO["train"])
    assert "dataset.label_map: expected a mapping of names to integers >= 0, got " in problem
