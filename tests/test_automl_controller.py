"""The search as a whole: what it leaves, what it refuses, and which trials run when."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import fake_training
import whole_searches
from kineme.automl import controller
from kineme.automl.controller import search
from kineme.automl.trial_specs import read_plan
from kineme.automl.trials import TrialState
from kineme.engine import lease
from kineme.errors import DataError, QualityError, ResourceError, SpecError
from kineme.jobs.record import State
from kineme.jobs.runners import RUNNERS
from kineme.jobs.store import JobStore
from whole_searches import ASHA, RANDOM, facts_of, plan_of, run


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    return whole_searches.install(monkeypatch)


def test_a_search_leaves_the_best_spec_and_what_it_rests_on(tmp_path, fake):
    view = run(tmp_path, RANDOM)
    values = [fake_training.accuracy(fake.specs[n][0], 4) for n in range(6)]
    assert [one.value for one in view.trials] == values
    assert view.best.value == max(values)
    best = json.loads((tmp_path / "automl" / "best_trial.json").read_text())
    assert best["job_id"] == view.best.job_id
    assert (best["metric"], best["value"]) == ("val_acc", max(values))
    assert Path(best["checkpoint"]).name == "best.pth"
    spec = read_plan("pose_classification", str(tmp_path / "automl" / "best_spec.yaml"))
    assert spec.spec.train.optim.lr == view.best.params["train.optim.lr"]
    assert spec.spec.train.stop_epoch == 0
    assert spec.spec.train.resume is False
    assert spec.results_dir == tmp_path
    assert (tmp_path / "automl" / "trials.csv").read_text().count("\n") == 7
    assert "<html" in (tmp_path / "automl" / "automl.html").read_text()
    lines = (tmp_path / "automl" / "status.json").read_text().splitlines()
    assert [json.loads(lines[0])["status"], json.loads(lines[-1])["status"]] == [
        "STARTED",
        "SUCCESS",
    ]
    assert len(lines) == 8


def test_a01_a_trial_that_fails_is_a_failure_and_the_search_goes_on(tmp_path, fake):
    fake.faults = {1: 7, 3: "nan", 4: 5}
    view = run(tmp_path, RANDOM, "automl.metric=val_loss")
    states = [one.state for one in view.trials]
    failed = [one.number for one in view.trials if one.state is TrialState.FAILED]
    assert failed == [1, 3, 4]
    assert states.count(TrialState.COMPLETE) == 3
    assert all(view.trials[n].value is None for n in failed)
    assert "it ended with 7" in view.trials[1].reason
    assert "not a finite number" in view.trials[3].reason
    done = [one.value for one in view.trials if one.state is TrialState.COMPLETE]
    assert view.best.value == min(done)  # no failure counts as a loss of 0


def test_a05_when_all_trials_fail_it_stops_after_three_with_their_common_cause(tmp_path, fake):
    fake.faults = dict.fromkeys(range(9), 3)
    with pytest.raises(DataError) as caught:
        run(tmp_path, RANDOM)
    assert fake.started == [0, 1, 2]
    assert "3 that failed, 3 of them so: it ended with 3" in str(caught.value)
    assert "job.log" in str(caught.value)
    fake.faults = {}
    assert len(run(tmp_path, RANDOM).trials) == 6  # mended, the same command goes on
    assert fake.started == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("fault", "said"), [("nan", "not a finite number"), ("none", "no val_acc")]
)
def test_a09_a_metric_that_is_missing_or_nan_is_named_and_ends_the_search(
    tmp_path, fake, fault, said
):
    fake.faults = dict.fromkeys(range(9), fault)
    with pytest.raises(QualityError, match=said):
        run(tmp_path, RANDOM)
    assert fake.started == [0, 1, 2]


def test_a09_a_metric_that_status_json_does_not_have_is_told_with_those_it_has(tmp_path):
    with pytest.raises(QualityError, match=r"no val_f1 in status.json.*train_loss, val_acc"):
        run(tmp_path, RANDOM, "automl.metric=val_f1")


def constant(monkeypatch, figures):
    """Trainings of which `figures` (epoch) is all that is told, whatever the settings."""
    monkeypatch.setattr(fake_training, "accuracy", lambda spec, epoch: figures(epoch))


def test_a09_a_metric_that_never_changes_is_named_and_ends_the_search(tmp_path, monkeypatch, fake):
    constant(monkeypatch, lambda epoch: 0.5)
    with pytest.raises(QualityError) as caught:
        run(tmp_path, RANDOM)
    assert caught.value.exit_code == 7
    assert str(caught.value).startswith(
        "AutoML: expected a val_acc that tells settings apart, got 0.5 after every epoch of 5 "
        "trials. Check data and metric; automl.allow_constant_metric=true goes on"
    )
    assert fake.started == list(range(5))
    told = []
    view = run(tmp_path, RANDOM, "automl.allow_constant_metric=true", tell=told.append)
    assert len(view.trials) == 6  # what had ended is not run again
    assert fake.started == list(range(6))
    assert "val_acc is 0.5 in all trials: nothing can be learned from it." in told


def test_a09_mended_a_search_whose_metric_never_changed_goes_on(tmp_path, monkeypatch, fake):
    with monkeypatch.context() as patch:
        constant(patch, lambda epoch: 0.5)
        with pytest.raises(QualityError):
            run(tmp_path, RANDOM)
    assert len(run(tmp_path, RANDOM).trials) == 6
    assert fake.started == list(range(6))


def test_a09_a_metric_that_is_the_same_in_the_end_alone_is_a_note(tmp_path, monkeypatch):
    constant(monkeypatch, lambda epoch: min(1.0, epoch / 2))  # every training learns all
    told = []
    assert len(run(tmp_path, RANDOM, tell=told.append).trials) == 6
    assert "val_acc is 1 in all trials: nothing can be learned from it." in told


def test_a_search_that_goes_on_tells_the_end_of_each_trial_once(tmp_path):
    run(tmp_path, RANDOM)
    run(tmp_path, RANDOM)
    run(tmp_path, RANDOM, "automl.max_recommendations=8")
    lines = (tmp_path / "automl" / "status.json").read_text().splitlines()
    told = Counter(json.loads(line)["message"] for line in lines)
    assert [told[f"Trial {number} complete."] for number in range(8)] == [1] * 8
    assert told["Starting AutoML."] == told["AutoML finished successfully."] == 3


def test_a06_a_damaged_search_is_refused_and_a_copy_kept(tmp_path):
    run(tmp_path, RANDOM)
    path = tmp_path / "automl" / "automl.json"
    path.write_text(path.read_text()[:100])
    with pytest.raises(ResourceError, match=r"A copy is automl.json.damaged-"):
        run(tmp_path, RANDOM)
    (copy,) = path.parent.glob("automl.json.damaged-*")
    assert copy.read_text() == path.read_text()


def test_a06_a_damaged_record_is_refused_and_a_copy_kept(tmp_path):
    view = run(tmp_path, RANDOM)
    path = tmp_path / "automl" / "trials" / view.trials[2].job_id / "job.json"
    path.write_text("{")
    with pytest.raises(ResourceError, match=r"A copy is job.json.damaged-"):
        run(tmp_path, RANDOM)
    assert len(list(path.parent.glob("job.json.damaged-*"))) == 1


def test_a06_a_folder_that_cannot_be_written_ends_with_5(tmp_path, fake):
    (tmp_path / "automl").write_text("a file in the way")
    with pytest.raises(ResourceError, match="a path that can be written"):
        run(tmp_path, RANDOM)
    assert fake.started == []


def test_a07_a_second_leader_of_a_search_is_refused(tmp_path):
    holder = f"import time; from kineme.engine import lease; from pathlib import Path\n" \
             f"with lease.held(Path({str(tmp_path / 'automl' / '.lease.json')!r})):\n" \
             f"    print('held', flush=True); time.sleep(60)"  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(SpecError, match=f"in use by pid {process.pid}"):
            run(tmp_path, RANDOM)
    finally:
        process.kill()
        process.wait()
    assert len(run(tmp_path, RANDOM).trials) == 6
    assert lease  # the module that promises it


@pytest.mark.parametrize("algorithm", ["bayesian", "bohb", "asha"])
def test_a11_the_same_seed_gives_the_same_suggestions_and_best(tmp_path, algorithm):
    words = [f"automl.algorithm={algorithm}"]
    if algorithm == "bohb":
        words += ["automl.max_epochs=4", "automl.reduction_factor=2"]
    first, second = (run(tmp_path / name, *words) for name in "ab")
    other = run(tmp_path / "c", *words, "automl.seed=1")
    assert facts_of(first) == facts_of(second)
    assert first.best.number == second.best.number
    assert facts_of(first) != facts_of(other)


def test_a12_only_the_best_trials_keep_checkpoints_and_the_limit_is_told(tmp_path):
    told = []
    view = run(tmp_path, RANDOM, "automl.keep_best=2", tell=told.append)
    ranked = sorted(view.trials, key=lambda one: -one.value)
    with_weights = {one.number for one in view.trials if list(Path(one.folder).glob("*.pth"))}
    assert with_weights == {one.number for one in ranked[:2]}
    names = sorted(path.name for path in Path(ranked[0].folder).glob("*.pth"))
    assert names == ["best.pth", "model_epoch_003_step_00016.pth", "pc_model_latest.pth"]
    assert any("The 2 best trials keep their checkpoints" in text for text in told)
    assert any(re.match(r"Checkpoints on the disk: 6 files", text) for text in told)


def test_a12_deleting_can_be_turned_off(tmp_path):
    view = run(tmp_path, RANDOM, "automl.delete_intermediate_ckpt=false")
    for one in view.trials:
        assert len(list(Path(one.folder).glob("model_epoch_*.pth"))) == 4


def test_promoted_trials_go_on_from_where_they_stopped(tmp_path, fake):
    view = run(tmp_path, *ASHA)
    promoted = [one for one in view.trials if one.trial.parent is not None]
    assert {one.trial.budget for one in view.trials} == {1, 2, 4}
    assert len(promoted) >= 4
    for one in promoted:
        spec, parent = fake.specs[one.number][0], fake.specs[one.trial.parent][0]
        assert spec["results_dir"] == parent["results_dir"]
        assert spec["train"]["resume"] is True
        assert spec["train"]["num_epochs"] == 4
        assert spec["train"].get("stop_epoch", 4) == one.trial.budget
        assert one.value == fake_training.accuracy(spec, one.trial.budget)
        epochs = re.findall(r'"epoch": (\d+)', (Path(one.folder) / "status.json").read_text())
        assert len(epochs) == len(set(epochs))  # none was trained twice


def test_pbt_goes_on_from_copied_checkpoints_in_folders_of_their_own(tmp_path, fake):
    words = ("automl.algorithm=pbt", "automl.population_size=4", "automl.max_generations=3",
             "automl.max_epochs=6", "automl.max_concurrent=2")  # fmt: skip
    view = run(tmp_path, *words)
    assert len(view.trials) == 12
    assert all(one.state is TrialState.COMPLETE for one in view.trials)
    copied = [one for one in view.trials if one.trial.origin == "copied"]
    assert copied
    for one in copied:
        spec, parent = fake.specs[one.number][0], fake.specs[one.trial.parent][0]
        assert spec["results_dir"] != parent["results_dir"]
        start = Path(spec["train"]["resume_training_checkpoint_path"])
        budget = view.trials[one.trial.parent].trial.budget
        assert start.name.startswith(f"model_epoch_{budget - 1:03d}_")
        assert start.parent == Path(parent["results_dir"]) / "train"


def test_several_trials_run_at_a_time_and_no_more(tmp_path, fake):
    fake.faults = {n: ["hang"] for n in range(3)}
    most = []

    def look(view):
        running = [one for one in view.trials if one.state is TrialState.RUNNING]
        most.append(len(running))
        if len(running) == 3:
            store = JobStore(tmp_path / "automl" / "trials")
            for one in running:
                fake_training.train(store.load(one.job_id).spec)
                fake_training.end(store, store.load(one.job_id), State.COMPLETE, None)

    view = run(tmp_path, RANDOM, "automl.max_concurrent=3", show=look)
    assert max(most) == 3
    assert len(view.trials) == 6


def test_trials_that_trail_are_pruned_by_hyperband_es(tmp_path, fake):
    words = ("automl.algorithm=hyperband_es", "automl.max_epochs=4", "automl.reduction_factor=4",
             "automl.min_early_stop_epochs=1", "automl.max_concurrent=2")  # fmt: skip
    fake.faults = {1: ["hang"]}

    def look(view):
        one = next((t for t in view.trials if t.number == 1), None)
        if one is not None and one.state is TrialState.RUNNING:
            fake_training.train(
                JobStore(tmp_path / "automl" / "trials").load(one.job_id).spec,
                figures=lambda spec, epoch: 0.01,
            )

    view = run(tmp_path, *words, show=look)
    assert view.trials[1].state is TrialState.PRUNED
    assert view.trials[1].reason == "it trailed the others"
    assert not [one for one in view.trials if one.trial.parent == 1]


def test_another_search_in_the_same_folder_is_refused_by_name(tmp_path):
    run(tmp_path, RANDOM)
    with pytest.raises(SpecError) as caught:
        run(tmp_path, RANDOM, "automl.seed=5", "dataset.batch_size=7")
    told = [problem.where for problem in caught.value.problems]
    assert told == ["automl.seed", "dataset.batch_size"]
    with pytest.raises(SpecError, match=r"search space|automl.ranges"):
        run(tmp_path, RANDOM, "automl.ranges={train.optim.lr: {min: 0.001, max: 0.002}}")


def test_a_search_may_go_on_for_longer_and_be_run_otherwise(tmp_path, fake):
    run(tmp_path, RANDOM)
    view = run(tmp_path, RANDOM, "automl.max_recommendations=8", "automl.max_concurrent=2")
    assert fake.started == list(range(8))
    assert len(view.trials) == 8
    with pytest.raises(SpecError, match=r"automl.max_recommendations"):
        run(tmp_path, RANDOM)


def test_a_runner_that_takes_nobody_is_asked_again(tmp_path, monkeypatch, fake):
    real, refusals = fake.start, [1, 1]

    def start(store, record, *, key=None):
        if refusals:
            refusals.pop()
            raise ResourceError(f"job {record.id}", "an agent that runs it", "none")
        return real(store, record, key=key)

    runner = fake_training.Runner(start=start, cancel=fake.cancel, is_gone=lambda *_: None,
                                  settings={})  # fmt: skip
    monkeypatch.setattr(fake_training, "RUNNER", runner)
    assert len(run(tmp_path, RANDOM).trials) == 6


def test_trials_side_by_side_do_not_fit_into_one_process(tmp_path):
    plan = plan_of(tmp_path, RANDOM, "automl.max_concurrent=2")
    with pytest.raises(SpecError, match="1, as the runner is in_process"):
        search(plan, runner="in_process")
    assert not (tmp_path / "automl").exists()
    assert "fake" in RUNNERS
    assert controller.SEQUENTIAL == ("in_process",)
