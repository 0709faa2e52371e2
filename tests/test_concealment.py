"""The key of encrypted checkpoints is in no file, log or message, and no process shows it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kineme import cli, concealment
from kineme.engine import checkpoint as checkpoints
from kineme.engine.results import open_run
from kineme.errors import SpecError, without_secrets
from kineme.network import load_specs
from kineme.spec.load import load_spec
from rooms import ROOMS
from test_encryption_runs import KEY, files_with
from tiny import TINY, tiny_spec
from tiny_process import session_processes, wait_until

# What is said and written


def test_what_a_run_says_of_its_key_is_left_out_of_log_status_and_stderr(tmp_path, capfd):
    key = 'a "quoted" clé'
    spec = tiny_spec(tmp_path, encryption_key=key)

    def act():
        with open_run(TINY, "train", spec) as run:
            run.note(f"told {key}")
            run.say(f"said {key!r}")
            run.status(f"status {key}")
            raise ValueError(f"wrong {key}")

    with pytest.raises(ValueError, match="quoted"):
        act()
    spellings = [key, json.dumps(key)[1:-1], repr(key)[1:-1]]
    assert files_with(tmp_path, *(text.encode() for text in spellings)) == set()
    log = (tmp_path / "train" / "log.txt").read_text()
    assert log.count("***") >= 3
    assert "quoted" not in capfd.readouterr().err + log


def test_a_secret_is_left_out_however_it_is_spelled():
    key = 'it\'s a "clé"\\'
    for text in (key, repr(key), ascii(key), json.dumps(key), json.dumps(key, ensure_ascii=False)):
        assert "clé" not in (cleaned := without_secrets(f"<{text}>", [key, ""]))
        assert "***" in cleaned
        assert "cl" not in cleaned
    assert without_secrets("line", ["  \n"]) == "line"


def load(*words):
    base = ["results_dir=out", "dataset.train_dataset.data_path=x"]
    return load_spec(load_specs("pose_classification")["train"], None, [*base, *words])


def test_a_key_file_is_one_line_and_what_is_wrong_with_it_is_told_without_it(tmp_path):
    path = tmp_path / "key"
    path.write_text(f"  {KEY}\r\n")
    spec, notes = load(f"encryption_key_file={path}")
    assert (spec.encryption_key, notes) == (KEY, ())
    assert KEY not in repr(spec)
    for content, said in (
        (b"\n", "got nothing"), (b"hunter2\nmore", "got more than a line"),
        (b"x" * 5000, "got more than 4,096 bytes"), (b"hunter2\xff", "byte 7 is not UTF-8"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(SpecError, match=said) as caught:
            load(f"encryption_key_file={path}")
        assert "hunter2" not in str(caught.value)
    for bad in (tmp_path, tmp_path / "none"):
        with pytest.raises(SpecError, match="expected a file that can be read"):
            load(f"encryption_key_file={bad}")


def test_a_key_has_one_source_and_is_text_whatever_it_looks_like(tmp_path):
    (tmp_path / "key").write_text(KEY)
    with pytest.raises(SpecError, match="no encryption_key beside it, got both"):
        load(f"encryption_key_file={tmp_path / 'key'}", "encryption_key=x")
    with pytest.raises(SpecError, match="white space alone"):
        load_spec(
            load_specs("pose_classification")["train"], {"encryption_key": " "}, ["results_dir=o"]
        )
    for text in ("1_000", "1e5", "007", "true"):
        assert load(f"encryption_key={text}")[0].encryption_key in (text, "True")
    assert load("encryption_key=x", "encryption_key=null")[0].encryption_key is None


def run(*words):
    return cli.main([str(word) for word in words])


PROGRAM = """
import json, os, subprocess, sys
from pathlib import Path
from kineme import concealment

told = concealment.told()
shown = {name: Path(f"/proc/self/{name}").read_text() for name in ("cmdline", "environ")}
child = "import os, sys; print(sys.orig_argv, dict(os.environ))"
done = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
facts = {"words": told.words, "key": concealment.environment_key(), "child": done.stdout}
print(json.dumps({**facts, **shown, "argv": sys.argv, "pid": os.getpid(), "env": dict(os.environ)}))
"""


def process_told(*words, **environment):
    """What the program above says: of its words, and of what others see."""
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, *words], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               env={**os.environ, **environment})  # fmt: skip
    out, err = process.communicate(timeout=60)
    if process.returncode:
        return err
    facts = json.loads(out)
    assert facts.pop("pid") == process.pid
    facts["seen"] = json.dumps([facts[x] for x in ("cmdline", "environ", "child", "argv", "env")])
    return facts


def test_a_key_among_the_words_is_taken_out_of_process_lists():
    words = ["train", "a=b c", "encryption_key=hunter2 é", "+encryption_key='hunter3'", "", "-e"]
    words += ["key=hunter4", "ngc_key=hunter5"]  # of older TAO releases
    facts = process_told(*words)
    assert facts["words"] == words
    assert facts["key"] is None
    assert "hunter" not in facts["seen"]
    assert "encryption_key=***" in facts["cmdline"]
    assert facts["argv"][1:] == [words[0], words[1], "encryption_key=***", "+encryption_key=***",
                                 "", "-e", "key=***", "ngc_key=***"]  # fmt: skip


def test_a_key_in_the_environment_is_taken_out_of_it():
    facts = process_told("train", KINEME_ENCRYPTION_KEY="hunter2\n")
    assert (facts["words"], facts["key"]) == (["train"], "hunter2\n")
    assert "hunter" not in facts["seen"]
    assert "KINEME_ENCRYPTION_KEY" not in facts["seen"]


def test_without_a_key_a_process_starts_once():
    facts = process_told("train", "encryption_key_file=/a", "encryption_key=null")
    assert facts["words"] == ["train", "encryption_key_file=/a", "encryption_key=null"]
    assert "KINEME_KEY_DESCRIPTOR" not in facts["environ"]


def test_a_key_that_cannot_be_handed_on_or_is_empty_is_refused():
    assert "at most 32,768 bytes" in process_told("encryption_key=" + "x" * 40_000)
    assert "expected not to be set" in process_told(KINEME_KEY_DESCRIPTOR="400")
    for word in ("encryption_key=", "encryption_key=''", " +encryption_key= ", "key="):
        with pytest.raises(SpecError, match=r"expected a key, got nothing\. Is a variable unset"):
            concealment.told([word])
    for word in ("encryption_key_file=", "encryption_key_file=''", "+encryption_key_file= "):
        with pytest.raises(SpecError, match="expected the file of a key, got nothing"):
            concealment.told([word])
    assert "KINEME_ENCRYPTION_KEY: expected a key, got nothing" in process_told(
        KINEME_ENCRYPTION_KEY=" "
    )


@pytest.fixture
def act(monkeypatch, tmp_path):
    """Run in an empty folder an action that keeps its spec."""
    seen = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "load_network", lambda name: name)
    monkeypatch.setattr(cli, "_imported", lambda path: lambda network, spec: seen.append(spec))
    return seen


TRAIN = ["pose_classification", "train", "results_dir=out", "dataset.train_dataset.data_path=x"]


def test_the_environment_names_a_key_where_the_spec_names_none(act, monkeypatch, capsys):
    monkeypatch.setenv("KINEME_ENCRYPTION_KEY", KEY)
    assert run(*TRAIN) == 0
    assert capsys.readouterr().err == ""
    assert run(*TRAIN, "encryption_key=mine") == 0
    assert "KINEME_ENCRYPTION_KEY is not used: the spec names a key." in capsys.readouterr().err
    assert [spec.encryption_key for spec in act] == [KEY, "mine"]


@pytest.mark.parametrize("words", [
    ["-k", "hunter2"], ["-khunter2"], ["-k=hunter2"], ["--encryption_key=hunter2"],
    ["encryption_key=[hunter2"], ["encrytion_key=hunter2"], ["encryption_key=hunter2", "x=hunter2"],
])  # fmt: skip
def test_words_with_a_key_that_are_refused_do_not_repeat_it(act, capsys, words):
    assert run(*TRAIN, *words) == 2
    out, err = capsys.readouterr()
    assert "hunter2" not in out + err
    if words[0].startswith("-k"):
        assert "Write encryption_key=... instead." in err


def test_default_specs_and_unknown_commands_do_not_repeat_a_key(capsys, tmp_path):
    key = "encryption_key=hunter2"
    assert run("pose_classification", "default_specs", f"results_dir={tmp_path}/x", key) == 2
    assert run(key) == 2
    assert run("spec", "pose_classification", key) == 2
    out, err = capsys.readouterr()
    assert "hunter2" not in out + err


# A real command, watched


def watched(folder, *words, key_words, environment):
    """Train in a process of its own until there is a checkpoint; what all its processes show."""
    data, results = folder / "data", folder / "out"
    data.mkdir()
    ROOMS["pose_classification"].make(data)
    base = [*ROOMS["pose_classification"].words, "dataset.val_dataset.data_path={data}",
            "dataset.num_workers=1", "dataset.batch_size=4", "train.num_epochs=1000",
            "device=cpu", f"results_dir={results}", *words]  # fmt: skip
    filled = [word.replace("{data}", str(data)) for word in base]
    code = "from kineme.cli import pose_classification as main; raise SystemExit(main())"
    with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "train", "--log-json", *filled, *key_words],
            stdout=out, stderr=err, env={**os.environ, **environment}, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: checkpoints.find_checkpoints(results / "train") or process.poll(), 240)
        shown = {pid: "".join(Path(f"/proc/{pid}/{name}").read_text(errors="replace")
                              for name in ("cmdline", "environ"))
                 for pid in session_processes(process.pid)}  # fmt: skip
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return results, process.pid, shown


def check_watched(folder, results, shown):
    for pid, text in shown.items():
        assert KEY not in text, pid
    names = {"experiment.yaml", "status.json", "log.txt", "metrics.csv", "best.json"}
    assert names <= {path.name for path in (results / "train").iterdir()}
    assert files_with(results, KEY.encode()) == set()
    assert files_with(folder, KEY.encode()) == set()
    newest = checkpoints.find_checkpoints(results / "train")[-1]
    assert checkpoints.load_checkpoint(newest, KEY).is_encrypted
    assert json.loads((folder / "stderr").read_text().splitlines()[-1])["exit_code"] == 143


def test_a_running_training_and_its_workers_show_the_key_nowhere(tmp_path):
    key_words = [f"encryption_key={KEY}"]
    results, pid, shown = watched(tmp_path, key_words=key_words, environment={})
    assert pid in shown
    assert "encryption_key=***" in shown[pid]
    assert len(shown) >= 2  # the data worker
    check_watched(tmp_path, results, shown)


@pytest.mark.slow
@pytest.mark.parametrize("source", ["word", "environment", "file"])
def test_two_spawned_processes_show_the_key_nowhere(tmp_path, source, tmp_path_factory):
    path = tmp_path_factory.mktemp("secret") / "key"
    path.write_text(KEY)
    key_words = {"word": [f"encryption_key={KEY}"], "file": [f"encryption_key_file={path}"]}
    environment = {"KINEME_ENCRYPTION_KEY": KEY} if source == "environment" else {}
    results, _, shown = watched(
        tmp_path, "train.num_gpus=2", "dataset.batch_size=2",
        key_words=key_words.get(source, []), environment=environment,
    )  # fmt: skip
    assert len(shown) >= 5  # the command, two ranks, their workers
    check_watched(tmp_path, results, shown)
