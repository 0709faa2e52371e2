"""Checkpoints of TAO that hold more than tensors: their weights, and nothing run."""

import argparse
import collections
import contextlib
import enum
import functools
import io
import os
import pathlib
import pickle
import random
import subprocess
import time
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kineme.engine import foreign
from kineme.engine.checkpoint import load_checkpoint, load_weights
from kineme.errors import CheckpointError
from kineme.network import load_network, load_specs
from kineme.spec.load import load_spec

RAN: list[str] = []


class Callback:
    """Of a class that must not be made when the file is read."""

    def __new__(cls, *args):
        RAN.append("new")
        return super().__new__(cls)

    def __init__(self, *args):
        self.state = {"best": torch.ones(2), "paths": {pathlib.PurePosixPath("a"): 1}}

    def __setstate__(self, state):
        RAN.append("setstate")
        self.__dict__ = state


class Slots:
    __slots__ = ("value",)

    def __init__(self):
        self.value = Callback()


class Config(dict):
    """A dict that is more than one, as settings are."""


class Names(list):
    pass


class Cipher(enum.Enum):
    AES = "aes"


def a_function(x):
    RAN.append("function")
    return x


class Called:
    def __reduce__(self):
        return a_function, (1,), {"a": 1}, iter([1]), iter([("b", 2)])


def weights_of(seed=0):
    draw = torch.Generator().manual_seed(seed)
    return collections.OrderedDict(
        {
            "conv.weight": torch.randn(4, 3, 2, generator=draw),
            "conv.bias": torch.randn(4, generator=draw).half(),
            "bn.num_batches_tracked": torch.tensor(7),
            "fcn.weight": torch.randn(3, 4, generator=draw).t(),
            "empty": torch.zeros(0, 2),
        }
    )


def lightning(state):
    """What PyTorch Lightning keeps, with objects wherever it may have some."""
    parameter = torch.nn.Parameter(torch.ones(3))
    return {
        "epoch": 19,
        "global_step": 1200,
        "pytorch-lightning_version": "1.5.10",
        "state_dict": collections.OrderedDict((f"model.{k}", v) for k, v in state.items()),
        "loops": {"fit_loop": Config(a=Names([1, 2]), b=collections.defaultdict(list, x=[1]))},
        "callbacks": {Callback: {"monitor": "val_loss", "best": np.float64(0.5)}, "x": Callback(1)},
        "optimizer_states": [{"state": {0: {"momentum_buffer": parameter}}, "lr": Slots()}],
        "lr_schedulers": [{"step": functools.partial(a_function, 1), "set": {1, 2}, "c": Called()}],
        "hparams_name": "args",
        "hyper_parameters": argparse.Namespace(lr=0.1, when=frozenset({Cipher.AES})),
        "objects": np.array([1, "a", None], dtype=object),
        "structured": np.zeros(2, [("a", "f4")]),
    }


def saved(path, content, *, is_legacy=False, protocol=2):
    torch.save(
        content, path, _use_new_zipfile_serialization=not is_legacy, pickle_protocol=protocol
    )
    RAN.clear()
    return path


def refused(path):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert not RAN
    return str(caught.value)


def same(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


# Weights beside objects


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("is_legacy", [False, True])
def test_weights_beside_foreign_objects_are_read_and_nothing_is_run(tmp_path, is_legacy, protocol):
    path = tmp_path / "ar_model_epoch=19-val_loss=0.05.tlt"
    saved(path, lightning(weights_of()), is_legacy=is_legacy, protocol=protocol)
    with pytest.warns(UserWarning, match="only tensors and plain values are read") as told:
        loaded = load_checkpoint(path)
    same(loaded.weights, weights_of())
    assert not RAN
    assert loaded.content["epoch"] == 19
    assert loaded.content["pytorch-lightning_version"] == "1.5.10"
    assert "optimizer_states" not in loaded.content
    assert loaded.facts == {}
    (note,) = [str(one.message) for one in told if "Detected pickle protocol" not in str(one)]
    assert note.startswith(f"{path}: ")
    assert "not objects of argparse.Namespace, functools.partial, " in note
    assert note.endswith(" more")


def test_tensors_beside_lightnings_model_are_left_out_and_told(tmp_path):
    content = {"state_dict": {f"model.{name}": x for name, x in weights_of().items()}}
    content["state_dict"]["criterion.weight"] = torch.ones(3)
    path = saved(tmp_path / "a.pth", content)
    with pytest.warns(UserWarning, match="beside the model's were left out: criterion.weight"):
        loaded = load_checkpoint(path)
    same(loaded.weights, weights_of())


def test_names_of_a_strangers_safetensors_are_plain_too(tmp_path):
    weights = {f"model.{name}": x.contiguous() for name, x in weights_of().items()}
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    same(dict(sorted(load_checkpoint(tmp_path / "a.safetensors").weights.items())),
         dict(sorted(weights_of().items())))  # fmt: skip


def test_without_objects_torch_itself_reads_the_file(tmp_path, recwarn, monkeypatch):
    def not_called(*_):
        raise AssertionError("not needed")

    monkeypatch.setattr(foreign, "read_tensors", not_called)
    path = saved(tmp_path / "plain.tlt", {"state_dict": weights_of(), "epoch": 3})
    same(load_checkpoint(path).weights, weights_of())
    assert not recwarn.list


def test_a_bare_state_dict_with_an_object_in_it_is_read(tmp_path):
    path = saved(tmp_path / "bare.pth", {**weights_of(), "_meta": Callback()})
    with pytest.warns(UserWarning, match=r"\w+\.PurePosixPath, test_checkpoint_foreign\.Callback$"):
        same(load_checkpoint(path).weights, weights_of())


def test_a_skeleton_network_starts_from_such_a_file(tmp_path):
    source = {"results_dir": "r", "dataset.train_dataset.data_path": "x.npy"}
    spec, _ = load_spec(load_specs("pose_classification")["train"], source)
    model = load_network("pose_classification").build_model(spec)
    state = {name: x + 1 if x.is_floating_point() else x for name, x in model.state_dict().items()}
    path = saved(tmp_path / "pc_model_epoch=69-val_loss=0.1.tlt", lightning(state))
    with pytest.warns(UserWarning, match="only tensors"):
        loaded = load_checkpoint(path)
    report = load_weights(model, loaded)
    assert len(report.matched) == len(state)
    same(model.state_dict(), state)


def test_what_lies_in_an_object_is_not_taken_for_weights(tmp_path):
    path = saved(tmp_path / "hidden.pth", {"state_dict": Config(weights_of()), "epoch": 1})
    with pytest.warns(UserWarning, match="only tensors"):
        assert "a dict without any (keys: epoch)" in refused(path)
    model = torch.nn.Linear(2, 2)
    path = saved(tmp_path / "model.pth", model)
    assert "got an object of torch.nn.modules.linear.Linear. Save its state_dict" in refused(path)
    torch.jit.save(torch.jit.script(model), tmp_path / "script.pth")
    assert "got a program (TorchScript)." in refused(tmp_path / "script.pth")


# The same as torch

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool]  # fmt: skip


@st.composite
def tensors(draw):
    """Tensors of every kind, some of them views of others."""
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    count = int(np.prod(shape, dtype=int)) + draw(st.integers(0, 3))
    values = torch.arange(count + 5).remainder(2 if dtype == torch.bool else 100).to(dtype)
    start = draw(st.integers(0, 5))
    tensor = values[start : start + int(np.prod(shape, dtype=int))].reshape(shape)
    if tensor.dim() > 1 and draw(st.booleans()):
        tensor = tensor.transpose(0, -1)
    return torch.nn.Parameter(tensor) if dtype.is_floating_point and draw(st.booleans()) else tensor


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.text(max_size=4), tensors(), max_size=4), st.booleans(), st.booleans())
def test_tensors_are_those_that_torch_reads(state, is_legacy, is_shared):
    if is_shared and state:
        state["again"] = next(iter(state.values()))
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=not is_legacy)
    buffer.seek(0)
    expected = torch.load(buffer, weights_only=True)
    found, left_out = foreign.read_tensors(pathlib.Path("x.pth"), buffer)
    assert left_out == ()
    same(found, {name: tensor.detach() for name, tensor in expected.items()})


# Files that mean harm


class Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "call",
    [(os.mkdir, "mark"), (os.system, "touch mark"), (eval, "open('mark', 'w')"),
     (exec, "open('mark', 'w')"), (subprocess.Popen, "touch mark"), (__import__, "this"),
     (pickle.loads, b"N.")],
    ids=lambda call: call[0].__name__,
)  # fmt: skip
@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_file_that_names_what_runs_programs_is_refused_by_name(
    tmp_path, monkeypatch, call, is_legacy
):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": weights_of(), "callbacks": Payload(*call)}
    path = saved(tmp_path / "evil.tlt", content, is_legacy=is_legacy)
    line = refused(path)
    assert "got a file that asks to run code when it is loaded (" in line
    assert f".{call[0].__name__})" in line
    assert [entry.name for entry in tmp_path.iterdir()] == ["evil.tlt"]


def steps(value):
    """The pickle steps that make a plain value."""
    if isinstance(value, bool) or value is None:
        return {True: b"\x88", False: b"\x89", None: b"N"}[value]
    if isinstance(value, int):
        size = (value.bit_length() + 8) // 8
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, str):
        return b"X" + len(value).to_bytes(4, "little") + value.encode()
    return b"(" + b"".join(map(steps, value)) + b"t"


def tensor_steps(
    *, storage="FloatStorage", key="0", length=4, offset=0, size=(4,), stride=(1,), module="torch"
):
    stored = (
        b"(" + steps("storage") + f"c{module}\n{storage}\n".encode()
        + steps(key) + steps("cpu") + steps(length) + b"tQ"
    )  # fmt: skip
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored + steps(offset) + steps(size)
        + steps(stride) + steps(False) + b"ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def described(**tensor):
    """A pickle of an object of a class of nobody's, and a tensor as described."""
    thing = steps("x") + b"cnobody\nThing\n)\x81"
    return b"\x80\x02}(" + thing + steps("w") + tensor_steps(**tensor) + b"u."


def packed(path, content, records=None, others=None):
    """An archive as torch writes it, with this pickle and these records."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", content)
        archive.writestr("a/version", "3\n")
        for key, data in ({"0": np.arange(4, dtype="<f4").tobytes()} | (records or {})).items():
            archive.writestr(f"a/data/{key}", data)
        for name, data in (others or {}).items():
            archive.writestr(name, data)
    return path


@pytest.mark.filterwarnings("ignore:.*only tensors")
def test_the_files_that_these_tests_make_can_be_read(tmp_path):
    loaded = load_checkpoint(packed(tmp_path / "a.pth", described()))
    assert loaded.weights["w"].tolist() == [0, 1, 2, 3]
    view = described(size=(2, 1), stride=(2, 7), offset=1)
    assert load_checkpoint(packed(tmp_path / "b.pth", view)).weights["w"].tolist() == [[1], [3]]
    empty = described(size=(0, 3), stride=(3, 1))
    assert load_checkpoint(packed(tmp_path / "c.pth", empty)).weights["w"].shape == (0, 3)


@pytest.mark.parametrize(
    "tensor",
    [
        {"size": (5,)}, {"offset": 1}, {"offset": -1}, {"size": (2,), "stride": (4,)},
        {"size": (10**12,), "stride": (0,)}, {"size": (-1,)}, {"stride": (-1,)},
        {"size": (2, 2)}, {"size": (1,) * 65, "stride": (1,) * 65}, {"length": 5}, {"length": 3},
        {"length": -1}, {"length": 10**15, "size": (10**15,)}, {"key": "1"}, {"key": "../0"},
        {"key": 0}, {"size": "abc"}, {"size": 4}, {"offset": None}, {"storage": "DoubleStorage"},
        {"size": (2**70,)},
    ],
    ids=str,
)  # fmt: skip
def test_a_tensor_that_cannot_be_is_refused(tmp_path, tensor):
    line = refused(packed(tmp_path / "odd.pth", described(**tensor)))
    assert "expected a whole checkpoint, got one that cannot be read (" in line


@pytest.mark.filterwarnings("ignore:.*only tensors")
@pytest.mark.parametrize(
    "tensor", [{"storage": "QInt8Storage"}, {"module": "nobody"}, {"storage": "Thing"}], ids=str
)
def test_a_tensor_of_a_kind_that_is_not_read_is_left_out(tmp_path, tensor):
    path = packed(tmp_path / "odd.pth", described(**tensor))
    assert "got a dict without any (keys: none)" in refused(path)


def test_an_archive_of_another_make_is_refused_with_the_reason(tmp_path):
    for others, expected in (
        ({"b/data.pkl": b"N."}, "several pickles"),
        ({"a/byteorder": b"big"}, "written on a big-endian machine"),
    ):
        path = packed(tmp_path / "odd.pth", described(), others=others)
        with open(path, "rb") as file, pytest.raises(CheckpointError, match=expected):
            foreign.read_tensors(path, file)


@pytest.mark.filterwarnings("ignore:.*only tensors")
@pytest.mark.parametrize("is_legacy", [False, True])
def test_any_change_of_a_byte_is_refused_or_gives_tensors(tmp_path, is_legacy):
    """Without the checksums, which hold most of such files off."""
    buffer = io.BytesIO()
    content = lightning({"a": torch.arange(6.0).reshape(2, 3)})
    torch.save(content, buffer, _use_new_zipfile_serialization=not is_legacy)
    whole, draw = buffer.getvalue(), random.Random(1)
    RAN.clear()
    num_read = 0
    for _ in range(400):
        broken = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            broken[draw.randrange(len(broken))] = draw.randrange(256)
        file = io.BytesIO(broken if draw.random() < 0.8 else broken[: draw.randrange(len(whole))])
        with contextlib.suppress(CheckpointError):
            found, _ = foreign.read_tensors(pathlib.Path("x.pth"), file)
            num_read += 1
            inner = found.get("state_dict")
            tensors = [x for x in (inner or {}).values() if torch.is_tensor(x)]
            assert sum(x.numel() for x in tensors) <= 6
    assert not RAN
    assert 50 < num_read < 390


def test_a_pickle_that_never_ends_or_grows_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(foreign, "MAX_STEPS", 50_000)
    lists = b"\x80\x02" + b"]q\x00" + b"(h\x00h\x00h\x00t0" * 20_000 + b"."
    copies = b"\x80\x02" + steps("x" * 5000) + b"q\x000" + (
        b"c_codecs\nencode\n(h\x00" + steps("latin1") + b"tR0"
    ) * 3000 + b"N."  # fmt: skip
    for content in (lists, copies):
        path = packed(tmp_path / "bomb.pth", content)
        started = time.perf_counter()
        with open(path, "rb") as file, pytest.raises(CheckpointError):
            foreign.read_tensors(path, file)
        assert time.perf_counter() - started < 5


KEYS = {  # steps of a key, and whether it is one
    "text": (steps("x"), True),
    "a small integer": (steps(-(2**40) + 1), True),
    "an integer that may collide": (steps(2**61 - 1), False),
    "one below zero": (steps(-(2**40)), False),
    "bytes": (b"C\x01b", False),
    "a tuple": (steps((1,)), False),
    "a class": (b"cnobody\nThing\n", False),
}
FILLED = {  # what is before, between and after two items, by every step that fills a dict
    "SETITEM": (b"}", b"s", b"s"),
    "SETITEMS": (b"}(", b"", b"u"),
    "DICT": (b"(", b"", b"d"),
    "OrderedDict": (b"ccollections\nOrderedDict\n](", b"\x86", b"\x86e\x85R"),
}


@pytest.mark.parametrize("how", FILLED)
@pytest.mark.parametrize("kind", KEYS)
def test_a_key_that_is_no_text_or_small_integer_is_passed_over(tmp_path, how, kind):
    (key, is_one), (start, between, end) = KEYS[kind], FILLED[how]
    items = key + steps(7), steps("w") + tensor_steps()
    path = packed(tmp_path / "a.pth", b"\x80\x02" + start + between.join(items) + end + b".")
    with open(path, "rb") as file:
        found, _ = foreign.read_tensors(path, file)
    assert found.pop("w").tolist() == [0, 1, 2, 3]
    assert list(found.values()) == [7] * is_one


def test_keys_that_all_collide_take_no_time(tmp_path):
    keys = b"".join(steps(number * (2**61 - 1)) + b"N" for number in range(1, 100_000))
    path = packed(tmp_path / "a.pth", b"\x80\x02}(" + keys + b"u.")
    started = time.process_time()
    with open(path, "rb") as file:
        assert foreign.read_tensors(path, file)[0] == {}
    assert time.process_time() - started < 3.0  # minutes, if they were kept


# Files that are locked, or no checkpoints


@pytest.mark.parametrize(
    "cipher", [True, 3, "aes", Cipher.AES, Callback()], ids=lambda x: type(x).__name__
)
@pytest.mark.parametrize("is_legacy", [False, True])
@pytest.mark.filterwarnings("ignore:.*only tensors")
def test_encrypted_weights_are_told_whatever_names_the_cipher(tmp_path, cipher, is_legacy):
    content = {**lightning({}), "state_dict": os.urandom(9000), "state_dict_encrypted": cipher}
    for one in (content, {k: content[k] for k in ("epoch", "state_dict", "state_dict_encrypted")}):
        line = refused(saved(tmp_path / "locked.tlt", one, is_legacy=is_legacy))
        assert line.endswith(
            "expected readable weights, got weights that TAO encrypted. kineme does not have the "
            "cipher: save the model without encryption_key in TAO."
        )


@pytest.mark.parametrize(
    ("name", "start", "received"),
    [
        ("m.etlt", b"\x0a\x00\x00\x00input_rgb", "(encrypted, if TAO wrote it). kineme does not"),
        ("m.tlt", b"\xf3\x01", "(encrypted, if TAO wrote it). kineme does not have TAO's cipher"),
        ("m.tlt", b"\x89HDF\r\n", "(an HDF5 file, as Keras writes)."),
        ("m.pth", b"\x1f\x8b\x08", "(a gzip archive; unpack it first)."),
        ("m.engine", b"ftrt", "(a TensorRT engine)."),
        ("m.pth", b"state".ljust(257, b"\0") + b"ustar", "(a tar archive, as the first releases"),
        ("m.pth", b"\x08\x07", "a file that starts with b'\\x08\\x07'. Use another"),
        ("m.tlt", b"", "got an empty file."),
        ("m.onnx", b"\x08\x07", "expected a checkpoint, got an exported model; it cannot be"),
        ("m.json", b"{", "got JSON, which holds no weights. Name the checkpoint of a training"),
    ],
)
def test_a_file_that_is_no_archive_is_refused_with_what_it_may_be(tmp_path, name, start, received):
    path = tmp_path / name
    path.write_bytes(start + bytes(600 if start else 0))
    assert received in refused(path)


def test_a_package_of_taos_is_told_from_other_archives(tmp_path):
    path = tmp_path / "package.tlt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.yaml", "format: 1")
        archive.writestr("model_weights", os.urandom(50))
    assert "an EFF package of TAO's, which is encrypted" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "a zip archive that torch did not write" in refused(path)


@pytest.mark.parametrize(
    "name",
    ["ngc://nvidia/tao/actionrecognitionnet:trainable_v1.0",
     "nvidia/tao/poseclassificationnet:trainable_v1.0"],
)  # fmt: skip
def test_a_name_in_nvidias_catalogue_is_no_file(name):
    line = refused(name)
    assert "no such file. Download it from NGC, and name the file." in line
