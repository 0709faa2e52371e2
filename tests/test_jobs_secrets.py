"""Keys of jobs: handed to their runner, and nowhere on the disk."""

from pathlib import Path

import pytest

import parked_jobs
from kineme.errors import SpecError
from kineme.jobs import Client
from kineme.jobs import client as client_module
from kineme.jobs.record import State
from kineme.network import NETWORKS, load_specs
from kineme.spec.fields import settings_by_key
from parked_jobs import POSE, ended, problems_of, train

KEY = "a key that nobody should see"


def on_disk(folder: Path) -> str:
    return "\n".join(
        path.read_text("utf-8", "replace") for path in folder.rglob("*") if path.is_file()
    )


@pytest.mark.parametrize(
    "how",
    [{"specs": {"encryption_key": KEY}}, {"overrides": [f"encryption_key={KEY}"]},
     {"environment": KEY}],
)  # fmt: skip
def test_j16_a_key_is_handed_to_the_runner_and_is_nowhere_on_the_disk(
    client, data, monkeypatch, how
):
    how = dict(how)
    if environment := how.pop("environment", None):
        monkeypatch.setenv("KINEME_ENCRYPTION_KEY", environment)
    job = train(client, data, idempotency_key="once", **how)
    assert parked_jobs.keys_handed_over == [KEY]
    assert KEY not in on_disk(client.store.root)
    assert KEY not in repr(job.to_dict())
    with pytest.raises(SpecError) as caught:
        train(client, data, specs={"encryption_key": KEY, "train.num_epochs": "x"})
    assert KEY not in str(caught.value)


def test_a_job_with_a_key_is_never_started_without_it(client, data, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Client, "_launch", lambda self, record, key: record)
        job = train(client, data, idempotency_key="once", specs={"encryption_key": KEY})
    with pytest.raises(SpecError, match="encryption_key: expected the key of this job, got none"):
        train(client, data, idempotency_key="once")
    monkeypatch.setattr(client_module, "is_forgotten", lambda store, record: True)
    with pytest.raises(SpecError, match="encryption_key: expected the key of this job, got none"):
        job.wait()
    assert parked_jobs.keys_handed_over == []
    assert train(client, data, idempotency_key="once", specs={"encryption_key": KEY}).id == job.id
    assert parked_jobs.keys_handed_over == [KEY]


def test_secrets_of_automl_settings_are_refused(client, data):
    (problem,) = problems_of(client, POSE, "train", train_datasets=str(data),
                             automl_settings={"llm_api_key": KEY})  # fmt: skip
    assert problem.startswith("automl.llm_api_key: expected nothing secret")
    assert KEY not in problem


@pytest.mark.parametrize(
    ("name", "is_secret"),
    [("encryption_key", True), ("NGC_API_KEY", True), ("hf_token", True), ("DB_PASSWORD", True),
     ("ranges", False), ("keypoints", False), ("PATH", False)],
)  # fmt: skip
def test_what_is_secret_is_one_rule_for_settings_and_variables(client, data, name, is_secret):
    from kineme.concealment import SECRET_SETTINGS, is_secret_name

    assert is_secret_name(name) is is_secret
    assert all(map(is_secret_name, SECRET_SETTINGS))
    for network in NETWORKS:
        for model in load_specs(network).values():
            secret = {key for key, one in settings_by_key(model).items() if one.rule.secret}
            older = {old for old, new in model.legacy.keys.items() if new in secret}
            assert secret | older <= set(SECRET_SETTINGS)
    if is_secret:
        told = problems_of(client, POSE, "train", train_datasets=str(data),
                           platform={"environment": {name: KEY}},
                           automl_settings={"ranges": {name: KEY}})  # fmt: skip
        places = {problem.partition(":")[0] for problem in told}
        assert {f"platform.environment.{name}", f"automl.ranges.{name}"} <= places
        assert KEY not in str(told)


def test_a_retry_of_a_job_with_a_key_asks_for_it(client, data):
    job = ended(client, train(client, data, specs={"encryption_key": KEY}), State.CANCELED)
    with pytest.raises(SpecError, match="encryption_key: expected the key of the first try, got"):
        client.retry_job(job.id)
    client.retry_job(job.id, encryption_key=KEY)
    assert parked_jobs.keys_handed_over == [KEY, KEY]
    assert KEY not in on_disk(client.store.root)
