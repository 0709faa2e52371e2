"""X09: an export that computes in fewer bits is judged before it is published."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from kineme.actions import dry_run, export, reduced
from kineme.engine import export_gate, openvino_files
from kineme.engine.checkpoint import load_checkpoint, restore_spec
from kineme.engine.exported import open_exported
from kineme.engine.feeding import Feed
from kineme.engine.quantization import calibration_samples, quantize_onnx
from kineme.errors import DataError, QualityError, SpecError
from kineme.network import (
    NETWORKS,
    TRAIN,
    VAL,
    Answers,
    ExportForm,
    Remarks,
    load_network,
    load_specs,
)
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec
from kineme.spec.schema import settings_by_key
from stick import NETWORK, NUM_FRAMES, spec_of, train_stick

NAMES = {"x": "input"}


class Layers(torch.nn.Module):
    """Three layers with weights; the middle one is what may be quantized."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle = torch.nn.Conv1d(2, 8, 3), torch.nn.Conv1d(8, 8, 3)
        self.last = torch.nn.Linear(8, 3)

    def forward(self, x):
        x = self.middle(self.first(x).relu()).relu()
        return self.last(x.mean(dim=2))


@pytest.fixture(scope="module")
def float_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("float") / "model.onnx"
    model = Layers().eval()
    dynamic = {"x": {0: "batch", 2: "frames"}}
    told = {"labels": '["a", "b", "c"]'}
    form = ExportForm(NAMES, {"x": torch.randn(2, 2, 12)}, dynamic, "fc_pred", 18, told)
    export.save_onnx(model, form, path)
    return model, path


def draws(num, seed=1):
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((1, 2, 12)).astype(np.float32) for _ in range(num)]


@pytest.fixture(scope="module")
def eight_bits(float_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    quantize_onnx(float_file[1], path, [{"input": x} for x in draws(32)])
    return path


def test_int8_answers_like_the_float_file_within_a_hundredth_of_its_range(float_file, eight_bits):
    model, path = float_file
    x = torch.from_numpy(np.concatenate(draws(16, seed=2)))
    with torch.no_grad():
        expected = model(x)
    for file, tolerance in ((path, 1e-6), (eight_bits, 0.02)):
        found = open_exported(file, NAMES, "fc_pred")(x=x, ignored=x)
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()
    assert not torch.equal(open_exported(eight_bits, NAMES, "fc_pred")(x=x), expected)


def test_the_first_and_the_last_layer_stay_float_and_weights_have_a_scale_per_channel(eight_bits):
    graph = onnx.load(eight_bits).graph
    made_by = {name: node for node in graph.node for name in node.output}
    first, middle = (node for node in graph.node if node.op_type == "Conv")
    (last,) = (node for node in graph.node if node.op_type in ("Gemm", "MatMul"))
    assert [made_by.get(node.input[1]) for node in (first, last)] == [None, None]
    scales = {tensor.name: tensor for tensor in graph.initializer}
    weight = made_by[middle.input[1]]
    assert weight.op_type == "DequantizeLinear"
    assert onnx.numpy_helper.to_array(scales[weight.input[1]]).shape == (8,)
    assert onnx.numpy_helper.to_array(scales[weight.input[0]]).dtype == np.int8


def test_int8_keeps_names_free_axes_and_metadata(float_file, eight_bits):
    before, after = (onnxruntime.InferenceSession(p) for p in (float_file[1], eight_bits))
    assert after.get_inputs()[0].shape == ["batch", 2, "frames"]
    assert after.get_outputs()[0].name == "fc_pred"
    told = after.get_modelmeta().custom_metadata_map
    assert told == before.get_modelmeta().custom_metadata_map == {"labels": '["a", "b", "c"]'}
    assert after.run(None, {"input": np.zeros((5, 2, 31), np.float32)})[0].shape == (5, 3)


def answers(scores, **remarks):
    scores = np.log(np.asarray(scores, np.float32))
    return Answers(scores, scores, np.arange(len(scores)), Remarks(**remarks))


BEFORE = answers([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
AFTER = answers([[0.9, 0.1], [0.7, 0.3], [0.55, 0.45], [0.3, 0.7]])
LABELS = np.array([0, 0, 1, 0])


def test_x09_what_was_lost_is_counted_in_points_of_accuracy():
    facts = export_gate.judge(BEFORE, AFTER, LABELS, max_accuracy_drop=25)
    assert facts == {
        "measure": "accuracy", "samples": 4, "accuracy": 75.0, "exported_accuracy": 50.0,
        "drop": 25.0, "max_drop": 25, "agreement": 75.0,
        "max_probability_difference": pytest.approx(0.15),
    }  # fmt: skip
    with pytest.raises(QualityError, match=r"at most 24\.9 points of accuracy lost") as caught:
        export_gate.judge(BEFORE, AFTER, LABELS, max_accuracy_drop=24.9)
    assert caught.value.exit_code == 7
    assert "75.00 % before, 50.00 % after" in str(caught.value)


def test_x09_without_labels_equal_answers_count():
    unknown = np.full(4, -1)
    facts = export_gate.judge(BEFORE, AFTER, unknown, max_accuracy_drop=25)
    assert (facts["measure"], facts["drop"], facts["accuracy"]) == ("agreement", 25.0, None)
    with pytest.raises(QualityError, match="points of agreement lost on 4 samples"):
        export_gate.judge(BEFORE, AFTER, unknown, max_accuracy_drop=10)


def test_x09_an_answer_that_is_better_never_fails_and_failed_samples_do_not_count():
    facts = export_gate.judge(AFTER, BEFORE, LABELS, max_accuracy_drop=0)
    assert facts["drop"] == -25.0
    failed = replace(AFTER, remarks=Remarks(failed={2: "gone"}))
    assert export_gate.judge(BEFORE, failed, LABELS, max_accuracy_drop=0)["samples"] == 3
    nothing = replace(AFTER, remarks=Remarks(failed=dict.fromkeys(range(4), "gone")))
    with pytest.raises(QualityError, match="no sample"):
        export_gate.judge(BEFORE, nothing, LABELS, max_accuracy_drop=100)


def test_times_are_held_against_each_other_on_the_same_inputs(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(export_gate.time, "perf_counter", lambda: now[0])

    def taking(seconds):
        def ask(x):
            now[0] += seconds

        return ask

    facts = export_gate.time_against(taking(0.3), taking(0.1), {"x": torch.zeros(1, 2)})
    assert (facts["fp32_milliseconds"], facts["milliseconds"]) == (300.0, 100.0)
    assert facts["times_as_fast"] == 3.0
    assert facts["shape"] == {"x": [1, 2]}


# The action


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_stick(tmp_path_factory.mktemp("pose"))


@pytest.fixture(scope="module")
def whole(trained, tmp_path_factory):
    """A model in fp32, exported once."""
    return export.run(NETWORK, spec_of("export", trained, tmp_path_factory.mktemp("fp32")))


@pytest.fixture
def quick(whole, monkeypatch):
    """Exports begin with the file of `whole`, and are not timed."""

    def copy(model, form, path):
        path.write_bytes(Path(whole["onnx_file"]).read_bytes())

    monkeypatch.setattr(export, "save_onnx", copy)
    monkeypatch.setattr(export, "compare", lambda *_: {"max_abs_difference": 0.0})
    speed = {"times_as_fast": 2.0, "threads": 1}
    monkeypatch.setattr(export_gate, "time_against", lambda *_: speed)


INT8 = "export.precision=int8"


def test_x09_int8_is_calibrated_judged_and_told(trained, tmp_path, quick, capsys):
    words = [INT8, "export.calibration_samples=5", "export.max_accuracy_drop=100"]
    facts = export.run(NETWORK, spec_of("export", trained, tmp_path, *words))
    judged = facts["judged"]
    assert judged["samples"] == 7
    assert judged["calibrated_on"] == {
        "data": str(trained), "samples": 5, "of": 12, "seed": 1234,
    }  # fmt: skip
    assert judged["bytes"] < 0.3 * judged["fp32_bytes"]
    assert judged["max_probability_difference"] < 0.02
    assert json.loads((tmp_path / "export" / "export.json").read_text())["judged"] == judged
    session = onnxruntime.InferenceSession(facts["onnx_file"])
    assert session.get_inputs()[0].shape == ["batch", 3, "frames", 4, "persons"]
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["precision"]) == "int8"
    assert json.loads(told["calibrated_on"])["samples"] == 5
    said = capsys.readouterr().err
    assert "dataset.val_dataset.data_path is" in said
    assert "as best.pth was trained with" in said
    assert "right before" in said


def test_x09_a_file_that_lost_too_much_is_not_published(trained, tmp_path, quick, monkeypatch):
    def damage(source, target, samples):
        model = onnx.load(source)
        last = [node for node in model.graph.node if node.op_type == "Gemm"][-1]
        (bias,) = (t for t in model.graph.initializer if t.name == last.input[2])
        bias.CopyFrom(onnx.numpy_helper.from_array(np.float32([0, 0, 99]), bias.name))
        onnx.save(model, target)

    monkeypatch.setattr(reduced, "quantize_onnx", damage)
    with pytest.raises(QualityError, match=r"export\.max_accuracy_drop: .*lost on 7") as caught:
        export.run(NETWORK, spec_of("export", trained, tmp_path, INT8))
    assert caught.value.exit_code == 7
    assert not list(tmp_path.rglob("*.onnx"))
    last = (tmp_path / "export" / "status.json").read_text().splitlines()[-1]
    assert json.loads(last)["status"] == "FAILURE"


def test_calibration_sees_training_data_as_validation_would(trained, tmp_path):
    words = ["dataset.augmentation.view_rotation_degrees=90", "dataset.augmentation.flip_prob=1"]
    data = [f"dataset.train_dataset.data_path={trained}"]
    spec = spec_of("export", trained, tmp_path, *data, *words, "dataset.repeats=3")
    checkpoint = load_checkpoint(trained / "train" / "best.pth")
    spec = restore_spec(spec, checkpoint, NETWORK.identity)
    dataset = NETWORK.unaugmented(spec)
    assert len(dataset) == 12
    found = calibration_samples(Feed(dataset), {"skeleton": "input"}, most=4, seed=3)
    again = calibration_samples(Feed(dataset), {"skeleton": "input"}, most=4, seed=3)
    other = calibration_samples(Feed(dataset), {"skeleton": "input"}, most=4, seed=4)
    raw = np.load(trained / "train_data.npy")
    centred = raw - raw[:, :, :1, :1]
    assert [x["input"].shape for x in found] == [(1, 3, NUM_FRAMES, 4, 1)] * 4
    for x in found:
        assert min(np.abs(x["input"] - one).max() for one in centred) < 1e-5
    assert all(np.array_equal(a["input"], b["input"]) for a, b in zip(found, again, strict=True))
    assert not all(
        np.array_equal(a["input"], b["input"]) for a, b in zip(found, other, strict=True)
    )
    assert len(calibration_samples(Feed(dataset), {"skeleton": "input"}, most=99, seed=3)) == 12


def test_data_that_neither_spec_nor_checkpoint_names_are_asked_for(trained, tmp_path):
    checkpoint = load_checkpoint(trained / "train" / "best.pth")
    silent = replace(checkpoint, facts={})
    spec = spec_of("export", trained, tmp_path, INT8)
    with pytest.raises(SpecError) as told:
        reduced.find_data(NETWORK, spec, silent)
    assert [problem.expected for problem in told.value.problems] == [
        "data to calibrate on, as export.precision is int8",
        "data to judge the file by, as export.precision is int8",
    ]
    far = {"dataset": {"val_dataset": {"data_path": "s3://bucket/data"}}}
    spec = spec_of("export", trained, tmp_path, f"dataset.train_dataset.data_path={trained}", INT8)
    with pytest.raises(SpecError, match=r"dataset\.val_dataset\.data_path: .*judge the file by"):
        reduced.find_data(NETWORK, spec, replace(checkpoint, facts={"spec": far}))


def test_other_data_where_a_training_had_its_own_are_refused(trained, tmp_path):
    """As a relative path is another place from another folder."""
    checkpoint = load_checkpoint(trained / "train" / "best.pth")
    folder = shutil.copytree(trained, tmp_path / "elsewhere")
    spec = dict(checkpoint.facts["spec"]["dataset"])
    for block in ("train_dataset", "val_dataset"):
        spec[block] = {**spec[block], "data_path": str(folder)}
    moved = replace(checkpoint, facts={**checkpoint.facts, "spec": {"dataset": spec}})
    asked = restore_spec(spec_of("export", trained, tmp_path, INT8), checkpoint, NETWORK.identity)
    assert reduced.find_data(NETWORK, asked, moved) is not None
    np.save(folder / "val_data.npy", np.load(folder / "val_data.npy")[::-1])
    np.save(folder / "train_data.npy", 2 * np.load(folder / "train_data.npy"))
    with pytest.raises(DataError) as told:
        reduced.find_data(NETWORK, asked, moved)
    text = (
        f"{folder}: expected the data that best.pth was trained with, got others. This path is as "
        "best.pth was trained with; name the data in the spec."
    )
    assert [str(problem) for problem in told.value.problems] == [text, text]
    named = [f"dataset.{split}_dataset.data_path={folder}" for split in ("train", "val")]
    spec = spec_of("export", trained, tmp_path, INT8, *named)
    asked = restore_spec(spec, checkpoint, NETWORK.identity)
    assert reduced.find_data(NETWORK, asked, moved) is not None  # whoever names them means them


def test_data_that_are_wrong_are_told_together_before_anything_is_written(trained, tmp_path):
    words = [INT8, f"dataset.train_dataset.data_path={tmp_path / 'nowhere'}"]
    words += [f"dataset.val_dataset.data_path={tmp_path / 'neither'}"]
    spec = spec_of("export", trained, tmp_path, *words)
    told = []
    for tried in (lambda: export.run(NETWORK, spec), lambda: list(dry_run.check(NETWORK, spec))):
        with pytest.raises(DataError) as error:
            tried()
        told.append([problem.where for problem in error.value.problems])
    assert told == [[str(tmp_path / "neither"), str(tmp_path / "nowhere")]] * 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["export.precision=bf16"], r"export\.precision.*: expected fp32 or int8"),
        (["export.onnx_file=m.xml"], r"export\.onnx_file.*: expected a path that does not end"),
        (
            ["export.format=openvino", "export.onnx_file=m.onnx"],
            r"export\.onnx_file.*: expected a path that ends in \.xml",
        ),
    ],
)
def test_settings_that_contradict_are_refused(words, told):
    with pytest.raises(SpecError, match=told):
        load_spec(SPECS["export"], None, ["results_dir=r", "export.checkpoint=c.pth", *words])


# OpenVINO


def test_a_missing_package_is_one_error_before_any_work(trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SpecError, match=r"package openvino, got none\. pip install 'kineme\["):
        export.run(NETWORK, spec_of("export", trained, tmp_path, "export.format=openvino"))
    assert not (tmp_path / "export").exists()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "nncf", None)
    with pytest.raises(SpecError, match="package nncf, got none"):
        openvino_files.load_nncf()


@pytest.fixture
def openvino():
    return pytest.importorskip("openvino", reason="needs the extra [openvino]")


def test_weights_that_would_go_beside_a_graph_are_not_replaced_unasked(trained, tmp_path):
    (tmp_path / "m.bin").write_text("precious")
    words = ["export.format=openvino", f"export.onnx_file={tmp_path / 'm.xml'}"]
    with pytest.raises(
        SpecError, match=r"expected a path that is free, got '.*m\.bin', which exis"
    ):
        export.run(NETWORK, spec_of("export", trained, tmp_path, *words))
    assert (tmp_path / "m.bin").read_text() == "precious"


def test_openvino_has_names_free_axes_and_metadata_and_the_models_answers(
    openvino, float_file, tmp_path
):
    model, path = float_file
    told = {"labels": '["a", "b", "c"]', "precision": '"fp32"'}
    openvino_files.write_openvino(path, tmp_path / "m.xml", metadata=told, precision="fp32")
    assert {one.name for one in tmp_path.iterdir()} == {"m.xml", "m.bin"}
    read = openvino.Core().read_model(tmp_path / "m.xml")
    kept = read.get_rt_info(["kineme"]).value
    assert {str(key): str(np.asarray(value)) for key, value in kept.items()} == told
    assert read.input("input").partial_shape.to_string() == "[?,2,?]"
    x = torch.from_numpy(np.concatenate(draws(3, seed=2)))
    with torch.no_grad():
        expected = model(x)
    found = open_exported(tmp_path / "m.xml", NAMES, "fc_pred")
    assert (found(x=x) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert found.runtime.startswith("OpenVINO 20")


def test_bf16_weights_take_half_the_room(openvino, float_file, tmp_path):
    sizes = {}
    for precision in ("fp32", "bf16"):
        path = tmp_path / f"{precision}.xml"
        openvino_files.write_openvino(float_file[1], path, metadata={}, precision=precision)
        sizes[precision] = path.with_suffix(".bin").stat().st_size
    assert sizes["bf16"] < 0.6 * sizes["fp32"]


def test_openvino_in_int8_answers_like_the_model(openvino, float_file, tmp_path):
    pytest.importorskip("nncf", reason="needs the extra [openvino]")
    model, path = float_file
    samples = [{"input": x} for x in draws(32)]
    target = tmp_path / "m.xml"
    openvino_files.write_openvino(path, target, metadata={}, precision="int8", samples=samples)
    x = torch.from_numpy(np.concatenate(draws(16, seed=2)))
    with torch.no_grad():
        expected = model(x)
    found = open_exported(target, NAMES, "fc_pred", precision="int8")(x=x)
    assert (found - expected).abs().max() <= 0.1 * expected.abs().max()
    kinds = [op.get_type_name() for op in openvino.Core().read_model(target).get_ops()]
    assert kinds.count("FakeQuantize") >= 1
    assert "openvino_telemetry" in sys.modules
    assert sys.modules["openvino_telemetry"] is None


def test_a_graph_of_openvino_is_never_beside_weights_of_another(tmp_path, monkeypatch):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.xml").write_text(f"graph of {name}")
        (tmp_path / name / "m.bin").write_text(f"weights of {name}")
    target, write, seen = tmp_path / "old" / "m.xml", export.files.write_whole, []

    def watched(path, content):
        seen.append((path.name, target.exists()))
        write(path, content)

    monkeypatch.setattr(export.files, "write_whole", watched)
    export._publish(tmp_path / "new" / "m.xml", target)
    assert seen == [("m.bin", False), ("m.xml", False)]
    assert target.read_text() == "graph of new"
    assert target.with_suffix(".bin").read_text() == "weights of new"


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_every_network_says_where_data_to_calibrate_and_judge_by_are_named(name):
    network, known = load_network(name), settings_by_key(load_specs(name)["export"])
    keys = [network.data_keys[split] for split in (TRAIN, VAL)]
    assert len(keys[0]) == len(keys[1]) >= 1
    assert set(sum(keys, ())) <= set(known)
    assert network.unaugmented is not None
