"""Schedulers that are asked what became of a job: how often, and what their answers mean."""

from dataclasses import replace

import pytest

import parked_jobs
from kineme import errors
from kineme.errors import SpecError
from kineme.jobs import client as client_module
from kineme.jobs.record import State
from parked_jobs import train


def scheduler(monkeypatch, *answers):
    """Let the runner of parked jobs give these, the last one for ever; returns who it was asked."""
    left, asked = list(answers), []

    def is_gone(store, record):
        asked.append(record.id)
        answer = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    changed = replace(parked_jobs.PARKED, is_gone=is_gone)
    monkeypatch.setattr(parked_jobs, "PARKED", changed)
    return asked


def test_a_job_that_its_scheduler_dropped_ends_for_those_who_wait(client, data, monkeypatch):
    monkeypatch.setattr(client_module, "_ASK_SECONDS", 0.1)
    asked = scheduler(monkeypatch, None, False, True)
    job = train(client, data).wait(20)
    assert job.status is State.ERROR
    assert job.record.failure.message == "parked has it no more"
    assert asked == [job.id] * 3


def test_a_scheduler_is_asked_about_a_job_every_15_s_and_not_once_it_runs(
    client, data, monkeypatch
):
    clock = [100.0]
    monkeypatch.setattr(client_module.time, "monotonic", lambda: clock[0])
    asked = scheduler(monkeypatch, False)
    one, two = train(client, data), train(client, data)
    for job in (one, two, one, two):
        assert client.get_job_status(job.id).status is State.PENDING
    assert asked == [one.id, two.id]
    for seconds, number in ((14.9, 2), (0.2, 3), (14.9, 3), (15, 4)):
        clock[0] += seconds
        client.get_job(one.id)
        assert len(asked) == number
    client.store.move(one.id, State.RUNNING, reason="test", source="test")
    clock[0] += 20
    assert client.get_job_status(one.id).status is State.RUNNING
    assert len(asked) == 4


def test_a_job_of_a_silent_machine_ends_when_its_scheduler_has_it_no_more(
    client, data, monkeypatch
):
    from kineme.processes import identity

    scheduler(monkeypatch, True)
    job = train(client, data)
    elsewhere = replace(identity(), host="node7", boot="another")
    client.store.move(job.id, State.RUNNING, reason="test", source="agent", agent=elsewhere)
    status = client.get_job_status(job.id)
    assert (status.status, status.message) == (State.ERROR, "parked has it no more")


@pytest.mark.parametrize("answer", [
    SpecError("runner slurm", "the package submitit", "none"),
    errors.ServiceError("ray", "a cluster that takes the job", "refused"),
    None,
])  # fmt: skip
def test_where_nobody_can_be_asked_a_job_waits_on(client, data, monkeypatch, answer):
    asked = scheduler(monkeypatch, answer)
    job = train(client, data)
    assert client.get_job_status(job.id).status is State.PENDING
    assert asked == [job.id]
