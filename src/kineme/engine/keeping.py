"""What a training leaves behind: checkpoints, the best one, and weights in our own format.

Promises: only the process that writes the results writes; every file says what model it is
of and how good it was.
Leaves out: when to save (actions/train.py), how files are written (checkpoint.py).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from kineme import __version__
from kineme.engine import checkpoint as checkpoints
from kineme.engine.calibration import Calibration
from kineme.engine.names import (
    BEST_FILE,
    BEST_WEIGHTS_FILE,
    LAST_WEIGHTS_FILE,
    LATEST_FILE,
    METRIC,
    checkpoint_name,
)
from kineme.engine.results import Run
from kineme.engine.training import Training
from kineme.errors import CheckpointError
from kineme.files import link_or_copy
from kineme.network import TRAIN, VAL, Dataset, Network
from kineme.spec.schema import resolved


@dataclass(frozen=True)
class Keeper:
    """Saves a training into the folder of its run.

    facts: what a file says of itself. key: what it is encrypted with, if anything.
    """

    run: Run
    fabric: Fabric
    training: Training
    prefix: str
    facts: Mapping[str, Any]
    key: str | None = None

    def save(self, same: Path | None = None, *, calibration: Calibration | None = None) -> None:
        """A checkpoint of this moment; another name of `same`, if that was just written.

        calibration: of the model as it is now, where it has just been validated.
        """
        if not self.run.is_writer:
            return
        progress, folder = self.training.progress, self.run.folder
        path = folder / checkpoint_name(progress.last_epoch, progress.global_step)
        if same:
            checkpoints.share(path, same)
        else:
            self._save_state(path, calibration)
        checkpoints.point_to(folder / LATEST_FILE.format(prefix=self.prefix), path)

    def save_best(self, calibration: Calibration | None = None) -> Path | None:
        """The best checkpoint, and its weights in our own format."""
        if not self.run.is_writer:
            return None
        path = self.run.folder / BEST_FILE
        self._save_state(path, calibration)
        self._save_weights(BEST_WEIGHTS_FILE, calibration)
        return path

    def has_best(self, folder: Path) -> bool:
        """Whether the best checkpoint so far is at hand; from another `folder` it comes along,
        unless it is readable by anybody where ours are encrypted."""
        source, own = folder / BEST_FILE, self.run.folder
        if folder.resolve() == own.resolve():
            return source.exists()
        try:
            found = checkpoints.load_checkpoint(source, self.key)
        except CheckpointError:
            return False
        is_open = self.key is not None and not found.is_encrypted
        if is_open or found.content.get("epoch") != self.training.progress.best_epoch:
            return False
        weights = Path(BEST_WEIGHTS_FILE)
        for name in (BEST_FILE, weights.name, weights.with_suffix(".json").name):
            if self.run.is_writer and (folder / name).exists():
                link_or_copy(folder / name, own / name)
        return True

    def save_last_weights(self, calibration: Calibration | None = None) -> None:
        """The weights at the end, in our own format."""
        if self.run.is_writer:
            self._save_weights(LAST_WEIGHTS_FILE, calibration)

    def _save_state(self, path: Path, calibration: Calibration | None) -> None:
        content = self.training.content(self.fabric, self._facts_now(calibration))
        checkpoints.save(path, content, self.key)

    def _save_weights(self, name: str, calibration: Calibration | None) -> None:
        weights, facts = self.training.result.state_dict(), self._facts_now(calibration)
        checkpoints.save_weights(self.run.folder / name, weights, facts, self.key)

    def _facts_now(self, calibration: Calibration | None) -> dict[str, Any]:
        metric = {"name": METRIC, "value": self.training.progress.metrics.get(METRIC)}
        trust = calibration.facts() if calibration else None
        return {**self.facts, "metric": metric, "calibration": trust}


def model_facts(
    network: Network, spec: Any, data: Dataset, val_data: Dataset | None
) -> dict[str, Any]:
    """What a checkpoint says of its model and of the data it learns from, in plain values."""
    of_data = network.describe_data(data) if network.describe_data else None
    by_split = {TRAIN: data, **({VAL: val_data} if val_data else {})}
    prints = {split: fingerprint(network, one) for split, one in by_split.items()}
    return {
        "format": checkpoints.FORMAT,
        "network": network.name,
        "spec": resolved(spec),
        "class_names": list(network.class_names(spec)),
        "describe": checkpoints.plain(network.describe(spec)),
        "validated_on": validated_on(network, spec),
        "training_data": checkpoints.plain(of_data),
        "fingerprints": prints,
        "versions": {"kineme": __version__, "torch": str(torch.__version__)},
    }


def fingerprint(network: Network, dataset: Dataset) -> str:
    """Another one where samples, their labels or what the network knows of the data are others.

    How often samples are repeated plays no part.
    """
    own = network.fingerprint(dataset) if network.fingerprint else ""
    told = [sorted(set(zip(dataset.ids, dataset.labels.tolist(), strict=True))), own]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def changed_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    """Splits whose data are others by the facts of now than by those of a checkpoint."""
    known = then.get("fingerprints")
    known = known if isinstance(known, Mapping) else {}  # older checkpoints do not say
    ours = now["fingerprints"]
    return tuple(split for split in ours if known.get(split, ours[split]) != ours[split])


def seen_in(facts: Mapping[str, Any], network: Network, dataset: Dataset) -> str | None:
    """TRAIN or VAL where these samples are those of that split, by the facts of a checkpoint."""
    known = facts.get("fingerprints")
    if not isinstance(known, Mapping):  # older checkpoints do not say
        return None
    ours = fingerprint(network, dataset)
    return next((split for split in (TRAIN, VAL) if known.get(split) == ours), None)


def validated_on(network: Network, spec: Any) -> str:
    """Where the validation data are, which choose the best checkpoint; "" without any."""
    if network.data_path is None or not network.common(spec).has_validation:
        return ""
    return network.data_path(spec, VAL)
