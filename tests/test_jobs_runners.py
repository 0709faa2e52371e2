"""Runners: one contract for all that can run here, and settings that each of them takes.

The contract trains a tiny network for real: a process that imports torch takes seconds.
"""

import os
import signal
import threading
import time

import numpy as np
import pytest
import yaml

from job_ground import ended, log_of, made, states, wait_for_words, wait_until_nobody
from kineme import concealment
from kineme.data.labels import Labels, write_labels
from kineme.errors import SpecError
from kineme.jobs.record import Failure, State
from kineme.jobs.runners import RUNNERS, check_platform, load_runner
from stick import CLASSES, LAYOUT, waves

pytestmark = pytest.mark.usefixtures("no_key")


# The contract

LOCAL_CLUSTER = {"cluster": "local"}
GROUNDS = {
    "in_process": {},
    "subprocess": {},
    "slurm": {"platform": LOCAL_CLUSTER},
}


@pytest.fixture(scope="module")
def skeletons(tmp_path_factory):
    folder = tmp_path_factory.mktemp("skeletons")
    for prefix, num, seed in (("train", 12, 0), ("val", 7, 1)):
        data, labels = waves(num, seed)
        np.save(folder / f"{prefix}_data.npy", data)
        ids = tuple(f"{prefix}{i}" for i in range(num))
        write_labels(folder / f"{prefix}_label.json", Labels(ids, labels, CLASSES))
    (folder / "stick.yaml").write_text(yaml.safe_dump(LAYOUT))
    return folder


def training(store, skeletons, runner, *words):
    record = made(
        store, "pose_classification", "train", f"model.layout={skeletons}/stick.yaml",
        "train.tensorboard=false", "dataset.batch_size=4", "dataset.num_workers=0",
        f"dataset.train_dataset.data_path={skeletons}",
        f"dataset.val_dataset.data_path={skeletons}", "results_dir=results", *words,
        runner=runner, **GROUNDS.get(runner, {}),
    )  # fmt: skip
    if runner != "in_process":
        return record
    # what is relative is so to where a process runs, which is the folder of the job
    results = f"results_dir={store.folder(record.id)}/results"
    return store.amend(record.id, command=(*record.command, results))


@pytest.mark.parametrize("runner", GROUNDS)
def test_contract_a_job_is_complete_with_results_and_log(store, skeletons, runner):
    record = training(store, skeletons, runner, "train.num_epochs=1")
    started = load_runner(runner).start(store, record)
    assert started.state is not State.PENDING or started.backend_job_id
    record = ended(store, record)
    assert states(record) == [State.RUNNING, State.COMPLETE]
    assert (record.exit_code, record.failure) == (0, None)
    assert record.agent is not None
    assert "epoch 1/1" in log_of(store, record)
    assert (store.folder(record.id) / "results" / "train" / "best.pth").is_file()
    assert load_runner(runner).start(store, record) == record  # it never runs twice
    assert load_runner(runner).cancel(store, record) == record


@pytest.mark.parametrize("runner", GROUNDS)
def test_contract_a_job_that_fails_says_why(store, skeletons, runner):
    record = training(store, skeletons, runner, "train.num_epoch=1")
    load_runner(runner).start(store, record)
    record = ended(store, record)
    assert states(record) == [State.RUNNING, State.ERROR]
    message = (
        "command line: train.num_epoch: expected a known key, got an unknown key. "
        "Did you mean train.num_epochs?"
    )
    assert record.failure == Failure("spec", message, 2)
    assert f"error: {message}" in log_of(store, record)


@pytest.mark.parametrize(
    "runner",
    ["in_process", "subprocess", pytest.param("slurm", marks=pytest.mark.slow)],  # 5 s each
)
def test_contract_a_job_that_is_cancelled_saves_and_stops(store, skeletons, runner):
    record = training(store, skeletons, runner, "train.num_epochs=100000")

    def cancel():
        wait_for_words(store, record, "epoch 2/")
        load_runner(runner).cancel(store, store.load(record.id), reason="enough")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    load_runner(runner).start(store, record)
    record = ended(store, record)
    canceller.join()
    assert states(record) == [State.RUNNING, State.CANCELING, State.CANCELED]
    assert record.transitions[1].reason == "enough"
    assert (record.exit_code, record.failure) == (143, None)
    kept = {path.name for path in (store.folder(record.id) / "results" / "train").iterdir()}
    assert "pc_model_latest.pth" in kept
    wait_until_nobody(record, 10)


@pytest.mark.parametrize("runner", GROUNDS)
def test_contract_a_job_that_was_cancelled_before_never_starts(store, runner):
    record = made(store, "x", runner=runner, **GROUNDS[runner])
    record = load_runner(runner).cancel(store, record, reason="changed my mind")
    assert states(record) == [State.CANCELED]
    assert load_runner(runner).start(store, record) == record


@pytest.mark.parametrize("runner", RUNNERS)
def test_contract_every_runner_refuses_settings_that_it_does_not_have(store, runner):
    with pytest.raises(SpecError) as caught:
        check_platform(runner, {"upload_second": 3, "time_limit_seconds": "x", "environment": 1})
    problems = [str(problem) for problem in caught.value.problems]
    assert problems[0].endswith("Did you mean upload_seconds?")
    assert problems[1:3] == [
        "platform.time_limit_seconds: expected int or float, got str 'x'.",
        "platform.environment: expected dict, got int 1.",
    ]
    record = made(store, "x", runner=runner, platform={"no such": 1})
    with pytest.raises(SpecError, match="no such"):
        load_runner(runner).start(store, record)
    assert store.load(record.id).state is State.PENDING


def test_a_runner_that_is_not_there_is_refused_with_what_was_meant():
    with pytest.raises(SpecError, match=r"Did you mean slurm\?"):
        load_runner("slurn")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"API_TOKEN": "x"}, "platform.environment.API_TOKEN: expected nothing secret"),
        ({"A": 1}, "platform.environment.A: expected text, got 1"),
        ({"A B": "x"}, "platform.environment.A B: expected the name of a variable"),
    ],
)
def test_variables_of_a_platform_are_text_and_no_secrets(environment, said):
    with pytest.raises(SpecError, match=said):
        check_platform("subprocess", {"environment": environment})


# In this process


def test_a_bug_of_an_action_is_an_error_of_its_job_alone(store, monkeypatch, skeletons):
    from kineme.actions import train

    def broken(network, spec):
        print("so far, so good")
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(train, "run", broken)
    record = training(store, skeletons, "in_process")
    record = load_runner("in_process").start(store, record)
    expected = "ZeroDivisionError: by zero (a bug of kineme)"
    assert record.failure == Failure("bug", expected, 1)
    log = log_of(store, record)
    assert "so far, so good\nTraceback" in log
    assert log.endswith(f"error: {expected}\n")


def test_a_signal_for_this_process_is_raised_again_after_the_end_of_its_job(
    store, monkeypatch, skeletons
):
    from kineme.actions import train

    def signalled(network, spec):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(train, "run", signalled)
    before = signal.getsignal(signal.SIGTERM)
    record = training(store, skeletons, "in_process")
    with pytest.raises(Exception, match="SIGTERM: expected to run to the end"):
        load_runner("in_process").start(store, record)
    assert store.load(record.id).failure == Failure("interrupted", "stopped by SIGTERM", 143)
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_commands_than_actions_do_not_run_in_this_process(store):
    record = made(store, "automl", "-e", "spec.yaml", runner="in_process")
    record = load_runner("in_process").start(store, record)
    expected = (
        "runner in_process: expected the words of an action, as `pose_classification train`, "
        "got 'automl -e'. Use the runner subprocess."
    )
    assert record.failure == Failure("spec", expected, 2)


# Schedulers


@pytest.mark.parametrize("runner", ["slurm", "ray"])
def test_j16_schedulers_that_show_what_they_run_get_no_key(store, runner, monkeypatch):
    record = made(store, "x", runner=runner)
    with pytest.raises(SpecError, match="encryption_key_file"):
        load_runner(runner).start(store, record, key="secret")
    monkeypatch.setenv(concealment.VARIABLE, "secret")
    with pytest.raises(SpecError, match="unset KINEME_ENCRYPTION_KEY"):
        load_runner(runner).start(store, record)


@pytest.mark.slow  # Ray starts for 15 s
def test_contract_on_a_ray_cluster(store, skeletons):
    import ray as ray_itself

    context = ray_itself.init(num_cpus=2, include_dashboard=True, log_to_driver=False)
    try:
        GROUNDS["ray"] = {"platform": {"address": f"http://{context.dashboard_url}"}}
        test_contract_a_job_is_complete_with_results_and_log(store, skeletons, "ray")
        test_contract_a_job_that_fails_says_why(store, skeletons, "ray")
        test_contract_a_job_that_is_cancelled_saves_and_stops(store, skeletons, "ray")
        test_contract_a_job_that_was_cancelled_before_never_starts(store, "ray")
    finally:
        del GROUNDS["ray"]
        ray_itself.shutdown()
