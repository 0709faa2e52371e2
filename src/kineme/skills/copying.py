"""`kineme skills`: which skills there are for assistants, and copies of them where one looks.

Promises: lists what each SKILL.md says of itself; a copy holds every file of a skill and needs
nothing beside it; a file that differs is replaced only with overwrite=true, and nothing is
written where one is refused. Files of others in the folder stay.
Leaves out: what is in a skill (people and generate.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from kineme.errors import EXIT_OK, Problem, ResourceError, SpecError
from kineme.files import atomic_write
from kineme.skills import ROOT

SKILL_FILE = "SKILL.md"
USAGE = "kineme skills [copy FOLDER [overwrite=true]]"
_FENCE = "---\n"


@dataclass(frozen=True)
class SkillFolder:
    """A skill of this package: its folder, and what its front matter says."""

    folder: Path
    name: str
    description: str

    def files(self) -> Iterator[Path]:
        """Every file of it, relative to its folder, in order."""
        yield from sorted(
            path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file()
        )


def main(words: Sequence[str]) -> int:
    """List the skills, or copy them; returns the exit code. Raises KinemeError."""
    if not words:
        for skill in list_skills():
            print(f"{skill.name}\n    {skill.description}")
        print(f"in {ROOT}; `kineme skills copy FOLDER` copies them to where an assistant looks")
        return EXIT_OK
    where, overwrites = _parsed(words)
    for line in copy_skills(where, overwrites=overwrites):
        print(line)
    return EXIT_OK


def list_skills() -> list[SkillFolder]:
    """The skills of this package, by name."""
    found = []
    for path in sorted(ROOT.glob(f"*/{SKILL_FILE}")):
        facts = front_matter(path.read_text("utf-8"))
        found.append(SkillFolder(path.parent, str(facts["name"]), str(facts["description"])))
    return found


def front_matter(text: str) -> dict[str, object]:
    """The YAML between the first two lines of dashes of a SKILL.md."""
    head, _, _ = text.removeprefix(_FENCE).partition(f"\n{_FENCE}")
    facts = yaml.safe_load(head)
    if not text.startswith(_FENCE) or not isinstance(facts, dict):
        raise ValueError(f"a SKILL.md begins with YAML between lines of dashes, not {text[:40]!r}")
    return facts


def copy_skills(where: Path, *, overwrites: bool = False) -> list[str]:
    """Copy every skill into a folder of its name in `where`; returns a line about each.

    Raises SpecError, before anything is written, where a file differs and may not be replaced.
    """
    skills = list_skills()
    wanted = {skill.name: _differing(skill, where / skill.name) for skill in skills}
    taken = [
        Problem(
            str(where / skill.name / name),
            "no such file, or the same",
            "another one",
            "Set overwrite=true to replace it, or copy to another folder.",
        )
        for skill in skills
        for name, is_there in wanted[skill.name].items()
        if is_there and not overwrites
    ]
    if taken:
        raise SpecError.of(taken)
    lines = []
    for skill in skills:
        for name in wanted[skill.name]:
            with atomic_write(where / skill.name / name) as file:
                file.write((skill.folder / name).read_bytes())
        lines.append(_told(skill, where / skill.name, wanted[skill.name]))
    return lines


def _differing(skill: SkillFolder, target: Path) -> dict[Path, bool]:
    """The files that `target` lacks or has otherwise, and whether something is there."""
    found = {}
    for name in skill.files():
        path = target / name
        if path.is_dir():
            raise ResourceError(str(path), "a file, or nothing", "a folder", "Remove it.")
        is_there = path.exists() or path.is_symlink()
        if not path.is_file() or path.read_bytes() != (skill.folder / name).read_bytes():
            found[name] = is_there
    return found


def _told(skill: SkillFolder, target: Path, written: dict[Path, bool]) -> str:
    own = set(skill.files())
    there = {path.relative_to(target) for path in target.rglob("*") if path.is_file()}
    others = len(there - own)
    line = f"{target}: {len(written)} of {len(own)} files written"
    line += f", {sum(written.values())} of them replaced" if any(written.values()) else ""
    return f"{line}; {others} other files there are left as they are" if others else line


def _parsed(words: Sequence[str]) -> tuple[Path, bool]:
    verb, *rest = words
    folders = [word for word in rest if word != "overwrite=true"]
    if verb != "copy" or len(folders) != 1 or folders[0].startswith("-") or len(rest) > 2:
        raise SpecError("skills", USAGE, " ".join(["kineme skills", *words]))
    return Path(folders[0]), len(rest) > 1
