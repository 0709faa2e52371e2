"""The search as a whole: failures, crashes, kills, and what is the same after them."""

import contextlib
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

import fake_training
from kineme import concealment
from kineme.automl import controller, study, telling
from kineme.automl.controller import SearchStopped, search
from kineme.automl.ledger import Ledger
from kineme.automl.trial_specs import read_plan
from kineme.automl.trials import TrialState
from kineme.engine import lease
from kineme.errors import DataError, QualityError, ResourceError, SpecError
from kineme.files import write_json, write_text
from kineme.jobs.record import State
from kineme.jobs.runners import RUNNERS, slurm
from kineme.jobs.store import JobStore

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setattr(telling, "write_page", lambda path, view: write_text(path, "<html"))
    return fake_training.install(monkeypatch)


def plan_of(folder, *words, key=None):
    base = [f"results_dir={folder}", *fake_training.WORDS, "automl.max_recommendations=6"]
    return read_plan("pose_classification", None, [*base, *words], key=key)


def run(folder, *words, **options):
    return search(plan_of(folder, *words), runner="fake", poll_seconds=0.001, **options)


def facts_of(view):
    """What must be the same whatever happened on the way."""
    return [(one.number, dict(one.params), one.state, one.value) for one in view.trials]


RANDOM = "automl.algorithm=random"
ASHA = ("automl.algorithm=asha", "automl.max_epochs=4", "automl.reduction_factor=2")


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


def test_a02_a_crashed_trial_goes_on_from_its_checkpoint_at_most_twice(tmp_path, fake):
    fake.faults = {0: ["crash", "crash"], 1: ["crash"] * 3}
    view = run(tmp_path, RANDOM)
    assert Counter(fake.started)[0] == 3
    assert Counter(fake.started)[1] == 3
    assert view.trials[0].state is TrialState.COMPLETE
    assert view.trials[0].retries == 2
    assert view.trials[1].state is TrialState.FAILED
    assert "killed by SIGKILL" in view.trials[1].reason
    first, *later = fake.specs[0]
    assert "resume" not in first["train"]
    assert all(spec["train"]["resume"] is True for spec in later)
    assert len({spec["results_dir"] for spec in fake.specs[0]}) == 1
    assert view.trials[0].value == fake_training.accuracy(first, 4)


class Killed(BaseException):
    """Nothing of ours can catch it."""


@pytest.mark.parametrize(
    "words",
    [
        (RANDOM, "automl.max_recommendations=4"),
        (*ASHA, "automl.max_recommendations=4"),
        (RANDOM, "automl.max_recommendations=4", "automl.max_concurrent=3"),
    ],
    ids=["random", "asha", "side by side"],
)
def test_a04_killed_at_any_write_no_trial_is_lost_or_made_twice(tmp_path, monkeypatch, words, fake):
    whole = run(tmp_path / "whole", *words)
    started = list(fake.started)
    deaths = 0
    point = 0
    while True:
        fake_training.install(monkeypatch)
        folder = tmp_path / f"killed-{point}"
        with monkeypatch.context() as patch:
            made = kill_at(patch, point, is_before=point % 2 == 1)
            try:
                run(folder, *words)
                assert len(made) <= point  # all points have been tried
                break
            except Killed:
                deaths += 1
        view = run(folder, *words)
        assert facts_of(view) == facts_of(whole)
        assert view.best.number == whole.best.number
        records = [JobStore(folder / "automl" / "trials").load(one.job_id) for one in view.trials]
        assert len({record.id for record in records}) == len(whole.trials)
        assert all(record.state is State.COMPLETE for record in records)
        again = run(folder, *words)
        assert facts_of(again) == facts_of(whole)
        assert sorted(fake.started) == sorted(started)  # nothing that ended ran again
        point += 1
        if point > 12:
            point += 7  # every kind of write has been met; not all of them over again
    assert deaths >= 12


class World:
    """What goes on beside the search: trainings on machines of their own, an epoch whenever the
    search waits. A search that dies changes nothing in it, and what it writes is never cut off."""

    amend, move = staticmethod(JobStore.amend), staticmethod(JobStore.move)  # that nobody wraps

    def __init__(self, *, crashes=()):
        self.store = None
        self.crashes = set(crashes)  # trials whose first job dies after an epoch
        self.running, self.dead, self.wished, self.epochs = {}, set(), set(), Counter()

    def start(self, store, record, *, key=None):
        record = store.load(record.id)
        if record.state is not State.PENDING:
            return record
        folders = [one.results_dir for one in self.running.values()]
        assert record.results_dir not in folders  # nothing is trained by two at a time
        self.store = store
        self.amend(store, record.id, backend_job_id="its number")
        record = self.move(store, record.id, State.RUNNING, reason="", source="agent")
        self.running[record.id] = record
        return record

    def cancel(self, store, record, *, reason="asked for"):
        store.wish_to_cancel(record.id, reason)
        self.wished.add(record.id)
        return store.load(record.id)

    def is_gone(self, store, record):
        return record.id in self.dead

    def step(self, seconds):
        """What happens while a search waits."""
        self.heed()
        for record in [*self.running.values()]:
            trial, settings = record.details["trial"], record.spec["train"]
            done = self.epochs[record.results_dir]
            fake_training.train(
                {**record.spec, "train": {**settings, "stop_epoch": done + 1, "resume": done > 0}}
            )
            self.epochs[record.results_dir] += 1
            if trial in self.crashes:
                self.crashes.discard(trial)
                self.dead.add(record.id)
                del self.running[record.id]
            elif done + 1 == settings.get("stop_epoch", settings["num_epochs"]):
                self._end(record, State.COMPLETE)

    def heed(self):
        """What was asked to end ends, whether or not there is a search."""
        for record in [self.running[one] for one in self.wished & set(self.running)]:
            self._end(record, State.CANCELING, State.CANCELED)

    def _end(self, record, *states):
        for state in states:
            self.move(self.store, record.id, state, reason="", source="agent")
        del self.running[record.id]


ES = ("automl.algorithm=hyperband_es", "automl.max_epochs=3", "automl.min_early_stop_epochs=1")
MORE = (RANDOM, "automl.max_recommendations=3")


@pytest.mark.parametrize(
    ("words", "happening", "writes"),
    [
        (MORE, "crash", {"move": 1, "create": 4, "write_spec": 8}),
        (ES, "prune", {"amend": 2, "wish_to_cancel": 2}),
        (MORE, "stop", {"amend": 1, "wish_to_cancel": 1}),
        (MORE, "another runner", {"amend": 1}),
        ((*ASHA, "automl.max_recommendations=4", "automl.max_concurrent=2"), "", {"create": 6}),
    ],
    ids=["crash", "prune", "stop", "another runner", "side by side"],
)
def test_a04_killed_at_any_write_while_trials_run_crash_and_are_ended(
    tmp_path, monkeypatch, words, happening, writes
):
    """writes: the kinds that are cut off, and how many there are at least."""
    monkeypatch.setattr(controller, "ASK_RUNNER_SECONDS", -1.0)
    whole, made = endured(monkeypatch, tmp_path / "whole", words, happening)
    kinds = Counter(made)
    assert all(kinds[name] >= number for name, number in writes.items())
    states = Counter(one.state for one in whole.trials)
    assert (states[TrialState.PRUNED] > 1) is (happening == "prune")
    for number, name in enumerate(made):
        for is_before in (True, False) if name in writes else ():
            folder = tmp_path / f"killed-{number}-{is_before}"
            view, _ = endured(monkeypatch, folder, words, happening, number, is_before=is_before)
            assert facts_of(view) == facts_of(whole)
            records = records_of(folder)
            assert all(record.is_terminal for record in records)
            tries = [(r.details["trial"], r.details["attempt"]) for r in records]
            assert len(tries) == len(set(tries))
            assert {trial for trial, _ in tries} == set(range(len(whole.trials)))
            assert [one.retries for one in view.trials] == [one.retries for one in whole.trials]
            for one in view.trials:
                text = (Path(one.folder) / "status.json").read_text()
                epochs = re.findall(r'"epoch": (\d+)', text)
                assert len(epochs) == len(set(epochs))  # none was trained twice


def endured(monkeypatch, folder, words, happening, point=-1, *, is_before=True):
    """(what was found, kinds of writes) of a search that is started until it ends.

    happening: to its second trial.
    """
    world = World(crashes=[1] if happening == "crash" else [])
    happened = []
    with monkeypatch.context() as patch:
        fake_training.install(patch)
        patch.setitem(RUNNERS, "other", "fake_training:RUNNER")
        patch.setattr(
            controller, "time", SimpleNamespace(monotonic=time.monotonic, sleep=world.step)
        )
        methods = ("create", "amend", "move", "wish_to_cancel")
        made = kill_at(patch, point, is_before=is_before, methods=methods)

        def start(store, record, *, key=None):
            if happening == "another runner" and record.details["trial"] == 1 and not happened:
                happened.append(1)
                raise Killed  # with a job that nobody runs
            return world.start(store, record, key=key)

        def look(view):
            if happening == "stop" and len(view.trials) == 2 and not happened:
                happened.append(1)
                os.kill(os.getpid(), signal.SIGTERM)

        runner = fake_training.Runner(start, world.cancel, world.is_gone, {})
        patch.setattr(fake_training, "RUNNER", runner)
        for name in itertools.cycle(("fake", "other")):
            plan = plan_of(folder, *words)
            with contextlib.suppress(Killed, SearchStopped):
                view = search(plan, runner=name, show=look, poll_seconds=0.0)
                break
            world.heed()
    assert not world.running
    return view, made


def kill_at(patch, point, *, is_before=True, methods=("create",)):
    """Have the write number `point` of a search be its last; returns the kinds of all writes.

    methods: of its JobStore; those that its runners call, too, only where these are a World's.
    """
    made = []

    def counted(real):
        def write(*args, **keywords):
            made.append(real.__name__)
            number = len(made) - 1
            if number == point and is_before:
                raise Killed
            result = real(*args, **keywords)
            if number == point:
                raise Killed
            return result

        return write

    for name in methods:
        patch.setattr(JobStore, name, counted(getattr(JobStore, name)))
    patch.setattr(Ledger, "write_spec", counted(Ledger.write_spec))
    patch.setattr(study, "write_json", counted(write_json))
    patch.setattr(telling, "write_json", counted(write_json))
    patch.setattr(telling, "write_text", counted(write_text))
    patch.setattr(telling, "append_line", counted(telling.append_line))
    return made


def test_a02_a_crashed_trial_waits_until_what_is_left_of_it_has_saved(tmp_path, fake):
    fake.faults = {0: ["crash"]}
    leases, waited = [], []

    def look(view):
        (one, *_) = view.trials or [None]
        if one is not None and one.state is TrialState.WAITING and fake.started == [0]:
            path = Path(one.folder) / ".lease.json"
            if not leases:
                holder = lease._holder()  # of this process, which lives
                path.write_text(json.dumps(holder))
                leases.append(path)
            elif len(waited) == 3:
                path.unlink()
            waited.append(list(fake.started))

    told = []
    view = run(tmp_path, RANDOM, show=look, tell=told.append)
    assert waited[:4] == [[0]] * 4
    assert view.trials[0].state is TrialState.COMPLETE
    assert any(text.startswith("Trial 0 waits for its folder: one in use by") for text in told)


def test_a03_killed_and_started_again_it_is_the_same_search(tmp_path, fake):
    whole = run(tmp_path / "whole", RANDOM)
    fake.started.clear()

    def stop_after_three(view):
        if sum(not one.trial.is_active for one in view.trials) == 3:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "cut", RANDOM, show=stop_after_three)
    assert facts_of(run(tmp_path / "cut", RANDOM)) == facts_of(whole)
    assert fake.started == [0, 1, 2, 3, 4, 5]


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a10_a_signal_cancels_what_runs_and_the_next_start_takes_it_up(
    tmp_path, fake, number, code
):
    fake.faults = {2: ["hang"]}

    def interrupt(view):
        if any(one.number == 2 and one.state is TrialState.RUNNING for one in view.trials):
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(SearchStopped) as caught:
        run(tmp_path, RANDOM, show=interrupt)
    assert caught.value.exit_code == code
    assert "a request to stop after 2 trials" in str(caught.value)
    assert signal.getsignal(number) is before
    record = next(r for r in records_of(tmp_path) if r.details["trial"] == 2)
    assert record.state is State.CANCELED
    view = run(tmp_path, RANDOM)
    assert facts_of(view) == facts_of(run(tmp_path / "other", RANDOM))
    assert view.trials[2].retries == 0  # it was not its fault


def records_of(folder):
    store = JobStore(folder / "automl" / "trials")
    return [store.load(job_id) for job_id in store.ids()]


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


def test_the_best_is_measured_on_held_out_data_where_there_are_any(tmp_path, fake):
    view = run(tmp_path, RANDOM, "evaluate.test_dataset.data_path=/data/test")
    assert view.final.value == pytest.approx(0.71)
    assert view.final.where == "accuracy on /data/test, held out"
    (spec,) = fake.evaluated
    assert spec["evaluate"]["checkpoint"].endswith("best.pth")
    assert spec["model"]["dropout"] == view.best.params["model.dropout"]
    run(tmp_path, RANDOM, "evaluate.test_dataset.data_path=/data/test")
    assert len(fake.evaluated) == 1  # once for all
    run(tmp_path, RANDOM, "evaluate.test_dataset.data_path=/data/other")
    assert len(fake.evaluated) == 2


def test_labels_of_held_out_data_are_named_wherever_the_data_are(tmp_path, fake):
    held_out = {"data_path": "/data/it's a test.npy", "label_path": "/other/label.json"}
    words = [f"evaluate.test_dataset.{key}={value}" for key, value in held_out.items()]
    view = run(tmp_path, RANDOM, *words)
    (spec,) = fake.evaluated
    assert spec["evaluate"]["test_dataset"] == held_out
    _, evaluate = view.next_steps
    said = dict(word.split("=", 1) for word in shlex.split(evaluate)[3:])
    assert {f"evaluate.test_dataset.{key}": value for key, value in held_out.items()}.items() <= (
        said.items()
    )
    view = run(tmp_path / "other", RANDOM, "evaluate.test_dataset.label_path=/other/label.json")
    assert view.final is None  # labels alone are no data
    assert view.next_steps[1].endswith("evaluate.test_dataset.data_path=TEST_DATA")


def test_without_held_out_data_the_user_is_told_where_the_best_was_chosen(tmp_path, fake):
    told = []
    view = run(tmp_path, RANDOM, tell=told.append)
    assert view.final is None
    assert view.selected_on == "the validation data /data/val"
    assert not fake.evaluated
    assert any("Set evaluate.test_dataset.data_path to data held out" in text for text in told)


def test_an_evaluation_that_fails_ends_nothing(tmp_path, fake):
    fake.faults = {"evaluate": 3}
    view = run(tmp_path, RANDOM, "evaluate.test_dataset.data_path=/data/test")
    assert view.final.value is None
    assert view.final.where == "not measured: no such data"
    assert view.best is not None


def test_the_baseline_is_the_spec_itself_or_the_weights_it_starts_from(tmp_path, fake):
    view = run(tmp_path / "scratch", RANDOM)
    assert view.baseline.value == view.trials[0].value
    assert view.baseline.where == "trial 0, the values of the spec"
    words = (RANDOM, "automl.run_baseline=true", "model.pretrained_model_path=/data/start.pth")
    view = run(tmp_path / "tuned", *words)
    assert fake.evaluated[0]["evaluate"]["checkpoint"] == "/data/start.pth"
    assert fake.evaluated[0]["evaluate"]["test_dataset"]["data_path"] == "/data/val"
    assert view.baseline.value == pytest.approx(0.71)


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


def test_the_key_reaches_the_runner_and_no_file(tmp_path, fake):
    key = "a-key-that-nobody-should-see"
    plan = plan_of(tmp_path, RANDOM, f"encryption_key={key}")
    search(plan, runner="fake", poll_seconds=0.001)
    assert set(fake.keys) == {key}
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert key.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("runner", ["slurm", "ray"])
def test_the_file_of_the_key_is_named_to_trials_where_a_runner_takes_no_key(
    tmp_path, monkeypatch, fake, runner
):
    key, path = "a-key-that-nobody-should-see", tmp_path / "key"
    path.write_text(key)

    def start(store, record, *, key=None):
        slurm.refuse_key(runner, key)
        return fake.start(store, record, key=key)

    monkeypatch.delenv(concealment.VARIABLE, raising=False)
    monkeypatch.setattr(concealment, "_kept", {})
    ours = fake_training.Runner(start, fake.cancel, fake_training.RUNNER.is_gone, {})
    monkeypatch.setattr(fake_training, "RUNNER", ours)
    words = ("evaluate.test_dataset.data_path=/data/test", f"encryption_key_file={path}")
    view = run(tmp_path / "search", RANDOM, *words)
    assert [one.state for one in view.trials] == [TrialState.COMPLETE] * 6
    specs = [*fake.evaluated, *(spec for tries in fake.specs.values() for spec in tries)]
    assert {spec["encryption_key_file"] for spec in specs} == {str(path)}
    assert len(specs) == 7
    for file in (tmp_path / "search").rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes(), file


def test_a_trial_from_before_there_was_a_file_of_the_key_gets_the_key(tmp_path, fake):
    key, path = "a-key-that-nobody-should-see", tmp_path / "key"
    path.write_text(key)
    plan = plan_of(tmp_path / "search", RANDOM, f"encryption_key={key}")
    fake.faults = {1: ["crash"]}

    def stop(view):
        if any(one.number == 1 and one.state is TrialState.WAITING for one in view.trials):
            raise Killed

    with pytest.raises(Killed):
        search(plan, runner="fake", poll_seconds=0.001, show=stop)
    fake.keys.clear()
    run(tmp_path / "search", RANDOM, f"encryption_key_file={path}")
    assert fake.keys == [key, None, None, None, None]


def test_a_key_from_a_pipe_is_handed_on_as_nobody_can_read_it_again(tmp_path, fake):
    reader, writer = os.pipe()
    os.write(writer, b"a-key-that-nobody-should-see")
    os.close(writer)
    run(tmp_path, RANDOM, f"encryption_key_file=/dev/fd/{reader}")
    os.close(reader)
    assert set(fake.keys) == {"a-key-that-nobody-should-see"}
    assert "encryption_key_file" not in fake.specs[0][0]


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


def start_search(folder, *words, seconds=0.0):
    """A search of its own process, whose trials have real agents."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "fake_training.py"), "search", f"results_dir={folder}",
         *fake_training.WORDS, RANDOM, "automl.max_recommendations=4", *words],
        env={**os.environ, "FAKE_SECONDS": str(seconds)}, cwd=HERE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def running_in(folder):
    if not (folder / "automl" / "trials").is_dir():
        return []
    return [r for r in records_of(folder) if r.state is State.RUNNING and r.group is not None]


def test_a02_a03_with_real_processes_a_killed_trial_and_a_killed_search_lose_nothing(tmp_path):
    """Takes seconds: three real processes for each trial, and a search that is killed."""
    whole = run(tmp_path / "whole", RANDOM, "automl.max_recommendations=4")
    folder = tmp_path / "killed"
    first = start_search(folder, seconds=0.3)
    (record,) = wait_for(lambda: running_in(folder))
    os.kill(record.agent.pid, signal.SIGKILL)
    began = time.monotonic()
    wait_for(lambda: any(r.retry_of for r in records_of(folder)))
    assert time.monotonic() - began < 15
    wait_for(lambda: sum(r.state is State.COMPLETE for r in records_of(folder)) >= 1)
    wait_for(lambda: running_in(folder))
    first.kill()
    first.wait()
    adopted = {r.id for r in running_in(folder)}
    ended = {r.id: r.updated_at for r in records_of(folder) if r.state is State.COMPLETE}
    second = start_search(folder)
    output, _ = second.communicate(timeout=120)
    assert second.returncode == 0, output
    records = {r.id: r for r in records_of(folder)}
    assert all(records[job_id].updated_at == then for job_id, then in ended.items())
    assert all(records[job_id].state is State.COMPLETE for job_id in adopted)
    assert len([r for r in records.values() if r.state is State.COMPLETE]) == 4
    view = run(folder, "automl.max_recommendations=4", RANDOM)
    assert facts_of(view) == facts_of(whole)


def test_a10_with_real_processes_sigint_saves_what_runs_and_prints_the_best(tmp_path):
    """Takes seconds: real processes that are asked to stop."""
    process = start_search(tmp_path, "automl.max_concurrent=2", seconds=0.2)
    wait_for(lambda: (tmp_path / "automl" / "best_trial.json").exists())
    wait_for(lambda: running_in(tmp_path))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "best so far: trial" in output
    assert "The same command goes on." in output
    assert not [r for r in records_of(tmp_path) if r.state is State.RUNNING]
