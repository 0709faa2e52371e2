"""Reading the pages of the skills: front matter apart, tables, fenced blocks, commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import test_docs as docs
from kineme import skills
from kineme.skills.copying import SKILL_FILE


def pages_of(folder: Path) -> list[Path]:
    """SKILL.md, then the pages beside it."""
    return [folder / SKILL_FILE, *sorted((folder / "references").glob("*.md"))]


def body_of(network: str) -> str:
    """The text of a network's SKILL.md."""
    return (skills.folder(network) / SKILL_FILE).read_text()


def rows_of(text: str, *header: str) -> list[list[str]]:
    """The cells of every table whose header begins with `header`; at least one there must be."""
    found, is_inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            is_inside = False
        elif tuple(cells[: len(header)]) == header:
            is_inside = True
        elif is_inside and not set(line) <= set("|-"):
            found.append(cells)
    assert found, header
    return found


def code(cell: str) -> str:
    """A cell without its back ticks."""
    return cell.strip("`")


def blocks_of(page: Path, *languages: str) -> list[tuple[str, str]]:
    """(language, text) of fenced blocks in order."""
    return [pair for pair in docs.FENCE.findall(page.read_text()) if pair[0] in languages]


def commands_in(text: str) -> list[list[str]]:
    """The words of each line of a shell block."""
    return [words for _, words in steps_in(text)]


def steps_in(text: str) -> list[tuple[str, list[str]]]:
    """(variable that takes the output, or "", words) of each line of a shell block."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        assigned = re.fullmatch(r"(\w+)=\$\((.*)\)", line.strip())
        name, command = assigned.groups() if assigned else ("", line)
        if words := shlex.split(command, comments=True):
            found.append((name, words))
    return found


def errors_told(network: str) -> dict[str, int]:
    """Part of an error's line -> exit code, as the page of errors says."""
    text = (skills.folder(network) / "references" / "errors.md").read_text()
    return {code(part): int(number) for part, number, *_ in rows_of(text, "Part of the line")}
