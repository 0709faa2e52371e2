"""Keys of encrypted checkpoints in a search: they reach every trial, and no file."""

import os

import pytest

import fake_training
import whole_searches
from job_ground import forget_keys
from kineme.automl.controller import search
from kineme.automl.trials import TrialState
from kineme.jobs.runners import slurm
from whole_searches import RANDOM, Killed, plan_of, run


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    return whole_searches.install(monkeypatch)


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

    forget_keys(monkeypatch)
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
