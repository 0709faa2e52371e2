"""Export of a pose model: parity on inputs of every kind, and what a fault leaves (X01 to X06)."""

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

from kineme import __version__, files
from kineme.actions import export
from kineme.engine.checkpoint import load_checkpoint
from kineme.errors import QualityError, ResourceError, SpecError
from kineme.network import ExportForm, load_specs
from kineme.pose_classification import adaptive_gcn
from kineme.pose_classification.network import NUM_LIFELIKE, lifelike_skeletons
from kineme.signals import Interrupted
from kineme.spec.load import load_spec
from stick import CLASSES, NETWORK, spec_of, train_stick


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train_stick(tmp_path_factory.mktemp("pose"))


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return export.run(NETWORK, spec_of("export", trained, folder))


def test_x01_parity_is_held_to_random_and_lifelike_inputs_of_every_size(exported):
    parity = exported["parity"]
    shapes = [shape for (shape,) in parity["shapes"]]
    sizes = [shape[0] for shape in shapes]
    example, random = shapes[0], shapes[1 : len(shapes) - 5]
    assert example == [2, 3, 16, 4, 2]
    assert sum(shape[0] for shape in random) >= 64
    assert parity["lifelike_samples"] == NUM_LIFELIKE == sum(sizes[-5:])
    assert sizes[-5:] == [1, 3, 8, 1, 3]
    assert parity["samples"] == parity["equal_predictions"] == sum(sizes)
    assert parity["max_abs_difference"] <= 1e-4 * parity["max_abs_logit"]
    frames, persons = {s[2] for s in random}, {s[4] for s in random}
    assert (frames, persons) == ({1, 2, 3}, {1, 2, 3})
    for first, second in ((0, 2), (0, 4), (2, 4)):  # every pair of sizes has been together
        assert len({(s[first], s[second]) for s in random}) == 9


@pytest.mark.parametrize(
    "words",
    [
        ["model.model_type=ST-GCN", "model.persons=pair"],
        ["model.model_type=ST-GCN++", "model.persons=pair", "model.streams=[bone,joint]",
         "model.fusion=early", "model.mask=true"],
    ],
    ids=["pair", "pair of masked streams"],
)  # fmt: skip
def test_x01_pairs_and_masked_streams_are_exported_for_any_number_of_people(
    words, tmp_path, monkeypatch
):
    monkeypatch.setattr(adaptive_gcn, "_WIDTHS", (64, 128))  # ten blocks take five times as long
    monkeypatch.setattr(adaptive_gcn, "_STRIDES", (1, 2))
    base = ["model.graph_layout=coco", "dataset.sampling=uniform", "dataset.num_frames=16"]
    spec = load_spec(
        load_specs("pose_classification")["export"], None,
        ["results_dir=r", "export.checkpoint=c", *base, *words],
    )[0]  # fmt: skip
    torch.manual_seed(0)
    model, form = NETWORK.build_model(spec).eval(), NETWORK.export_form(spec)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    export.save_onnx(model, form, tmp_path / "model.onnx")
    found = export.compare(model, form, tmp_path / "model.onnx")
    assert found["equal_predictions"] == found["samples"]
    assert {shape[4] for (shape,) in found["shapes"]} >= {1, 2, 3}


def test_x01_lifelike_skeletons_are_padded_partly_hidden_and_partly_alone():
    x = lifelike_skeletons((3, 32, 6, 2), num_axes=2)
    assert x.shape == (16, 3, 32, 6, 2)
    lengths = [
        int(sample.any(dim=3).any(dim=2).any(dim=0).nonzero().max()) + 1 for sample in x[:-1]
    ]
    assert lengths == [32 * (16 - row) // 16 for row in range(15)]
    assert not x[-1].any()
    assert not x[::2, ..., 1].any()
    assert all(sample[..., 1].any() for sample in x[1:9:2])
    missing = [(x[row, :, : lengths[row]] == 0).all(dim=0)[..., 0].float().mean() for row in (0, 8)]
    assert missing[0] == 0
    assert 0.2 < missing[1] < 0.45
    assert x[:, 2].min() >= 0
    assert x[:, 2].max() <= 1
    assert 0.5 < x[:, :2].abs().max() < 0.8


class Padded(torch.nn.Module):
    """Right for random numbers; wrong, once exported, where a sample ends in zeros."""

    def forward(self, skeleton):
        is_empty = (skeleton == 0).all(dim=3).all(dim=1)
        return torch.stack([skeleton.sum(dim=(1, 2, 3)), is_empty.float().sum(dim=1)], dim=1)


def test_x01_a_difference_that_only_real_data_show_is_found(tmp_path):
    example = torch.randn(2, 3, 8, 4)
    lifelike = lifelike_skeletons((3, 8, 4, 1), num_axes=3)[..., 0]
    form = ExportForm({"skeleton": "input"}, {"skeleton": example}, {"skeleton": {0: "batch"}},
                      "out", 18, {}, {"skeleton": lifelike})  # fmt: skip
    export.save_onnx(Padded().eval(), form, tmp_path / "m.onnx")
    assert export.compare(Padded(), form, tmp_path / "m.onnx")["samples"] >= 64 + 16

    class Ignorant(Padded):
        def forward(self, skeleton):
            return super().forward(skeleton) * torch.tensor([1.0, 0.0])

    without = ExportForm(form.names, form.examples, form.dynamic, "out", 18, {})
    assert export.compare(Ignorant(), without, tmp_path / "m.onnx")["lifelike_samples"] == 0
    with pytest.raises(QualityError, match="No file was written"):
        export.compare(Ignorant(), form, tmp_path / "m.onnx")


@pytest.fixture
def quick(exported, monkeypatch):
    """Exports take the file of `exported`, which saves the seconds of tracing."""

    def copy(model, form, path):
        path.write_bytes(Path(exported["onnx_file"]).read_bytes())

    monkeypatch.setattr(export, "save_onnx", copy)
    return copy


def test_x02_a_normalisation_that_differs_is_not_published(trained, tmp_path, quick, monkeypatch):
    def shifted(model, form, path):
        quick(model, form, path)
        model.data_bn.running_mean.add_(0.01)

    monkeypatch.setattr(export, "save_onnx", shifted)
    with pytest.raises(QualityError, match="export parity") as caught:
        export.run(NETWORK, spec_of("export", trained, tmp_path))
    assert caught.value.exit_code == 7
    assert not list(tmp_path.rglob("*.onnx"))


class Inner(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x).real


class Outer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Sequential(torch.nn.Identity(), Inner())

    def forward(self, skeleton):
        return self.head(skeleton)


class Undecided(Outer):
    def forward(self, skeleton):
        return skeleton if bool(self.head[0](skeleton).sum() > 0) else -skeleton


@pytest.mark.parametrize(
    ("model", "culprit"),
    [
        (Outer(), "one that fails at aten.linalg_eig.default in 'head.1'. Replace it"),
        (Undecided(), " in 'Undecided'. Replace it"),
    ],
)
def test_x03_an_operation_without_an_onnx_form_is_named_on_one_line(
    tmp_path, model, culprit, capfd
):
    form = ExportForm({"skeleton": "input"}, {"skeleton": torch.randn(2, 4, 4)},
                      {"skeleton": {0: "batch"}}, "out", 18, {})  # fmt: skip
    with pytest.raises(QualityError) as caught:
        export.save_onnx(model.eval(), form, tmp_path / "m.onnx")
    assert caught.value.exit_code == 7
    assert len(str(caught.value)) <= 400
    assert "\n" not in str(caught.value)
    assert culprit in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_x03_the_exporters_own_words_are_in_the_log(trained, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise torch.onnx.OnnxExporterError("three hundred lines of graph")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(QualityError, match="three hundred lines of graph"):
        export.run(NETWORK, spec_of("export", trained, tmp_path))
    assert "OnnxExporterError" in (tmp_path / "export" / "log.txt").read_text()
    assert not list(tmp_path.rglob("*.onnx"))


@pytest.mark.parametrize("where", ["model", "scratch"])
def test_x04_a_full_disk_leaves_no_part_of_a_model(trained, tmp_path, quick, monkeypatch, where):
    if where == "scratch":

        def full(*_, **__):
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(export, "save_onnx", full)
    else:
        fsync = os.fsync

        def full(descriptor):
            if ".onnx" in os.readlink(f"/proc/self/fd/{descriptor}"):
                raise OSError(errno.ENOSPC, "full")
            fsync(descriptor)

        monkeypatch.setattr("kineme.files.os.fsync", full)
    target = tmp_path / "deep" / "er" / "m.onnx"
    with pytest.raises(ResourceError) as caught:
        export.run(NETWORK, spec_of("export", trained, tmp_path, f"export.onnx_file={target}"))
    assert caught.value.exit_code == 5
    assert not target.exists()
    assert not list(tmp_path.rglob("*.onnx*"))


def test_x04_a_named_model_is_replaced_only_when_told_to(trained, tmp_path, quick):
    target = tmp_path / "new" / "m.onnx"
    words = [f"export.onnx_file={target}"]
    export.run(NETWORK, spec_of("export", trained, tmp_path, *words))
    before = target.read_bytes()
    with pytest.raises(SpecError, match=r"export\.overwrite=true") as caught:
        export.run(NETWORK, spec_of("export", trained, tmp_path, *words))
    assert caught.value.exit_code == 2
    assert target.read_bytes() == before
    target.write_bytes(b"older")
    export.run(NETWORK, spec_of("export", trained, tmp_path, *words, "export.overwrite=true"))
    assert target.read_bytes() == before


def test_x04_killed_while_publishing_there_is_no_model(trained, tmp_path, quick):
    def publish(folder):
        os.replace = lambda source, target: os.kill(os.getpid(), signal.SIGKILL)
        files.write_whole(folder / "model.onnx", lambda file: file.write(b"half"))

    folder = tmp_path / "export"
    process = multiprocessing.get_context("fork").Process(target=publish, args=(folder,))
    process.start()
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    assert [p.name.startswith(".model.onnx.tmp-") for p in folder.iterdir()] == [True]
    export.run(NETWORK, spec_of("export", trained, tmp_path))
    assert not [p for p in folder.iterdir() if ".tmp-" in p.name]
    onnx.checker.check_model(str(folder / "model.onnx"))


def test_x05_free_axes_are_named_in_the_file_and_in_its_metadata(exported):
    session = onnxruntime.InferenceSession(exported["onnx_file"])
    assert session.get_inputs()[0].shape == ["batch", 3, "frames", 4, "persons"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["dynamic"]) == {
        "input": {"0": "batch", "2": "frames", "4": "persons"}
    }


def test_x06_the_file_says_what_it_was_made_of(trained, exported):
    session = onnxruntime.InferenceSession(exported["onnx_file"])
    found = {k: json.loads(v) for k, v in session.get_modelmeta().custom_metadata_map.items()}
    checkpoint = (trained / "train" / "best.pth").read_bytes()
    assert found["checkpoint_sha256"] == hashlib.sha256(checkpoint).hexdigest()
    assert found["kineme"] == __version__
    assert found["labels"] == list(CLASSES)
    assert found["normalize"] == "center"
    fitted = load_checkpoint(trained / "train" / "best.pth").facts["calibration"]
    names = ("temperature", "score", "threshold", "kept")
    assert found["calibration"] == exported["calibration"] == {name: fitted[name] for name in names}
    assert found["layout"]["centre"] == "pelvis"


def test_a_signal_ends_an_export_and_leaves_only_its_status(trained, tmp_path, monkeypatch):
    def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(export, "save_onnx", stop)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(Interrupted) as caught:
        export.run(NETWORK, spec_of("export", trained, tmp_path / "out"))
    assert caught.value.exit_code == 143
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # no scratch folder
    last = (tmp_path / "out" / "export" / "status.json").read_text().splitlines()[-1]
    assert json.loads(last)["status"] == "FAILURE"


def test_onnxruntime_is_loaded_without_its_telemetry(tmp_path):
    free = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    code = "import os, kineme.actions.export; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=free | home, capture_output=True, text=True)
    assert done.stdout.split() == ["1"]
    assert list(tmp_path.rglob("*onnxruntime*")) == []
