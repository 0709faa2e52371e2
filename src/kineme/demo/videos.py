"""The demo's second half: action recognition from colour, from optical flow, and from both.

Promises: three models of the same clips, judged on the same new people and views; the one
of both starts from the other two. No weights from elsewhere.
Leaves out: how clips are made up (rendering.py).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kineme.data.video import write_video
from kineme.demo.steps import CHANCE, KNOWN, LABEL_MAP, NEW, Log, call, machine, say
from kineme.rendering import film_exercises
from kineme.synthetic import CLASS_NAMES

NETWORK = "action_recognition"
NUM_TRAIN, NUM_TEST, NUM_FRAMES, FPS, SIZE = 480, 120, 24, 10.0, 56
NUM_PER_LINE = 100  # videos made between two lines of progress
SPEC: Mapping[str, Any] = {  # of all three models; small enough for two cores and two minutes
    "model.input_height": 48,
    "model.input_width": 48,
    "model.dropout_ratio": 0.3,
    "dataset.batch_size": 8,
    "dataset.workers": 0,
    "dataset.augmentation_config.crop_smaller_edge": SIZE,
    "dataset.augmentation_config.val_center_crop": True,
    "train.num_epochs": 5,
    "train.optim.optimizer_type": "AdamW",
    "train.optim.lr": 1e-3,
    "train.optim.weight_decay": 0.05,
    "train.optim.lr_scheduler": "cosine",
    "train.optim.warmup_epochs": 1,
    "train.tensorboard": False,
}
STREAMS: Mapping[str, Mapping[str, Any]] = {
    "rgb": {"model.rgb_seq_length": 3},
    "of": {
        "model.of_seq_length": 8,
        "dataset.flow_short_side": 0,
        "dataset.flow_bound": 5.0,
        "dataset.augmentation_config.of_input_std": [0.125],
    },
}
JOINT: Mapping[str, Any] = {  # on from two trained models
    "dataset.batch_size": 16,
    "train.num_epochs": 2,
    "train.optim.lr": 2e-4,
    "train.optim.warmup_epochs": 0,
}


def run(folder: Path, seed: int, log: Log) -> Path:
    """All steps, into `folder`; returns the path of the joint model's report."""
    with log.step("clips") as tell:
        tell(make_clips(folder / "videos", seed))
    models = _models(folder, seed)
    for name, settings in models.items():
        with log.step(f"train {name}") as tell:
            data = {"dataset.train_dataset_dir": str(folder / "videos" / "train")}
            facts = call(NETWORK, "train", {**settings, **data})
            epochs, right = settings["train.num_epochs"], 100 * facts["train_acc"]
            tell(f"{epochs} epoch{'s' * (epochs > 1)}, {right:.1f} % right in the last")
    with log.step("evaluate") as tell:
        found = []
        for name, settings in models.items():
            data = {
                "evaluate.checkpoint": _checkpoint(folder, name),
                "evaluate.test_dataset_dir": str(folder / "videos" / "test"),
            }
            facts = call(NETWORK, "evaluate", {**settings, **data})
            found.append(f"{name} {facts['accuracy']:.1f} %")
        tell(f"{', '.join(found)} right on new people and views; {CHANCE}")
    return folder / "joint" / "evaluate" / "report.html"


def make_clips(folder: Path, seed: int) -> str:
    """Write <folder>/{train,test}/<class>/<clip>.mp4 of those whom the skeletons are of."""
    for name, number, offset, people in (
        ("train", NUM_TRAIN, 0, KNOWN),
        ("test", NUM_TEST, 2, NEW),
    ):
        films = film_exercises(
            number,
            3 * seed + offset,
            bodies=people.bodies,
            views=people.views,
            num_frames=NUM_FRAMES,
            fps=FPS,
            size=SIZE,
        )
        for done, film in enumerate(films):
            if done and done % NUM_PER_LINE == 0:
                say(f"{name}  {done}/{number}")
            path = folder / name / CLASS_NAMES[film.label] / f"{film.id}.mp4"
            write_video(path, film.frames, FPS)
    return f"{NUM_TRAIN} videos of {len(KNOWN.bodies)} bodies, {NUM_TEST} of new ones"


def _models(folder: Path, seed: int) -> dict[str, dict[str, Any]]:
    """Settings of each model, in the order of training."""
    start = {f"model.{name}_pretrained_model_path": _checkpoint(folder, name) for name in STREAMS}
    own = {**STREAMS, "joint": {**STREAMS["rgb"], **STREAMS["of"], **JOINT, **start}}
    models = {}
    for name, settings in own.items():
        models[name] = {
            **SPEC,
            **settings,
            **machine(),
            "model.model_type": name,
            "results_dir": str(folder / name),
            "dataset.label_map": LABEL_MAP,
            "dataset.cache_dir": str(folder / "cache"),
            "train.seed": seed,
        }
        models[name]["train.checkpoint_interval"] = models[name]["train.num_epochs"]
    return models


def _checkpoint(folder: Path, name: str) -> str:
    return str(folder / name / "train" / "ar_model_latest.pth")
