"""examples/job_chain.py at work: search, evaluate, export, label, chained by ids alone.

Minutes of processes: two trials in place of the example's eight, for skeletons alone.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from kineme.jobs import Client
from kineme.jobs.record import State

SCRIPT = Path(__file__).resolve().parents[1] / "examples" / "job_chain.py"
POSE, NUM_TRIALS, NUM_TEST = "pose_classification", 2, 24
ACTIONS = ("inference", "export", "evaluate", "train")  # the newest first


def run_chain(folder, *words):
    """What the script prints, and a client that sees its jobs."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--out", str(folder), "--network", POSE, "--trials",
         str(NUM_TRIALS), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (root,) = {path.parent.parent for path in (folder / "jobs").glob("**/job.json")
               if "trials" not in path.parts}  # fmt: skip
    return done.stdout, Client(root)


def checked_jobs(client):
    """The four jobs by action, held to what the chain promises."""
    jobs = [client.get_job(row.id) for row in client.list_jobs()]
    assert [job.record.action for job in jobs] == list(ACTIONS)
    assert [job.status for job in jobs] == [State.COMPLETE] * 4
    by_action = {job.record.action: job for job in jobs}
    search = by_action["train"]
    trials = sorted((search.results_dir / "automl" / "trials").glob("*/job.json"))
    assert len(trials) >= NUM_TRIALS
    best = json.loads((search.results_dir / "automl" / "best_trial.json").read_text())
    for action in ("evaluate", "export", "inference"):
        record = by_action[action].record
        assert record.parent_job_id == search.id
        assert record.spec[action]["checkpoint"] == best["checkpoint"]
    assert f"/trials/{best['job_id']}/" in best["checkpoint"]
    values = [value_of(path.parent) for path in trials if is_training(path)]
    assert len(values) == NUM_TRIALS
    assert best["value"] == pytest.approx(max(values))
    assert (search.results_dir / "automl" / "best_spec.yaml").exists()
    assert len(list(by_action["export"].results_dir.glob("export/*.onnx"))) == 1
    labels = (by_action["inference"].results_dir / "inference" / "results.txt").read_text()
    assert len(labels.splitlines()) == NUM_TEST
    names = set(yaml.safe_load((client.store.folder(search.id) / "spec.yaml").read_text())
                ["dataset"]["label_map"])  # fmt: skip
    assert set(labels.split("\n")) - {""} <= names
    return by_action


def is_training(path):
    return json.loads(path.read_text())["action"] == "train"


def value_of(folder):
    """The best accuracy that a trial told of."""
    lines = (folder / "results" / "train" / "status.json").read_text().splitlines()
    told = [json.loads(line).get("kpi", {}).get("val_acc") for line in lines]
    return max(value for value in told if value is not None)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_chain_of_the_example_runs_from_a_local_archive(tmp_path):
    printed, client = run_chain(tmp_path)
    jobs = checked_jobs(client)
    assert jobs["train"].record.train_datasets[0].endswith(".tar.gz")
    assert jobs["train"].record.uploads_to is None
    for action in ACTIONS:
        assert f"{POSE} {action}: {{" in printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_chain_of_the_example_runs_from_a_bucket_to_a_bucket(tmp_path):
    printed, client = run_chain(tmp_path, "--s3")
    jobs = checked_jobs(client)
    for job in jobs.values():
        assert job.record.train_datasets == (f"s3://kineme-example/data/{POSE}.tar.gz",)
        assert job.record.uploads_to == f"s3://kineme-example/results/{job.id}"
    (number,) = re.findall(r"^([\d,]+) results in the bucket", printed, re.MULTILINE)
    assert int(number.replace(",", "")) >= sum(
        len(client.list_results(jobs[action].id)) for action in ("evaluate", "export", "inference")
    )
    places = dict(re.findall(r"^ {4}(s3://\S+)  ([\d,]+) bytes$", printed, re.MULTILINE))
    assert places
    for place, size in places.items():
        job_id, name = place.removeprefix("s3://kineme-example/results/").split("/", 1)
        file = client.get_job(job_id).results_dir / name
        assert file.stat().st_size == int(size.replace(",", ""))
