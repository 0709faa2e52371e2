"""The command line: help, exit codes, one line per problem, no secrets, steady streams."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kineme
from kineme import cli
from kineme.actions import ACTIONS
from kineme.errors import DataError, KinemeError, PartialError, Problem
from kineme.network import NETWORKS

MINIMUM = ["results_dir=out", "dataset.train_dataset.data_path=x.npy"]
TRAIN = ["pose_classification", "train", *MINIMUM]


@pytest.fixture
def act(monkeypatch, tmp_path):
    """Replace every action by a function of (network, spec), and run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "load_network", lambda name: name)

    def install(function):
        monkeypatch.setattr(cli, "_imported", lambda path: function)

    install(lambda network, spec: {})
    return install


def run(*words):
    return cli.main([str(word) for word in words])


# Help


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["pose_classification"]])
def test_help_lists_networks_actions_and_needs(capsys, words):
    assert run(*words) == 0
    text = capsys.readouterr().out
    names = [word for word in words if word in NETWORKS] or NETWORKS
    for word in [*names, *ACTIONS, "default_specs"]:
        assert word in text


PAGES = [[], *([network, action] for network in NETWORKS for action in (*ACTIONS, "default_specs"))]


@pytest.mark.parametrize("page", PAGES, ids=" ".join)
def test_every_example_of_every_help_works_as_printed(capsys, act, tmp_path, page):
    assert run(*page, "--help") == 0
    text = capsys.readouterr().out
    lines = [line.removeprefix("example:").strip() for line in text.splitlines()]
    examples = [line.split()[1:] for line in lines if line.startswith("kineme ")]
    examples = [words for words in examples if words[0] in NETWORKS or ">" in words]
    assert len(examples) == (3 if not page else page[1] != "default_specs")
    for words in examples:
        if ">" in words:
            *words, _, name = words
        assert run(*words) == 0
        output = capsys.readouterr().out
        if words[0] == "spec":
            (tmp_path / name).write_text(output)


@pytest.mark.parametrize("words", [["spec"], ["data", "check"], *([word] for word in cli.COMMANDS)])
def test_the_other_commands_say_how_they_are_used(capsys, words):
    for option in ("--help", "-h"):
        assert run(*words, option) == 0
        word = {"data": "check"}.get(words[0], words[0])  # which is the same command
        assert capsys.readouterr().out.startswith(f"usage: kineme {word}")


def test_no_example_judges_a_model_on_its_training_data(capsys):
    run("pose_classification", "evaluate", "--help")
    assert "train_data" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("action", "words", "overrides"),
    [
        ("inference", ["--annotate"], ["inference.annotate=true"]),
        ("inference", ["--resume"], ["inference.resume=true"]),
        ("train", ["--resume"], ["train.resume=true"]),
        ("inference", ["--max-bad", "5%"], ["inference.max_bad=0.05"]),
        ("inference", ["--max-bad=0.2"], ["inference.max_bad=0.2"]),
        ("inference", ["--max-bad", "few%"], ["inference.max_bad=few%"]),
    ],
)
def test_short_options_stand_for_settings(action, words, overrides):
    assert cli._parse(words, action).overrides == overrides


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pose_classification", "evaluate", "--resume"],
         "--resume: expected an action that has it (train, inference), got pose_classification "
         "evaluate."),
        (["pose_classification", "inference", "--annotate"],
         "--annotate: expected an action that has it (action_recognition inference), got "
         "pose_classification inference. It labels videos."),
        (["action_recognition", "evaluate", "--max-bad", "5%"],
         "--max-bad: expected an action that has it (inference), got action_recognition evaluate. "
         "It is for inputs without labels."),
    ],
)  # fmt: skip
def test_a_short_option_says_which_actions_have_it(capsys, words, line):
    assert run(*words) == 2
    assert capsys.readouterr() == ("Execution status: FAIL\n", f"error: {line}\n")


def test_the_reference_of_all_networks_is_that_of_each(capsys):
    assert run("spec", "--docs") == 0
    whole = capsys.readouterr().out
    for name in NETWORKS:
        assert run("spec", name, "--docs") == 0
    assert whole == capsys.readouterr().out.replace("# Spec of pose", "\n# Spec of pose")


def test_help_and_the_spec_import_neither_torch_nor_numpy_nor_cv2():
    for module in ("kineme.cli; kineme.cli.main(['--help'])", "kineme.pose_classification.spec",
                   "kineme.spec.schema, kineme.spec.load"):  # fmt: skip
        code = f"import sys, {module}\nprint({{'torch', 'numpy', 'cv2'}} & set(sys.modules))"
        code = code.replace("; kineme", "\nkineme")
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines()[-1] == "set()", done.stderr


def test_version(capsys):
    assert run("--version") == 0
    assert capsys.readouterr().out == f"kineme {kineme.__version__}\n"


# Words


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["pose_clasification"], "got 'pose_clasification'. Did you mean pose_classification?"),
        (["pose_classification", "trian"], "got 'trian'. Did you mean train?"),
        (["pose_classification", "train", "--dryrun"], "Did you mean --dry-run?"),
        (["pose_classification", "train", "--lr=3"], "no dashes: train.optim.lr=3."),
        (["pose_classification", "train", "--num-epochs", "3"], "no dashes: train.num_epochs=3."),
        (["pose_classification", "train", "--num-epoch", "3"], "dashes: train.num_epochs=value."),
        (["pose_classification", "train", "--encryption-key", "3"], ": encryption_key=value."),
        (["pose_classification", "train", "--xyzzy-xyzzy"], "no dashes: key=value."),
        (["pose_classification", "train", "-e"], "-e: expected a value after it, got nothing."),
        (["pose_classification", "train", "-k", "key"], "Write encryption_key=... instead."),
        (["pose_classification", "train", "-e", "a", "-e=b"], "expected one spec file, got 'a' a"),
        (["automl", "pose_classification", "-e", "a", "-e=b"], "one spec file, got 'a' and 'b'"),
        (["spec", "pose_classification"], "expected a known action"),
        (["spec", "pose_classification", "train", "recipe=modern"], "expected a network and an a"),
        (["spec", "pose_classification", "train", "--docs"], "expected a network and an action"),
        (["spec", "nothing"], "expected a known network"),
        (["spec"], "For example: kineme spec pose_classification train"),
        (["pose_classification", "default_specs"], "expected results_dir=FOLDER, got nothing."),
        (["pose_classification", "default_specs", "a=b"], "expected results_dir=FOLDER, got a=b."),
        (
            ["pose_classification", "default_specs", "results_dir=none", "--dry-run"],
            "expected results_dir=FOLDER, got results_dir=none --dry-run.",
        ),
        (
            ["pose_classification", "default_specs", "results_dir=none", "-e", "x.yaml"],
            "expected results_dir=FOLDER, got results_dir=none -e.",
        ),
    ],
)
def test_words_that_make_no_command_are_one_line_and_exit_code_2(capsys, words, line):
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert out == ("Execution status: FAIL\n" if words[1:2] == ["train"] else "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert line in err


def test_a_spec_file_and_overrides_reach_the_action_in_any_order(act, tmp_path):
    seen = []
    act(lambda network, spec: seen.append((network, spec)) or {})
    path = tmp_path / "my spec.yaml"
    path.write_text("results_dir: out\ntrain: {num_epochs: 3, seed: 4}\n")
    data = "dataset.train_dataset.data_path=a b.npy"
    for option in (
        ["-e", path],
        ["--experiment_spec_file", path],
        [f"--experiment_spec_file={path}"],
    ):
        words = ["train.seed=5", *option, "--device", "cpu", data, "dataset.label_map={a:0, b:1}"]
        assert run("pose_classification", "train", *words) == 0
        network, spec = seen[-1]
        assert network == "pose_classification"
        assert (spec.train.num_epochs, spec.train.seed, spec.device) == (3, 5, "cpu")
        assert spec.dataset.train_dataset.data_path == "a b.npy"
        assert spec.dataset.label_map == {"a": 0, "b": 1}


def test_the_console_script_is_the_same_command(act, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pose_classification", "train", *MINIMUM])
    assert cli.pose_classification() == 0
    assert capsys.readouterr().out == "Execution status: PASS\n"


def test_notes_of_the_spec_are_on_stderr(act, capsys):
    assert run(*TRAIN, "num_classes=6") == 0
    assert capsys.readouterr().err == (
        "note: command line: num_classes is read as dataset.num_classes.\n"
    )


def test_warnings_of_ours_are_notes_and_those_of_others_are_not_shown(act, capsys):
    def warn(network, spec):
        warnings.warn_explicit("three samples dropped", UserWarning, cli.__file__, 1)
        warnings.warn_explicit("internal advice", UserWarning, "/site-packages/torch.py", 1)

    act(warn)
    assert run(*TRAIN) == 0
    assert capsys.readouterr().err == "note: three samples dropped\n"


# How it ends


def test_every_problem_is_a_line_on_stderr_and_the_exit_code_is_the_errors(act, capsys):
    def fail(network, spec):
        raise DataError.of([Problem("a.npy", "4", "5"), Problem("b.npy", "x\ny", "\x1b[31m")])

    act(fail)
    assert run(*TRAIN) == 3
    out, err = capsys.readouterr()
    assert err == (
        "error: a.npy: expected 4, got 5.\nerror: b.npy: expected x\\ny, got \\x1b[31m.\n"
    )
    assert out == "Execution status: FAIL\n"


def test_all_problems_of_a_spec_are_told_at_once(act, capsys):
    assert run("pose_classification", "train", "train.sed=1", "train.num_epochs=0", "x") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith("error: ") for line in lines)


class _Interrupted(KinemeError):
    exit_code = 143


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (PartialError("a", "b", "c"), 8),
        (_Interrupted("SIGTERM", "to finish", "a signal"), 143),
        (KeyboardInterrupt(), 130),
        (ValueError("two\nlines"), 1),
        (RecursionError("deep"), 1),
        (MemoryError(), 5),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), 5),
    ],
)
def test_exit_codes_follow_what_was_raised(act, capsys, error, code):
    def fail(network, spec):
        raise error

    act(fail)
    assert run(*TRAIN) == code
    out, err = capsys.readouterr()
    assert out == "Execution status: FAIL\n"
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err


def test_a_bug_is_one_line_that_names_the_file_of_its_traceback(act, capsys, tmp_path, monkeypatch):
    def fail(network, spec):
        raise ValueError("not thought of")

    act(fail)
    monkeypatch.setattr(cli.tempfile, "gettempdir", lambda: str(tmp_path))
    assert run(*TRAIN) == 1
    start = "error: ValueError: not thought of (a bug of kineme; traceback in "
    err = capsys.readouterr().err
    assert err.startswith(start)
    text = Path(err.removeprefix(start).rstrip(")\n")).read_text()
    assert text.startswith("Traceback")

    folder = tmp_path / "out" / "train"
    folder.mkdir(parents=True)
    assert run(*TRAIN) == 1
    assert capsys.readouterr().err == f"{start}{Path('out/train/log.txt')})\n"
    assert (folder / "log.txt").read_text().count("Traceback") == 1
    run(*TRAIN)
    assert (folder / "log.txt").read_text().count("Traceback") == 1


def test_secrets_are_in_no_line_and_in_no_traceback(act, capsys, tmp_path, monkeypatch):
    def fail(network, spec):
        warnings.warn_explicit(f"key {spec.encryption_key}", UserWarning, cli.__file__, 1)
        print(f"I was told {spec.encryption_key}")
        raise ValueError(f"wrong key {spec.encryption_key}")

    act(fail)
    monkeypatch.setattr(cli.tempfile, "gettempdir", lambda: str(tmp_path))
    assert run(*TRAIN, "encryption_key=hunter2") == 1
    assert run(*TRAIN, "encryption_key=[hunter2") == 2
    assert run(*TRAIN, "encryption_key=hunter2", "results_dir=${encryption_key}") == 2
    out, err = capsys.readouterr()
    texts = [path.read_text() for path in tmp_path.glob("kineme-crash-*")]
    assert len(texts) == 1
    assert "wrong key ***" in texts[0]
    assert "hunter2" not in "".join([out, err, *texts])


def test_with_log_json_errors_notes_and_the_result_are_json_lines(act, capsys):
    def speak(network, spec):
        print("note: of an action\nprogress 1/2", file=sys.stderr)
        print("\u250f\u2501\u2513\nTotal  95\n\n{not JSON}")
        return {"accuracy": 95.0}

    act(speak)
    assert run(*TRAIN, "--log-json", "num_classes=6") == 0
    out, err = capsys.readouterr()
    assert [json.loads(line) for line in err.splitlines()] == [
        {"level": "note", "message": "command line: num_classes is read as dataset.num_classes."},
        {"level": "note", "message": "of an action"},
        {"level": "info", "message": "progress 1/2"},
    ]
    assert [json.loads(line) for line in out.splitlines()] == [
        {"level": "info", "message": "Total  95"},
        {"level": "info", "message": "{not JSON}"},
        {"level": "result", "accuracy": 95.0},
        {"level": "info", "message": "Execution status: PASS"},
    ]
    assert run(*TRAIN, "--log-json", "train.num_epochs=0") == 2
    assert json.loads(capsys.readouterr().err) == {
        "level": "error", "where": "command line: train.num_epochs",
        "expected": "an integer >= 1", "received": "0", "fix": "", "exit_code": 2,
    }  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.text(alphabet="trainseld.=[]{}:,'\"$~+-0129é\n", max_size=25), max_size=4))
def test_any_words_end_with_0_or_2(act, capsys, words):
    assert run(*TRAIN, *words) in (0, 2)
    assert "Traceback" not in capsys.readouterr().err


# Specs written out


def test_default_specs_writes_one_spec_per_action_and_keeps_what_is_there(act, tmp_path, capsys):
    assert run("pose_classification", "default_specs", "results_dir=specs") == 0
    written = sorted(path.name for path in (tmp_path / "specs").iterdir())
    assert written == sorted(f"{action}.yaml" for action in ACTIONS)
    for action in ACTIONS:
        assert run("pose_classification", action, "-e", f"specs/{action}.yaml") == 0
    (tmp_path / "specs" / "train.yaml").write_text("mine")
    assert run("pose_classification", "default_specs", "results_dir=specs") == 2
    assert (tmp_path / "specs" / "train.yaml").read_text() == "mine"
    assert "expected a free path" in capsys.readouterr().err


@pytest.mark.parametrize("action", ACTIONS)
def test_the_printed_spec_of_an_action_runs(act, tmp_path, capsys, action):
    assert run("spec", "pose_classification", action) == 0
    (tmp_path / "spec.yaml").write_text(capsys.readouterr().out)
    assert run("pose_classification", action, "-e", "spec.yaml") == 0
    assert run("spec", "pose_classification", action, "--json") == 0
    assert json.loads(capsys.readouterr().out.partition("\n")[2])["type"] == "object"
