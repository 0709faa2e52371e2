"""Jobs that are tried again."""

import pytest

from kineme.errors import SpecError
from kineme.jobs import Client
from kineme.jobs.record import State
from parked_jobs import ended, parked_client, train


def test_a_retry_is_a_new_job_that_asks_for_the_same(client, data):
    first = train(client, data, specs={"num_epochs": 3, "dataset.label_map": {"a.b": 0, "c": 1}},
                  automl_policy="off", platform={"seats": 1})  # fmt: skip
    ended(client, first, State.ERROR, "killed")
    again = client.retry_job(first.id).record
    assert again.id != first.id
    assert again.retry_of == first.id
    assert (again.state, again.failure, again.exit_code) == (State.PENDING, None, None)
    assert again.spec["train"] == {"num_epochs": 3}
    assert again.spec["dataset"] == first.record.spec["dataset"]
    assert again.results_dir == again.spec["results_dir"] != first.record.results_dir
    assert (again.platform, again.automl_policy) == ({"seats": 1}, "off")
    assert client.store.load(first.id).state == State.ERROR


def test_a_retry_of_a_search_goes_on_with_its_trials(client, data):
    settings = {"algorithm": "asha", "automl_range_override": {"train.optim.lr": [0.1, 1.0]}}
    first = train(client, data, automl_settings=settings)
    ended(client, first, State.ERROR, "killed")
    again = client.retry_job(first.id).record
    assert again.command == first.record.command
    assert again.results_dir == first.record.results_dir
    assert again.spec == first.record.spec
    assert again.spec["automl"] == settings


@pytest.mark.parametrize("policy", ["off", "auto"])
def test_a_retry_copies_its_results_to_the_same_address(client, data, policy):
    first = train(client, data, specs={"results_dir": "s3://bucket/runs"}, automl_policy=policy)
    ended(client, first, State.ERROR, "killed")
    second = client.retry_job(first.id)
    ended(client, second, State.ERROR, "killed")
    third = client.retry_job(second.id).record
    assert [second.record.uploads_to, third.uploads_to] == ["s3://bucket/runs"] * 2
    assert third.spec["results_dir"] == third.results_dir


def test_a_retry_below_a_root_in_a_store_has_a_folder_of_its_own_there(monkeypatch, tmp_path, data):
    monkeypatch.setenv("KINEME_JOBS", str(tmp_path / "jobs"))
    parked_client(monkeypatch, tmp_path)
    client = Client("s3://bucket/runs", runner="parked")
    first = train(client, data, automl_policy="off")
    ended(client, first, State.ERROR, "killed")
    for other in (client, Client(client.store.root, runner="parked")):
        again = other.retry_job(first.id)
        assert again.record.uploads_to == f"s3://bucket/runs/{again.id}"
    search = train(client, data)
    ended(client, search, State.ERROR, "killed")
    again = client.retry_job(search.id)  # goes on in the folder of the first
    assert again.record.uploads_to == search.record.uploads_to


def test_only_what_failed_or_was_cancelled_is_retried(client, data):
    job = train(client, data)
    with pytest.raises(SpecError, match="that failed or was cancelled, got one that is Pending"):
        client.retry_job(job.id)
    ended(client, job)
    with pytest.raises(SpecError, match="got one that is Complete"):
        client.retry_job(job.id)
