"""Specs of a pose training, as little as loads: what tests of loading share."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kineme.errors import SpecError
from kineme.pose_classification.spec import SPECS
from kineme.spec.load import load_spec

TRAIN = SPECS["train"]
MINIMUM = {"results_dir": "out", "dataset.train_dataset.data_path": "x.npy"}


def refused(source: Any = None, overrides: Sequence[str] = (), model: Any = TRAIN) -> list[str]:
    """The problems, one string each, of a spec that must not load."""
    with pytest.raises(SpecError) as caught:
        load_spec(model, source, overrides)
    assert caught.value.exit_code == 2
    return [str(problem) for problem in caught.value.problems]


def loaded(
    source: Mapping[str, Any] | None = None, overrides: Sequence[str] = (), model: Any = TRAIN
) -> Any:
    spec, _ = load_spec(model, {**MINIMUM, **(source or {})}, overrides)
    return spec


def write(tmp_path: Path, text: str, name: str = "spec.yaml") -> Path:
    """A spec file that has all it must have, and `text`."""
    path = tmp_path / name
    path.write_text("results_dir: out\ndataset: {train_dataset: {data_path: x.npy}}\n" + text)
    return path
