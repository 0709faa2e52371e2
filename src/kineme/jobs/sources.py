"""Data sets that a job is given, as the keys of its spec that name their parts.

skill_info.yaml says where in a data set each input of an action lies (`data_sources`): TAO's file
names first, ours after them; the first that is there counts.
Promises: folders, archives and s3:// addresses alike; what the user set is never replaced; a data
set without a part that the action needs is told with every name that was looked for. An archive
that cannot be looked into cheaply is believed to hold the usual names.
Leaves out: what the files hold, unpacking and fetching (data).
"""

import contextlib
import functools
import os
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kineme.errors import KinemeError, Problem, SpecError, listed
from kineme.jobs.lineage import Resolution, info_of
from kineme.jobs.record import Choice
from kineme.network import load_specs

if TYPE_CHECKING:
    from kineme.data.remote.client import Access
    from kineme.data.remote.s3 import S3Store

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")
TRAINING, ITSELF = "train_datasets", "id"  # TAO's words for which data set is meant
_EVALUATED = ("val", "test", "evaluate", "inference")  # parts of keys that eval_dataset replaces
_MAX_LISTED_BYTES = 1 << 30  # of an archive that is gone through for its names
_SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class DataSet:
    """A folder, a file or an address that holds one; where: the argument that named it."""

    text: str
    where: str

    @property
    def is_remote(self) -> bool:
        return "://" in self.text

    @property
    def is_archive(self) -> bool:
        return self.text.lower().rstrip("/").endswith(ARCHIVES)

    def below(self, name: str) -> str:
        """The place of `name` in it."""
        return f"{self.text.rstrip('/')}/{name}"

    def has(self, name: str) -> bool:
        """Whether there is something of that name in it. Raises KinemeError."""
        place = self.below(name)
        return _is_in_store(place) if self.is_remote else os.path.exists(place)


def resolve_sources(
    network_arch: str,
    action: str,
    *,
    given: Mapping[str, Any],
    train_datasets: Sequence[str] = (),
    eval_dataset: str | None = None,
) -> Resolution:
    """The spec keys of an action that name data, found in the data sets of a job."""
    problems = list(_count_problems(action, train_datasets))
    training = _opened(train_datasets[:1], TRAINING, problems)
    evaluation = _opened([eval_dataset] if eval_dataset else (), "eval_dataset", problems)
    sources = info_of(network_arch)["data_sources"].get(action, {})
    unused = [one for one in (training, evaluation) if one is not None and not sources]
    notes = tuple(f"{one.where} has no effect: {action} reads no data." for one in unused)
    finder = _Finder(network_arch, action, sources)
    values: dict[str, Any] = {}
    choices: list[Choice] = []
    missing: set[str] = set()
    for key, source in sources.items():
        replaces = evaluation is not None and any(_parts_of(key))
        data_set = evaluation if replaces else training
        if key in given or data_set is None:
            if data_set is None and problems:
                missing.add(key)
            continue
        try:
            found = finder.find(key, source, data_set, is_evaluation=replaces)
        except KinemeError as error:
            problems += [problem for problem in error.problems if problem not in problems]
            missing.add(key)
            continue
        if found is not None:
            values[key], reason = found
            choices.append(Choice(key, values[key], source["source"], reason))
            notes = (*notes, *_held_out_note(action, key, values[key]))
        elif _is_label(key) and action != "inference" and _has_no_labels(key, {**given, **values}):
            names = listed(source.get("x_kineme_paths", ()), 8)
            received = f"none of them in {data_set.text}"
            problems.append(Problem(data_set.where, f"labels ({names})", received, f"Set {key}."))
    return Resolution(values, tuple(choices), notes, tuple(problems), frozenset(missing))


def _parts_of(key: str) -> Iterator[str]:
    """Those parts of a key that say it is about validation or test data."""
    for part in key.split("."):
        if any(part == word or part.startswith(f"{word}_") for word in _EVALUATED):
            yield part


def _held_out_note(action: str, key: str, path: str) -> Iterator[str]:
    """That validation data are judged on, as TAO does it, though test data lie beside them."""
    data = Path(path)
    if action != "evaluate" or _is_label(key) or not data.name.startswith("val"):
        return
    beside = data.with_name(f"test{data.name.removeprefix('val')}")
    if beside.exists():
        yield (
            f"{key}: the model was chosen on these data; {beside.name} lies beside them, and is "
            "judged on where the spec names it and its labels."
        )


def _count_problems(action: str, train_datasets: Sequence[str]) -> Iterator[Problem]:
    if len(train_datasets) > 1:
        yield Problem(
            TRAINING, f"one data set: {action} takes no list of them",
            f"{len(train_datasets)}", "Put them together into one folder.",
        )  # fmt: skip


def _opened(texts: Sequence[str], where: str, problems: list[Problem]) -> DataSet | None:
    """The data set that is named, if it is there."""
    for text in texts:
        if "://" in text:
            from kineme.data.remote.addresses import parse

            try:
                return DataSet(str(parse(text, where=where)), where)
            except SpecError as error:
                problems += error.problems
        elif "\0" in text or not os.path.exists(os.path.expanduser(text)):
            expected = "a folder or an archive that is there, or an s3:// address"
            problems.append(Problem(where, expected, repr(text)[:200], "Check the path."))
        else:
            return DataSet(os.path.abspath(os.path.expanduser(text)), where)
    return None


@dataclass(frozen=True)
class _Finder:
    """Where the inputs of an action lie in a data set."""

    network_arch: str
    action: str
    sources: Mapping[str, Mapping[str, Any]]

    def find(
        self, key: str, source: Mapping[str, Any], data_set: DataSet, *, is_evaluation: bool
    ) -> tuple[str, str] | None:
        """The value of a key and why, or None where the action does without.

        Raises SpecError where it does not, and what a store says.
        """
        names = list(source.get("x_kineme_paths") or filter(None, [source.get("path")]))
        if source["source"] == ITSELF or not names:
            return data_set.text, f"the data set of {data_set.where}"
        if is_evaluation:
            names = _of_any_split(names)
        is_file = data_set.is_archive or (not data_set.is_remote and os.path.isfile(data_set.text))
        if is_file:
            return self._in_file(key, names, data_set, is_evaluation=is_evaluation)
        for name in names:
            if data_set.has(name):
                return data_set.below(name), f"{name} of {data_set.where}"
        if is_evaluation and self._is_folder(key):
            return data_set.text, f"the folder of {data_set.where} itself, which has no {names[0]}"
        if not self._is_needed(key):
            return None
        received = f"none of them in {data_set.text}"
        fix = f"Set {key} where the file is called otherwise."
        raise SpecError(data_set.where, f"{' or '.join(names)} for {key}", received, fix)

    def _in_file(
        self, key: str, names: Sequence[str], data_set: DataSet, *, is_evaluation: bool
    ) -> tuple[str, str] | None:
        if self._is_folder(key):  # a split in one file: an archive or a list
            if is_evaluation or self._is_first(key):
                return data_set.text, f"{data_set.where} itself"
            return None
        if data_set.is_archive:
            inside = _names_in(data_set)
            if inside is None:
                return data_set.text, f"{data_set.where}, believed to hold {names[0]}"
            held = next((name for name in names if name in inside), None)
            if held is not None:
                return data_set.text, f"{held} in {data_set.where}"
            if self._is_needed(key):
                shown = listed(sorted(inside), 8) or "nothing"
                expected = f"{' or '.join(names)} for {key}"
                raise SpecError(data_set.where, expected, f"an archive with {shown}")
            return None
        if not is_evaluation and _block(key) != _block(next(iter(self.sources))):
            return None  # another split
        if _is_label(key):
            return _labels_beside(names, data_set)
        return data_set.text, f"{data_set.where} itself"

    def _is_folder(self, key: str) -> bool:
        inputs = info_of(self.network_arch)["actions"][self.action]["inputs"]
        return bool(inputs.get(key, {}).get("type") == "folder")

    def _is_first(self, key: str) -> bool:
        """Whether a key is what the action is about, rather than what goes with it."""
        return key == next(iter(self.sources))

    def _is_needed(self, key: str) -> bool:
        return key in load_specs(self.network_arch)[self.action].mandatory


def _labels_beside(names: Sequence[str], data_set: DataSet) -> tuple[str, str] | None:
    """Labels in the folder of the data, where the data were named by one file."""
    stem = Path(data_set.text).stem.removesuffix("data")
    for ending in dict.fromkeys(Path(name).suffix for name in names):
        path = Path(data_set.text).with_name(f"{stem}label{ending}")
        if path.is_file():
            return str(path), f"{path.name} beside {data_set.where}"
    return None


def _has_no_labels(key: str, values: Mapping[str, Any]) -> bool:
    """Whether the data that the labels of `key` belong to cannot hold them themselves."""
    return str(values.get(f"{_block(key)}.data_path", "")).endswith(".npy")


def _is_label(key: str) -> bool:
    return key.endswith(".label_path")


def _block(key: str) -> str:
    return key.rpartition(".")[0]


def _of_any_split(names: Sequence[str]) -> list[str]:
    """`names`, and what the same files are called in other splits or without one."""
    found = list(names)
    for name in names:
        for split in _SPLITS:
            for mark in ("_", "."):
                if name.startswith(split + mark):
                    rest = name[len(split) + 1 :]
                    found += [f"{other}{mark}{rest}" for other in ("test", "val")]
                    found += [rest] if mark == "_" else []
            if name == split:
                found += ["test", "val"]
    return list(dict.fromkeys(found))


def _names_in(data_set: DataSet) -> set[str] | None:
    """The paths in an archive, without a folder around all of them; None where that costs much."""
    if data_set.is_remote:
        return None
    with contextlib.suppress(OSError, EOFError, tarfile.TarError, zipfile.BadZipFile):
        if os.path.getsize(data_set.text) > _MAX_LISTED_BYTES:
            return None
        if zipfile.is_zipfile(data_set.text):
            with zipfile.ZipFile(data_set.text) as archive:
                names = archive.namelist()
        else:
            with tarfile.open(data_set.text, "r|*") as archive:
                names = [member.name for member in archive]
        plain = {name.removeprefix("./").rstrip("/") for name in names}
        return plain | {name.partition("/")[2] for name in plain if "/" in name}
    return None


def _is_in_store(text: str) -> bool:
    """Whether an address has something. Raises ServiceError where nobody answers."""
    from kineme.data.remote.addresses import parse
    from kineme.data.remote.client import Access

    return _store(Access.from_environment(), os.getpid()).exists(parse(text))


@functools.lru_cache(maxsize=2)
def _store(access: "Access", process: int) -> "S3Store":
    """One for all questions: building it takes longer than an answer. Processes share none."""
    from kineme.data.remote.s3 import S3Store

    return S3Store(access)
