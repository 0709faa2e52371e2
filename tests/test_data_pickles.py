"""The restricted pickle reader equals pickle on plain values and runs nothing (D18-D20)."""

import os
import pickle
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kineme.data.pickles import parse_plain_pickle, read_plain_pickle
from kineme.errors import DataError

PROTOCOLS = range(6)


def parse(content, **options):
    return parse_plain_pickle("label.pkl", content, **options)


def refusal(content, **options):
    with pytest.raises(DataError) as caught:
        parse(content, **options)
    assert caught.value.exit_code == 3
    line = str(caught.value)
    assert line.startswith("label.pkl: expected ")
    assert len(line) < 400
    return line


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(-(2**39), 2**39), inner)
    ),
    max_leaves=30,
)


@settings(max_examples=100, deadline=None)
@given(PLAIN, st.sampled_from(list(PROTOCOLS)))
def test_any_plain_value_comes_back_as_it_was(value, protocol):
    assert parse(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "kind", ["f2", "f4", "f8", ">f4", "i1", "i8", ">i2", "u2", "?", "U3", "S4"]
)
def test_arrays_of_every_type_and_order_come_back(kind, protocol):
    values = np.arange(24).reshape(2, 3, 4).astype(kind)
    for array in (values, np.asfortranarray(values), values[:, ::2], values[:0], values[0, 0, 0:1]):
        first, second, shared = parse(pickle.dumps((array, array.copy(), array), protocol))
        assert first is shared
        for found in (first, second):
            assert found.dtype == array.dtype
            assert found.shape == array.shape
            np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_scalars_become_plain_numbers(protocol):
    scalars = [np.float32(2.5), np.int64(-7), np.bool_(True), np.uint8(200), np.str_("abc")]
    found = parse(pickle.dumps(scalars, protocol))
    assert found == [2.5, -7, True, 200, "abc"]
    assert [type(value) for value in found] == [float, int, bool, int, str]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickles_of_numpy_1_and_2_are_the_same_to_us(protocol):
    content = pickle.dumps([np.arange(3.0), np.int64(5)], protocol)
    other = content.replace(b"\x16numpy._core.multi", b"\x15numpy.core.multi")
    other = other.replace(b"\x13numpy._core.num", b"\x12numpy.core.num")
    other = other.replace(b"cnumpy._core.multi", b"cnumpy.core.multi")
    assert other != content
    array, number = parse(other)
    np.testing.assert_array_equal(array, [0.0, 1.0, 2.0])
    assert number == 5


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pyskl_annotations_load(tmp_path, protocol):
    annotation = {
        "frame_dir": "S001C001P001R001A001",
        "label": np.int64(4),
        "img_shape": (1080, 1920),
        "total_frames": 6,
        "keypoint": np.arange(204, dtype=np.float16).reshape(1, 6, 17, 2),
        "keypoint_score": np.asfortranarray(np.ones((1, 6, 17), np.float16)),
    }
    path = tmp_path / "coco.pkl"
    value = {"split": {"xsub_train": ["S001C001P001R001A001"]}, "annotations": [annotation] * 2}
    path.write_bytes(pickle.dumps(value, protocol))
    found = read_plain_pickle(path)
    assert found["split"] == value["split"]
    assert found["annotations"][1]["label"] == 4
    assert found["annotations"][1]["img_shape"] == (1080, 1920)
    for name in ("keypoint", "keypoint_score"):
        np.testing.assert_array_equal(found["annotations"][0][name], annotation[name])


def test_long_bytes_are_views_of_the_file():
    value = parse(pickle.dumps([b"a" * 4095, b"b" * 4096]))
    assert value[0] == b"a" * 4095
    assert isinstance(value[1], memoryview)
    assert bytes(value[1]) == b"b" * 4096


def test_d19_text_and_arrays_as_python_2_wrote_them():
    text = b"(lp0\nS'S001.skeleton'\np1\naS\"it's\"\np2\naS'tab\\t\\xe9'\np3\naI5\naL7L\naI01\na."
    assert parse(text) == ["S001.skeleton", "it's", "tab\té", 5, 7, True]
    # protocol 2: SHORT_BINSTRING, and an int16 array whose bytes are text
    array = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x00cnumpy\nndarray\nq\x01K\x00\x85U\x01b"
        b"\x87Rq\x02(K\x01K\x02\x85cnumpy\ndtype\nq\x03U\x02i2K\x00K\x01\x87Rq\x04(K\x03U\x01<NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x04\x80\x00\xff\xfftb."
    )
    np.testing.assert_array_equal(parse(array), np.array([128, -1], np.int16))
    scalar = (
        b"\x80\x02cnumpy.core.multiarray\nscalar\nq\x01cnumpy\ndtype\nq\x02U\x02i8K\x00K\x01\x87Rq"
        b"\x03(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbU\x08\x2a"
        + bytes(7)
        + b"\x86R."
    )
    assert parse(scalar) == 42


GADGETS = [
    "os.system", "posix.system", "nt.system", "os.popen", "os.execv", "os.mkdir", "os.remove",
    "subprocess.Popen", "subprocess.call", "subprocess.check_output", "builtins.eval",
    "builtins.exec", "builtins.compile", "builtins.__import__", "builtins.getattr",
    "builtins.open", "__builtin__.eval", "importlib.import_module", "runpy.run_path",
    "shutil.rmtree", "pathlib.Path", "socket.socket", "urllib.request.urlopen",
    "webbrowser.open", "ctypes.CDLL", "pty.spawn", "code.interact", "timeit.timeit",
    "pickle.loads", "marshal.loads", "types.FunctionType", "operator.attrgetter",
    "functools.partial", "numpy.load", "numpy.fromfile", "numpy.core.multiarray.fromfile",
    "torch.load", "torch._utils._rebuild_tensor_v2", "collections.OrderedDict",
    "copyreg._reconstructor", "numpy.testing._private.utils.runstring",
]  # fmt: skip


def by_global(module, name, argument):
    return b"c%s\n%s\n(V%s\ntR." % (module, name, argument)


def by_stack_global(module, name, argument):
    def short(text):
        return b"\x8c" + bytes([len(text)]) + text

    return (
        b"\x80\x04" + short(module) + b"\x94" + short(name) + b"\x93" + short(argument) + b"\x85R."
    )


def by_inst(module, name, argument):
    return b"(V%s\ni%s\n%s\n." % (argument, module, name)


def by_obj(module, name, argument):
    return b"(c%s\n%s\nV%s\no." % (module, name, argument)


def by_newobj(module, name, argument):
    return b"\x80\x02c%s\n%s\nV%s\n\x85\x81." % (module, name, argument)


def in_a_label_file(module, name, argument):
    return b"]]V%s\na]c%s\n%s\n(V%s\ntRa\x86." % (b"name", module, name, argument)


@pytest.mark.parametrize(
    "form", [by_global, by_stack_global, by_inst, by_obj, by_newobj, in_a_label_file]
)
@pytest.mark.parametrize("gadget", GADGETS)
def test_d18_no_gadget_runs_and_each_is_named(tmp_path, gadget, form):
    canary = tmp_path / "canary"
    module, _, name = gadget.rpartition(".")
    content = form(module.encode(), name.encode(), str(canary).encode())
    line = refusal(content)
    opcode = "INST" if form is by_inst else "GLOBAL"
    assert f"got pickle opcode {opcode} {gadget} is not allowed. Nothing in it was run." in line
    assert not canary.exists()


class Gadget:
    def __init__(self, call, *arguments):
        self.made = (call, arguments)

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_d18_real_pickles_of_gadgets_do_not_run(tmp_path, protocol):
    canary = tmp_path / "canary"
    for gadget in (
        Gadget(os.system, f"touch {canary}"),
        Gadget(eval, f"open({str(canary)!r},'w')"),
    ):
        refusal(pickle.dumps([["a"], [gadget]], protocol))
        refusal(pickle.dumps({"a": gadget}, protocol))
    assert not canary.exists()


STEPS = {
    "PERSID": b"Pos.system\n.",
    "BINPERSID": b"K\x01Q.",
    "EXT1": b"\x82\x01.",
    "EXT2": b"\x83\x01\x00.",
    "EXT4": b"\x84\x01\x00\x00\x00.",
    "NEXT_BUFFER": b"\x80\x05\x97.",
    "EMPTY_SET": b"\x8f.",
    "FROZENSET": b"(K\x01\x91.",
    "NEWOBJ_EX": b"))}\x92.",
    "DUP": b"K\x012.",
}


@pytest.mark.parametrize("name", STEPS)
def test_d18_other_steps_that_plain_values_never_need_are_refused(name):
    assert f"pickle opcode {name} is not allowed" in refusal(STEPS[name])


HALF_MADE = {
    "a name": b"cnumpy\nndarray\n.",
    "a name in a list": b"]cnumpy\ndtype\na.",
    "a dtype": b"cnumpy\ndtype\n(Vf4\ntR.",
    "an array without content": b"cnumpy.core.multiarray\n_reconstruct\n(tR.",
    "a call of ndarray": b"cnumpy\nndarray\n(K\x01tR.",
    "a call of text": b"Vos.system\n(tR.",
    "a state for a list": b"](tb.",
    "bytes with content": b"cbuiltins\nbytes\n(K\x05tR.",
    "another encoding": b"c_codecs\nencode\n(Vabc\nVrot13\ntR.",
    "a key that is a list": b"}(](K\x01ttu.",
    "a key that is a tuple": b"})K\x01s.",
}


@pytest.mark.parametrize("name", HALF_MADE)
def test_d18_nothing_half_made_is_handed_out(name):
    refusal(HALF_MADE[name])


def test_d18_arrays_of_objects_dates_and_records_are_refused():
    assert "a numpy array of objects" in refusal(pickle.dumps(np.array([{}], object)))
    assert "a numpy array of dtype 'M8'" in refusal(pickle.dumps(np.zeros(2, "M8[s]")))
    assert "a numpy array of dtype 'V4'" in refusal(pickle.dumps(np.zeros(2, [("x", "f4")])))


def test_d19_buffers_outside_the_file_are_refused():
    content = pickle.dumps(np.arange(9), 5, buffer_callback=[].append)
    assert "NEXT_BUFFER" in refusal(content)


BOMBS = {
    "nested lists": b"]" * 10**7 + b".",
    "closed nested lists": b"]" * 10**7 + b"a" * (10**7 - 1) + b".",
    "nested tuples": b")" + b"\x85" * 10**7 + b".",
    "nested dicts": b"}" + b"K\x01}" * 10**7 + b".",
    "marks": b"(" * 10**7 + b".",
    "memo": b"]q\x00" + b"h\x00h\x00\x86q\x00" * 10**6 + b".",
    "lines": b"I1\n" * 10**7 + b".",
}


@pytest.mark.parametrize("name", BOMBS)
def test_d20_a_bomb_of_steps_ends_within_a_second(name):
    started = time.process_time()
    assert "got more than 1,000,000 steps" in refusal(BOMBS[name])
    assert time.process_time() - started < 3.0  # under 1 on a core that nobody else wants


def many(step, count=150_000):
    """`step` with factors of 2**61 - 1: integers that all hash to zero."""
    return b"".join(step % (number * (2**61 - 1)) for number in range(1, count))


SLOW = {
    "colliding keys": b"}(" + many(b"L%dL\nK\x00") + b"u.",
    "colliding places": b"K\x00" + many(b"p%d\n") + b".",
    "many arguments": (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x00(" + b"K\x00" * 200_000 + b"tq\x01"
        b"]" + b"h\x00h\x01Ra" * 200_000 + b"."
    ),
    "a type of two to the hundredth parts": (
        b"cnumpy\ndtype\n]q\x00"
        + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(100))
        + b"\x85R."
    ),
    "a shape without end": (
        b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01(" + b"K\x01" * 200_000 + b"tNNNtb."
    ),
}


@pytest.mark.parametrize("name", SLOW)
def test_d20_a_bomb_of_work_ends_within_a_second(name):
    started = time.process_time()
    refusal(SLOW[name])
    assert time.process_time() - started < 3.0  # under 1 on a core that nobody else wants


def test_d20_a_memo_bomb_of_two_to_the_hundredth_values_stays_shared():
    doubled = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(100)) + b"."
    value = parse(doubled)
    for _ in range(100):
        assert value[0] is value[1]
        value = value[0]
    assert value == []


def test_d20_a_text_that_is_copied_again_and_again_is_refused():
    text = b"c_codecs\nencode\nq\x00V" + b"x" * 10_000 + b"\n\x85q\x01"
    copies = text + b"h\x00h\x01R" * 1000 + b"."
    assert "a value that grows far beyond its file" in refusal(copies)


@pytest.mark.parametrize(
    "content",
    [
        b"\x8b\xff\xff\xff\x7f" + bytes(100) + b".",  # an integer of 2 GiB
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of 8 EiB
        b"X\xff\xff\xff\xff.",
        b"L" + b"9" * 5000 + b"L\n.",
        b"cnumpy._core.numeric\n_frombuffer\n(B\x00\x00\x00\x00tR.",
    ],
)
def test_d20_sizes_that_only_promise_are_not_believed(content):
    refusal(content)


def test_more_steps_are_read_when_asked_for():
    content = pickle.dumps(list(range(1000)))
    assert "more than 500 steps" in refusal(content, max_steps=500)
    assert parse(content, max_steps=2000) == list(range(1000))


@pytest.mark.parametrize("content", [b"", b".", b"hello", b"\xff\xd8\xff", b"]a.", b"\x80"])
def test_what_is_no_pickle_is_called_damaged(content):
    assert "expected a whole pickle, got a damaged one, or none (byte " in refusal(content)


def test_every_truncation_and_two_thousand_mutations_raise_nothing_but_data_errors():
    value = [["a", "b"], [np.int64(1), 2], {"x": np.arange(4, dtype=">f4"), "y": (1.5, b"z", None)}]
    chance = random.Random(0)
    for protocol in PROTOCOLS:
        content = pickle.dumps(value, protocol)
        changed = [content[:end] for end in range(len(content))]
        for _ in range(350):
            other = bytearray(content)
            for _ in range(chance.randint(1, 3)):
                other[chance.randrange(len(other))] = chance.randrange(256)
            changed.append(bytes(other))
        refused = 0
        for other in changed:
            try:
                parse(other)
            except DataError:
                refused += 1
        assert refused > len(content)
