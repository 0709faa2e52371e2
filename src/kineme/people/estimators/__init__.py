"""Pose estimators: a frame in, everybody in it out.

Public: `ESTIMATORS` by name, `build_estimator`, and what every one of them offers, `Estimator`.
A new one is a class with settings of its own and a line in the table. Who looks where nobody is
named: choosing.py.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kineme.errors import Problem, SpecError, shortened
from kineme.people.poses import PersonPose
from kineme.spec.suggest import did_you_mean

__all__ = [
    "ESTIMATORS",
    "Estimator",
    "build_estimator",
    "check_settings",
    "layout_of_estimator",
    "settings_of",
    "spelled_settings",
]

ESTIMATORS: Mapping[str, str] = {
    "blazepose": "kineme.people.estimators.blazepose:BlazePose",
    "movenet": "kineme.people.estimators.movenet:MoveNet",
    "rtmpose": "kineme.people.estimators.rtmpose:RtmPose",
    "files": "kineme.people.estimators.files:KeypointFiles",
}


class Estimator(Protocol):
    """What every estimator offers. The class takes one argument, its settings (a dataclass).

    layout: which joints, by the name of the layout. detect: everybody in a frame, (H, W, 3) uint8
    RGB, the likeliest first; nobody is an empty tuple. Frames of a video are given in order.
    reset: forget earlier frames, before another video.
    """

    layout: str

    def detect(self, frame: NDArray[np.uint8]) -> tuple[PersonPose, ...]: ...

    def reset(self) -> None: ...


def build_estimator(name: str, settings: Mapping[str, object] | None = None) -> Estimator:
    """The estimator of that name; `settings` in place of its defaults, text as from a command line.

    Raises SpecError for what is not known or cannot be, all at once, and where a package is not
    installed; CheckpointError where a model file is missing or another.
    """
    kind = _class_of(name)
    estimator: Estimator = kind(settings_of(kind.settings_type, settings or {}, name))
    return estimator


def check_settings(name: str, settings: Mapping[str, object]) -> None:
    """Raise SpecError for what `build_estimator` finds wrong with its words, without building."""
    settings_of(_class_of(name).settings_type, settings, name)


def layout_of_estimator(name: str, settings: Mapping[str, object] | None = None) -> str:
    """Which joints it finds, without loading its model where that need not be known.

    Raises as `build_estimator` does.
    """
    layout = getattr(_class_of(name), "layout", None)
    return layout if isinstance(layout, str) else build_estimator(name, settings).layout


def spelled_settings(estimator: Estimator) -> dict[str, str]:
    """Every setting of it, given or not, as text."""
    settings = getattr(estimator, "settings", None)
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        return {}
    return {name: str(value) for name, value in dataclasses.asdict(settings).items()}


def _class_of(name: str) -> Any:
    if name not in ESTIMATORS:
        fix = did_you_mean(name, ESTIMATORS)
        expected = f"a known estimator ({', '.join(ESTIMATORS)})"
        raise SpecError("estimator", expected, shortened(name), fix)
    module, _, attribute = ESTIMATORS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def settings_of(kind: type[Any], values: Mapping[str, object], name: str) -> Any:
    """A settings dataclass from `values`, whose text is read as what the default is.

    Raises SpecError for unknown keys, values of another type, and values out of bounds.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    problems: list[Problem] = []
    read: dict[str, object] = {}
    for key, value in values.items():
        where = f"{name}.{key}"
        if key not in fields:
            expected = f"a known setting ({', '.join(fields)})"
            problems.append(Problem(where, expected, shortened(key), did_you_mean(key, fields)))
            continue
        try:
            read[key] = _as_type(value, type(fields[key].default))
        except ValueError:
            kinds = {bool: "true or false", int: "a whole number", float: "a number"}
            expected = kinds.get(type(fields[key].default), "text")
            problems.append(Problem(where, expected, shortened(value)))
            continue
        bounds = fields[key].metadata.get("bounds")
        if bounds and not bounds[0] <= read[key] <= bounds[1]:
            problems.append(Problem(where, f"{bounds[0]} to {bounds[1]}", shortened(value)))
        choices = fields[key].metadata.get("choices")
        if choices and read[key] not in choices:
            problems.append(Problem(where, f"one of {', '.join(choices)}", shortened(value)))
    if problems:
        raise SpecError.of(problems)
    return kind(**read)


def _as_type(value: object, kind: type) -> object:
    if kind is bool:
        words = {"true": True, "false": False}
        if str(value).lower() not in words:
            raise ValueError(value)
        return words[str(value).lower()]
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(value)
        if kind is int and isinstance(value, float) and value != int(value):
            raise ValueError(value)
        number: float = kind(value)
        return number
    return str(value)
