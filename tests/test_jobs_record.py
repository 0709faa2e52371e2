"""States of jobs follow the table, and records survive the disk."""

import itertools
import json
import random

import pytest

from kineme.errors import DataError, SpecError
from kineme.jobs.record import (
    TERMINAL,
    TRANSITIONS,
    Choice,
    Failure,
    JobRecord,
    State,
    Transition,
    from_json,
    moved,
    to_json,
)
from kineme.processes import identity

JOB = JobRecord("0" * 8, "pose_classification", "train", created_at="2026-01-01T00:00:00.000+00:00")


def test_no_job_leaves_a_terminal_state():
    for state in TERMINAL:
        assert TRANSITIONS[state] == frozenset()
    assert set(TRANSITIONS) == set(State)


def test_every_state_can_reach_an_end():
    reached = set(TERMINAL)
    for _ in State:
        reached |= {state for state, after in TRANSITIONS.items() if after & reached}
    assert reached == set(State)


def test_a_step_that_the_table_lacks_is_refused_and_named():
    done = moved(moved(JOB, State.RUNNING, reason="", source="agent"), State.COMPLETE,
                 reason="ended", source="agent")  # fmt: skip
    with pytest.raises(SpecError) as caught:
        moved(done, State.CANCELED, reason="late", source="client")
    assert str(caught.value) == (
        "job 00000000: expected a state that may follow Complete (none: it has ended), "
        "got Canceled."
    )


def test_j13_a_thousand_random_event_sequences_never_leave_the_table():
    draw = random.Random(7)
    for _ in range(1000):
        record = JOB
        for state in draw.choices(list(State), k=12):
            before = record
            if state in TRANSITIONS[record.state]:
                record = moved(record, state, reason="drawn", source="test")
            else:
                with pytest.raises(SpecError):
                    moved(record, state, reason="drawn", source="test")
                assert record is before
        walked = [State.PENDING, *(step.state for step in record.transitions)]
        assert walked[-1] == record.state
        assert all(b in TRANSITIONS[a] for a, b in itertools.pairwise(walked))


def test_a_record_survives_json_unchanged():
    full = JobRecord(
        **{**JOB.__dict__, "state": State.ERROR, "spec": {"train": {"optim": {"lr": 0.1}}},
           "command": ("a", "b"), "train_datasets": ("s3://b/k",), "notes": ("n",),
           "choices": (Choice("evaluate.checkpoint", "/x.pth", "parent_model", "best"),),
           "failure": Failure("data", "no such file", 3), "agent": identity(),
           "transitions": (Transition("t", State.ERROR, "r", "agent"),)}
    )  # fmt: skip
    assert from_json(json.loads(json.dumps(to_json(full))), where="x") == full


def test_fields_of_a_later_version_are_left_out():
    assert from_json({**to_json(JOB), "later": 1}, where="x") == JOB


@pytest.mark.parametrize("damage", [
    None, 3, [], {}, {"state": "Lost"}, {"transitions": 4}, {"agent": {"pid": 1}},
])  # fmt: skip
def test_what_is_no_record_is_told_with_its_file(damage):
    value = {**to_json(JOB), **damage} if isinstance(damage, dict) and damage else damage
    with pytest.raises(DataError, match=r"^job\.json: expected the record of a job, got "):
        from_json(value, where="job.json")
