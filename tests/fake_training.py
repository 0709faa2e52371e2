"""Trainings of milliseconds: what `train` leaves of figures and checkpoints, and nothing else.

The figures follow from the settings and the epoch alone, so a training that goes on ends as one
that was never cut off. As a runner in this process (`install`), or as the program of a real
agent (`python fake_training.py NETWORK train -e spec.yaml results_dir=...`), or as a search whose
trials are run by such agents (`python fake_training.py search FOLDER WORDS...`).
"""

import contextlib
import json
import math
import os
import socket
import sys
import time
from pathlib import Path

import yaml

from kineme.engine.names import checkpoint_name, find_checkpoints
from kineme.errors import SpecError
from kineme.jobs.record import CRASHED, FAILURE_KINDS, Failure, State
from kineme.jobs.runners import RUNNERS, Runner

STEPS = 4
BEST_LR = 0.004
WORDS = (
    "dataset.train_dataset.data_path=/data/train", "dataset.val_dataset.data_path=/data/val",
    "train.num_epochs=4", "automl.hyperparameters=[train.optim.lr, model.dropout]",
)  # fmt: skip


def accuracy(spec, epoch):
    """After `epoch` epochs: better near BEST_LR, and with every epoch."""
    lr = spec["train"]["optim"]["lr"]
    off = abs(math.log10(lr / BEST_LR)) + spec["model"]["dropout"] / 10
    return round((1 - 0.5**epoch) / (1 + off), 6)


def train(spec, *, figures=None, pause=lambda epoch: None):
    """Write what a training of `spec` writes; figures: `accuracy` if none are given."""
    figures = figures or accuracy
    folder = Path(spec["results_dir"]) / "train"
    folder.mkdir(parents=True, exist_ok=True)
    settings = spec["train"]
    start = settings.get("resume_training_checkpoint_path")
    found = [Path(start)] if start else find_checkpoints(folder) if settings.get("resume") else []
    done = json.loads(found[-1].read_text())["epoch"] if found else 0
    last = min(settings.get("stop_epoch") or settings["num_epochs"], settings["num_epochs"])
    tell(folder, {"status": "STARTED"})
    best = -1.0
    for epoch in range(done + 1, last + 1):
        pause(epoch)
        value = figures(spec, epoch)
        loss = 1 - value if isinstance(value, float) else None
        tell(folder, {"status": "RUNNING", "epoch": epoch - 1, "step": epoch * STEPS})
        tell(folder, {"status": "RUNNING", "kpi": {"train_loss": 1.0}})
        if value != "none":
            tell(folder, {"status": "RUNNING", "kpi": {"val_acc": value, "val_loss": loss}})
        text = json.dumps({"epoch": epoch})
        (folder / checkpoint_name(epoch - 1, epoch * STEPS)).write_text(text)
        (folder / "pc_model_latest.pth").write_text(text)
        if isinstance(value, float) and value > best:
            best = value
            (folder / "best.pth").write_text(text)
    tell(folder, {"status": "SUCCESS"})


def tell(folder, line):
    with open(folder / "status.json", "a") as file:
        file.write(json.dumps(line) + "\n")


class Fake:
    """What this process runs, and how it goes wrong.

    faults: trial number -> exit code, "crash", "nan", "none" (no metric), "hang" or "bug"; a
    list is used up job by job. started: trials, in order.
    """

    def __init__(self):
        self.faults = {}
        self.started = []
        self.evaluated = []
        self.keys = []
        self.specs = {}
        self.evaluation = {"accuracy": 71.0, "loss": 0.5}

    def start(self, store, record, *, key=None):
        record = store.load(record.id)
        if record.state is not State.PENDING:
            return record
        self.keys.append(key)
        spec = yaml.safe_load((store.folder(record.id) / "spec.yaml").read_text())
        record = store.move(record.id, State.RUNNING, reason="fake", source="fake")
        if record.action == "evaluate":
            self.evaluated.append(spec)
            return self._evaluate(store, record, spec)
        number = record.details["trial"]
        self.started.append(number)
        self.specs.setdefault(number, []).append(spec)
        fault = self.faults.get(number)
        if isinstance(fault, list):
            fault = fault.pop(0) if fault else None
        return self._train(store, record, spec, fault)

    def _train(self, store, record, spec, fault):
        if fault == "hang":
            return record
        if fault == "crash":
            half = {**spec, "train": {**spec["train"], "stop_epoch": 1}}
            train(half)
            return end(store, record, State.ERROR, Failure(CRASHED, "killed by SIGKILL", 137))
        if isinstance(fault, int):
            failure = Failure(FAILURE_KINDS[fault], f"it ended with {fault}", fault)
            return end(store, record, State.ERROR, failure)
        figures = {"nan": lambda *_: None, "none": lambda *_: "none"}.get(fault)
        train(spec, figures=figures)
        return end(store, record, State.COMPLETE, None)

    def _evaluate(self, store, record, spec):
        if "evaluate" in self.faults:
            code = self.faults["evaluate"]
            failure = Failure(FAILURE_KINDS[code], "no such data", code)
            return end(store, record, State.ERROR, failure)
        folder = Path(spec["results_dir"]) / "evaluate"
        folder.mkdir(parents=True)
        (folder / "metrics.json").write_text(json.dumps(self.evaluation))
        return end(store, record, State.COMPLETE, None)

    def cancel(self, store, record, *, reason="asked for"):
        record = store.load(record.id)
        if record.is_terminal:
            return record
        store.move(record.id, State.CANCELING, reason=reason, source="fake")
        return store.move(record.id, State.CANCELED, reason="stopped as asked", source="fake")


def end(store, record, state, failure):
    code = failure.exit_code if failure else 0
    return store.move(
        record.id, state, reason="fake", source="fake", failure=failure, exit_code=code
    )


FAKE = Fake()
RUNNER = Runner(start=FAKE.start, cancel=FAKE.cancel, is_gone=lambda s, r: None, settings={})


def install(monkeypatch):
    """A fresh runner named `fake`; returns what it does."""
    FAKE.__init__()
    monkeypatch.setitem(RUNNERS, "fake", "fake_training:RUNNER")
    return FAKE


def as_program(words):
    """A training as an agent starts it; slow ones take FAKE_SECONDS for each epoch.

    FAKE_GATE: a folder whose files say how far trainings may go, see `wait_at`.
    """
    spec = yaml.safe_load(Path(words[words.index("-e") + 1]).read_text())
    if words[1] != "train":
        raise SpecError("fake", "train", words[1])
    seconds = float(os.environ.get("FAKE_SECONDS", "0"))
    gate = os.environ.get("FAKE_GATE")

    def pause(epoch):
        time.sleep(seconds)
        if gate:
            wait_at(Path(gate), Path(spec["results_dir"]).parent.name, epoch)

    train(spec, pause=pause)
    return 0


def wait_at(gate, name, epoch):
    """Until there is `gate`/go, or `gate`/`name`, the number of epochs that job may train."""
    while not (gate / "go").exists():
        with contextlib.suppress(OSError, ValueError):
            if int((gate / name).read_text()) >= epoch:
                return
        time.sleep(0.02)


def search(words):
    """`kineme automl`, with trials that take moments, under real agents."""
    from kineme import cli
    from kineme.jobs.runners import local

    local.WORDS = (sys.executable, __file__, "agent")
    return cli.main(["automl", "pose_classification", *words])


def agent(words):
    """A real agent that runs this file in place of kineme, as if on a machine FAKE_HOST."""
    from kineme.jobs.agent import run_agent
    from kineme.jobs.store import JobStore

    host = os.environ.get("FAKE_HOST")
    if host:
        socket.gethostname = lambda: host
    folder = Path(words[0]).absolute()
    run_agent(JobStore(folder.parent), folder.name, program=(sys.executable, __file__))
    return 0


if __name__ == "__main__":
    roles = {"search": search, "agent": agent}
    role = roles.get(sys.argv[1])
    sys.exit(role(sys.argv[2:]) if role else as_program(sys.argv[1:]))
