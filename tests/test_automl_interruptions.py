"""Searches and trials that crash, are killed or stopped at any moment: nothing is lost or twice."""

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

import fake_training
import whole_searches
from job_ground import wait_until
from kineme.automl import controller, study, telling
from kineme.automl.controller import SearchStopped, search
from kineme.automl.ledger import Ledger
from kineme.automl.trials import TrialState
from kineme.engine import lease
from kineme.files import write_json, write_text
from kineme.jobs.record import State
from kineme.jobs.runners import RUNNERS
from kineme.jobs.store import JobStore
from whole_searches import ASHA, RANDOM, Killed, facts_of, plan_of, records_of, run

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    return whole_searches.install(monkeypatch)


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


def start_search(folder, *words, seconds=0.0):
    """A search of its own process, whose trials have real agents."""
    return subprocess.Popen(
        [sys.executable, str(HERE / "fake_training.py"), "search", f"results_dir={folder}",
         *fake_training.WORDS, RANDOM, "automl.max_recommendations=4", *words],
        env={**os.environ, "FAKE_SECONDS": str(seconds)}, cwd=HERE,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def running_in(folder):
    if not (folder / "automl" / "trials").is_dir():
        return []
    return [r for r in records_of(folder) if r.state is State.RUNNING and r.group is not None]


def test_a02_a03_with_real_processes_a_killed_trial_and_a_killed_search_lose_nothing(tmp_path):
    """Takes seconds: three real processes for each trial, and a search that is killed."""
    whole = run(tmp_path / "whole", RANDOM, "automl.max_recommendations=4")
    folder = tmp_path / "killed"
    first = start_search(folder, seconds=0.3)
    (record,) = wait_until(lambda: running_in(folder), 60)
    os.kill(record.agent.pid, signal.SIGKILL)
    began = time.monotonic()
    wait_until(lambda: any(r.retry_of for r in records_of(folder)), 60)
    assert time.monotonic() - began < 15
    wait_until(lambda: sum(r.state is State.COMPLETE for r in records_of(folder)) >= 1, 60)
    wait_until(lambda: running_in(folder), 60)
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
    wait_until(lambda: (tmp_path / "automl" / "best_trial.json").exists(), 60)
    wait_until(lambda: running_in(tmp_path), 60)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "best so far: trial" in output
    assert "The same command goes on." in output
    assert not [r for r in records_of(tmp_path) if r.state is State.RUNNING]
