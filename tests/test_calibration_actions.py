"""The calibration of a checkpoint on its way from training to every file that tells of it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from kineme.action_recognition.network import NETWORK as VIDEOS
from kineme.action_recognition.spec import SPECS as VIDEO_SPECS
from kineme.actions import answers, dry_run, evaluate, inference
from kineme.engine import checkpoint as checkpoints
from kineme.engine.calibration import fit_calibration, load_calibration
from kineme.errors import CheckpointError
from kineme.network import Answers
from kineme.report.trust import measure_trust
from kineme.spec.load import load_spec
from stick import CLASSES, NETWORK, rows_of, spec_of, train_stick


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_stick(tmp_path_factory.mktemp("pose"), words=["train.checkpoint_interval=1"])


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Trained without validation data."""
    folder = tmp_path_factory.mktemp("bare")
    return train_stick(folder, words=["dataset.val_dataset.data_path=null", "train.num_epochs=1"])


def facts_of(path):
    return checkpoints.load_checkpoint(path).facts


def shares_of(folder):
    return np.array([float(row["probability"]) for row in rows_of(folder / "predictions.csv")])


def labels_of(folder):
    return [row["label"] for row in rows_of(folder / "predictions.csv")]


def test_every_validated_checkpoint_holds_the_calibration_of_its_own_model(trained):
    folder = trained / "train"
    names = ["best.pth", "best.safetensors", "last.safetensors"]
    found = [load_calibration(facts_of(folder / name), where=name) for name in names]
    epochs = [facts_of(path)["calibration"] for path in sorted(folder.glob("model_epoch_*.pth"))]
    assert len(epochs) == 2
    assert epochs[0] != epochs[1]
    assert found[0] == found[1]
    assert found[0].facts() in epochs
    assert found[2].facts() == epochs[1]
    assert json.loads((folder / "best.json").read_text())["calibration"] == found[0].facts()
    assert (found[0].samples, found[0].data) == (7, str(trained / "val_data.npy"))


def test_without_validation_data_there_is_none_and_unknowns_are_refused(bare, tmp_path):
    path = bare / "train" / "pc_model_latest.pth"
    assert facts_of(path)["calibration"] is None
    words = [f"inference.checkpoint={path}", "inference.unknown=true"]
    spec = spec_of("inference", bare, tmp_path, *words)
    with pytest.raises(CheckpointError, match="one without a threshold for unknown samples"):
        inference.run(NETWORK, spec)
    with pytest.raises(CheckpointError, match=r"as inference\.unknown is true"):
        list(dry_run.check(NETWORK, spec))


def test_who_asks_for_a_temperature_that_is_not_there_is_told(bare, tmp_path, capsys):
    path = bare / "train" / "pc_model_latest.pth"
    words = [f"evaluate.checkpoint={path}", "evaluate.calibrate=true"]
    evaluate.run(NETWORK, spec_of("evaluate", bare, tmp_path, *words))
    assert f"evaluate.calibrate has no effect: {path} holds no temp" in capsys.readouterr().err
    measured = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())["calibration"]
    assert (measured["temperature"], measured["is_applied"]) == (None, False)
    assert measured["ece_before"] == measured["ece_after"]
    report = (tmp_path / "evaluate" / "report.html").read_text()
    assert "The checkpoint has no temperature" in report


def test_probabilities_are_told_at_the_temperature_and_labels_stay(trained, tmp_path):
    inference.run(NETWORK, spec_of("inference", trained, tmp_path / "on"))
    words = ["inference.calibrate=false"]
    inference.run(NETWORK, spec_of("inference", trained, tmp_path / "off", *words))
    on, off = tmp_path / "on" / "inference", tmp_path / "off" / "inference"
    assert labels_of(on) == labels_of(off)
    assert (on / "results.txt").read_bytes() == (off / "results.txt").read_bytes()
    temperature = facts_of(trained / "train" / "best.pth")["calibration"]["temperature"]
    for told, plain in zip(lines_of(on), lines_of(off), strict=True):
        powers = np.array([top["probability"] for top in plain["top"]]) ** (1 / temperature)
        shares = [top["probability"] for top in told["top"]]
        assert shares == pytest.approx(powers / powers.sum(), abs=2e-5)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def test_an_evaluation_measures_both_and_accuracy_stays(trained, tmp_path):
    with_it = evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path / "on"))
    words = ["evaluate.calibrate=false"]
    assert with_it == evaluate.run(NETWORK, spec_of("evaluate", trained, tmp_path / "off", *words))
    on, off = (
        json.loads((tmp_path / x / "evaluate/metrics.json").read_text()) for x in ("on", "off")
    )
    fitted = facts_of(trained / "train" / "best.pth")["calibration"]
    assert on["calibration"]["is_applied"]
    assert not off["calibration"].pop("is_applied")
    on["calibration"].pop("is_applied")
    assert on == off  # the loss as well
    assert on["calibration"]["temperature"] == fitted["temperature"]
    # judged on the data that it was fitted on
    for name in ("ece_before", "ece_after", "nll_before", "nll_after"):
        assert on["calibration"][name] == pytest.approx(fitted[name], abs=1e-5)
    report = (tmp_path / "on" / "evaluate" / "report.html").read_text()
    assert "Right (%) over confidence (%)" in report
    assert "fitted on 7 validation samples. It changes" in report
    assert "and not applied here" in (tmp_path / "off" / "evaluate" / "report.html").read_text()


def test_samples_of_no_class_are_told_from_those_of_the_test_data(trained, tmp_path):
    noise = np.random.default_rng(0).normal(size=(5, 3, 8, 4, 1)).astype(np.float32)
    np.save(tmp_path / "strange.npy", noise)
    words = [f"evaluate.unknown_dataset.data_path={tmp_path / 'strange.npy'}"]
    spec = spec_of("evaluate", trained, tmp_path, *words)
    assert "unknown data: 5 samples" in list(dry_run.check(NETWORK, spec))
    evaluate.run(NETWORK, spec)
    found = json.loads((tmp_path / "evaluate" / "metrics.json").read_text())["unknown"]
    assert found["samples"] == 5
    assert found["kept"] == 1.0  # the threshold was fitted on these 7: it loses none
    assert 0 <= found["auroc"] <= 1
    report = (tmp_path / "evaluate" / "report.html").read_text()
    assert "5 samples of no class were judged as well" in report


def test_unknown_samples_get_no_label_where_that_is_asked_for(trained, tmp_path):
    checkpoint = checkpoints.load_checkpoint(trained / "train" / "best.pth")
    trust = {**checkpoint.facts["calibration"], "threshold": 0.0}  # of which none is certain
    content = {**checkpoint.content, "kineme": {**checkpoint.facts, "calibration": trust}}
    checkpoints.save(tmp_path / "strict.pth", content)
    words = [f"inference.checkpoint={tmp_path / 'strict.pth'}"]
    inference.run(NETWORK, spec_of("inference", trained, tmp_path / "plain", *words))
    assert set(labels_of(tmp_path / "plain" / "inference")) <= set(CLASSES)

    words.append("inference.unknown=true")
    kpi = inference.run(NETWORK, spec_of("inference", trained, tmp_path / "asked", *words))
    folder = tmp_path / "asked" / "inference"
    assert (kpi["samples"], kpi["unknown"]) == (7, 7)
    for row in rows_of(folder / "predictions.csv"):
        assert (row["label"], row["probability"], row["status"]) == ("", "", "unknown")
    assert (folder / "results.txt").read_text() == "unknown\n" * 7
    for asked, plain in zip(lines_of(folder), lines_of(tmp_path / "plain/inference"), strict=True):
        assert asked["label"] is None
        assert asked["top"] == plain["top"]  # what it would have been


def test_trust_of_one_sample_in_five_by_hand():
    scores = np.log(np.array([[0.9, 0.1]] * 4 + [[0.5, 0.5]]))
    found = measure_trust(scores, np.array([0, 0, 0, 1, 0]), unknown=np.log([[0.5, 0.5]] * 2))
    assert found.ece == pytest.approx(((3.6 - 3 + 0.5) / 5,) * 2)
    assert found.nll[0] == pytest.approx(-np.log([0.9, 0.9, 0.9, 0.1, 0.5]).mean())
    assert found.curves == {
        "as the model says": [(0.5, 1.0), (pytest.approx(0.9), pytest.approx(0.75))]
    }
    assert found.facts()["unknown"] == {
        "samples": 2, "auroc": pytest.approx(0.9), "found": None, "kept": None,
    }  # fmt: skip


def test_samples_without_an_answer_say_nothing_of_trust():
    scores = np.array([[-np.inf, -np.inf]])
    facts = measure_trust(scores, np.array([0])).facts()
    assert facts["calibration"]["samples"] == 0
    assert facts["calibration"]["ece_before"] is None
    assert facts["unknown"] is None


def test_videos_of_no_class_are_read_as_those_to_classify_but_seen_as_those_to_judge():
    words = ["results_dir=x", "evaluate.checkpoint=x.pth", "evaluate.test_dataset_dir=x"]
    spec, _ = load_spec(VIDEO_SPECS["evaluate"], None, [*words, "evaluate.video_eval_mode=all"])
    assert VIDEOS.of_unknown(spec) is None
    more = ["evaluate.unknown_dataset_dir=other", "evaluate.video_eval_mode=all"]
    spec, _ = load_spec(VIDEO_SPECS["evaluate"], None, [*words, *more])
    asked = VIDEOS.of_unknown(spec).inference
    assert (asked.inference_dataset_dir, asked.video_inf_mode) == ("other", "all")


def test_a_video_of_no_class_is_unknown_in_upstreams_line_too():
    scores = np.log(np.array([[0.9, 0.1], [0.5, 0.5]], np.float32))
    calibration = fit_calibration(scores[:1], np.array([0]))
    said = answers.with_unknowns(Answers(scores, scores, np.array([0, 1])), calibration)
    text = VIDEOS.answer_text(SimpleNamespace(ids=["a.mp4", "b.mp4"]), said, ("walk", "jump"))
    assert text == "a.mp4 : ['walk']\nb.mp4 : ['unknown']\n"
