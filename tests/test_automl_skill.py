"""The skill that runs searches, held against the code and at work: all its commands, its errors.

Jobs run in this process, so that models can be thin; what is asked, recorded and found is the same.
"""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

import jobs_here
import skill_ground
from kineme import cli, errors, skills
from kineme.automl import study
from kineme.automl.describing import settings_page
from kineme.automl.setting_rows import FAMILIES, ROWS
from kineme.automl.settings import BLOCK, Settings
from kineme.engine.names import STATUS_FILE
from kineme.jobs.choosing import BEST_TRIAL_FILE
from kineme.jobs.said import POLICIES, policy_of
from kineme.skills.copying import SKILL_FILE
from skill_pages import blocks_of, code, rows_of, steps_in

FOLDER = skills.ROOT / "kineme-run-automl"
PAGE = FOLDER / SKILL_FILE
TEXT = PAGE.read_text(encoding="utf-8")
_AUTOML = "automl pose_classification -e spec.yaml results_dir=results "
ERRORS = {  # part of the line -> the words that bring it about
    "Did you mean automl.max_recommendations?": f"{_AUTOML}automl.max_recomendations=3",
    "It needs a language model to ask": f"{_AUTOML}automl.algorithm=llm",
    "Name validation data, or set automl.metric=train_loss.":
        "automl pose_classification results_dir=e "
        "dataset.train_dataset.data_path=data/train_data.npy "
        "dataset.train_dataset.label_path=data/train_label.json",
    "a setting of the train schema":
        f"{_AUTOML}results_dir=e automl.hyperparameters=[train.optim.rate]",
    "or another results_dir for another search": f"{_AUTOML}automl.algorithm=random",
    "expected trials that end well":
        f"{_AUTOML}results_dir=e dataset.train_dataset.data_path=new.npy",
}  # fmt: skip


# What the page says


def test_the_page_of_settings_is_that_of_the_declarations():
    assert (FOLDER / "references" / "settings.md").read_text(encoding="utf-8") == settings_page()
    rows = rows_of(settings_page(), "Setting", "Default", "Values")
    assert [code(row[0]) for row in rows] == list(ROWS)


def test_every_setting_that_is_told_of_is_one_with_its_default():
    defaults = {one.name: one.default for one in fields(Settings)}
    rows = rows_of(TEXT, "Setting", "Default", "What it decides")
    assert len(rows) > 10
    for key, default, _ in rows:
        name = code(key).removeprefix(f"{BLOCK}.")
        assert name in ROWS
        if default.startswith("`") and name in defaults and name != "max_epochs":
            assert default == f"`{str(defaults[name]).lower()}`", name
    for name in re.findall(r"automl\.([a-z_]+)", TEXT):
        assert name in {*ROWS, "html", "json", "yaml"}, name


def test_every_algorithm_is_told_of():
    told = "".join(row[1] for row in rows_of(TEXT, "The user has", "`automl.algorithm`"))
    told += TEXT.partition("`bfbo` is Bayesian")[2].partition("\n\n")[0] + "`bfbo`"
    assert all(f"`{name}`" in told for name in FAMILIES)


def test_the_policies_and_the_phrases_mean_what_the_page_says():
    for says, policy, _ in rows_of(TEXT, "The user says", "`automl_policy`"):
        word = code(policy.split()[0])
        assert word in (*POLICIES, "not")
        if word == "off":
            phrases = re.findall(r'"([^"]+)"', says)
            assert len(phrases) == 4
            assert {policy_of(phrase) for phrase in phrases} == {"off"}


def test_the_exit_codes_are_those_of_the_errors():
    told = [int(row[0]) for row in rows_of(TEXT, "Exit code", "Meaning")]
    classes = [x for x in vars(errors).values() if isinstance(x, type)]
    declared = {x.exit_code for x in classes if issubclass(x, errors.KinemeError)}
    assert told == sorted({errors.EXIT_OK, errors.EXIT_SIGINT, errors.EXIT_SIGTERM} | declared)


def test_the_files_are_those_that_a_search_leaves():
    told = {code(row[0]) for row in rows_of(TEXT, "File", "What it says")}
    spelled = {value for name, value in vars(study).items() if name.endswith("_FILE")}
    assert told == spelled | {STATUS_FILE, BEST_TRIAL_FILE}


def test_every_error_told_of_is_brought_about_here():
    assert {code(row[0]) for row in rows_of(TEXT, "Part of the line", "Code")} == set(ERRORS)


# What it does


@pytest.fixture
def ground(tmp_path, monkeypatch):
    """The folder that the commands are for; models are thin and jobs run here."""
    jobs_here.make_jobs_run_here(monkeypatch, tmp_path)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    skill_ground.make_skeletons(Path())
    return tmp_path / "work"


@pytest.mark.timeout(600)  # some forty short trainings
def test_the_skill_does_what_it_says(ground, capsys):
    known: dict[str, str] = {}
    for language, text in blocks_of(PAGE, "bash", "yaml", "python"):
        if language == "yaml":
            Path("spec.yaml").write_text(text)
        elif language == "python":
            exec(compile(text, str(PAGE), "exec"), {})  # a block of ours
            assert re.search(r"'accuracy': [\d.]+", capsys.readouterr().out)
        for name, words in steps_in(text) if language == "bash" else ():
            if words[0] != "kineme":
                continue
            words = [known[word[1:]] if word[:1] == "$" else word for word in words]
            capsys.readouterr()
            assert cli.main(words[1:]) == 0, (words, capsys.readouterr().err)
            if name:
                known[name] = capsys.readouterr().out.strip()
    for file, _ in rows_of(TEXT, "File", "What it says"):
        assert (ground / "results" / "automl" / code(file)).is_file(), file
    for part, exit_code, _ in rows_of(TEXT, "Part of the line", "Code"):
        capsys.readouterr()
        line = ERRORS[code(part)]
        assert cli.main(shlex.split(line)) == int(exit_code), (part, capsys.readouterr().err)
        assert code(part) in capsys.readouterr().err
