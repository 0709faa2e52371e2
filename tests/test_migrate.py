"""`kineme migrate`: what is written says what the file said, and what became of it is told."""

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kineme.cli import main
from kineme.errors import SpecError
from kineme.migrate import _word, migrate_spec
from kineme.network import NETWORKS, load_specs
from kineme.spec.fields import settings_by_key
from kineme.spec.load import load_spec, value_at
from kineme.spec.read import nested, read_document
from tao_specs import POSE_MODEL, POSE_TRAIN, TAO_WROTE, VIDEO_MODEL, VIDEO_TRAIN


def write(folder, text, name="old.yaml"):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def values(path, network, action, overrides=()):
    """Every setting but the secrets, as the file gives them."""
    model = load_specs(network)[action]
    spec, _ = load_spec(model, path, overrides)
    public = (one for one in settings_by_key(model).values() if not one.rule.secret)
    return {one.key: value_at(spec, one.key) for one in public}


def refused(*words):
    with pytest.raises(SpecError) as caught:
        migrate_spec(*words)
    return [str(problem) for problem in caught.value.problems]


def test_a_spec_of_tao_4_becomes_a_short_one_of_today(tmp_path):
    path = write(tmp_path, POSE_TRAIN)
    made = migrate_spec(path)
    assert (made.network, made.action) == ("pose_classification", "train")
    assert made.text == (
        "results_dir: /results/kinetics\n"
        "model:\n"
        "  dropout: 0.25\n"
        "  graph_layout: openpose\n"
        "dataset:\n"
        "  train_dataset:\n"
        "    data_path: train_data.npy\n"
        "    label_path: train_label.pkl\n"
        "  val_dataset:\n"
        "    data_path: val_data.npy\n"
        "    label_path: val_label.pkl\n"
        "  num_classes: 3\n"
        "  label_map:\n"
        "    front_raises: 0\n"
        "    pull_ups: 1\n"
        "    deadlifting: 2\n"
        "  random_choose: true\n"
        "  window_size: 150\n"
        "  num_workers: 5\n"
        "train:\n"
        "  num_epochs: 50\n"
        "  checkpoint_interval: 5\n"
        "  optim:\n"
        "    lr: 0.2\n"
        "    lr_steps: [20, 30]\n"
        "  grad_clip: 1.0\n"
    )
    assert made.remarks == (
        f"{path}: pose_classification, TAO before 5.0, for train",
        "model_config -> model",
        "train_config -> train",
        "dataset_config -> dataset",
        "output_dir -> results_dir",
        "model_config.in_channels -> model.input_channels",
        "model_config.num_class -> dataset.num_classes",
        "train_config.epochs -> train.num_epochs",
        "dataset_config.train_data_path -> dataset.train_dataset.data_path",
        "dataset_config.train_label_path -> dataset.train_dataset.label_path",
        "dataset_config.val_data_path -> dataset.val_dataset.data_path",
        "dataset_config.val_label_path -> dataset.val_dataset.label_path",
        "dataset_config.workers -> dataset.num_workers",
        "not in the file, and another default today: dataset.batch_size 16 (then 64)",
        "left out encryption_key: it is secret; give it when it is needed",
        "left out, as they say the default: model.model_type, model.input_channels, "
        "model.edge_importance_weighting",
    )


@pytest.mark.parametrize(
    ("text", "network"),
    [
        (POSE_TRAIN, "pose_classification"),
        (VIDEO_TRAIN, "action_recognition"),
        (TAO_WROTE["pose_classification"], "pose_classification"),
        (TAO_WROTE["action_recognition"], "action_recognition"),
        (TAO_WROTE["action_recognition"] + "version: 1\n", "action_recognition"),
        ("recipe: modern\n" + POSE_TRAIN, "pose_classification"),
        (POSE_TRAIN.replace(": train_data", ": ${results_dir}/train_data"), "pose_classification"),
    ],
)
def test_the_new_file_gives_the_settings_of_the_old_one(tmp_path, text, network):
    path = write(tmp_path, text)
    made = migrate_spec(path)
    assert (made.network, made.action) == (network, "train")
    new = write(tmp_path, made.text, "new.yaml")
    assert values(new, network, "train") == values(path, network, "train")
    assert load_spec(load_specs(network)["train"], new)[1] == tuple(
        remark.removeprefix("note: ") for remark in made.remarks if remark.startswith("note: ")
    )
    again = migrate_spec(new)
    assert again.text == made.text
    assert again.remarks[0].endswith("TAO 5.0 or later, for train")
    for secret in ("nvidia_tao", "nvidia_tlt"):
        assert secret not in made.text + "".join(made.remarks)


VALUES = {
    "model.dropout": st.floats(0, 1) | st.just(0.5),
    "model.graph_layout": st.sampled_from(["nvidia", "coco", "ntu-rgb+d"]),
    "model.edge_importance_weighting": st.booleans(),
    "dataset.label_map": st.lists(st.text(min_size=1, max_size=5), min_size=1, unique=True).map(
        lambda names: {name: i for i, name in enumerate(names)}
    ),
    "dataset.batch_size": st.integers(1, 64) | st.just(16),
    "train.optim.lr": st.floats(0, 10),
    "train.optim.lr_steps": st.lists(st.integers(0, 99)),
    "wandb.tags": st.lists(st.text(max_size=5)),
    "wandb.name": st.text(min_size=1, max_size=20),
    "recipe": st.sampled_from(["none", "modern"]),
    "dataset.normalize": st.sampled_from(["none", "center_minmax"]),
}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.fixed_dictionaries({}, optional=VALUES))
def test_any_setting_comes_through(tmp_path, some):
    clean = {k: v for k, v in some.items() if "${" not in json.dumps(v) and v not in ("???", "??")}
    path = write(tmp_path, json.dumps({"results_dir": "r", **nested(clean)}), "old.json")
    words = ["dataset.train_dataset.data_path=x.npy"]
    made = migrate_spec(path, network="pose_classification", action="train")
    new = write(tmp_path, made.text, "new.yaml")
    assert values(new, "pose_classification", "train", words) == values(
        path, "pose_classification", "train", words
    )


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.text() | st.sampled_from(["no", "on", "~", "null", "1e3", "1:30", "007", "0x1f", "???",
                                    "true", "2024-01-01", ".5", "a: b", "- a", "#", "'", "\x85",
                                    "\ufeff", "\U0001f600", "1_000", ".inf", "<<", "=", "3d"])
)  # fmt: skip
def test_any_text_is_read_as_itself_by_us_and_by_others(tmp_path, text):
    line = f"{_word(text)}: {_word(text)}\n"
    path = write(tmp_path, line)
    assert read_document(path).tree == {text: text}
    assert yaml.safe_load(line) == {text: text}


# What must be set


def test_what_the_command_line_gave_is_left_to_be_set(tmp_path):
    path = write(tmp_path, VIDEO_MODEL)
    made = migrate_spec(path, action="evaluate")
    assert made.network == "action_recognition"
    assert "results_dir: ???\n" in made.text
    assert "evaluate:\n  checkpoint: ???\n  test_dataset_dir: ???\n" in made.text
    assert "to be set: results_dir, evaluate.checkpoint, evaluate.test_dataset_dir" in made.remarks
    new = write(tmp_path, made.text, "new.yaml")
    with pytest.raises(SpecError, match="values for results_dir and evaluate"):
        values(new, "action_recognition", "evaluate")
    words = ["results_dir=r", "evaluate.checkpoint=m.tlt", "evaluate.test_dataset_dir=t"]
    old_words = ["output_dir=r", "model=m.tlt", "test_dataset_dir=t"]
    assert values(new, "action_recognition", "evaluate", words) == values(
        path, "action_recognition", "evaluate", old_words
    )


def test_a_folder_of_the_action_is_enough(tmp_path):
    made = migrate_spec(write(tmp_path, "train: {results_dir: r}\ndataset: {train_dataset_dir: t}"))
    assert made.text == "dataset:\n  train_dataset_dir: t\ntrain:\n  results_dir: r\n"


# What a file is for


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VIDEO_MODEL + "test_dataset_dir: t\nmodel: m.tlt\n", ("action_recognition", "evaluate")),
        (VIDEO_MODEL + "video_inf_mode: all\n", ("action_recognition", "inference")),
        (POSE_MODEL + "data: d.npy\nlabel: l.pkl\n", ("pose_classification", "evaluate")),
        (POSE_MODEL + "export: {checkpoint: m.tlt}\n", ("pose_classification", "export")),
        ("pose_type: 3dbp\nnum_joints: 34\n", ("pose_classification", "dataset_convert")),
        (TAO_WROTE["pose_classification"], ("pose_classification", "train")),
        ("dataset: {train_dataset_dir: t}\n", ("action_recognition", "train")),
        ("inference: {checkpoint: ???, inference_dataset_dir: ???}\nmodel: {num_fc: 3}\n"
         "dataset: {train_dataset_dir: t}\n".replace("???", "'???'"),
         ("action_recognition", "inference")),
        ("evaluate: {checkpoint: m.pth, test_dataset_dir: t}\nexport: {gpu_id: 0}\n",
         ("action_recognition", "evaluate")),
    ],
)  # fmt: skip
def test_network_and_action_are_found_out(tmp_path, text, expected):
    made = migrate_spec(write(tmp_path, text))
    assert (made.network, made.action) == expected


def test_the_folder_of_an_experiment_tells_its_action(tmp_path):
    text = TAO_WROTE["action_recognition"]
    path = write(tmp_path, text, "inference/experiment.yaml")
    assert migrate_spec(path).action == "inference"
    assert migrate_spec(path, action="export").action == "export"


def test_what_cannot_be_found_out_is_asked_for(tmp_path):
    path = write(tmp_path, "results_dir: r\n")
    assert refused(path) == [
        f"{path}: expected keys of one network, got keys that action_recognition and "
        "pose_classification have. Say which: --network action_recognition",
    ]
    path = write(tmp_path, POSE_MODEL)
    assert refused(path) == [
        f"{path}: expected keys that tell the action, got only what all actions have. "
        "Say which: --action evaluate",
    ]


def test_what_cannot_be_translated_is_refused_with_its_line(tmp_path):
    path = write(tmp_path, VIDEO_TRAIN.replace("epochs: 20", "epochs: 20\n  tracking: on"))
    assert refused(path) == [
        f"{path}:13: train_config.tracking: expected a known key, got an unknown key.",
    ]
    path = write(tmp_path, VIDEO_TRAIN.replace("backbone: resnet18", "backbone: vgg"))
    (problem,) = refused(path)
    assert problem.startswith(f"{path}:6: model_config.backbone: expected one of 'efficientnet_")


# The command


def run(capsys, *words):
    code = main(["migrate", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_the_spec_goes_to_the_terminal_or_to_a_file_and_remarks_to_stderr(tmp_path, capsys):
    path, new = write(tmp_path, POSE_TRAIN), tmp_path / "new.yaml"
    made = migrate_spec(path)
    code, out, err = run(capsys, "spec", path)
    assert (code, out) == (0, made.text)
    assert err.splitlines() == list(made.remarks)
    code, out, _ = run(capsys, "spec", path, "-o", new)
    assert (code, out) == (0, "")
    assert new.read_text() == made.text


def test_a_file_that_is_there_stays_unless_told_otherwise(tmp_path, capsys):
    path, new = write(tmp_path, POSE_TRAIN), tmp_path / "new.yaml"
    new.write_text("mine")
    code, out, err = run(capsys, "spec", path, f"--out={new}")
    assert (code, out, new.read_text()) == (2, "", "mine")
    assert err == (
        f"error: {new}: expected a free path, got a file that exists. Name another file, or add "
        "--overwrite.\n"
    )
    assert run(capsys, "spec", path, "-o", path)[0] == 2
    assert run(capsys, "spec", path, "-o", new, "--overwrite")[0] == 0
    assert new.read_text() == migrate_spec(path).text


@pytest.mark.parametrize("words", [[], ["--help"], ["spec", "-h"]])
def test_help_says_how(capsys, words):
    code, out, _ = run(capsys, *words)
    assert code == 0
    assert out.startswith("usage: kineme migrate spec FILE [--network NAME]")
    assert "Nothing" not in out
    assert main(["--help"]) == 0
    assert "kineme migrate spec FILE [-o OUT]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["weights", "m.tlt"], "migrate: expected spec FILE, got weights m.tlt."),
        (["spec"], "migrate spec: expected a FILE, got none."),
        (["spec", "a", "b"], "migrate: expected one FILE and known options, got 'b'."),
        (["spec", "a", "--netwrk", "x"], "got '--netwrk'. Did you mean --network?"),
        (["spec", "a", "--network"], "--network: expected a value after it, got nothing."),
        (["spec", "a", "--network", "pose"], "--network: expected one of action_recognition, pose"),
        (["spec", "a", "--action", "trian"], "got 'trian'. Did you mean train?"),
        (["spec", "no.yaml", "--network", "action_recognition"], "got no such file."),
    ],
)
def test_words_that_mean_nothing_are_refused(capsys, words, expected):
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert expected in err


def test_secrets_are_in_nothing_that_is_written(tmp_path, capsys):
    text = POSE_TRAIN.replace("encryption_key: nvidia_tao", "key: s3cr3t\nversion: 2")
    _, out, err = run(capsys, "spec", write(tmp_path, text))
    assert "s3cr3t" not in out + err
    assert "key -> encryption_key\n" in err
    assert "left out encryption_key: it is secret; give it when it is needed\n" in err
    assert "dropped version: the number that TAO's service gives its own schema\n" in err


@pytest.mark.parametrize("name", list(NETWORKS))
def test_every_sign_of_an_action_is_a_key_that_is_read(name):
    from kineme.migrate import _SIGNS

    known = set()
    for action, model in load_specs(name).items():
        known |= {*model.model_fields, *model.legacy.blocks, *model.legacy.keys}
        known |= {*model.legacy.by_action[action]}
    theirs = {"test_dataset_dir", "video_eval_mode", "inference_dataset_dir", "video_inf_mode",
              "label", "pose_type", "sequence_length"}  # fmt: skip
    assert set().union(*_SIGNS.values()) - theirs <= known
