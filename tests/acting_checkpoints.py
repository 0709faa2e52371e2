"""Checkpoints of an actor that say something else of themselves, and analyses with them."""

import csv

import pytest
import torch

import thin
from acting import act, scene_of, train_actor, write_scene
from kineme.engine.checkpoint import save
from kineme.people import command


def build_actor(folder):
    """(checkpoint, video, key points) of one who waves and one who stands."""
    with pytest.MonkeyPatch.context() as patch:
        thin.make_thin(patch)
        checkpoint = train_actor(folder)
    scene = scene_of(act("wave", 30, x=40, seed=3), act("still", 30, x=110, seed=1))
    return checkpoint, *write_scene(folder, scene)


def changed(
    checkpoint, path, *, key=None, threshold=None, temperature=None, persons=None, data=None
):
    """A copy of the checkpoint that says something else of itself: of its training data what
    `data` says, and with `persons` nothing, as older ones."""
    content = torch.load(checkpoint, weights_only=True)
    facts = content["kineme"]
    if threshold is not None:
        facts["calibration"]["threshold"] = threshold
    if temperature is not None:
        facts["calibration"]["temperature"] = temperature
    if threshold is None and temperature is None:
        facts["calibration"] = None
    if persons is not None:
        facts["spec"]["dataset"]["num_persons"] = persons
        del facts["training_data"]
    if data is not None:
        facts["training_data"] = data
    save(path, content, key)
    return path


def run(actor, out, checkpoint, *words):
    _, video, points = actor
    return command.main(
        [
            str(video), "--estimator", "files", f"files.path={points}", "files.format=coco",
            f"--out={out}", "--no-video", f"--checkpoint={checkpoint}", *words,
        ]
    )  # fmt: skip


def labels(out):
    with open(out / "timeline.csv", newline="") as file:
        return [(row["person"], row["label"]) for row in csv.DictReader(file)]
