"""Trials as job records: what is kept of them, and what is read from it."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import fake_training
from kineme.automl import retention
from kineme.automl.curves import read_curve
from kineme.automl.ledger import Ledger
from kineme.automl.study import open_study
from kineme.automl.trial_specs import best_spec_text, read_plan, train_spec
from kineme.automl.trials import Proposal, TrialState
from kineme.errors import SpecError
from kineme.jobs.record import CRASHED, Failure, State
from kineme.jobs.store import JobStore
from searching import ended, settings_of

PARAMS = {"train.optim.lr": 0.01, "model.dropout": 0.25}


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    return fake_training.install(monkeypatch)


def plan_of(folder, *words):
    base = [f"results_dir={folder}", *fake_training.WORDS]
    return read_plan("pose_classification", None, [*base, *words])


def ledger_of(folder, *words, **options):
    plan = plan_of(folder, *words)
    return Ledger(open_study(plan), plan, runner="fake", **options)


def run(ledger, entry):
    ledger.update(fake_training.RUNNER.start(ledger.store, entry.job, key=None))


def test_what_is_known_of_a_trial_is_read_back_from_its_record_and_figures(tmp_path):
    ledger = ledger_of(tmp_path)
    run(ledger, ledger.create(Proposal(PARAMS, 4, rung=2, bracket=1, member=7, origin="random")))
    ledger.create(Proposal({**PARAMS, "model.dropout": 0.5}, 2))
    again = ledger_of(tmp_path)
    assert again.history == ledger.history
    first, second = again.history
    spec = {"train": {"optim": {"lr": 0.01}}, "model": {"dropout": 0.25}}
    curve = tuple((epoch, fake_training.accuracy(spec, epoch)) for epoch in range(1, 5))
    assert (first.rung, first.bracket, first.member, first.origin) == (2, 1, 7, "random")
    assert first.curve == curve
    assert first.value == curve[-1][1]
    assert (first.state, second.state) == (TrialState.COMPLETE, TrialState.WAITING)


def test_a_trial_has_the_users_settings_and_its_own_and_no_more(tmp_path):
    entry = ledger_of(tmp_path, "dataset.batch_size=3", "device=cpu").create(Proposal(PARAMS, 2))
    assert entry.job.spec == {
        "train": {
            "tensorboard": False, "num_epochs": 4, "optim": {"lr": 0.01}, "stop_epoch": 2,
        },
        "device": "cpu",
        "model": {"dropout": 0.25},
        "dataset": {
            "batch_size": 3,
            "train_dataset": {"data_path": "/data/train"},
            "val_dataset": {"data_path": "/data/val"},
        },
        "results_dir": entry.job.results_dir,
    }  # fmt: skip
    assert entry.job.details["trial"] == 0
    assert entry.job.details["params"] == PARAMS


def test_ids_are_the_same_for_the_same_search_and_others_for_another(tmp_path):
    one, other = ledger_of(tmp_path / "a"), ledger_of(tmp_path / "b")
    ids = [ledger.create(Proposal(PARAMS, 4)).job.id for ledger in (one, other)]
    assert ids[0] != ids[1]
    again = ledger_of(tmp_path / "a")
    again.entries.clear()  # as if its record had not been seen
    assert again.create(Proposal(PARAMS, 4)).job.id == ids[0]
    assert len(again.store.ids()) == 1


def test_a_configuration_goes_on_once_in_its_folder_and_is_copied_elsewhere(tmp_path):
    ledger = ledger_of(tmp_path, "automl.algorithm=pbt")
    run(ledger, ledger.create(Proposal(PARAMS, 2, member=0)))
    ledger.create(Proposal(PARAMS, 4, resume_from=0, member=0))
    changed = {**PARAMS, "train.optim.lr": 0.02}
    copied = ledger.create(Proposal(changed, 4, resume_from=0, member=1))
    same = ledger.create(Proposal(PARAMS, 4, resume_from=0, member=2))
    folders = [ledger.entries[n].job.results_dir for n in range(4)]
    assert folders[0] == folders[1]
    assert len(set(folders)) == 3
    checkpoint = Path(folders[0]) / "train" / "model_epoch_001_step_00008.pth"
    for entry in (copied, same):
        train = entry.job.spec["train"]
        assert train["resume_training_checkpoint_path"] == str(checkpoint)
        assert "resume" not in train
    assert not copied.job.notes


def test_a_copy_of_a_checkpoint_that_is_gone_says_that_it_is_trained_anew(tmp_path):
    ledger = ledger_of(tmp_path, "automl.algorithm=pbt")
    run(ledger, ledger.create(Proposal(PARAMS, 2, member=0)))
    for path in Path(ledger.entries[0].folder).glob("*.pth"):
        path.unlink()
    entry = ledger.create(Proposal({**PARAMS, "model.dropout": 0.1}, 4, resume_from=0, member=1))
    assert entry.job.notes == ("Trial 1 is trained anew: the checkpoint of trial 0 is gone.",)
    assert "resume_training_checkpoint_path" not in entry.job.spec["train"]


def failed_with(ledger, failure, state=State.ERROR):
    entry = ledger.create(Proposal({**PARAMS, "model.dropout": len(ledger.entries) / 100}, 4))
    ledger.store.move(entry.job.id, State.RUNNING, reason="", source="test")
    record = ledger.store.move(entry.job.id, state, reason="so", source="test", failure=failure)
    ledger.update(record)
    return entry


@pytest.mark.parametrize("kind", [CRASHED, "interrupted"])
def test_what_says_nothing_of_the_settings_is_tried_again(tmp_path, kind):
    entry = failed_with(ledger_of(tmp_path), Failure(kind, "the power went", None))
    assert entry.wants_retry
    assert entry.trial.state is TrialState.WAITING
    ledger = ledger_of(tmp_path)  # read anew, it is the same
    entry = ledger.retry(ledger.entries[0])
    assert entry.job.retry_of == entry.jobs[0].id
    assert entry.job.results_dir == entry.jobs[0].results_dir
    assert "resume" not in entry.job.spec["train"]  # there was no checkpoint yet


@pytest.mark.parametrize("kind", ["quality", "data", "timeout", "resource"])
def test_what_may_come_of_the_settings_is_a_failure(tmp_path, kind):
    entry = failed_with(ledger_of(tmp_path), Failure(kind, "no good", 7))
    assert (entry.trial.state, entry.reason) == (TrialState.FAILED, "no good")
    assert entry.is_final


def test_a_trial_that_somebody_cancelled_is_not_run_again(tmp_path):
    entry = failed_with(ledger_of(tmp_path), None, State.CANCELED)
    assert (entry.trial.state, entry.reason) == (TrialState.FAILED, "cancelled: so")


def write_lines(folder, *lines):
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "status.json").write_text(text)


def test_a_curve_is_read_by_exact_names_and_what_was_written_last_counts(tmp_path):
    write_lines(
        tmp_path,
        {"status": "STARTED", "kpi": {"val_acc": 9.0}},
        {"epoch": 0}, {"kpi": {"val_acc": 0.1, "val_acc_1": 7}},
        {"epoch": 1}, {"kpi": {"val_acc": 0.6}},
        {"status": "STARTED"},  # resumed from the end of epoch 1
        {"epoch": 1}, {"kpi": {"val_acc": 0.4}},
        {"epoch": 2}, {"kpi": {"val_acc": None}},
        {"epoch": 3}, {"kpi": {"val_acc": 0.3}},
    )  # fmt: skip
    with open(tmp_path / "status.json", "a") as file:
        file.write('{"epoch": 4, "kpi": {"val_a')  # cut off by a kill
    curve = read_curve(tmp_path, "val_acc")
    assert curve.points == ((1, 0.1), (2, 0.4), (4, 0.3))
    assert (curve.best("maximize"), curve.best_epoch("maximize")) == (0.4, 2)
    assert (curve.best("minimize"), curve.best_epoch("minimize")) == (0.1, 1)
    assert (curve.num_epochs, curve.num_not_finite) == (4, 1)
    assert read_curve(tmp_path, "val_acc", 1).points == ((1, 0.1),)
    other = read_curve(tmp_path, "accuracy")
    assert other.best("maximize") is None
    assert other.missing("accuracy") == "no accuracy in status.json: it tells val_acc, val_acc_1"


def test_no_figures_at_all_are_said_to_be_none(tmp_path):
    assert read_curve(tmp_path, "val_acc").missing("val_acc") == (
        "no val_acc in status.json: it tells no figures"
    )


def test_paths_are_absolute_and_words_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nvidia").mkdir()
    plan = read_plan("pose_classification", None, [
        "results_dir=out", *fake_training.WORDS, "dataset.train_dataset.data_path=mine",
        "model.graph_layout=nvidia",
    ])  # fmt: skip
    spec = train_spec(plan, PARAMS, results_dir="r", budget=4)
    assert spec["dataset"]["train_dataset"]["data_path"] == str(tmp_path / "mine")
    assert spec["model"]["graph_layout"] == "nvidia"
    assert plan.folder == tmp_path / "out" / "automl"


def test_the_best_spec_is_a_whole_training_that_reads_back(tmp_path):
    plan = plan_of(tmp_path, "train.optim.lr_steps=[2]", "automl.max_epochs=8",
                   "encryption_key=a-long-secret-key")  # fmt: skip
    path = tmp_path / "best.yaml"
    path.write_text(best_spec_text(plan, PARAMS, ["why\nthis one"]))
    assert path.read_text().startswith("# why this one\n")
    assert "a-long-secret-key" not in path.read_text()
    again = read_plan("pose_classification", str(path)).spec
    assert again.train.optim.lr == 0.01
    assert again.model.dropout == 0.25
    assert (again.train.num_epochs, again.train.optim.lr_steps) == (8, [4])
    assert (again.train.stop_epoch, again.train.resume) == (0, False)
    assert again.results_dir == str(tmp_path)


def test_settings_that_a_search_gives_its_trials_itself_are_told(tmp_path):
    plan = plan_of(tmp_path, "train.resume=true", "train.stop_epoch=2")
    assert [note for note in plan.notes if "has no effect" in note] == [
        "train.resume has no effect: a search sets it for each trial.",
        "train.stop_epoch has no effect: a search sets it for each trial.",
    ]
    assert "stop_epoch" not in train_spec(plan, PARAMS, results_dir="r", budget=4)["train"]


def test_words_win_over_the_file_by_whichever_name_a_setting_is_called(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text(
        "automl:\n  automl_max_recommendations: 3\n  algorithm_specific_params: {automl_nu: 4}\n"
    )
    words = [f"results_dir={tmp_path}", *fake_training.WORDS, "automl.algorithm=asha",
             "automl.max_recommendations=5", "automl.reduction_factor=2"]  # fmt: skip
    settings = read_plan("pose_classification", str(path), words).settings
    assert (settings.max_recommendations, settings.reduction_factor) == (5, 2)


def test_a08_all_that_is_wrong_is_told_at_once_with_its_place(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("train:\n  num_epoch: 3\nautoml:\n  algorithm: bayesain\n  metrik: x\n")
    with pytest.raises(SpecError) as caught:
        read_plan("pose_classification", str(path), ["dataset.batch_size=0", "automl"])
    told = [str(problem) for problem in caught.value.problems]
    assert any(text.startswith(f"{path}:2: train.num_epoch") for text in told)
    assert any(text.startswith("command line: dataset.batch_size") for text in told)
    assert any(text.startswith("automl.algorithm") and "bayesian" in text for text in told)
    assert any(text.startswith("automl.metrik") for text in told)


def test_a_metric_of_validation_needs_validation_data(tmp_path):
    words = [f"results_dir={tmp_path}", "dataset.train_dataset.data_path=/data/train"]
    with pytest.raises(SpecError, match="validation data for val_acc"):
        read_plan("pose_classification", None, words)


def test_gpus_are_shared_out_among_trials_side_by_side(tmp_path):
    ledger = ledger_of(tmp_path, "automl.max_concurrent=2", platform={"gpu_ids": [4, 5]})
    given = [ledger.create(Proposal({**PARAMS, "model.dropout": i / 10}, 4)) for i in range(3)]
    assert [entry.job.platform["gpu_ids"] for entry in given] == [[4], [5], [4]]


def checkpoints_of(entry):
    return sorted(path.name for path in entry.folder.glob("model_epoch_*.pth"))


def test_what_asha_may_promote_when_all_have_begun_keeps_its_checkpoint():
    settings = settings_of("asha", num_trials=18)  # six of them go on
    begun = [ended(number, number / 10) for number in range(9)]
    ledger = SimpleNamespace(plan=SimpleNamespace(settings=settings), history=begun)
    assert retention._may_go_on(ledger) == {2, 3, 4, 5, 6, 7, 8}  # and one for a failure


def test_a12_what_may_still_go_on_keeps_the_checkpoint_where_it_stopped(tmp_path):
    ledger = ledger_of(tmp_path, "automl.algorithm=hyperband", "automl.max_epochs=4",
                       "automl.reduction_factor=2", "automl.keep_best=1")  # fmt: skip
    lrs = [0.004, 0.01, 0.02, 0.04]
    for member, lr in enumerate(lrs):
        run(ledger, ledger.create(Proposal({**PARAMS, "train.optim.lr": lr}, 2, member=member)))
    retention.sweep(ledger)
    assert [checkpoints_of(e) for e in ledger.entries.values()] == [
        ["model_epoch_001_step_00008.pth"]
    ] * 4
    best = {**PARAMS, "train.optim.lr": 0.004}
    run(ledger, ledger.create(Proposal(best, 4, resume_from=0, rung=1, member=0)))
    retention.sweep(ledger)
    left = [checkpoints_of(e) for e in ledger.entries.values()]
    assert left[1] == ["model_epoch_001_step_00008.pth"]  # the next in line
    assert left[2] == left[3] == []
    retention.sweep(ledger, is_over=True)
    left = [checkpoints_of(e) for e in ledger.entries.values()]
    assert left[0] == left[4] == ["model_epoch_003_step_00016.pth"]
    assert left[1] == []


def test_a12_a_trial_that_runs_keeps_its_two_newest_checkpoints(tmp_path, fake):
    ledger = ledger_of(tmp_path)
    entry = ledger.create(Proposal(PARAMS, 4))
    fake_training.train({**entry.job.spec, "train": {**entry.job.spec["train"], "num_epochs": 3}})
    ledger.store.move(entry.job.id, State.RUNNING, reason="", source="test")
    ledger.refresh()
    swept = retention.sweep(ledger)
    assert checkpoints_of(entry) == [
        "model_epoch_001_step_00008.pth", "model_epoch_002_step_00012.pth",
    ]  # fmt: skip
    assert swept.num_files == 1
    assert (entry.folder / "best.pth").exists()


def test_the_checkpoint_of_another_metric_is_that_of_its_best_epoch(tmp_path):
    ledger = ledger_of(tmp_path, "automl.metric=val_loss")
    entry = ledger.create(Proposal(PARAMS, 4))
    fake_training.train(entry.job.spec, figures=lambda spec, epoch: [0.2, 0.9, 0.5, 0.4][epoch - 1])
    ledger.store.move(entry.job.id, State.RUNNING, reason="", source="test")
    ledger.update(ledger.store.move(entry.job.id, State.COMPLETE, reason="", source="test"))
    assert entry.trial.value == pytest.approx(0.1)
    found = retention.best_checkpoint(entry, "val_loss", "minimize")
    assert found.name == "model_epoch_001_step_00008.pth"
    retention.sweep(ledger, is_over=True)
    assert found.exists()
    assert isinstance(ledger.store, JobStore)
