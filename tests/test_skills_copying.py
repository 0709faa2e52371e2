"""`kineme skills`: the list, copies, and files that are not ours to replace."""

import filecmp
import os
import shlex
from pathlib import Path

import pytest
import yaml

from kineme import cli, skills
from kineme.skills.copying import SKILL_FILE, copy_skills, front_matter, list_skills
from skill_pages import blocks_of, commands_in

NAMES = [skill.name for skill in list_skills()]
FIRST = NAMES[0]


def files_of(folder):
    return {path.relative_to(folder) for path in Path(folder).rglob("*") if path.is_file()}


def test_the_list_is_what_each_skill_says_of_itself(capsys):
    assert cli.main(["skills"]) == 0
    out = capsys.readouterr().out
    for name in NAMES:
        said = front_matter((skills.ROOT / name / SKILL_FILE).read_text())["description"]
        assert f"{name}\n    {said}\n" in out
    assert len(NAMES) >= 2


def test_a_copy_is_the_whole_skill_and_a_second_one_writes_nothing(tmp_path, capsys):
    assert cli.main(["skills", "copy", str(tmp_path / "a" / "b")]) == 0
    capsys.readouterr()
    for name in NAMES:
        source, copy = skills.ROOT / name, tmp_path / "a" / "b" / name
        names = files_of(source)
        assert files_of(copy) == names
        assert filecmp.cmpfiles(source, copy, map(str, names), shallow=False)[0]
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")}
    assert cli.main(["skills", "copy", str(tmp_path / "a" / "b")]) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "a").rglob("*")} == times
    total = len(files_of(skills.ROOT / FIRST))
    assert f"{tmp_path}/a/b/{FIRST}: 0 of {total} files written\n" in capsys.readouterr().out


def test_a_file_that_differs_is_refused_and_nothing_is_written(tmp_path, capsys):
    taken = tmp_path / NAMES[-1] / SKILL_FILE
    taken.parent.mkdir()
    taken.write_text("mine")
    assert cli.main(["skills", "copy", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {taken}: expected no such file, or the same, got another one. "
        "Set overwrite=true to replace it, or copy to another folder.\n"
    )
    assert files_of(tmp_path) == {taken.relative_to(tmp_path)}


def test_overwriting_is_told_and_leaves_files_of_others(tmp_path):
    taken, mine = tmp_path / FIRST / SKILL_FILE, tmp_path / FIRST / "notes.md"
    taken.parent.mkdir()
    taken.write_text("older")
    mine.write_text("mine")
    lines = copy_skills(tmp_path, overwrites=True)
    total = len(files_of(skills.ROOT / FIRST))
    assert lines[0] == (
        f"{tmp_path / FIRST}: {total} of {total} files written, 1 of them replaced; "
        "1 other files there are left as they are"
    )
    assert taken.read_bytes() == (skills.ROOT / FIRST / SKILL_FILE).read_bytes()
    assert mine.read_text() == "mine"


def test_a_link_is_replaced_and_not_followed(tmp_path):
    elsewhere, link = tmp_path / "elsewhere", tmp_path / "copies" / FIRST / SKILL_FILE
    elsewhere.write_text("older")
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    copy_skills(tmp_path / "copies", overwrites=True)
    assert elsewhere.read_text() == "older"
    assert not link.is_symlink()


def test_a_folder_in_the_place_of_a_file_is_an_error(tmp_path, capsys):
    (tmp_path / FIRST / SKILL_FILE).mkdir(parents=True)
    assert cli.main(["skills", "copy", str(tmp_path), "overwrite=true"]) == 5
    assert f"{FIRST}/{SKILL_FILE}: expected a file, or nothing, got a folder." in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "words",
    [["list"], ["copy"], ["copy", "a", "b"], ["copy", "overwrite=true"],
     ["copy", "a", "overwrite=true", "overwrite=true"]],
)  # fmt: skip
def test_other_words_are_met_with_the_usage(words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["skills", *words]) == 2
    assert "skills: expected kineme skills [copy FOLDER [overwrite=true]], got" in (
        capsys.readouterr().err
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("text", ["# no front matter\n", "---\n- a list\n---\n", "a: 1\n---\nx"])
def test_a_skill_without_front_matter_is_a_bug_that_is_seen(text):
    with pytest.raises(ValueError, match=r"a SKILL\.md begins with YAML between lines of dashes"):
        front_matter(text)


def test_front_matter_is_read_without_running_anything():
    with pytest.raises(yaml.YAMLError):
        front_matter("---\na: !!python/object/apply:os.getcwd []\n---\n")


def test_the_page_about_them_is_true(tmp_path, monkeypatch, capsys):
    page = skills.ROOT / "README.md"
    text = page.read_text()
    monkeypatch.chdir(tmp_path)
    for _, block in blocks_of(page, "bash"):
        for words in commands_in(block):
            assert cli.main(words[1:]) == 0, shlex.join(words)
    assert {path.name for path in (tmp_path / ".agents" / "skills").iterdir()} == set(NAMES)
    for name in NAMES:
        assert f"[{name}]({name}/{SKILL_FILE})" in text
