"""`dataset_convert.write=shards`: the same samples as arrays, in stores that training reads."""

import json
import tracemalloc
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kineme.cli import main
from kineme.data.labels import read_labels
from kineme.data.shards import open_shards
from kineme.errors import ResourceError, SpecError
from kineme.network import PREDICT, TRAIN, VAL
from kineme.pose_classification.convert import convert
from kineme.pose_classification.settings import DatasetConvert
from kineme.pose_classification.sources import complete, load_sequences
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec


def nw_ucla(folder: Path) -> Path:
    """Eight takes of two classes, of 3 to 10 frames; view 3 is the validation data."""
    draw = np.random.default_rng(0)
    folder.mkdir()
    for take in range(8):
        frames = draw.normal(size=(3 + take, 20, 3)).round(3).tolist()
        name = f"a{1 + take % 2:02d}_s01_e{take:02d}_v{1 + take % 3:02d}.json"
        (folder / name).write_text(json.dumps({"skeletons": frames, "label": 1 + take % 2}))
    return folder


def run(data: Path, out: Path, **settings: Any) -> dict[str, Any]:
    asked = DatasetConvert(data=str(data), format="nw_ucla", **settings)
    return convert(SimpleNamespace(dataset_convert=asked), out)


def test_stores_hold_what_the_arrays_hold(tmp_path: Path) -> None:
    data = nw_ucla(tmp_path / "in")
    run(data, tmp_path / "npy")
    result = run(data, tmp_path / "shards", write="shards")
    assert result["files"] == ["train_data/index.json", "val_data/index.json", "dataset.json"]
    for split in ("train", "val"):
        array = np.load(tmp_path / "npy" / f"{split}_data.npy")
        labels = read_labels(tmp_path / "npy" / f"{split}_label.json")
        store = open_shards(tmp_path / "shards" / f"{split}_data")
        store.verify()
        assert store.shape == array.shape
        np.testing.assert_array_equal(store.read(np.arange(len(store))), array)
        assert store.labels.ids == labels.ids
        assert store.labels.labels.tolist() == labels.labels.tolist()
        assert store.labels.class_names == labels.class_names
        assert store.labels.layout == labels.layout == "kinect-20"
    facts = [
        json.loads((tmp_path / name / "dataset.json").read_text()) for name in ("npy", "shards")
    ]
    assert facts[0] == facts[1]


def test_a_folder_of_stores_is_a_data_path_like_one_of_arrays(tmp_path: Path) -> None:
    data = nw_ucla(tmp_path / "in")
    found = {}
    for write in ("npy", "shards"):
        run(data, tmp_path / write, write=write)
        words = [
            f"dataset.{split}_dataset.data_path={tmp_path / write}" for split in ("train", "val")
        ]
        spec, _ = load_spec(SPECS["train"], None, [*words, "results_dir=r"])
        spec, notes = complete(spec, TRAIN)
        assert spec.model.graph_layout == "kinect-20"
        assert len(notes) == 1
        found[write] = [load_sequences(spec, split) for split in (TRAIN, VAL)]
    for array, store in zip(found["npy"], found["shards"], strict=True):
        assert array.ids == store.ids
        assert array.labels.tolist() == store.labels.tolist()
        rows = np.arange(len(array.ids))
        np.testing.assert_array_equal(array.gather(rows, None), store.gather(rows, None))


@pytest.mark.parametrize("write", ["npy", "shards"])
def test_the_truth_of_an_inference_is_told_by_name_and_other_classes_do_not_matter(
    tmp_path: Path, write: str
) -> None:
    run(nw_ucla(tmp_path / "in"), tmp_path / "out", write=write)  # two samples, of both classes
    one, two = "pick up with one hand", "pick up with two hands"
    for label_map, labels in (
        (f"{{{two}: 0, {one}: 1}}", [1, 0]),
        (f"{{other: 0, {two}: 1}}", [-1, 1]),
    ):
        words = ["results_dir=r", "inference.checkpoint=c.pth", "model.graph_layout=kinect-20"]
        words.append(f"dataset.label_map={label_map}")
        words.append(f"inference.test_dataset.data_path={tmp_path / 'out'}")
        spec, _ = load_spec(SPECS["inference"], None, words)
        assert load_sequences(spec, PREDICT).labels.tolist() == labels


def test_both_keys_may_name_the_folder_of_a_store(tmp_path: Path) -> None:
    run(nw_ucla(tmp_path / "in"), tmp_path / "out", write="shards")
    words = [
        f"dataset.train_dataset.{key}={tmp_path / 'out'}" for key in ("data_path", "label_path")
    ]
    spec, _ = load_spec(SPECS["train"], None, [*words, "results_dir=r"])
    spec, _ = complete(spec, TRAIN)
    assert len(load_sequences(spec, TRAIN).ids) == 6


@pytest.mark.parametrize("first", ["npy", "shards"])
def test_stores_are_not_written_over_or_beside_older_data(tmp_path: Path, first: str) -> None:
    data = nw_ucla(tmp_path / "in")
    run(data, tmp_path / "out", write=first)
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    with pytest.raises(SpecError) as caught:
        run(data, tmp_path / "out", write="shards")
    name = "train_data.npy" if first == "npy" else "train_data"
    assert f"got '{tmp_path / 'out'}' with {name}, val_data" in str(caught.value)
    assert caught.value.exit_code == 2
    assert before == {p: p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}


def test_a_full_disk_leaves_no_store_and_the_next_run_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = nw_ucla(tmp_path / "in"), tmp_path / "out"

    def full(descriptor: int) -> None:
        raise OSError(28, "full")

    with monkeypatch.context() as patched:
        patched.setattr("kineme.files.os.fsync", full)
        with pytest.raises(ResourceError, match="bytes free"):
            run(data, out, write="shards")
    assert not list(out.rglob("index.json"))
    assert not list(out.rglob("*.npy"))
    run(data, out, write="shards")
    assert len(open_shards(out / "train_data")) == 6


def test_clips_of_one_frame_do_not_share_their_memory(tmp_path: Path) -> None:
    data = tmp_path / "in"
    data.mkdir()
    for take in range(3):
        frames = [[[float(take + 1)] * 3] * 20]
        text = json.dumps({"skeletons": frames, "label": 1})
        (data / f"a01_s01_e{take:02d}_v01.json").write_text(text)
    run(data, tmp_path / "out", write="shards")
    store = open_shards(tmp_path / "out" / "train_data")
    assert store.read(np.arange(3))[:, 0, 0, 0, 0].tolist() == [1, 2, 3]


def test_a_conversion_needs_no_memory_for_all_of_its_clips(tmp_path: Path) -> None:
    """40 MB of clips, one at a time; a shard of 64 MiB would hold them all, so shards are small."""
    from kineme.data.conversion import Tally
    from kineme.pose_classification.convert import writing
    from kineme.pose_classification.convert.clips import Clip, Source

    def clips() -> Any:
        for number in range(40):
            yield Clip(str(number), np.full((1, 5000, 17, 3), number + 1, np.float32))

    source = Source("many", ("coco",), (), clips())
    with pytest.MonkeyPatch.context() as patched:
        small = partial(writing.ShardWriter, shard_bytes=1 << 20)
        patched.setattr(writing, "ShardWriter", small)
        tracemalloc.start()
        writing.write_source(source, tmp_path / "out", Tally(), as_shards=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert len(open_shards(tmp_path / "out" / "data")) == 40
    assert peak < 20e6


def test_the_command_writes_stores_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        f"results_dir={tmp_path}", f"dataset_convert.data={nw_ucla(tmp_path / 'in')}",
        "dataset_convert.format=nw_ucla", "dataset_convert.write=shards",
    ]  # fmt: skip
    assert main(["pose_classification", "dataset_convert", *words]) == 0
    status = (tmp_path / "dataset_convert" / "status.json").read_text()
    assert "Saved train_data/index.json." in status
    assert main(["pose_classification", "dataset_convert", *words]) == 2
    assert "dataset_convert.results_dir" in capsys.readouterr().err
