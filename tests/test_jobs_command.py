"""`kineme jobs ...` in a terminal: what it prints where, and its exit codes."""

import json

import pytest

import parked_jobs
from kineme import cli
from kineme.jobs import Client, command
from kineme.jobs.client import Job
from kineme.jobs.record import State
from parked_jobs import POSE, ended, parked_client, trained, training_results


@pytest.fixture
def client(monkeypatch, tmp_path):
    monkeypatch.setenv("KINEME_JOBS", str(tmp_path / "jobs"))
    return parked_client(monkeypatch, tmp_path / "jobs")


@pytest.fixture
def run(capfd):
    """Run `kineme jobs WORDS`: (exit code, lines of stdout, lines of stderr)."""

    def called(*words: str) -> tuple[int, list[str], list[str]]:
        capfd.readouterr()
        code = cli.main(["jobs", *map(str, words)])
        out, err = capfd.readouterr()
        return code, out.splitlines(), err.splitlines()

    return called


def create(run, data, *words) -> str:
    code, out, _ = run("create", POSE, "train", "--train-dataset", data, "--runner", "parked",
                       *words)  # fmt: skip
    assert code == 0
    (job_id,) = out
    return job_id


def test_help_names_every_verb_and_option(run):
    code, out, _ = run("--help")
    text = "\n".join(out)
    assert code == 0
    for verb, options in command._OF.items():
        assert f"kineme jobs {verb} " in text
        for option in options:
            assert option in ("--tail", "--follow") or option in text, option
    assert command._OF.keys() == command._VERBS.keys()
    assert "kineme jobs create" in cli.usage()


def test_a_job_is_created_and_its_id_is_all_of_stdout(client, run, data):
    code, out, err = run(
        "create", POSE, "train", "train.num_epochs=3", "--train-dataset", data, "--runner",
        "parked", "--automl-policy", "no HPO", "--platform", "seats=2", "num_classes=4",
    )  # fmt: skip
    assert (code, len(out)) == (0, 1)
    record = client.get_job(out[0]).record
    assert record.spec["train"] == {"num_epochs": 3}
    assert (record.command, record.platform) == ((), {"seats": 2})
    assert (
        f"dataset.train_dataset.data_path: {data}/train_data.npy (train_data.npy of train_datasets)"
        in err
    )
    assert "note: command line: num_classes is read as dataset.num_classes." in err


def test_a_spec_file_a_parent_and_a_rule_are_taken(client, run, data, tmp_path):
    parent = trained(client, data, {0: 0.5, 1: 0.25})
    path = tmp_path / "spec.yaml"
    path.write_text("evaluate: {batch_size: 3}\n")
    code, out, err = run(
        "create", POSE, "evaluate", "-e", path, "--parent", parent.id[:8], "--checkpoint", "1",
        "--eval-dataset", data, "--runner=parked", "--json",
    )  # fmt: skip
    assert code == 0
    told = json.loads("\n".join(out))
    assert told["parent_job_id"] == parent.id
    assert told["spec"]["evaluate"]["batch_size"] == 3
    assert told["spec"]["evaluate"]["checkpoint"].endswith("model_epoch_001_step_00020.pth")
    assert any("of epoch 1 (from 0), as asked" in line for line in err)


def test_an_idempotency_key_makes_one_job(client, run, data):
    job_id = create(run, data, "--idempotency-key", "k")
    words = ("create", POSE, "train", "--train-dataset", data, "--idempotency-key", "k")
    code, out, err = run(*words, "--runner", "parked")
    assert (code, out) == (0, [job_id])
    assert f"note: job {job_id} was made before under this key; it is Pending" in err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["crate"], "Did you mean create?"),
        (["create"], "expected a network and an action, got nothing"),
        (["create", POSE], "expected a network and an action"),
        (["create", POSE, "train", "--parnet", "x"], "Did you mean --parent?"),
        (["create", POSE, "train", "--parent"], "--parent: expected a value after it"),
        (["create", POSE, "train", "-e", "a", "-e", "b"], "-e: expected it once, got it twice"),
        (["create", POSE, "train", "--parent", "../x"], "parent_job_id: expected 32 hex digits"),
        (["list", "all"], "kineme jobs list: expected options alone, got all"),
        (["list", "--cascade"], "kineme jobs list: expected an option of it"),
        (["list", "-n", "many"], "-n: expected a whole number from 0, got 'many'"),
        (["list", "--state", "done"], "state: expected one of Pending"),
        (["list", "--network", "pose"], "Did you mean pose_classification?"),
        (["list", "--action", "trian"], "--action: expected one of dataset_convert, train"),
        (["create", POSE, "export", "--parent", "abcd"], "parent_job_id: expected a job of"),
        (["show"], "kineme jobs show: expected the id of a job, got nothing"),
        (["show", "a", "b"], "expected the id of a job, got 2 words"),
        (["show", "../x"], "job id: expected 32 hex digits"),
        (["show", "abcdef"], "job id: expected a job of"),
    ],
)
def test_wrong_words_are_told_with_exit_code_2(client, run, words, text):
    code, out, err = run(*words)
    assert (code, out) == (2, [])
    assert any(text in line for line in err), err
    assert all(line.startswith("error: ") for line in err)


def test_everything_wrong_with_a_request_is_a_line_each(client, run):
    code, _, err = run("create", POSE, "train", "--train-dataset", "/none", "train.num_epoch=3")
    assert code == 2
    assert [line.partition(": expected")[0] for line in err] == [
        "error: train_datasets", "error: command line: train.num_epoch",
    ]  # fmt: skip


def test_jobs_are_listed_as_a_table_and_as_json(client, run, data):
    root = client.store.root
    assert run("list") == (0, [], [f"no jobs in {root}"])
    assert run("list", "--state", "running") == (0, [], [f"no such jobs in {root}"])
    gone = root.parent / "gone"
    assert run("list", "--root", gone) == (0, [], [f"no jobs in {gone}, which is no folder"])
    parent = trained(client, data, {0: 0.5})
    child = client.create_job(POSE, "export", parent_job_id=parent.id)
    code, out, _ = run("list")
    assert code == 0
    assert [line.split() for line in out] == [
        ["id", "network", "action", "state", "created", "parent"],
        [child.id[:8], POSE, "export", "Pending",
         *child.record.created_at[:19].split("T"), parent.id[:8]],
        [parent.id[:8], POSE, "train", "Complete", *parent.record.created_at[:19].split("T")],
    ]  # fmt: skip
    _, out, _ = run("list", "--state", "complete", "--json")
    assert [row["id"] for row in json.loads("\n".join(out))] == [parent.id]
    _, out, _ = run("list", "--action", "export", "--network", POSE, "-n", "5", "--json")
    assert [row["id"] for row in json.loads("\n".join(out))] == [child.id]


def test_an_id_may_be_shortened_as_long_as_it_is_clear(client, run, data, monkeypatch):
    ids = [f"{first}0000000-0000-4000-8000-000000000000" for first in ("ab", "ac")]
    ids = [job_id.replace("0000000-", "000000-", 1) for job_id in ids]
    monkeypatch.setattr("kineme.jobs.requests.new_id", lambda key: ids.pop(0))
    one, two = client.create_job(POSE, "train", train_datasets=str(data)), None
    two = client.create_job(POSE, "train", train_datasets=str(data))
    for short, job in (("ab", one), ("AC", two), (one.id, one), (two.id[:20], two)):
        code, out, _ = run("show", short)
        assert (code, out[0].split()) == (0, ["job", job.id])
    code, _, err = run("show", "a")
    assert code == 2
    assert err == [
        f"error: job id: expected enough digits for one job, got those of {one.id}, {two.id}."
    ]


def test_a_trial_may_be_shown_by_its_first_digits(client, run, data):
    search = client.create_job(POSE, "train", train_datasets=str(data))
    trials = type(client)(f"{search.record.results_dir}/automl/trials", runner="parked")
    trial = trials.create_job(POSE, "train", train_datasets=str(data), details={"trial": 0})
    code, out, _ = run("show", trial.id[:13])
    assert (code, out[0].split()) == (0, ["job", trial.id])


def test_a_trial_in_the_results_of_its_search_elsewhere_is_found(client, run, data, tmp_path):
    specs = {"results_dir": str(tmp_path / "runs")}
    client.create_job(POSE, "train", train_datasets=str(data), specs=specs)
    trials = type(client)(tmp_path / "runs/automl/trials", runner="parked")
    trial = trials.create_job(POSE, "train", train_datasets=str(data), details={"trial": 0})
    code, out, _ = run("show", trial.id[:13])
    assert (code, out[0].split()) == (0, ["job", trial.id])


def test_an_old_job_that_runs_in_another_way_is_said_to(client, run, data):
    words = ("--idempotency-key", "nightly")
    first = create(run, data, *words)
    code, out, err = run("create", POSE, "train", "--train-dataset", data, "--runner", "subprocess",
                         *words)  # fmt: skip
    assert (code, out) == (0, [first])
    assert any("is there already, with another runner; it stays as it is." in line for line in err)


def test_a_job_is_shown_with_what_was_found_and_what_happened(client, run, data):
    parent = trained(client, data, {0: 0.5})
    job = client.create_job(POSE, "export", parent_job_id=parent.id)
    ended(client, job, State.ERROR, "onnx: no room")
    code, out, _ = run("show", job.id)
    facts = {line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in out}
    assert code == 0
    assert facts["state"] == "Error"
    assert facts["parent_job_id"] == parent.id
    assert facts["failure"] == "data: onnx: no room"
    assert facts["export.checkpoint"].endswith(
        f"(parent_model: of job {parent.id}: the best by val_acc 0.5 at epoch 0)"
    )
    assert out[-1].endswith("Error: test (test)")
    _, out, _ = run("show", job.id, "--json")
    assert json.loads("\n".join(out))["job_id"] == job.id


def test_logs_are_printed_and_followed_to_the_end(client, run, data):
    job = ended(client, client.create_job(POSE, "train", train_datasets=str(data)))
    (client.store.folder(job.id) / "job.log").write_text("one\ntwo\nthree\n")
    assert run("logs", job.id)[:2] == (0, ["one", "two", "three"])
    assert run("logs", job.id, "-n", "1")[1] == ["three"]
    assert run("logs", "-f", job.id, "-n", "2")[1] == ["two", "three"]


@pytest.mark.parametrize(
    ("state", "message", "code"),
    [(State.COMPLETE, "", 0), (State.ERROR, "no samples", 3), (State.CANCELED, "", 143)],
)
def test_waiting_ends_with_the_exit_code_of_the_job(client, run, data, state, message, code):
    job = ended(client, client.create_job(POSE, "train", train_datasets=str(data)), state, message)
    if state is State.CANCELED:
        client.store.amend(job.id, exit_code=None)
    found, out, err = run("wait", job.id)
    assert (found, out) == (code, [])
    assert err == [f"job {job.id}: {state}", *([f"error: {message}"] if message else [])]


def test_a_crash_and_a_partial_success_have_their_codes(client, run, data):
    crashed = client.create_job(POSE, "train", train_datasets=str(data))
    client.store.move(crashed.id, State.ERROR, reason="test", source="test")
    assert run("wait", crashed.id)[0] == 1
    partial = ended(client, client.create_job(POSE, "train", train_datasets=str(data)))
    client.store.amend(partial.id, exit_code=8)
    assert run("wait", partial.id)[0] == 8


def test_waiting_in_vain_is_exit_code_6(client, run, data):
    job = client.create_job(POSE, "train", train_datasets=str(data))
    code, _, err = run("wait", job.id, "--timeout", "0")
    assert code == 6
    assert err == [f"error: job {job.id}: expected an end within 0 s, got Pending. It goes on."]


def test_cancel_retry_and_delete(client, run, data):
    job_id = create(run, data)
    assert run("cancel", job_id[:12]) == (0, [], [f"job {job_id}: Canceled"])
    assert run("cancel", job_id) == (0, [], [f"job {job_id}: Canceled"])
    code, out, _ = run("retry", job_id)
    assert code == 0
    assert client.get_job(out[0]).record.retry_of == job_id
    code, _, err = run("delete", job_id)
    assert code == 2
    assert "Say cascade (`--cascade`)" in err[0]
    run("cancel", out[0])
    assert run("delete", job_id, "--cascade") == (0, [], [f"job {job_id}: deleted"])
    assert client.list_jobs() == []


def test_cancelling_what_has_ended_says_so(client, run, data):
    job = ended(client, client.create_job(POSE, "train", train_datasets=str(data)))
    assert run("cancel", job.id) == (0, [], [f"job {job.id}: Complete, which it was before"])


def test_checkpoints_and_results_are_listed(client, run, data):
    job = trained(client, data, {0: 0.5})
    folder = f"{job.record.results_dir}/train"
    assert run("checkpoints", job.id)[1] == [
        f"{folder}/best.pth  epoch 0  val_acc 0.5000  best",
        f"{folder}/model_epoch_000_step_00010.pth  epoch 0  step 10  val_acc 0.5000",
    ]
    assert json.loads("\n".join(run("checkpoints", job.id, "--json")[1]))[0]["is_best"] is True
    code, out, err = run("results", job.id)
    assert (code, err) == (0, [job.record.results_dir])
    assert "train/metrics.csv" in out
    told = json.loads("\n".join(run("results", job.id, "--json")[1]))
    assert told == {"results_dir": job.record.results_dir, "files": out}


def test_another_root_may_be_named(client, run, data, tmp_path):
    job_id = create(run, data, "--root", tmp_path / "other")
    assert client.list_jobs() == []
    assert run("show", job_id, f"--root={tmp_path / 'other'}")[0] == 0


def test_names_of_files_cannot_write_to_the_terminal(client, run, data):
    job = client.create_job(POSE, "train", train_datasets=str(data), automl_policy="off")
    (training_results(job.record, {0: 0.5}) / "\x1b[31mred").write_text("")
    assert "train/\\x1b[31mred" in run("results", job.id)[1]


def test_j16_a_key_among_the_words_is_printed_nowhere(client, run, data):
    code, out, err = run("create", POSE, "train", "--train-dataset", data, "--runner", "parked",
                         "encryption_key=a key of mine", "--json")  # fmt: skip
    assert code == 0
    assert "a key of mine" not in "\n".join([*out, *err])
    assert parked_jobs.keys_handed_over == ["a key of mine"]


def test_cancelling_what_runs_says_that_it_was_asked(client, run, data, monkeypatch):
    job = client.create_job(POSE, "train", train_datasets=str(data))
    monkeypatch.setattr(Client, "cancel_job", lambda self, job_id: True)  # it has yet to hear
    said = f"job {job.id}: Pending, asked to end; `kineme jobs wait {job.id}` tells when"
    assert run("cancel", job.id) == (0, [], [said])


def test_an_interrupted_wait_says_that_the_job_goes_on(client, run, data, monkeypatch):
    job = client.create_job(POSE, "train", train_datasets=str(data))

    def interrupted(self, timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "wait", interrupted)
    code, _, err = run("wait", job.id)
    assert code == 130
    said = f"job {job.id} goes on; `kineme jobs cancel {job.id}` ends it"
    assert err == [said, "error: interrupted"]


def test_deleting_says_what_results_stay(client, run, data, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    job_id = create(run, data, f"results_dir={folder}")
    ended(client, client.get_job(job_id))
    client.store.amend(job_id, uploads_to="s3://bucket/jobs/1")
    note = "note: results stay in {}, outside the folder of the job"
    assert run("delete", job_id) == (0, [], [
        f"job {job_id}: deleted", note.format(folder), note.format("s3://bucket/jobs/1"),
    ])  # fmt: skip


def test_folders_that_nobody_may_read_are_told(client, run, monkeypatch):
    client.store.root.mkdir(parents=True)

    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("kineme.jobs.store.os.scandir", refused)
    code, _, err = run("list")
    assert (code, err) == (5, [
        f"error: {client.store.root}: expected a folder of jobs that can be read, got no "
        "permission. Name another with --root or KINEME_JOBS.",
    ])  # fmt: skip
