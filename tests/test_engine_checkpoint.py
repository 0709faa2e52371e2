"""Checkpoints: whole or refused, harmless, and honest about what fits."""

import json
import os
import pickle
import random
import struct
import zipfile

import pytest
import torch
from torch import nn

from kineme.engine import checkpoint as checkpoints
from kineme.engine.names import checkpoint_name
from kineme.engine.weights import fit_weights
from kineme.errors import CheckpointError
from kineme.spec.schema import resolved
from tiny import TINY, build_model, same, tiny_spec


def facts_of(spec):
    return {"format": 1, "network": "tiny", "spec": resolved(spec), "class_names": ["a", "b"]}


@pytest.fixture
def saved(tmp_path):
    """A checkpoint of the tiny model, and the model."""
    spec = tiny_spec(tmp_path, model__width=8)
    model = build_model(spec)
    content = {
        "epoch": 0,
        "global_step": 6,
        "state_dict": {f"model.{k}": v for k, v in model.state_dict().items()},
        "kineme": facts_of(spec),
    }
    path = tmp_path / checkpoint_name(0, 6)
    checkpoints.save(path, content)
    return path, model


LYING_HEADER = b'{"a":{"dtype":"F32","shape":[9999999],"data_offsets":[0,4]}}'


class Payload:
    """What a malicious file would carry: it leaves a mark when it is run."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.mkdir, (self.mark,)


def refuse(path):
    with pytest.raises(CheckpointError) as caught:
        checkpoints.load_checkpoint(path)
    assert caught.value.exit_code == 4
    return str(caught.value)


def test_names_are_upstreams():
    assert checkpoint_name(7, 123) == "model_epoch_007_step_00123.pth"


def test_a_saved_checkpoint_comes_back_by_plain_names(saved):
    path, model = saved
    loaded = checkpoints.load_checkpoint(path)
    assert same(dict(loaded.weights), dict(model.state_dict()))
    assert loaded.class_names == ("a", "b")
    assert not [p for p in path.parent.iterdir() if ".tmp-" in p.name]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved, share):
    path, _ = saved
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert "expected a whole checkpoint, got" in refuse(path)


def test_a_flipped_bit_is_refused_or_harmless(saved):
    path, model = saved
    data, draw = path.read_bytes(), random.Random(0)
    num_refused = 0
    for _ in range(300):
        broken = bytearray(data)
        broken[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        try:
            loaded = checkpoints.load_checkpoint(path)
        except CheckpointError:
            num_refused += 1
        else:
            assert same(dict(loaded.weights), dict(model.state_dict()))
    assert num_refused > 100


def test_other_formats_are_refused(tmp_path):
    for name, data in {"a.pth": b"hello world", "b.pth": b"\x89PNG....", "c.pth": b"P"}.items():
        (tmp_path / name).write_bytes(data)
        assert "a file that starts with" in refuse(tmp_path / name)
    assert "no such file" in refuse(tmp_path / "none.pth")
    assert "a folder" in refuse(tmp_path)
    with zipfile.ZipFile(tmp_path / "d.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", b"0" * 10**6)
    assert "compressed records" in refuse(tmp_path / "d.pth")


@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_file_that_wants_to_run_code_is_refused_and_does_not(tmp_path, is_legacy):
    mark = tmp_path / "mark"
    content = {"state_dict": {"a": torch.ones(1)}, "callbacks": Payload(mark)}
    path = tmp_path / "evil.pth"
    torch.save(content, path, _use_new_zipfile_serialization=not is_legacy)
    assert "a file that asks to run code when it is loaded" in refuse(path)
    path.write_bytes(pickle.dumps(Payload(mark), protocol=2))
    refuse(path)
    assert not mark.exists()


def test_a_hostile_safetensors_header_is_refused(tmp_path):
    path = tmp_path / "evil.safetensors"
    for data in (
        b"",
        struct.pack("<Q", 2**60) + b"{}",
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", len(LYING_HEADER)) + LYING_HEADER,
    ):
        path.write_bytes(data)
        assert "one that cannot be read" in refuse(path)


def test_metadata_of_safetensors_is_only_data(tmp_path):
    path = tmp_path / "odd.safetensors"
    checkpoints.save_weights(path, {"a": torch.ones(2)}, {"_target_": "os.system", "x": [1]})
    assert checkpoints.load_checkpoint(path).facts == {"_target_": "os.system", "x": [1]}
    assert json.loads((tmp_path / "odd.json").read_text())["x"] == [1]


def test_encrypted_weights_are_refused_with_the_reason(tmp_path):
    path = tmp_path / "tao.tlt"
    torch.save({"state_dict": b"\x01\x02", "state_dict_encrypted": True}, path)
    assert "got weights that TAO encrypted" in refuse(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s},
        lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 3},
        lambda s: {"module." + k: v for k, v in s.items()},
        lambda s: {"model": {"module.model." + k: v for k, v in s.items()}},
    ],
)
@pytest.mark.parametrize("is_legacy", [False, True])
def test_foreign_files_are_read_by_plain_names(tmp_path, wrap, is_legacy):
    state = dict(build_model(tiny_spec(tmp_path)).state_dict())
    path = tmp_path / "foreign.pt"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not is_legacy)
    loaded = checkpoints.load_checkpoint(path)
    assert same(dict(loaded.weights), state)
    assert loaded.facts == {}


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 1, "step": 2}, tmp_path / "a.pth")
    assert "got a dict without any (keys: epoch, step)" in refuse(tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    assert "got a list" in refuse(tmp_path / "b.pth")


def test_the_newest_is_by_step_not_by_clock(tmp_path, saved):
    path, _ = saved
    for epoch, step in ((9, 100), (10, 99), (0, 99_999), (0, 100_000)):
        os.link(path, tmp_path / checkpoint_name(epoch, step))
    (tmp_path / "model_epoch_1_step_2.pth").touch()
    (tmp_path / "my_model_epoch_001_step_99999999.pth").touch()
    names = [p.name for p in checkpoints.find_checkpoints(tmp_path)]
    assert names[-2:] == ["model_epoch_000_step_99999.pth", "model_epoch_000_step_100000.pth"]
    assert names[0] == path.name
    assert len(names) == 5


def test_a_damaged_newest_falls_back_to_the_one_before(tmp_path, saved):
    path, _ = saved
    later = tmp_path / checkpoint_name(1, 12)
    later.write_bytes(path.read_bytes()[:-9])
    found, damaged = checkpoints.load_newest(tmp_path)
    assert found is not None
    assert found.path == path
    assert len(damaged) == 1
    assert str(later) in damaged[0]
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="2 damaged ones"):
        checkpoints.load_newest(tmp_path)
    assert checkpoints.load_newest(tmp_path / "empty") == (None, [])


def test_latest_points_beside_itself_and_is_replaced(tmp_path, saved):
    path, _ = saved
    link = tmp_path / "ty_model_latest.pth"
    for name in (path.name, checkpoint_name(1, 12)):
        checkpoints.point_to(link, tmp_path / name)
        assert os.readlink(link) == name


def test_where_links_fail_a_copy_is_made(tmp_path, saved, monkeypatch):
    path, _ = saved

    def refused(*_):
        raise OSError(1, "not here")

    monkeypatch.setattr(os, "symlink", refused)
    monkeypatch.setattr(os, "link", refused)
    checkpoints.point_to(tmp_path / "latest.pth", path)
    checkpoints.share(tmp_path / "best.pth", path)
    assert (tmp_path / "latest.pth").read_bytes() == path.read_bytes()
    assert (tmp_path / "best.pth").read_bytes() == path.read_bytes()


def test_a_checkpoint_fixes_what_the_user_left_open(tmp_path):
    trained = tiny_spec(tmp_path, model__width=16, dataset__num_classes=4)
    checkpoint = checkpoints.Checkpoint(tmp_path / "x.pth", {}, {}, facts_of(trained))
    asked = tiny_spec(tmp_path, dataset__num_classes=4, model__dropout=0.1)
    restored = checkpoints.restore_spec(asked, checkpoint, TINY.identity)
    assert restored.model.width == 16
    assert restored.model.dropout == 0.1
    assert asked.model.width == 8


def test_every_contradiction_is_named_with_both_values(tmp_path):
    checkpoint = checkpoints.Checkpoint(
        tmp_path / "x.pth", {}, {}, facts_of(tiny_spec(tmp_path, model__width=16))
    )
    asked = tiny_spec(tmp_path, model__width=32, model__batch_norm=False)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.restore_spec(asked, checkpoint, TINY.identity)
    assert [(p.where, p.expected, p.received) for p in caught.value.problems] == [
        ("model.width", "16 as in x.pth", "32"),
        ("model.batch_norm", "True as in x.pth", "False"),
    ]


def test_values_of_a_stranger_are_checked_like_a_users(tmp_path):
    facts = facts_of(tiny_spec(tmp_path))
    facts["spec"]["model"]["width"] = "os.system('x')"
    checkpoint = checkpoints.Checkpoint(tmp_path / "x.pth", {}, {}, facts)
    with pytest.raises(CheckpointError, match=r"x\.pth"):
        checkpoints.restore_spec(tiny_spec(tmp_path), checkpoint, TINY.identity)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    facts = {**facts_of(tiny_spec(tmp_path)), "network": "huge"}
    checkpoint = checkpoints.Checkpoint(tmp_path / "x.pth", {}, {}, facts)
    with pytest.raises(CheckpointError, match="expected a checkpoint of tiny, got one of 'huge'"):
        checkpoints.restore_spec(tiny_spec(tmp_path), checkpoint, TINY.identity)


def test_a_file_that_says_nothing_leaves_the_spec(tmp_path):
    spec = tiny_spec(tmp_path)
    bare = checkpoints.Checkpoint(tmp_path / "x.pth", {}, {})
    assert checkpoints.restore_spec(spec, bare, TINY.identity) is spec


def test_weights_must_fit_exactly(saved):
    path, model = saved
    other = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match=r"expected tensors like 0.weight, 0.bias"):
        fit_weights(other, model.state_dict(), where="x.pth")
    wider = build_model(tiny_spec(path.parent, model__width=9))
    before = {k: v.clone() for k, v in wider.state_dict().items()}
    with pytest.raises(CheckpointError) as caught:
        fit_weights(wider, model.state_dict(), where="x.pth")
    assert str(caught.value).splitlines()[0] == (
        "x.pth: body.weight: expected shape (9, 4), got shape (8, 4)."
    )
    assert same(dict(wider.state_dict()), before)


def test_missing_and_left_over_tensors_are_errors_unless_partial(saved):
    _, model = saved
    weights = dict(model.state_dict())
    weights["extra"] = weights.pop("body.bias")
    with pytest.raises(CheckpointError) as caught:
        fit_weights(model, weights, where="x.pth")
    assert str(caught.value).splitlines() == [
        "x.pth: body.bias: expected shape (8,), got nothing.",
        "x.pth: extra: expected nothing, got shape (8,).",
    ]
    report = fit_weights(model, weights, where="x.pth", is_partial=True)
    assert str(report) == (
        "8 of 9 tensors loaded; not in the file, left as initialised: body.bias; "
        "in the file, not in the model: extra"
    )


def test_another_class_count_keeps_a_fresh_head(tmp_path):
    source = build_model(tiny_spec(tmp_path))
    target = build_model(tiny_spec(tmp_path, dataset__num_classes=5))
    fresh = target.fcn.weight.detach().clone()
    report = fit_weights(
        target, source.state_dict(), where="x.pth", head=TINY.head, is_partial=True
    )
    assert report.resized == ("fcn.weight", "fcn.bias")
    assert torch.equal(target.fcn.weight, fresh)
    assert torch.equal(target.body.weight, source.body.weight)


def test_a_scarce_disk_is_told_before_training(tmp_path):
    assert checkpoints.preflight(tmp_path, 10) == ""
    assert "one checkpoint needs 1,000,000,000,000,000" in checkpoints.preflight(tmp_path, 10**15)
