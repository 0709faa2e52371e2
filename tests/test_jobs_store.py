"""Jobs as folders: whole or absent, one change after the other, none twice, none lost."""

import json
import multiprocessing
import os
import signal
import sqlite3
import time
import warnings

import pytest

from kineme.errors import DataError, ResourceError, SpecError
from kineme.jobs import store as stores
from kineme.jobs.index import INDEX_FILE, list_rows
from kineme.jobs.record import JobRecord, State, now
from kineme.jobs.store import JobStore, new_id

_FORK = multiprocessing.get_context("fork")


def record(key=None, **changes):
    fields = {"network_arch": "pose_classification", "action": "train", "created_at": now()}
    return JobRecord(new_id(key), idempotency_key=key, **{**fields, **changes})


def ended(store, **changes):
    job, _ = store.create(record(**changes))
    return store.move(job.id, State.CANCELED, reason="test", source="test")


def test_a_job_is_a_folder_with_its_record(tmp_path):
    store = JobStore(tmp_path / "jobs")
    job, is_new = store.create(record(spec={"train": {"num_epochs": 3}}))
    assert is_new
    assert store.load(job.id) == job
    assert job.results_dir == str(tmp_path / "jobs" / job.id / "results")
    assert store.ids() == [job.id]
    assert sorted(os.listdir(store.root)) == [job.id]  # nothing half made beside it


def test_one_key_makes_one_job(tmp_path):  # J04
    store = JobStore(tmp_path)
    first, is_new = store.create(record("order 7"))
    again, is_new_again = store.create(record("order 7"))
    assert (is_new, is_new_again) == (True, False)
    assert again == first
    with pytest.raises(SpecError) as caught:
        store.create(record("order 7", action="export"))
    assert str(caught.value) == (
        f"idempotency_key 'order 7': expected the same request as that of job {first.id}, "
        "got another action. Use another key for another job."
    )


def _create_some(root, num_jobs, keys):
    store = JobStore(root)
    for number in range(num_jobs):
        store.create(record(f"key {number}" if keys else None))


def test_jobs_that_eight_processes_create_at_once_are_all_there(tmp_path):  # J05
    processes = [_FORK.Process(target=_create_some, args=(tmp_path, 50, k < 2)) for k in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 8
    store = JobStore(tmp_path)
    assert len(store.ids()) == 6 * 50 + 50  # two of the eight shared their keys
    assert len(list_rows(store)) == 350
    assert {store.load(job_id).state for job_id in store.ids()} == {State.PENDING}


@pytest.mark.parametrize("job_id", [
    "../../x", "/etc/passwd", "a\0b", "ü" * 36, "", ".", "0" * 36, "A" * 36, 7, None,
    "00000000-0000-0000-0000-00000000000g", "00000000-0000-0000-0000-000000000000\n",
])  # fmt: skip
def test_what_is_no_id_is_refused_before_any_path_is_made_of_it(tmp_path, job_id):  # J10
    for call in (JobStore(tmp_path).load, JobStore(tmp_path).folder):
        with pytest.raises(SpecError, match=r"^job id: expected 32 hex digits in groups"):
            call(job_id)


def test_an_unknown_job_is_told(tmp_path):
    job_id = new_id()
    with pytest.raises(SpecError, match=f"expected a job of {tmp_path}, got '{job_id}'"):
        JobStore(tmp_path).load(job_id)


def test_states_follow_the_table_on_disk_too(tmp_path):
    store = JobStore(tmp_path)
    job, _ = store.create(record())
    store.move(job.id, State.RUNNING, reason="started", source="agent", backend_job_id="7")
    done = store.move(job.id, State.COMPLETE, reason="exit code 0", source="agent", exit_code=0)
    with pytest.raises(SpecError, match="got Canceled"):
        store.move(job.id, State.CANCELED, reason="late", source="client")
    assert store.load(job.id) == done
    assert [step.state for step in done.transitions] == [State.RUNNING, State.COMPLETE]
    assert (done.backend_job_id, done.exit_code) == ("7", 0)


def _amend_for_ever(root, job_id, first):
    store = JobStore(root)
    number = first
    while True:
        store.amend(job_id, notes=(f"note {number}" * 500,))
        number += 1


def test_a_record_is_whole_whenever_its_writer_is_killed(tmp_path):  # J12
    store = JobStore(tmp_path)
    job, _ = store.create(record())
    for attempt in range(50):
        writer = _FORK.Process(target=_amend_for_ever, args=(tmp_path, job.id, 0))
        writer.start()
        time.sleep(0.004 + 0.0007 * attempt)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        assert store.load(job.id).state == State.PENDING
    assert store.load(job.id).notes[0].startswith("note ")
    store.move(job.id, State.RUNNING, reason="", source="agent")  # no lock was left behind


def _add_notes(root, job_id, num_notes):
    store = JobStore(root)
    for _ in range(num_notes):
        with store._changing(job_id) as folder:
            value = json.loads((folder / stores.RECORD_FILE).read_text())
            value["notes"].append("x")
            stores.write_json(folder / stores.RECORD_FILE, value)


def test_changes_of_several_processes_all_count(tmp_path):
    store = JobStore(tmp_path)
    job, _ = store.create(record())
    processes = [_FORK.Process(target=_add_notes, args=(tmp_path, job.id, 20)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert len(store.load(job.id).notes) == 80


def test_a_lock_that_never_opens_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "_LOCK_SECONDS", 0.05)
    store = JobStore(tmp_path)
    job, _ = store.create(record())
    with (
        store._changing(job.id),
        pytest.raises(ResourceError, match=r"one locked by another process for 0\.05 s"),
    ):
        store.amend(job.id, notes=("x",))


def test_jobs_that_have_not_ended_are_not_deleted_nor_their_ended_parents(tmp_path):
    store = JobStore(tmp_path)
    parent = ended(store)
    child, _ = store.create(record(parent_job_id=parent.id))
    with pytest.raises(SpecError, match=f"job {child.id}: expected a job that has ended, got one"):
        store.delete(parent.id, children=[child])
    assert sorted(store.ids()) == sorted([parent.id, child.id])
    store.move(child.id, State.CANCELED, reason="", source="client")
    store.delete(parent.id, children=[store.load(child.id)])
    assert os.listdir(tmp_path) == []


def test_links_in_a_job_are_removed_and_not_followed(tmp_path):  # J24
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "data.npy").write_bytes(b"1")
    store = JobStore(tmp_path / "jobs")
    job = ended(store)
    (store.folder(job.id) / "results").symlink_to(precious)
    (store.folder(job.id) / "link.npy").symlink_to(precious / "data.npy")
    store.delete(job.id)
    assert (precious / "data.npy").read_bytes() == b"1"
    assert store.ids() == []


def test_a_job_folder_that_is_a_link_is_unlinked(tmp_path):
    store = JobStore(tmp_path / "jobs")
    job = ended(store)
    outside = tmp_path / "outside"
    os.rename(store.folder(job.id), outside)
    (store.root / job.id).symlink_to(outside)
    store.delete(job.id)
    assert (outside / stores.RECORD_FILE).is_file()
    assert store.ids() == []


def test_trials_are_found_by_their_ids_but_not_listed(tmp_path):
    store = JobStore(tmp_path)
    search, _ = store.create(record())
    trials = JobStore(store.folder(search.id) / "results" / "automl" / "trials")
    trial, _ = trials.create(record())
    assert store.load(trial.id) == trial
    assert store.ids() == [search.id]


def test_trials_in_results_elsewhere_are_found_and_other_records_are_not_read_for_it(
    tmp_path, monkeypatch
):
    store = JobStore(tmp_path / "jobs")
    store.create(record())
    read = []
    original = JobStore.read
    monkeypatch.setattr(JobStore, "read", lambda self, f: read.append(f) or original(self, f))
    for place in (tmp_path / "runs", tmp_path / "jobs" / "runs"):
        store.create(record(details={"automl": True}, results_dir=str(place)))
        trial, _ = JobStore(place / "automl" / "trials").create(record())
        read.clear()
        assert store.load(trial.id) == trial
        assert len(read) <= 3  # the searches and the trial itself
    assert len(store.ids()) == 3


def test_what_killed_processes_left_half_made_or_half_removed_is_swept(tmp_path):
    store = JobStore(tmp_path)
    job = ended(store)
    pid = os.fork()
    if pid == 0:
        for name in ("made", "gone"):
            stores.temporary_beside(tmp_path / name).mkdir()
        os._exit(0)
    os.waitpid(pid, 0)
    ours = stores.temporary_beside(tmp_path / "ours")  # somebody is at it
    ours.mkdir()
    assert len(os.listdir(tmp_path)) == 4
    other, _ = store.create(record())
    assert sorted(os.listdir(tmp_path)) == sorted([job.id, other.id, ours.name])


# The index


def test_lists_are_the_newest_first_and_filtered(tmp_path):
    store = JobStore(tmp_path)
    jobs = [
        store.create(record(created_at=f"2026-01-0{n}T00:00:00+00:00", action=action))[0]
        for n, action in ((1, "train"), (2, "export"), (3, "train"))
    ]
    store.move(jobs[0].id, State.RUNNING, reason="", source="agent")
    assert [row.id for row in list_rows(store)] == [job.id for job in reversed(jobs)]
    assert [row.id for row in list_rows(store, action="train")] == [jobs[2].id, jobs[0].id]
    assert [row.id for row in list_rows(store, states=[State.RUNNING])] == [jobs[0].id]
    assert [row.id for row in list_rows(store, limit=1)] == [jobs[2].id]
    assert list_rows(JobStore(tmp_path / "none")) == []


def test_lists_show_every_change_and_deletion(tmp_path):
    store = JobStore(tmp_path)
    job, _ = store.create(record())
    other = ended(store)
    assert {row.state for row in list_rows(store)} == {State.PENDING, State.CANCELED}
    store.move(job.id, State.RUNNING, reason="", source="agent")
    store.delete(other.id)
    (row,) = list_rows(store)
    assert (row.id, row.state) == (job.id, State.RUNNING)
    os.unlink(tmp_path / INDEX_FILE)
    assert list_rows(store) == [row]


def test_a_damaged_index_is_set_aside_and_made_anew(tmp_path):  # A06
    store = JobStore(tmp_path)
    job, _ = store.create(record())
    (tmp_path / INDEX_FILE).write_bytes(b"no database at all" * 100)
    with pytest.warns(UserWarning, match="made anew from the records, the old one is index"):
        assert [row.id for row in list_rows(store)] == [job.id]
    (copy,) = tmp_path.glob("index.sqlite3.damaged-*")
    assert copy.read_bytes() == b"no database at all" * 100
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [row.id for row in list_rows(store)] == [job.id]


def _hold_index(path, seconds, ready):
    base = sqlite3.connect(path, isolation_level=None)
    base.execute("BEGIN EXCLUSIVE")
    ready.set()
    time.sleep(seconds)
    base.execute("COMMIT")


def test_an_index_that_others_write_to_is_waited_for(tmp_path):  # A06
    store = JobStore(tmp_path)
    store.create(record())
    list_rows(store)
    store.create(record())
    ready = _FORK.Event()
    holder = _FORK.Process(target=_hold_index, args=(tmp_path / INDEX_FILE, 0.6, ready))
    holder.start()
    assert ready.wait(20)
    started = time.monotonic()
    assert len(list_rows(store)) == 2
    assert time.monotonic() - started > 0.3
    holder.join()


def test_records_are_read_where_no_index_can_be_written(tmp_path):  # A06
    store = JobStore(tmp_path)
    store.create(record())
    (tmp_path / INDEX_FILE).mkdir()
    with pytest.warns(UserWarning, match="every record is read instead"):
        assert len(list_rows(store)) == 1


def test_a_record_that_cannot_be_read_is_told_and_hides_no_other(tmp_path):
    store = JobStore(tmp_path)
    good, bad = store.create(record())[0], store.create(record())[0]
    (store.folder(bad.id) / stores.RECORD_FILE).write_text("{")
    with pytest.warns(UserWarning, match=f"{bad.id}/job.json: expected the record of a job"):
        assert [row.id for row in list_rows(store)] == [good.id]
    with pytest.raises(DataError):
        store.load(bad.id)


def test_ten_thousand_jobs_are_listed_by_what_changed_alone(tmp_path, monkeypatch):  # J23
    store = JobStore(tmp_path)
    text = json.dumps(stores.to_json(record()))
    ids = [new_id() for _ in range(10_000)]
    mould = json.loads(text)["id"]
    for job_id in ids:
        (tmp_path / job_id).mkdir()
        (tmp_path / job_id / stores.RECORD_FILE).write_text(text.replace(mould, job_id))
    assert len(list_rows(store)) == 10_000
    read = []
    original = JobStore.read
    monkeypatch.setattr(JobStore, "read", lambda self, f: read.append(f) or original(self, f))
    store.amend(ids[5], notes=("changed",))
    read.clear()
    assert len(list_rows(store, limit=20)) == 20
    assert [folder.name for folder in read] == [ids[5]]
