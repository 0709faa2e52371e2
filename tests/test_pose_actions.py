"""Pose classification from files to files: what each action leaves, and what it refuses."""

import copy
import json
import re
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml

from kineme import __version__
from kineme.actions import answers, evaluate, export, inference, train
from kineme.cli import main
from kineme.data.labels import Labels, write_labels
from kineme.engine import checkpoint as checkpoints
from kineme.errors import CheckpointError, DataError, QualityError, SpecError
from kineme.network import TEST
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec
from stick import CLASSES, LAYOUT, NETWORK, rows_of, spec_of, train_stick, waves

ACTIONS = {"export": export, "inference": inference}


def write_layout(folder):
    (folder / "stick.yaml").write_text(yaml.safe_dump(LAYOUT))


def resumed(folder, *words):
    """What training says that goes on in the folder of `train_stick`."""
    base = [
        f"results_dir={folder}", f"model.layout={folder / 'stick.yaml'}", "dataset.batch_size=4",
        "dataset.num_workers=0", "train.tensorboard=false", "dataset.normalize=center",
        "train.optim.lr=0.01", f"dataset.train_dataset.data_path={folder}",
        f"dataset.val_dataset.data_path={folder}",
    ]  # fmt: skip
    return train.run(NETWORK, load_spec(SPECS["train"], None, [*base, *words])[0])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_stick(tmp_path_factory.mktemp("pose"))


def test_every_figure_of_an_evaluation_comes_from_its_predictions(trained, tmp_path):
    facts = evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path))
    folder = tmp_path / "evaluate"
    predictions = rows_of(folder / "predictions.csv")
    assert [row["id"] for row in predictions] == [f"val{i}" for i in range(7)]
    assert [row["truth"] for row in predictions] == [CLASSES[i % 3] for i in range(7)]
    right = [row["label"] == row["truth"] for row in predictions]
    assert facts["accuracy"] == pytest.approx(100 * sum(right) / 7, abs=1e-4)
    measured = json.loads((folder / "metrics.json").read_text())
    confusion = np.array(measured["confusion"])
    assert confusion.sum(axis=1).tolist() == [3, 2, 2]
    for row in predictions:
        assert 1 / 3 <= float(row["probability"]) <= 1
        shares = [float(row[name]) for name in ("probability", "probability_2", "probability_3")]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
    table = [
        line.split(",")[-3:]
        for line in (folder / "confusion_matrix.csv").read_text().splitlines()[1:]
    ]
    assert [[int(x) for x in line] for line in table] == confusion.tolist()
    per_class = {row["label"]: row["accuracy"] for row in rows_of(folder / "per_class.csv")}
    assert float(per_class["still"]) == pytest.approx(100 * confusion[0, 0] / 3, abs=1e-4)
    assert "wave, &#39;hello&#39;" in (folder / "report.html").read_text()
    assert (folder / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    last = json.loads((folder / "status.json").read_text().splitlines()[-1])
    assert last["status"] == "SUCCESS"
    assert last["kpi"]["accuracy"] == facts["accuracy"]


def test_the_report_says_what_was_judged_and_whether_it_had_chosen_the_checkpoint(
    trained, tmp_path
):
    best = trained / "train" / "best.pth"
    evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path / "same"))
    facts = facts_in(tmp_path / "same" / "evaluate" / "report.html")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", facts.pop("date"))
    assert facts.pop("kineme") == __version__
    assert facts == {
        "checkpoint": str(best),
        "data": str(trained / "val_data.npy"),
        "chosen on": "these very data, out of all epochs: expect less on others",
        "samples": "7",
        "clips per sample": "1",
        "model": "ST-GCN",
    }

    other = tmp_path / "other.npy"
    np.save(other, waves(6, 9)[0])
    word = f"evaluate.test_dataset.data_path={other}"
    evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path / "other", word))
    facts = facts_in(tmp_path / "other" / "evaluate" / "report.html")
    assert (facts["data"], facts["chosen on"]) == (str(other), str(trained / "val_data.npy"))

    last = trained / "train" / "pc_model_latest.pth"
    spec = spec_of("evaluate", trained, tmp_path / "last", f"evaluate.checkpoint={last}")
    evaluate.run(NETWORK, spec)
    assert "chosen on" not in facts_in(tmp_path / "last" / "evaluate" / "report.html")


@pytest.mark.parametrize(("name", "seen_in"), [("train", "train"), ("val", "val"), (None, None)])
def test_an_evaluation_knows_the_samples_of_its_training(trained, tmp_path, capsys, name, seen_in):
    shutil.copytree(trained, tmp_path / "data")  # other files, the same samples
    path, labels = (
        tmp_path / "data" / f"{name or 'train'}_{x}" for x in ("data.npy", "label.json")
    )
    if not name:
        np.save(path, waves(12, 5)[0])
    words = (
        f"evaluate.test_dataset.data_path={path}",
        f"evaluate.test_dataset.label_path={labels}",
    )
    evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path, *words))
    facts = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())
    assert facts["seen_in"] == seen_in
    assert ("the very samples that the model learned from" in capsys.readouterr().err) == (
        name == "train"
    )


def facts_in(report):
    """The list under "What was run"."""
    return dict(
        re.findall(r"<dt>([^<]+)</dt><dd>([^<]*)</dd>", report.read_text().split('id="run"')[1])
    )


def test_evaluation_does_not_depend_on_batch_size_or_number_of_processes(trained, tmp_path):
    def probabilities(name, *words):
        evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path / name, *words))
        return [
            float(row["probability"])
            for row in rows_of(tmp_path / name / "evaluate" / "predictions.csv")
        ]

    one = probabilities("one", "evaluate.batch_size=1")
    all_at_once = probabilities("all", "evaluate.batch_size=7")
    two = probabilities("two", "evaluate.batch_size=2", "device=cpu", "evaluate.num_gpus=2")
    np.testing.assert_allclose(one, all_at_once, atol=2e-6)
    np.testing.assert_allclose(one, two, atol=2e-6)


def test_a_training_that_goes_on_with_other_data_says_so_and_chooses_the_best_anew(
    tmp_path, capsys
):
    folder = train_stick(tmp_path)
    write_layout(tmp_path)
    last = torch.load(folder / "train" / "pc_model_latest.pth", weights_only=True)["kineme"]
    assert last["training"]["progress"]["best_epoch"] in (0, 1)
    words = ["train.resume=true", "train.num_epochs=3"]
    data = np.load(folder / "val_data.npy")
    np.save(folder / "val_data.npy", data[::-1])
    capsys.readouterr()
    again = resumed(folder, *words)
    told = capsys.readouterr().err
    assert "was trained with other data of val: it goes on with these." in told
    assert "other data of train" not in told
    assert again["best_epoch"] == 2  # whatever the epochs before had on other data


def test_occlusion_curves_hide_what_they_say(trained, tmp_path):
    evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path, "evaluate.occlusion=true"))
    curves = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())["occlusion"]
    assert [share for share, _ in curves["random joints"]] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert set(curves) == {
        "random joints",
        "a block of frames",
        "left arm",
        "right arm",
        "hands",
        "trunk",
    }
    assert all(0 <= accuracy <= 1 for points in curves.values() for _, accuracy in points)


@pytest.mark.parametrize(
    ("action", "key", "what"),
    [("export", "export.onnx_file", "best.pth"), ("inference", "inference.output_file", "best.pth"),
     ("inference", "inference.output_file", "val_data.npy")],
)  # fmt: skip
def test_what_an_action_reads_is_never_replaced(trained, tmp_path, action, key, what):
    folder = shutil.copytree(trained, tmp_path / "copy")
    target = next(folder.rglob(what))
    before = target.read_bytes()
    words = [f"{key}={target}", f"{action}.overwrite=true"]
    if what.endswith(".npy"):
        words.append(f"inference.test_dataset.data_path={target}")
    with pytest.raises(SpecError, match=f"{key}: expected a file that is not read"):
        ACTIONS[action].run(NETWORK, spec_of(action, folder, tmp_path, *words))
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("action", "key", "name"),
    [("export", "export.onnx_file", "export.json"),
     ("inference", "inference.output_file", "predictions.csv")],
)  # fmt: skip
def test_results_do_not_go_into_a_file_that_the_run_writes_itself(
    trained, tmp_path, action, key, name
):
    spec = spec_of(action, trained, tmp_path, f"{key}={tmp_path / action / name}")
    with pytest.raises(SpecError, match=f"{key}: expected a file that {action} does not write"):
        ACTIONS[action].run(NETWORK, spec)


def test_another_model_is_judged_beside_as_it_would_be_alone(trained, tmp_path):
    last = trained / "train" / "pc_model_latest.pth"
    words = ("evaluate.occlusion=true", f"evaluate.checkpoint={last}")
    evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path / "alone", *words))
    words = ("evaluate.occlusion=true", f"evaluate.baseline={last}")
    evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path / "beside", *words))
    alone = json.loads((tmp_path / "alone" / "evaluate" / "metrics.json").read_text())
    beside = json.loads((tmp_path / "beside" / "evaluate" / "metrics.json").read_text())["baseline"]
    assert beside["checkpoint"] == str(last)
    assert beside["accuracy"] == alone["accuracy"]
    assert beside["occlusion"] == alone["occlusion"]
    page = (tmp_path / "beside" / "evaluate" / "report.html").read_text()
    assert "random joints, baseline" in page
    assert facts_in(tmp_path / "beside" / "evaluate" / "report.html")["baseline"] == (
        f"{last}, accuracy {alone['accuracy']:.1f} %"
    )


def test_another_model_is_judged_by_the_same_settings(tmp_path, monkeypatch):
    """Those of a recipe and those that tell how data are read; what a model is, is its own."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    sampled = ["dataset.sampling=uniform", "dataset.num_frames=8"]
    one = train_stick(tmp_path / "one", words=[*sampled, "model.model_type=ST-GCN++"])
    two = train_stick(tmp_path / "two", words=sampled) / "train" / "best.pth"
    data = np.load(one / "val_data.npy")
    data[0, 0, 0, 0, 0] = np.nan
    np.save(one / "val_data.npy", data)
    seen = []
    real = answers.classify

    def watched(fabric, subject, model, dataset, a_run, **named):
        model_type = subject.spec.model.model_type
        settings = dataset.view.settings
        seen.append((model_type, dataset.view.num_clips, settings.nan_policy, settings.batch_size))
        return real(fabric, subject, model, dataset, a_run, **named)

    monkeypatch.setattr(answers, "classify", watched)
    words = ["recipe=modern", "dataset.nan_policy=zero", "dataset.batch_size=3"]
    words += ["model.model_type=ST-GCN++", f"evaluate.baseline={two}"]
    evaluate.run(NETWORK, spec_of("evaluate", one, tmp_path, *words))
    assert seen == [("ST-GCN++", 10, "zero", 3), ("ST-GCN", 10, "zero", 3)]


@pytest.mark.parametrize("key", ["baseline", "unknown_dataset.data_path"])
def test_what_stands_beside_is_looked_at_before_anything_is_computed(
    trained, tmp_path, monkeypatch, key
):
    monkeypatch.setattr(answers, "classify", lambda *_, **__: pytest.fail("it was computed"))
    with pytest.raises((CheckpointError, DataError), match="/nowhere"):
        evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path, f"evaluate.{key}=/nowhere"))


def test_a_baseline_of_other_classes_is_refused(trained, tmp_path):
    found = torch.load(trained / "train" / "best.pth", weights_only=True)
    found["kineme"]["class_names"] = ["a", "b", "c"]
    found["kineme"]["spec"]["dataset"]["label_map"] = {"a": 0, "b": 1, "c": 2}
    torch.save(found, tmp_path / "other.pth")
    spec = spec_of("evaluate", trained, tmp_path, f"evaluate.baseline={tmp_path / 'other.pth'}")
    with pytest.raises(CheckpointError, match="expected a model of the classes still, "):
        evaluate.run(NETWORK, spec)


def test_inference_writes_upstreams_form_and_the_full_one(trained, tmp_path):
    target = tmp_path / "new" / "labels.txt"
    spec = spec_of(
        "inference", trained, tmp_path, f"inference.output_file={target}", "inference.top_k=2"
    )
    facts = inference.run(NETWORK, spec)
    assert facts["samples"] == 7
    labels = target.read_text().splitlines()
    rows = rows_of(tmp_path / "inference" / "predictions.csv")
    assert labels == [row["label"] for row in rows]
    lines = (tmp_path / "inference" / "predictions.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    assert first["label"] == labels[0]
    assert len(first["top"]) == 2
    assert first["top"][0]["probability"] >= first["top"][1]["probability"]


@pytest.mark.parametrize(
    ("shortest", "asked", "is_told"), [(5, 6, True), (5, 8, False), (8, 6, False)]
)
def test_samples_that_zeros_do_not_fill_up_as_in_training_are_told_of(
    trained, tmp_path, capsys, shortest, asked, is_told
):
    found = torch.load(trained / "train" / "best.pth", weights_only=True)
    found["kineme"]["training_data"]["min_frames"] = shortest
    torch.save(found, tmp_path / "padded.pth")
    np.save(tmp_path / "x.npy", waves(3, 9)[0][:, :, :asked])
    words = (
        f"inference.checkpoint={tmp_path / 'padded.pth'}",
        f"inference.test_dataset.data_path={tmp_path / 'x.npy'}",
    )
    inference.run(NETWORK, spec_of("inference", trained, tmp_path, *words))
    told = "padded.pth: it learned from samples that zeros fill up to 8 frames, and these have 6: "
    assert (told in capsys.readouterr().err) == is_told


@pytest.mark.parametrize(("model_type", "is_told"), [("ST-GCN", True), ("CTR-GCN", False)])
def test_another_number_of_places_for_people_is_told_where_the_model_sees_empty_ones(
    trained, model_type, is_told
):
    best = checkpoints.load_checkpoint(trained / "train" / "best.pth")
    facts = copy.deepcopy(best.facts)
    facts["spec"]["model"]["model_type"] = model_type
    facts["training_data"]["num_persons"] = 2
    spec = spec_of("evaluate", trained, trained)
    spec = checkpoints.restore_spec(spec, best, NETWORK.identity, NETWORK.inherited)
    dataset = NETWORK.build_dataset(spec, TEST)
    told = " ".join(NETWORK.compare_data(dataset, facts, "x.pth"))
    words = "x.pth: it learned from samples with places for 2 people, and these have 1"
    assert (words in told) == is_told


def test_the_checkpoint_alone_restores_model_classes_layout_and_normalisation(trained, tmp_path):
    evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path))
    used = yaml.safe_load((tmp_path / "evaluate" / "experiment.yaml").read_text())
    assert used["dataset"]["normalize"] == "center"
    assert used["dataset"]["label_map"] == {name: i for i, name in enumerate(CLASSES)}
    assert json.loads(used["model"]["layout"])["joints"] == LAYOUT["joints"]


def test_t24_a_spec_that_contradicts_the_checkpoint_shows_both_values(trained, tmp_path):
    words = ["dataset.normalize=none", "model.graph_strategy=uniform"]
    with pytest.raises(CheckpointError) as caught:
        evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path, *words))
    assert caught.value.exit_code == 4
    assert len(caught.value.problems) == 2
    assert "dataset.normalize: expected 'center' as in best.pth, got 'none'" in str(caught.value)
    assert not (tmp_path / "evaluate").exists()


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return export.run(NETWORK, spec_of("export", trained, folder))


def test_onnx_gives_the_models_answers_for_any_batch_frames_and_persons(trained, exported):
    session = onnxruntime.InferenceSession(exported["onnx_file"])
    assert [i.name for i in session.get_inputs()] == ["input"]
    assert session.get_inputs()[0].shape == ["batch", 3, "frames", 4, "persons"]
    assert [o.name for o in session.get_outputs()] == ["fc_pred"]
    assert exported["parity"]["equal_predictions"] == exported["parity"]["samples"]
    spec = spec_of("evaluate", trained, trained)
    from kineme.engine import checkpoint as checkpoints

    loaded = checkpoints.load_checkpoint(trained / "train" / "best.pth")
    model = NETWORK.build_model(checkpoints.restore_spec(spec, loaded, NETWORK.identity)).eval()
    checkpoints.load_weights(model, loaded)
    for shape in ((1, 3, 5, 4, 1), (5, 3, 31, 4, 3)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            ours = model(skeleton=x).numpy()
        np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], ours, atol=1e-5)


def test_onnx_describes_itself(exported):
    metadata = {p.key: json.loads(p.value) for p in onnx.load(exported["onnx_file"]).metadata_props}
    assert metadata["labels"] == list(CLASSES)
    assert metadata["normalize"] == "center"
    assert metadata["layout"]["joints"] == LAYOUT["joints"]


def test_export_refuses_to_replace_a_file(trained, tmp_path):
    target = tmp_path / "model.onnx"
    target.write_bytes(b"mine")
    with pytest.raises(SpecError, match="which exists"):
        export.run(NETWORK, spec_of("export", trained, tmp_path, f"export.onnx_file={target}"))
    assert target.read_bytes() == b"mine"


def test_x02_a_model_that_answers_differently_is_not_published(trained, tmp_path, monkeypatch):
    save = export.save_onnx

    def with_a_wrong_weight(model, form, path):
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if name == "fcn.bias").add_(0.5)
        save(model, form, path)
        with torch.no_grad():
            next(p for name, p in model.named_parameters() if name == "fcn.bias").sub_(0.5)

    monkeypatch.setattr(export, "save_onnx", with_a_wrong_weight)
    with pytest.raises(QualityError, match="No file was written") as caught:
        export.run(NETWORK, spec_of("export", trained, tmp_path))
    assert caught.value.exit_code == 7
    assert sorted(p.name for p in (tmp_path / "export").iterdir()) == [
        "experiment.yaml", "log.txt", "status.json",
    ]  # fmt: skip


def test_fine_tuning_to_other_classes_keeps_all_but_the_head(trained, tmp_path, capsys):
    data, _ = waves(8, 2)
    np.save(tmp_path / "train_data.npy", data)
    labels = Labels(tuple("abcdefgh"), np.array([0, 1] * 4), ("left", "right"))
    write_labels(tmp_path / "train_label.json", labels)
    (tmp_path / "stick.yaml").write_text(yaml.safe_dump(LAYOUT))
    code = main(
        [
            "pose_classification", "train", f"results_dir={tmp_path}", "train.num_epochs=1",
            f"model.layout={tmp_path / 'stick.yaml'}", "dataset.batch_size=4",
            "dataset.num_workers=0", "train.tensorboard=false",
            f"dataset.train_dataset.data_path={tmp_path}",
            f"model.pretrained_model_path={trained / 'train' / 'best.pth'}",
        ]
    )  # fmt: skip
    assert code == 0
    said = capsys.readouterr().err
    assert "new head, other number of classes: fcn.weight, fcn.bias" in said
    state = torch.load(tmp_path / "train" / "pc_model_latest.pth", weights_only=True)["state_dict"]
    assert state["model.fcn.weight"].shape[0] == 2
