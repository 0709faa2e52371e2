"""Paths in a spec: the home of the user, and addresses that are none."""

import pytest

from kineme import cli
from kineme.network import NETWORKS, load_specs
from kineme.pose_classification.spec import SPECS
from kineme.spec.fields import settings, settings_by_key
from kineme.spec.load import addresses_in, load_spec, refused_addresses
from kineme.spec.paths import is_path, portable

MINIMUM = {"results_dir": "out", "dataset.train_dataset.data_path": "x.npy"}


def loaded(**overrides):
    return load_spec(SPECS["train"], None, {**MINIMUM, **overrides})[0]


@pytest.mark.parametrize(
    ("written", "meant"),
    [("~/x", "/home/me/x"), ("~", "~"), ("a/~/x", "a/~/x"), ("~you/x", "~you/x"),
     ("${model_name}/~/x", "/home/me/y/~/x")],
)  # fmt: skip
def test_a_leading_tilde_is_the_home_of_the_user(monkeypatch, written, meant):
    monkeypatch.setenv("HOME", "/home/me")
    spec = loaded(results_dir=written, model_name="~/y", **{"model.pretrained_model_path": written})
    assert (spec.results_dir, spec.model.pretrained_model_path) == (meant, meant)


def test_a_tilde_in_the_file_counts_too_and_a_key_stays_as_it_is(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    path = tmp_path / "spec.yaml"
    path.write_text("results_dir: ~/r\ndataset: {train_dataset: {data_path: ~/d.npy}}\n")
    spec, _ = load_spec(SPECS["train"], path, ["encryption_key=~/a long enough key"])
    assert (spec.results_dir, spec.dataset.train_dataset.data_path) == (
        "/home/me/r", "/home/me/d.npy",
    )  # fmt: skip
    assert spec.encryption_key == "~/a long enough key"


def test_addresses_are_refused_each_in_one_line_without_what_may_be_secret():
    address, local = "https://me:hunter2@host/x.npy", "c:/data.npy"
    spec = loaded(
        results_dir="s3://bucket/out",
        **{"dataset.train_dataset.data_path": address, "dataset.val_dataset.data_path": local},
    )
    assert addresses_in(spec) == {
        "results_dir": "s3://bucket/out", "dataset.train_dataset.data_path": address,
    }  # fmt: skip
    (problem,) = refused_addresses(spec)
    assert str(problem) == (
        "dataset.train_dataset.data_path: expected a path on this machine, or an s3:// address, "
        "got an address (https://...). Put the data on this machine, and set its path."
    )


def test_the_command_refuses_them(capsys):
    words = ["results_dir=out", "dataset.train_dataset.data_path=ngc://org/data"]
    assert cli.main(["pose_classification", "train", *words]) == 2
    assert "an address (ngc://...)" in capsys.readouterr().err


def test_every_setting_that_may_be_a_path_is_known_as_one_or_as_none():
    others = {"model_name", "protocol", "trt_engine", "recipe", "project", "entity", "group",
              "name", "run_id", "class_weights", "subject_pattern"}  # fmt: skip
    for network in NETWORKS:
        for spec in load_specs(network).values():
            for declared in settings(spec):
                is_free = str in declared.kinds and not declared.rule.choices
                name = declared.key.rpartition(".")[2]
                if is_free and not declared.rule.secret:
                    assert is_path(declared) is (name not in others), declared.key


@pytest.mark.parametrize(
    ("key", "written", "meant"),
    [
        ("results_dir", "out", "/here/out"), ("results_dir", "/out", "/out"),
        ("results_dir", "../out", "/out"), ("results_dir", "s3://b/out", "s3://b/out"),
        ("results_dir", None, None), ("model.layout", "own.yaml", "/here/own.yaml"),
        ("model.layout", '{"joints": []}', '{"joints": []}'), ("model.layout", "{}x", "/here/{}x"),
        ("model.graph_layout", "nvidia", "nvidia"), ("wandb.name", "run", "run"),
        ("dataset.train_dataset.data_path", "a\0b", "a\0b"), ("train.num_epochs", 3, 3),
    ],
)  # fmt: skip
def test_what_names_a_file_means_the_same_in_every_folder(monkeypatch, key, written, meant):
    monkeypatch.setattr("os.getcwd", lambda: "/here")
    assert portable(settings_by_key(SPECS["train"])[key], written) == meant
