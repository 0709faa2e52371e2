"""Jobs that are deleted: with those that go on with them or not at all, and nothing of others."""

import json
from pathlib import Path

import pytest

from kineme.errors import SpecError
from kineme.jobs import Client
from kineme.jobs.record import State
from parked_jobs import (
    POSE,
    checkpoint,
    ended,
    train,
    trained,
    training_results,
)


def test_j24_a_job_that_others_go_on_with_is_deleted_with_them_or_not_at_all(client, data):
    parent = trained(client, data, {0: 0.5})
    child = client.create_job(POSE, "export", parent_job_id=parent.id)
    with pytest.raises(SpecError) as caught:
        client.delete_job(parent.id)
    assert f"that no other goes on with, got {child.id} (export, Pending)" in str(caught.value)
    with pytest.raises(SpecError, match=f"job {child.id}: expected a job that has ended"):
        client.delete_job(parent.id, cascade=True)
    assert len(client.list_jobs()) == 2
    ended(client, child)
    grandchild = ended(client, client.create_job(POSE, "export", parent_job_id=child.id))
    client.delete_job(parent.id, cascade=True)
    assert client.list_jobs() == []
    assert list(client.store.root.glob("[!i]*")) == []
    with pytest.raises(SpecError):
        client.get_job(grandchild.id)


def test_j24_a_second_try_is_a_dependent_as_its_checkpoints_lie_in_the_first(client, data):
    first = train(client, data, automl_policy="off")
    training_results(first.record, {0: 0.5})
    ended(client, first, State.ERROR, "killed")
    second = ended(client, client.retry_job(first.id), State.CANCELED)
    with pytest.raises(SpecError, match=second.id):
        client.delete_job(first.id)
    client.delete_job(second.id)
    client.delete_job(first.id)
    assert client.list_jobs() == []


def test_j24_what_goes_on_with_a_trial_depends_on_its_search(client, data):
    search = train(client, data)
    trials = Client(Path(search.record.results_dir) / "automl/trials", runner="parked")
    trial = trained(trials, data, {0: 0.5}, details={"trial": 0})
    ended(client, search)
    child = client.create_job(POSE, "export", parent_job_id=trial.id)
    with pytest.raises(SpecError, match=child.id):
        client.delete_job(search.id)
    for call in (client.delete_job, client.retry_job):
        with pytest.raises(SpecError):
            call(trial.id)


def test_j24_trials_of_a_search_with_results_of_its_own_place_are_guarded_too(
    client, data, tmp_path
):
    search = train(client, data, specs={"results_dir": str(tmp_path / "runs")})
    trials = Client(tmp_path / "runs/automl/trials", runner="parked")
    trial = trained(trials, data, {0: 0.5}, details={"trial": 0})
    (tmp_path / "runs/automl/best_trial.json").write_text(json.dumps({"job_id": trial.id}))
    ended(client, search)
    assert client.get_job(trial.id).record == trial.record
    assert search.result()["checkpoint"] == str(tmp_path / trial.record.results_dir) + (
        "/train/best.pth"
    )
    child = client.create_job(POSE, "export", parent_job_id=search.id)
    other = client.create_job(POSE, "export", parent_job_id=trial.id)
    with pytest.raises(SpecError) as caught:
        client.delete_job(search.id)
    assert child.id in str(caught.value)
    assert other.id in str(caught.value)


def test_j24_trials_belong_to_the_first_try_of_their_search(client, data):
    first = train(client, data)
    trials = Client(Path(first.record.results_dir) / "automl/trials", runner="parked")
    trial = trained(trials, data, {0: 0.5}, details={"trial": 0})
    ended(client, first, State.ERROR, "killed")
    second = ended(client, client.retry_job(first.id))
    child = client.create_job(POSE, "export", parent_job_id=trial.id)
    with pytest.raises(SpecError, match=child.id):
        client.delete_job(first.id)
    client.delete_job(second.id)
    assert client.get_job(trial.id).id == trial.id


def test_j24_links_in_a_job_are_removed_and_what_they_show_stays(client, data, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    checkpoint(kept / "model.pth")
    job = ended(client, train(client, data))
    results = Path(job.record.results_dir)
    results.mkdir(parents=True)
    (results / "folder").symlink_to(kept)
    (results / "file.pth").symlink_to(kept / "model.pth")
    assert client.list_results(job.id) == ["file.pth"]  # nothing below a link
    client.delete_job(job.id)
    assert (kept / "model.pth").is_file()
    assert client.list_jobs() == []


def test_results_outside_of_the_job_are_not_deleted(client, data, tmp_path):
    job = train(client, data, specs={"results_dir": str(tmp_path / "elsewhere")})
    checkpoint(tmp_path / "elsewhere/train/best.pth")
    client.delete_job(ended(client, job).id)
    assert (tmp_path / "elsewhere/train/best.pth").is_file()
