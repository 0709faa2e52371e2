"""What a model has said so far, in memory and on disk, so that work that was cut off goes on.

Promises: a sample whose answer was written is not computed again, whatever ended the
process that wrote it; a line that is not whole is as if it had never been written; the
answers of another checkpoint, spec or data are refused, with everything that differs.
Leaves out: what decides an answer, and when a journal may go (the action).

On disk, each process has a file of JSON lines in the run's folder. The first line says of
which run it is, every other is a sample: position, id, its remarks, and its K x C scores
(log probabilities of K clips) as base64 of little-endian float32, so that they come back
bit for bit; or that a sample has been drawn.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric import Fabric
from numpy.typing import NDArray

from kineme.engine import results
from kineme.engine.names import UNFINISHED_FILE
from kineme.errors import Problem, ResourceError, SpecError, shortened
from kineme.files import append_line, write_text
from kineme.network import Remarks

FORMAT = "kineme-answers-1"
REMARKS = ("failed", "blank", "damaged")


@dataclass
class Found:
    """What one process knows: rows of log probabilities, whose they are, and the rest."""

    rows: list[NDArray[np.float32]] = field(default_factory=list)  # (R, C) each
    sample_of_row: list[NDArray[np.int64]] = field(default_factory=list)
    remarks: Remarks = field(default_factory=Remarks)

    def add(
        self, rows: NDArray[np.float32], sample_of_row: NDArray[np.int64], remarks: Remarks
    ) -> None:
        """The rows (R, C) of some samples; R is 0 where all of them failed."""
        if remarks.failed or remarks.blank or remarks.damaged:
            self.remarks |= remarks
        if len(rows):
            self.rows.append(rows)
            self.sample_of_row.append(sample_of_row)


@dataclass
class AnswerJournal:
    """The file that this process appends to, and what a run before it knew.

    done: positions of the samples that were answered, the same in every process.
    found: their answers, in the first process; the others have none. drawn: positions of
    those whose pictures have been written too, in the first process.
    """

    path: Path
    ids: Sequence[str]
    done: Sequence[int] = ()
    found: Found = field(default_factory=Found)
    drawn: set[int] = field(default_factory=set)
    is_writable: bool = True

    def write(
        self,
        indices: NDArray[np.int64],
        rows: NDArray[np.float32],
        sample_of_row: NDArray[np.int64],
        remarks: Remarks,
    ) -> None:
        """Append the answers to samples `indices` with a single write.

        A journal that cannot be written costs a note and the chance to go on, not the run.
        """
        self._append(
            _line(i, str(self.ids[i]), rows[sample_of_row == i], remarks) for i in indices.tolist()
        )

    def write_drawn(self, index: int) -> None:
        """Append that the pictures of sample `index` have been written."""
        self._append([json.dumps({"drawn": index, "id": str(self.ids[index])})])

    def remove(self) -> None:
        """Delete the files of all processes."""
        for path in find_journals(self.path.parent):
            path.unlink(missing_ok=True)

    def _append(self, lines: Iterable[str]) -> None:
        if not self.is_writable:
            return
        try:  # from a new line on, so that one that was torn spoils itself alone
            append_line(self.path, "\n" + "\n".join(lines))
        except (OSError, ResourceError) as error:
            self.is_writable = False
            results.note(f"This run could not go on after an interruption: {error}")


def find_journals(folder: Path) -> list[Path]:
    """The journals of an unfinished run in `folder`."""
    return sorted(folder.glob(UNFINISHED_FILE.format(rank="*")))


def open_journal(
    fabric: Fabric, folder: Path, ids: Sequence[str], run: Mapping[str, Any], *, resumes: bool
) -> AnswerJournal:
    """Start a journal in `folder` in every process, after what is there if `resumes`.

    run: all that decides the answers, by name, in JSON's types. Raises SpecError naming
    every value that differs from that of the run that is resumed.
    """
    run = _header_of(ids, run)
    header = json.dumps({"format": FORMAT, "run": run}, sort_keys=True)
    found, done, drawn = Found(), list[int](), set[int]()
    if fabric.is_global_zero:
        for path in find_journals(folder):
            if not resumes:
                path.unlink(missing_ok=True)
                continue
            _refuse_other(path, run)
            done += _load(path, ids, found, drawn, known=set(done))
    done = fabric.broadcast(done)  # nobody writes before everything was read
    path = folder / UNFINISHED_FILE.format(rank=fabric.global_rank)
    if not resumes or _first_line(path) != header:
        write_text(path, header + "\n")
    return AnswerJournal(path, ids, done, found, drawn)


def refuse_others(folder: Path, ids: Sequence[str], run: Mapping[str, Any]) -> int:
    """How many journals of an unfinished run `open_journal` would go on with. Raises SpecError as
    it would."""
    paths = find_journals(folder)
    for path in paths:
        _refuse_other(path, _header_of(ids, run))
    return len(paths)


def _header_of(ids: Sequence[str], run: Mapping[str, Any]) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps([str(one) for one in ids]).encode()).hexdigest()
    return {**run, "number of samples": len(ids), "sha256 of the sample ids": digest}


def _line(index: int, name: str, rows: NDArray[np.float32], remarks: Remarks) -> str:
    said = {kind: getattr(remarks, kind).get(index) for kind in REMARKS}
    scores = base64.b64encode(rows.astype("<f4").tobytes()).decode()
    line = {"sample": index, "id": name, "clips": len(rows), "scores": scores}
    return json.dumps({**line, **{kind: words for kind, words in said.items() if words}})


def _refuse_other(path: Path, run: Mapping[str, Any]) -> None:
    """Raise SpecError where the journal at `path` is not of `run`."""
    try:
        header = json.loads(_first_line(path))
        written = dict(header["run"]) if header["format"] == FORMAT else None
    except (ValueError, LookupError, TypeError):
        written = None
    if written is None:
        raise SpecError(str(path), "the journal of an inference", "another file", "Remove it.")
    asked = json.loads(json.dumps(run))
    problems = [
        Problem(
            key,
            f"{shortened(written.get(key), 80)}, as in the unfinished run",
            shortened(asked.get(key), 80),
            "Set it as it was, or inference.resume=false to start over.",
        )
        for key in sorted(written.keys() | asked.keys())
        if written.get(key) != asked.get(key)
    ]
    if problems:
        raise SpecError.of(problems)


def _first_line(path: Path) -> str:
    """Without its end; nothing where there is no such file."""
    if not path.is_file():
        return ""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.readline().rstrip("\n")


def _load(
    path: Path, ids: Sequence[str], found: Found, drawn: set[int], *, known: set[int]
) -> list[int]:
    """Add what the journal says of samples that are not `known`; return their positions."""
    done = []
    with open(path, "rb") as file:
        file.readline()
        for line in file:
            said = _parsed(line, ids)
            if isinstance(said, int):
                drawn.add(said)
            elif said is not None and said.index not in known:
                found.add(said.rows, np.full(len(said.rows), said.index, np.int64), said.remarks)
                known.add(said.index)
                done.append(said.index)
    return done


@dataclass(frozen=True, eq=False)
class _Answer:
    """A line: the rows (K, C) of the sample at `index`, and what is to be said of it."""

    index: int
    rows: NDArray[np.float32]
    remarks: Remarks


def _parsed(line: bytes, ids: Sequence[str]) -> _Answer | int | None:
    """The answer in a line, or the sample that it says is drawn; None where it is not whole."""
    try:
        said = json.loads(line)
        index = said["drawn"] if "drawn" in said else said["sample"]
        if str(ids[index]) != said["id"]:
            return None
        if "drawn" in said:
            return int(index)
        scores = np.frombuffer(base64.b64decode(said["scores"], validate=True), "<f4")
        rows = scores.reshape(said["clips"], -1) if len(scores) else np.zeros((0, 0), np.float32)
    except (ValueError, LookupError, TypeError):
        return None
    remarks = {kind: {index: str(said[kind])} for kind in REMARKS if kind in said}
    return _Answer(int(index), rows.astype(np.float32), Remarks(**remarks))
