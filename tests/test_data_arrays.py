"""Opening and reading a .npy of skeletons, whatever it is (faults D01-D11, D13)."""

import os
import pickle
import random
import struct
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from kineme.data.arrays import check_shape, open_skeletons
from kineme.errors import DataError, ResourceError

LAYOUTS = {"nvidia": 34, "openpose": 18, "coco": 17, "human3.6m": 17, "ntu-rgb+d": 25}


@pytest.fixture
def data():
    return np.random.default_rng(0).standard_normal((10, 3, 6, 4, 2)).astype(np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "train_data.npy"


def header(shape="(2, 3, 4, 5, 1)", descr="'<f4'", fortran="False", *, version=1, text=None):
    """The bytes before the data of a .npy file, as given and not as numpy would."""
    body = text or f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    encoded = body.encode("latin-1") + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(encoded))
    return b"\x93NUMPY" + bytes([version, 0]) + length + encoded


def problems(shape, *, num_channels=3, layout="nvidia"):
    found = check_shape(
        "train_data.npy", shape,
        num_channels=num_channels, num_joints=LAYOUTS[layout], layout=layout,
        layouts_with=lambda joints: [name for name, count in LAYOUTS.items() if count == joints],
    )  # fmt: skip
    return [str(problem) for problem in found]


def test_samples_are_read_in_any_order_and_number(path, data):
    np.save(path, data)
    array = open_skeletons(path)
    assert (len(array), array.shape, array.notes) == (10, data.shape, ())
    for indices in ([3], [0, 1, 2], [9, 0, 0, 4, 5, 6, 2], list(range(10)), []):
        np.testing.assert_array_equal(array.read(np.array(indices, int)), data[indices])


def test_samples_are_read_into_a_buffer_that_is_given(path, data):
    np.save(path, data)
    out = np.empty((2, 3, 6, 4, 2), np.float32)
    assert open_skeletons(path).read(np.array([4, 1]), out=out) is out
    np.testing.assert_array_equal(out, data[[4, 1]])


def test_frames_are_gathered_per_sample(path, data):
    np.save(path, data)
    frames = np.array([[0, 5, -1], [2, 2, 3]])
    taken = open_skeletons(path).read_frames(np.array([7, 1]), frames)
    np.testing.assert_array_equal(taken[0, :, :2], data[7][:, [0, 5]])
    np.testing.assert_array_equal(taken[0, :, 2], 0)
    np.testing.assert_array_equal(taken[1], data[1][:, [2, 2, 3]])


@pytest.mark.parametrize("index", [-1, 10])
def test_an_index_outside_is_a_bug_and_not_another_sample(path, data, index):
    np.save(path, data)
    with pytest.raises(IndexError):
        open_skeletons(path).read(np.array([0, index]))


def test_a_pickled_array_opens_its_file_again_instead_of_carrying_it(path, data):
    np.save(path, np.repeat(data, 50, axis=0))
    content = pickle.dumps(open_skeletons(path))
    assert len(content) < 1000
    np.testing.assert_array_equal(pickle.loads(content).read(np.array([50])), data[[1]])


def test_d01_no_person_axis():
    (line,) = problems((10, 3, 64, 18), layout="openpose")
    assert line == (
        "train_data.npy: expected 5 dimensions (N, C, T, V, M), got 4 (10, 3, 64, 18). "
        "If it has no person axis, save data[..., None]: shape (10, 3, 64, 18, 1)."
    )


def test_d01_opening_other_ranks_is_refused(path):
    np.save(path, np.zeros((10, 3, 64, 18), np.float32))
    with pytest.raises(DataError, match=r"expected 5 dimensions .*, got 4 \(10, 3, 64, 18\)"):
        open_skeletons(path)


@pytest.mark.parametrize(
    ("shape", "looks", "order"),
    [
        ((10, 64, 18, 3, 1), "N, T, V, C, M", "0, 3, 1, 2, 4"),
        ((10, 2, 64, 18, 3), "N, M, T, V, C", "0, 4, 2, 3, 1"),
        ((10, 64, 3, 18, 1), "N, T, C, V, M", "0, 2, 1, 3, 4"),
    ],
)
def test_d02_swapped_axes_name_the_order_that_fits(shape, looks, order):
    (line,) = problems(shape, layout="openpose")
    assert f"got C={shape[1]} and V={shape[3]} (shape {shape})" in line
    assert line.endswith(f"It looks like ({looks}): save data.transpose({order}).")
    fixed = np.empty(shape).transpose(tuple(map(int, order.split(", ")))).shape
    assert (fixed[0], fixed[1], fixed[2], fixed[3]) == (10, 3, 64, 18)


def test_d02_no_order_fits():
    (line,) = problems((10, 7, 64, 18, 1), layout="openpose")
    assert "expected 3 channels for model.input_channels, got 7" in line
    assert line.endswith("No axis order fits C=3.")


def test_d03_other_number_of_joints_names_the_layouts_that_fit():
    assert problems((120, 3, 300, 18, 1)) == [
        "train_data.npy: expected 34 joints for model.graph_layout 'nvidia', got 18 "
        "(shape (120, 3, 300, 18, 1) is (N, C, T, V, M)). "
        "18 joints fit 'openpose'. Set model.graph_layout: openpose."
    ]
    (line,) = problems((34, 3, 300, 17, 1))
    assert line.endswith("17 joints fit 'coco' and 'human3.6m'. Set model.graph_layout: coco.")
    (line,) = problems((34, 3, 300, 19, 1), num_channels=3, layout="coco")
    assert line.endswith("No known layout has 19 joints; describe yours in a layout file.")


def test_d03_own_layouts_are_named_too():
    found = check_shape(
        "a.npy", (9, 3, 8, 25, 1), num_channels=3, num_joints=34, layout="nvidia",
        layouts_with=lambda joints: ["mine"] if joints == 25 else [],
    )  # fmt: skip
    assert "Set model.graph_layout: mine." in str(found[0])


def test_d04_two_channels_for_a_model_of_three():
    (line,) = problems((3, 2, 64, 34, 1))
    assert line == (
        "train_data.npy: expected 3 channels for model.input_channels, got 2 "
        "(shape (3, 2, 64, 34, 1) is (N, C, T, V, M)). "
        "Set model.input_channels: 2, or convert the data."
    )
    assert problems((3, 2, 64, 34, 1), num_channels=2) == []


def test_channels_and_joints_are_reported_together():
    assert len(problems((10, 2, 64, 18, 1))) == 2


@pytest.mark.parametrize("kind", ["i2", "f8", "f2", "u1", ">f4", ">i4", "i8"])
def test_d06_other_numbers_are_converted_with_one_note(path, data, kind):
    stored = (data * 20 + 100).astype(kind)
    np.save(path, stored)
    array = open_skeletons(path)
    read = array.read(np.arange(10))
    assert read.dtype == np.float32
    assert read.dtype.isnative
    np.testing.assert_allclose(read, stored.astype(np.float32), rtol=1e-6)
    name = np.dtype(kind).name
    assert array.notes == (f"{path}: stored as {name}, read as float32.",)


@pytest.mark.parametrize(
    ("stored", "named"),
    [
        (np.zeros((1, 3, 2, 2, 1), "c8"), "complex numbers"),
        (np.zeros((1, 3, 2, 2, 1), "U3"), "text"),
        (np.zeros((1, 3, 2, 2, 1), "S3"), "byte strings"),
        (np.zeros((1, 3, 2, 2, 1), bool), "booleans"),
        (np.zeros((1, 3, 2, 2, 1), [("x", "f4"), ("y", "f4")]), "a structured array"),
        (np.zeros((1, 3, 2, 2, 1), "V4"), "a structured array"),
        (np.zeros((1, 3, 2, 2, 1), "M8[s]"), "dates"),
    ],
)
def test_d07_types_that_are_no_numbers_are_refused_by_name(path, stored, named):
    np.save(path, stored)
    with pytest.raises(DataError, match=f"expected numbers .*, got {named}, dtype"):
        open_skeletons(path)


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


def test_d08_an_object_array_is_refused_and_its_pickle_never_runs(path, tmp_path):
    canary = tmp_path / "canary"
    np.save(path, np.array([Canary(canary)], object), allow_pickle=True)
    with pytest.raises(DataError, match=r"an object array \(pickled Python objects\), dtype"):
        open_skeletons(path)
    assert not canary.exists()


def test_d09_a_header_of_114_gib_costs_no_memory(path):
    path.write_bytes(header("(100000, 3, 3000, 34, 1)").ljust(128))
    code = textwrap.dedent(f"""
        import resource
        from kineme.data.arrays import open_skeletons
        from kineme.errors import DataError
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        before = peak()
        try:
            open_skeletons({str(path)!r})
        except DataError as error:
            print(peak() - before, error)
    """)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown_kib, _, line = done.stdout.partition(" ")
    assert int(grown_kib) < 50 * 1024
    assert "expected 122,400,000,0" in line
    assert "got 128 bytes" in line


REFUSED_HEADERS = {
    "overflow": header("(9223372036854775807, 9223372036854775807, 3, 4, 5)"),
    "five thousand digits": header(f"({'9' * 5000}, 3, 4, 5, 1)"),
    "four thousand digits each": header(f"({'9' * 1900}, {'9' * 1900}, {'9' * 1900}, 5, 1)"),
    "negative": header("(2, 3, -4, 5, 1)"),
    "two negatives": header("(2, 3, -4, -5, 1)"),
    "zero": header("(2, 3, 0, 5, 1)"),
    "truth": header("(True, 3, 4, 5, 1)"),
    "float": header("(2.0, 3, 4, 5, 1)"),
    "list": header("[2, 3, 4, 5, 1]"),
    "no shape": header(text="{'descr': '<f4', 'fortran_order': False}"),
    "more keys": header(text="{'descr':'<f4','fortran_order':False,'shape':(1,3,4,5,1),'x':1}"),
    "fortran as text": header(fortran="'no'"),
    "code": header("__import__('os').mkdir('canary')"),
    "code for a type": header(descr="__import__('os').mkdir('canary')"),
    "lambda": header("(lambda: (2, 3, 4, 5, 1))()"),
    "deep": header("(" * 4000 + ")" * 4000),
    "many dimensions": header("(" + "1, " * 2000 + ")"),
    "300 kB": header(text=" " * 300_000, version=2),
    "no end": header()[:20],
    "zero byte": header(text="{'descr': '<f4', \x00 'fortran_order': False, 'shape': (1,)}"),
    "not a dict": header(text="(1, 2)"),
    "unhashable key": header(text="{[]: 1}"),
    "type of a type": header(descr="'f4,f4'"),
    "type with a length": header(descr="'<f3'"),
    "other version": b"\x93NUMPY\x09\x00" + header()[8:],
    "empty": b"",
    "a zip": b"PK\x03\x04" + bytes(200),
    "only magic": b"\x93NUMPY",
}


@pytest.mark.parametrize("name", REFUSED_HEADERS)
def test_d10_a_bad_header_is_refused_in_one_line(path, name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path.write_bytes(REFUSED_HEADERS[name] + bytes(4 * 120))
    with pytest.raises(DataError) as caught:
        open_skeletons(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: expected ")
    assert "\n" not in line
    assert len(line) - len(str(path)) < 400
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_d10_all_header_versions_load(path, version):
    values = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5, 1)
    path.write_bytes(header(version=version) + values.tobytes())
    np.testing.assert_array_equal(open_skeletons(path).read(np.arange(2)), values)


def test_d10_sizes_as_python_2_wrote_them_load(path):
    path.write_bytes(header("(2L, 3L, 4L, 5L, 1L)") + bytes(4 * 120))
    assert open_skeletons(path).shape == (2, 3, 4, 5, 1)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_d10_fortran_order_loads_and_says_what_it_costs(path, data, kind):
    np.save(path, np.asfortranarray(data.astype(kind)))
    array = open_skeletons(path)
    indices = np.array([7, 0, 0, 9])
    np.testing.assert_array_equal(array.read(indices), data[indices])
    out = np.empty((4, 3, 6, 4, 2), np.float32)
    np.testing.assert_array_equal(array.read(indices, out=out), data[indices])
    assert "stored in Fortran order" in array.notes[-1]
    assert "numpy.ascontiguousarray" in array.notes[-1]


def test_d10_fortran_order_beyond_memory_is_refused_before_it_is_read(path, data, monkeypatch):
    np.save(path, np.asfortranarray(data))
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    with pytest.raises(ResourceError, match="bytes of memory to turn Fortran order around"):
        open_skeletons(path)


def test_d10_two_hundred_mutated_headers_raise_nothing_but_data_errors(path, data):
    np.save(path, data)
    whole = path.read_bytes()
    chance = random.Random(0)
    refused = 0
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(128)
            choice = chance.random()
            if choice < 0.5:
                content[at] = chance.randrange(256)
            elif choice < 0.75:
                content[at:at] = bytes(chance.choices(b"0123456789(),'{}:-L<>f", k=3))
            else:
                del content[at : at + chance.randint(1, 6)]
        path.write_bytes(content)
        try:
            array = open_skeletons(path)
        except DataError:
            refused += 1
        else:
            assert array.read(np.arange(len(array))).size == data.size
    assert 100 < refused < 200


@pytest.mark.parametrize("change", [-1, -1000, +8])
def test_d11_a_file_of_another_size_says_both_sizes(path, data, change):
    np.save(path, data)
    size = path.stat().st_size
    os.truncate(path, size + change)
    with pytest.raises(DataError) as caught:
        open_skeletons(path)
    assert str(caught.value) == (
        f"{path}: expected {size:,} bytes for shape (10, 3, 6, 4, 2) of float32, "
        f"got {size + change:,} bytes. The file is incomplete or damaged: write or copy it again."
    )
    assert caught.value.exit_code == 3


def test_d13_no_samples(path):
    np.save(path, np.zeros((0, 3, 64, 18, 1), np.float32))
    with pytest.raises(DataError, match=r"at least 1 sample, got 0 samples"):
        open_skeletons(path)
