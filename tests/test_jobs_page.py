"""docs/jobs.md at work: its chain, its other commands and its Python; what it says of states."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

import jobs_here
import skill_ground
from kineme import cli
from kineme.jobs.record import State
from kineme.jobs.runners import RUNNERS
from skill_pages import blocks_of, code, commands_in, rows_of

PAGE = Path(__file__).resolve().parents[1] / "docs" / "jobs.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture
def ground(tmp_path, monkeypatch):
    jobs_here.make_jobs_run_here(monkeypatch, tmp_path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    skill_ground.make_skeletons(Path())


def printed(words):
    """What a command prints; it must end well."""
    out = io.StringIO()
    with redirect_stdout(out):
        assert cli.main(words[1:]) == 0, words
    return out.getvalue()


@pytest.mark.timeout(300)
def test_the_commands_do_what_the_page_says(ground):
    chain, others, *_ = (commands_in(text) for _, text in blocks_of(PAGE, "bash"))
    train, *followers = chain
    train_id = printed([*train, "train.num_epochs=1", "dataset.num_workers=0"]).strip()
    for words in followers:
        printed([train_id[:8] if word == "ID" else word for word in words])
    for words in others:
        if words[2] != "retry":  # of what failed
            printed([train_id[:8] if word == "ID" else word for word in words])
    assert printed(["kineme", "jobs", "list"]) == ""


@pytest.mark.timeout(300)
def test_the_python_does_what_the_page_says(ground):
    (_, text), *others = blocks_of(PAGE, "python")
    assert not others
    told = text.replace(
        "automl_policy=",
        "overrides=['train.num_epochs=1', 'dataset.num_workers=0'], automl_policy=",
    )
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(told, str(PAGE), "exec"), {})  # a block of ours
    assert re.search(r"'accuracy': [\d.]+", out.getvalue())


def test_every_state_and_runner_is_told_of():
    said = {word for row in rows_of(TEXT, "state", "means") for word in row[0].split(", ")}
    assert said == {str(state) for state in State}
    assert {code(row[0]) for row in rows_of(TEXT, "`--runner`", "is")} == set(RUNNERS)
