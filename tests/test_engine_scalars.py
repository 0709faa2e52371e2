"""Curves and progress: who gets them, and what is said where they cannot be had."""

import importlib.machinery
import os
import pty
import select
import sys
import time
import types

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from kineme.engine import progress
from kineme.engine.results import Run
from kineme.engine.scalars import open_scalars
from tiny import tiny_spec


class FakeWandb(types.ModuleType):
    """Remembers what it was told; `init` may be made to fail."""

    class Error(Exception):
        pass

    def __init__(self, failure=""):
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.failure, self.settings, self.logged, self.is_finished = failure, {}, [], False

    def init(self, **settings):
        if self.failure:
            raise self.Error(self.failure)
        self.settings = settings
        return self

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.is_finished = True


@pytest.fixture
def account(monkeypatch, tmp_path):
    """Set or remove the wandb account of the machine."""

    def set_account(key):
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        if key:
            monkeypatch.setenv("WANDB_API_KEY", key)

    return set_account


def use(monkeypatch, module):
    monkeypatch.setitem(sys.modules, "wandb", module)


def log_once(tmp_path, **changes):
    run = Run(tmp_path, "tiny", "train")
    with open_scalars(tiny_spec(tmp_path, **changes), run, first_step=0) as scalars:
        scalars.log({"val_acc": 0.5}, 7)


def test_wandb_gets_the_curves_when_there_is_an_account(tmp_path, monkeypatch, account):
    fake = FakeWandb()
    use(monkeypatch, fake)
    account("k" * 40)
    log_once(tmp_path, wandb__project="dance", wandb__tags=["a"])
    assert fake.logged == [(7, {"val_acc": 0.5})]
    assert (fake.settings["project"], fake.settings["tags"]) == ("dance", ["a"])
    assert fake.is_finished


def test_wandb_is_not_mentioned_where_nobody_asked_for_it(tmp_path, monkeypatch, account, caplog):
    use(monkeypatch, FakeWandb())
    account("")
    log_once(tmp_path)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("module", "key", "told"),
    [
        (None, "k", "wandb is not installed"),
        (FakeWandb(), "", "neither WANDB_API_KEY nor ~/.netrc"),
        (FakeWandb("no network\ndetails"), "k", "no network; going without."),
    ],
)
def test_wandb_that_cannot_be_is_one_note(
    tmp_path, monkeypatch, account, caplog, module, key, told
):
    use(monkeypatch, module)
    if module is None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    account(key)
    log_once(tmp_path, wandb__enable=True)
    assert told in caplog.text
    assert len(caplog.records) == 1


def test_wandb_that_fails_on_its_way_does_not_end_the_run(tmp_path, monkeypatch, account, caplog):
    class Failing(FakeWandb):
        def log(self, values, step):
            raise self.Error("quota")

        def finish(self):
            raise self.Error("gone")

    use(monkeypatch, Failing())
    account("k")
    log_once(tmp_path)
    assert [record.message for record in caplog.records] == [
        "wandb cannot be reached any more: quota",
        "wandb may lack the end of this run: gone",
    ]


def test_curves_on_a_full_disk_cost_one_note(tmp_path, caplog):
    """/dev/full takes nothing."""
    run = Run(tmp_path, "tiny", "train")
    spec = tiny_spec(tmp_path, train__tensorboard=True)
    with open_scalars(spec, run, first_step=0) as scalars:
        os.dup2(os.open("/dev/full", os.O_WRONLY), scalars._events._file.fileno())
        for step in range(3):
            scalars.log({"lr": 0.1}, step)
    assert [record.getMessage() for record in caplog.records] == [
        "TensorBoard events cannot be written any more: [Errno 28] No space left on device"
    ]


def test_a_folder_that_cannot_be_made_costs_one_note(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file")
    log_once(tmp_path, train__tensorboard=True)
    assert "TensorBoard events cannot be written: [Errno 17]" in caplog.text


def test_curves_beyond_the_point_of_resumption_are_dropped(tmp_path):
    run = Run(tmp_path, "tiny", "train")
    spec = tiny_spec(tmp_path, train__tensorboard=True)
    for first_step, value in ((0, 1.0), (2, 5.0)):
        with open_scalars(spec, run, first_step=first_step) as scalars:
            for step in range(first_step + 1, 4):
                scalars.log({"lr": value}, step)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("lr")] == [(1, 1.0), (2, 1.0), (3, 5.0)]


def read_until(terminal, words, seconds=20):
    """What a terminal shows until it shows `words`, or until time is up."""
    shown, deadline = "", time.monotonic() + seconds
    while words not in shown and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 100_000).decode()
    return shown


def test_on_a_terminal_there_is_a_bar_and_notes_stay_readable(tmp_path, monkeypatch):
    ours, theirs = pty.openpty()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        with progress.track(Run(tmp_path, "tiny", "train"), "epoch 1/2", total=5) as advance:
            advance(3, "loss 0.25")
            shown = read_until(ours, "loss 0.25")
            print("a note", file=sys.stderr)
        terminal.flush()
        shown += read_until(ours, "a note\r\n")
    assert "epoch 1/2" in shown
    assert "3/5" in shown
    assert "loss 0.25" in shown
    assert "a note\r\n" in shown
    os.close(ours)


def test_elsewhere_there_is_a_plain_line_now_and_then(tmp_path, monkeypatch, capfd):
    run = Run(tmp_path, "tiny", "train")
    with progress.track(run, "epoch 1/2", total=5) as advance:
        advance(3, "loss 0.25")
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    with progress.track(run, "epoch 1/2", total=5) as advance:
        advance(3, "loss 0.25")
        advance(4)
    assert capfd.readouterr().err == "epoch 1/2  3/5  loss 0.25\nepoch 1/2  4/5\n"


def test_a_silent_process_shows_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    silent = Run(tmp_path, "tiny", "train", is_writer=False)
    with progress.track(silent, "epoch", total=5) as advance:
        advance(1)
    assert capfd.readouterr().err == ""
