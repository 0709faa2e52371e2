"""What a run leaves: how its files are called and found, without torch.

Promises: every file name is spelled here.
Leaves out: writing them (results.py, checkpoint.py, the actions), reading checkpoints.
"""

import csv
import re
from pathlib import Path

LEASE_FILE = ".lease.json"
SPEC_FILE = "experiment.yaml"
STATUS_FILE = "status.json"
LOG_FILE = "log.txt"
METRICS_FILE = "metrics.csv"
TENSORBOARD_FOLDER = "tensorboard"
CHECKPOINT_PATTERN = r"model_epoch_(\d{3,})_step_(\d{5,})\.pth"
LATEST_FILE = "{prefix}_model_latest.pth"
BEST_FILE = "best.pth"
BEST_WEIGHTS_FILE = "best.safetensors"
LAST_WEIGHTS_FILE = "last.safetensors"
EVALUATION_FILE = "metrics.json"
FOLDS_FILE = "folds.json"
CONFUSION_FILE = "confusion_matrix.csv"
CONFUSION_PLOT_FILE = "confusion_matrix.png"
PER_CLASS_FILE = "per_class.csv"
PREDICTIONS_FILE = "predictions.csv"
PREDICTION_LINES_FILE = "predictions.jsonl"
FAILED_FILE = "failed.jsonl"
CLIPS_FILE = "clips.csv"
UNFINISHED_FILE = "unfinished-{rank}.jsonl"
ANNOTATED_FOLDER = "annotated"
REPORT_FILE = "report.html"
LABELS_FILE = "results.txt"
ONNX_FILE = "model.onnx"
OPENVINO_FILE = "model.xml"
EXPORT_FILE = "export.json"
# What a run writes into its folder, beside the answers or the model that the user may place.
OWN_FILES = frozenset({
    LEASE_FILE, SPEC_FILE, STATUS_FILE, LOG_FILE, PREDICTIONS_FILE, PREDICTION_LINES_FILE,
    FAILED_FILE, CLIPS_FILE, REPORT_FILE, EXPORT_FILE,
})  # fmt: skip

METRIC = "val_acc"  # what says which epoch of a training is the best
METRICS_COLUMNS = (
    "epoch", "step", "lr", "train_loss", "train_acc", "val_loss", "val_acc", "seconds",
)  # fmt: skip


def checkpoint_name(epoch: int, step: int) -> str:
    """The name of the checkpoint after `step` optimiser steps; epochs count from 0."""
    return f"model_epoch_{epoch:03d}_step_{step:05d}.pth"


def find_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a training folder, oldest first by step; clocks are not asked."""
    found = []
    for path in folder.glob("model_epoch_*.pth"):
        match = re.fullmatch(CHECKPOINT_PATTERN, path.name)
        if match:
            found.append((int(match[2]), int(match[1]), path))
    return [path for _, _, path in sorted(found)]


def read_metrics(path: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv; none if there is no readable one."""
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [row for row in csv.DictReader(file) if (row.get("epoch") or "").isdigit()]
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
