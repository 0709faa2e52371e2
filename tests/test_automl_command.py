"""`kineme automl` as it is typed: what it shows, refuses and leaves, on real trainings too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import fake_training
import rooms
from kineme.automl.command import USAGE
from kineme.cli import main
from kineme.engine.names import read_metrics
from kineme.jobs.record import State
from kineme.jobs.store import JobStore

RANDOM = ("automl.algorithm=random", "automl.max_recommendations=3")


@pytest.fixture
def fake(monkeypatch):
    return fake_training.install(monkeypatch)


def search(folder, *words):
    base = ["automl", "pose_classification", f"results_dir={folder}", *fake_training.WORDS]
    return main([*base, *RANDOM, "--runner", "fake", *words])


def test_the_best_and_what_to_type_next_are_the_last_lines(tmp_path, fake, capsys):
    assert search(tmp_path) == 0
    printed, told = capsys.readouterr()
    best = json.loads((tmp_path / "automl" / "best_trial.json").read_text())
    lines = printed.splitlines()
    assert lines[0].startswith("3 of 3 trials ended, val_acc: best")
    assert lines[1] == f"best trial {best['trial']}: val_acc {best['value']:.4g}"
    assert lines[-3:] == [
        "next:",
        f"  kineme pose_classification train -e {tmp_path}/automl/best_spec.yaml",
        f"  kineme pose_classification evaluate results_dir={tmp_path} "
        f"evaluate.checkpoint={best['checkpoint']} evaluate.test_dataset.data_path=TEST_DATA",
    ]
    assert "trial 0 of 3: complete" in told  # a line per event where there is no terminal
    assert "chosen on the validation data /data/val" in printed


def test_what_to_type_next_works(tmp_path, fake, capsys):
    assert search(tmp_path) == 0
    words = capsys.readouterr().out.splitlines()[-2].split()[1:]
    assert (
        main([*words, "--dry-run"]) == 3
    )  # the spec is right, only the made-up data are not there
    assert "/data/train" in capsys.readouterr().err


def test_a_dry_run_shows_space_and_plan_and_makes_nothing(tmp_path, fake, capsys):
    assert search(tmp_path, "--dry-run") == 0
    printed = capsys.readouterr().out
    assert f"would begin in {tmp_path}/automl" in printed
    assert "3 trials of at most 4 epochs, 1 at a time, by the runner fake" in printed
    assert "model.dropout: 0 to 0.7 (the spec has 0.5)" in printed
    assert list(tmp_path.iterdir()) == []
    assert fake.started == []


def test_a_dry_run_in_the_folder_of_another_search_is_refused_as_the_search_is(
    tmp_path, fake, capsys
):
    assert search(tmp_path) == 0
    changed = ("train.optim.weight_decay=0.25",)
    told = []
    for more in (("--dry-run",), ()):
        assert search(tmp_path, *changed, *more) == 2
        told.append(capsys.readouterr().err.splitlines()[-1])
    assert told[0] == told[1]
    assert "train.optim.weight_decay: expected no value, as when the search began" in told[0]


def test_a_dry_run_looks_at_the_data_of_the_first_trial(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["pose_classification", "results_dir=x", *fake_training.WORDS, *RANDOM, "--dry-run"]
    assert main(["automl", *words]) == 3
    printed, told = capsys.readouterr()
    assert "search space:" in printed
    assert told.splitlines()[-1].startswith("error: /data/")
    assert list(tmp_path.iterdir()) == []


def test_json_has_the_result_as_one_line(tmp_path, fake, capsys):
    assert search(tmp_path, "--log-json") == 0
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    best = json.loads((tmp_path / "automl" / "best_trial.json").read_text())
    assert (line["level"], line["trials"]) == ("result", 3)
    assert line["best"] == {name: best[name] for name in ("trial", "job_id", "value", "params")}


def test_the_network_may_be_named_in_two_ways_but_is_one(tmp_path, fake, capsys):
    words = [f"results_dir={tmp_path}", *fake_training.WORDS, *RANDOM, "--runner=fake"]
    assert main(["automl", "--network", "pose_classification", *words]) == 0
    capsys.readouterr()
    assert main(["automl", "pose_classification", "--network=action_recognition", *words]) == 2
    assert "expected one network" in capsys.readouterr().err
    assert main(["automl", *words]) == 2
    assert "a network (action_recognition, pose_classification)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["pose_clasification"], "Did you mean pose_classification?"),
        (["pose_classification", "--runer", "x"], "Did you mean --runner?"),
        (["pose_classification", "--runner"], "--runner: expected a value after it"),
        (["pose_classification", "--runner=sub", *fake_training.WORDS, "results_dir=x"],
         "runner: expected one of"),
        (["pose_classification", "--platform", "x", *fake_training.WORDS], "key=value"),
        (["pose_classification", "--platform", "gpus=1", *fake_training.WORDS, "results_dir=x"],
         "platform.gpus: expected a setting of the runner subprocess"),
        (["pose_classification", "-e", "no.yaml"], "no such file"),
        (["pose_classification", "train"], "Leave it out: a search is always one of trainings."),
        (["pose_classification", "--resume"], "The same command goes on by itself."),
        (["pose_classification", "max_trials=3"], "Did you mean automl.max_trials?"),
    ],
)  # fmt: skip
def test_words_that_are_wrong_are_told_with_the_repair(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert main(["automl", *words]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_help_loads_neither_torch_nor_optuna():
    code = (
        "import sys; from kineme.cli import main; main(['automl', '--help']);"
        "sys.exit(bool({'torch', 'numpy', 'optuna', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.strip() == USAGE.strip()


def test_a_search_leaves_torch_to_its_trials(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests'); import fake_training;"
        "from kineme.jobs.runners import RUNNERS; RUNNERS['fake'] = 'fake_training:RUNNER';"
        "from kineme.cli import main;"
        f"words = ['automl', 'pose_classification', 'results_dir={tmp_path}', '--runner', 'fake'];"
        f"code = main([*words, *fake_training.WORDS, *{RANDOM!r}]);"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=rooms.__file__[:-15]
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("title", ["pose_classification", "action_recognition"])
def test_two_real_trials_are_jobs_and_the_best_spec_trains(tmp_path, capsys, title):
    """Takes seconds: real trainings and a real evaluation, one after the other in this process."""
    room = rooms.ROOMS[title]
    data = tmp_path / "data"
    data.mkdir()
    room.make(data)
    words = [word.replace("{data}", str(data)) for word in (
        *room.words, *room.light, room.validation, room.test, room.no_workers, "device=cpu",
        f"dataset.batch_size={rooms.BATCH_SIZE}", "train.num_epochs=1",
    )]  # fmt: skip
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump({"automl": {"automl_algorithm": "random", "automl_seed": 3}}))
    results = tmp_path / "results"
    command = ["automl", room.network_name, "-e", str(spec), f"results_dir={results}", *words,
               "automl.max_recommendations=2", "automl.hyperparameters=[train.optim.lr]",
               "--runner", "in_process"]  # fmt: skip
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "final evaluation: " in printed
    store = JobStore(results / "automl" / "trials")
    records = sorted((store.load(one) for one in store.ids()), key=lambda one: one.created_at)
    assert [record.action for record in records] == ["train", "train", "evaluate"]
    assert all(record.state is State.COMPLETE for record in records)
    lrs = [record.spec["train"]["optim"]["lr"] for record in records[:2]]
    assert len(set(lrs)) == 2
    best = json.loads((results / "automl" / "best_trial.json").read_text())
    assert best["value"] == max(value_of(record) for record in records[:2])
    assert main(command) == 0  # there is nothing left to do
    assert len(store.ids()) == 3
    again = [room.network_name, "train", "-e", str(results / "automl" / "best_spec.yaml")]
    assert main([*again, "--dry-run"]) == 0


def value_of(record):
    (row,) = read_metrics(Path(record.results_dir) / "train" / "metrics.csv")
    return float(row["val_acc"])
