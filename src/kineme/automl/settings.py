"""What the user asks of a search: the block `automl` of a spec file, or TAO's automl_settings.

Promises: TAO's keys are read with or without `automl_` in front, so are those of its older
service (automl_nu, algorithm_specific_params); a key that is not known is refused with the one
that was probably meant, a key of TAO that has no place here by name, with the reason. Types and
bounds are checked, all problems told at once. A setting that the algorithm does not read is a
note. The direction follows from the metric's name unless it is given.
Leaves out: the search space (space.py), where trials run and what they leave (the controller).
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kineme.automl.setting_rows import (
    ALGORITHM_NAMES,
    FAMILIES,
    NOT_SUPPORTED,
    OTHER_NAMES,
    RANGE_WORDS,
    ROWS,
    Row,
    reason_not_supported,
)
from kineme.automl.trials import MAXIMIZE, MINIMIZE
from kineme.errors import Problem, SpecError, shortened
from kineme.spec.fields import NUMBER
from kineme.spec.suggest import did_you_mean

BLOCK = "automl"
DEFAULT_EPOCHS = 10  # as train.num_epochs has it
HALVING_EPOCHS = 27
_FLAGS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_TOWARDS_LESS = {
    "loss", "error", "err", "latency", "time", "cost", "seconds", "duration", "perplexity",
    "mae", "mse", "rmse",
}  # fmt: skip
TOLD_METRICS = ("train_loss", "train_acc", "val_loss", "val_acc")  # of status.json, by trainings
_METRICS = {  # other names of what status.json calls its figures
    **dict.fromkeys(("val_acc_1", "val_acc@1", "val_accuracy", "accuracy", "acc"), "val_acc"),
    **dict.fromkeys(("kpi", "val_acc_1_epoch"), "val_acc"),
    **dict.fromkeys(("train_acc_1", "train_acc@1", "train_acc_1_epoch"), "train_acc"),
    **dict.fromkeys(("loss", "validation_loss"), "val_loss"),
}


@dataclass(frozen=True)
class Settings:
    """A search as asked for, complete. Names and defaults: setting_rows.py.

    num_epochs: of a full training; multi-fidelity algorithms stop most trials earlier.
    hyperparameters: None searches what the schema marks. ranges: by dotted setting.
    """

    algorithm: str = "bayesian"
    metric: str = "val_acc"
    direction: str = MAXIMIZE
    num_epochs: int = DEFAULT_EPOCHS
    max_recommendations: int = 20
    max_trials: int | None = None
    max_concurrent: int = 1
    seed: int = 0
    reduction_factor: int = 3
    epoch_multiplier: int = 1
    min_epochs: int = 1
    early_stop_threshold: float = 0.1
    min_early_stop_epochs: int = 3
    kde_samples: int = 64
    top_n_percent: float = 15.0
    min_points_in_model: int = 10
    mutation_factor: float = 0.5
    crossover_prob: float = 0.5
    population_size: int = 10
    max_generations: int = 20
    eval_interval: int = 1
    perturbation_factor: float = 1.2
    hyperparameters: tuple[str, ...] | None = None
    ranges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    delete_intermediate_ckpt: bool = True
    checkpoint_retention_strategy: str = "auto"
    keep_best: int = 3
    run_baseline: bool = False
    baseline_metric: float | None = None
    run_final_evaluation: bool = True
    final_evaluation_metric: str | None = None
    retries: int = 2
    max_failures_in_a_row: int = 3
    allow_constant_metric: bool = False
    trial_timeout_seconds: float | None = None

    @property
    def num_trials(self) -> int:
        """Configurations that an algorithm draws whose number does not follow from its brackets."""
        return self.max_recommendations if self.max_trials is None else self.max_trials


def split_document(document: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the block `automl`, the spec of train) of a document. Raises SpecError.

    Dotted keys (`automl.algorithm`, as overrides have them) belong to the block, too.
    """
    own: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in document.items():
        if key == BLOCK or key == "automl_settings":
            if not isinstance(value, Mapping | None):
                expected = "a block of settings, such as automl.algorithm"
                raise SpecError(key, expected, shortened(value))
            own |= dict(value or {})
        elif key.startswith(f"{BLOCK}."):
            name, _, rest_of_key = key.removeprefix(f"{BLOCK}.").partition(".")
            before = own.get(name)
            inner = dict(before) if isinstance(before, Mapping) else {}
            own[name] = {**inner, rest_of_key: value} if rest_of_key else value
        else:
            rest[key] = value
    return own, rest


def read_settings(
    mapping: Mapping[str, Any], *, num_epochs: int | None = None
) -> tuple[Settings, tuple[str, ...]]:
    """The settings that `mapping` asks for, with notes the user should see.

    num_epochs: train.num_epochs of the spec, a full training where nothing else is said.
    Raises SpecError with all problems.
    """
    problems: list[Problem] = []
    given = dict(_named(mapping, problems))
    values = {
        name: value
        for name, written in given.items()
        if (value := _checked(ROWS[name], written, problems)) is not None
    }
    if "direction" not in values:
        values["direction"] = direction_of(str(values.get("metric", "val_acc")))
    values["metric"] = metric_name(values.get("metric", "val_acc"))
    notes = list(_unusual_metric(values["metric"], problems))
    if problems:
        raise SpecError.of(problems)
    notes += [f"{BLOCK}.{name} has no effect: {why}." for name, why in _idle(values)]
    return Settings(**_with_epochs(values, num_epochs)), tuple(notes)


def direction_of(metric: str) -> str:
    """Whether less of `metric` is better, by the words in its name."""
    words = re.split(r"[^a-z0-9]+", metric.lower())
    return MINIMIZE if _TOWARDS_LESS.intersection(words) else MAXIMIZE


def metric_name(written: str) -> str:
    """The name that status.json has for a metric."""
    return _METRICS.get(written.strip().lower(), written.strip())


def _unusual_metric(name: str, problems: list[Problem]) -> Iterator[str]:
    """A note on a figure that no training of kineme tells; a misspelt one is a problem."""
    where, known = f"{BLOCK}.metric", f"trainings tell ({', '.join(TOLD_METRICS)})"
    if name in TOLD_METRICS:
        return
    if fix := did_you_mean(name, TOLD_METRICS):
        problems.append(Problem(where, f"a figure that {known}", shortened(name), fix))
    else:
        yield f"{where} {shortened(name)} is none of the figures that {known}."


def _named(mapping: Mapping[str, Any], problems: list[Problem]) -> Iterator[tuple[str, Any]]:
    """(name, value) of the known settings; the same one said twice differently is a problem."""
    said: dict[str, tuple[str, Any]] = {}
    for key, value in _flat(mapping):
        name = key.removeprefix("automl_")
        name = OTHER_NAMES.get(key) or OTHER_NAMES.get(name) or name
        if name not in ROWS:
            problems.append(_unknown(key))
        elif value is None or value == "":
            continue
        elif name in said and said[name][1] != value:
            other, before = said[name]
            expected = f"what {BLOCK}.{other} says, {shortened(before)}"
            fix = "They mean the same: keep one of them."
            problems.append(Problem(f"{BLOCK}.{key}", expected, shortened(value), fix))
        else:
            said[name] = (key, value)
    for name, (_, value) in said.items():
        yield name, value


def _flat(mapping: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if key == "algorithm_specific_params" and isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield str(key), value


def _unknown(key: str) -> Problem:
    if reason := reason_not_supported(key):
        return Problem(f"{BLOCK}.{key}", "a setting that kineme has", "one of TAO's alone", reason)
    known = [*ROWS, *OTHER_NAMES, *(f"automl_{name}" for name in ROWS)]
    known_rows = f"Known: {', '.join(sorted(ROWS))}."
    fix = did_you_mean(key, known, otherwise=known_rows, shown=lambda name: f"{BLOCK}.{name}")
    return Problem(f"{BLOCK}.{key}", "a known setting", "an unknown one", fix)


def _checked(row: Row, written: Any, problems: list[Problem]) -> Any:
    """The value in its own type; None where it is refused."""
    where = f"{BLOCK}.{row.name}"
    if row.kind is dict:
        return _ranges(where, written, problems)
    if row.kind is tuple:
        return _names(where, written, problems)
    value = _typed(row.kind, written)
    if row.name == "algorithm" and isinstance(value, str):
        return _algorithm(where, value, problems)
    if value is None or not row.allows(value):
        fix = did_you_mean(written, row.choices, shown=repr)
        problems.append(Problem(where, row.expected, shortened(written), fix))
        return None
    return value


def _typed(kind: type, written: Any) -> Any:
    """`written` as `kind` where it can mean nothing else, or None."""
    if kind is bool:
        written = _FLAGS.get(written.lower()) if isinstance(written, str) else written
        return written if isinstance(written, bool) else None
    if isinstance(written, bool):
        return None
    if kind in (int, float) and isinstance(written, str) and NUMBER.fullmatch(written.strip()):
        written = float(written)
    if kind is int:
        is_whole = isinstance(written, int) or (isinstance(written, float) and written % 1 == 0)
        return int(written) if is_whole else None
    if kind is float:
        return float(written) if isinstance(written, int | float) else None
    return written.strip() if isinstance(written, str) else None


def _algorithm(where: str, written: str, problems: list[Problem]) -> str | None:
    name = ALGORITHM_NAMES.get(written.lower(), written.lower())
    if name in FAMILIES:
        return name
    known = f"one of {', '.join(sorted(FAMILIES))}"
    fix = NOT_SUPPORTED.get(f"algorithm={name}") or did_you_mean(
        name, [*FAMILIES, *ALGORITHM_NAMES], shown=lambda one: repr(ALGORITHM_NAMES.get(one, one))
    )
    problems.append(Problem(where, known, shortened(written), fix))
    return None


def _names(where: str, written: Any, problems: list[Problem]) -> tuple[str, ...] | None:
    """A list of dotted settings, or text with them: `[a, b]`, `["a", "b"]`, `a, b`."""
    if isinstance(written, str):
        written = [word.strip(" '\"") for word in written.strip().strip("[]").split(",")]
        written = [word for word in written if word]
    if isinstance(written, list | tuple) and all(isinstance(name, str) for name in written):
        return tuple(dict.fromkeys(name.strip() for name in written))
    expected = "a list of dotted settings, such as [train.optim.lr]"
    problems.append(Problem(where, expected, shortened(written)))
    return None


def _ranges(where: str, written: Any, problems: list[Problem]) -> dict[str, dict[str, Any]] | None:
    """Ranges by setting: a mapping, or TAO's list of mappings that name their `parameter`.

    A list of two numbers is [lowest, highest]. What a range says is checked with the schema.
    """
    expected = "ranges by dotted setting, such as {train.optim.lr: {min: 0.001, max: 0.1}}"
    pairs: dict[str, Any] = {}
    if isinstance(written, Mapping):
        pairs = dict(_dotted_ranges(written))
    elif isinstance(written, list) and all(
        isinstance(one, Mapping) and isinstance(one.get("parameter"), str) for one in written
    ):
        for one in written:
            pairs[one["parameter"]] = {k: v for k, v in one.items() if k != "parameter"}
    else:
        problems.append(Problem(where, expected, shortened(written)))
        return None
    found = {}
    for key, value in pairs.items():
        if isinstance(value, list | tuple) and len(value) == 2:
            value = {"min": value[0], "max": value[1]}
        if not isinstance(value, Mapping):
            wanted = "[lowest, highest], or a mapping with min, max, options"
            problems.append(Problem(f"{where}: {key}", wanted, shortened(value)))
            continue
        found[key] = {str(name): item for name, item in value.items() if item is not None}
    return found


def _dotted_ranges(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Ranges written as blocks, as a spec has them, under dotted keys."""
    for name, value in tree.items():
        is_block = isinstance(value, Mapping) and not _WORDS.intersection(value)
        if is_block and value and all(isinstance(v, Mapping | list) for v in value.values()):
            yield from _dotted_ranges(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


_WORDS = {word for words in RANGE_WORDS.values() for word in words}


def _idle(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings that were given and that the algorithm does not read."""
    algorithm = values.get("algorithm", "bayesian")
    for name in values:
        readers = ROWS[name].algorithms
        if readers and algorithm not in readers:
            yield name, f"algorithm is {algorithm}"


def _with_epochs(values: dict[str, Any], spec_epochs: int | None) -> dict[str, Any]:
    """The values with the length of a full training, and of a generation."""
    asked, algorithm = values.pop("max_epochs", None), values.get("algorithm", "bayesian")
    if FAMILIES[algorithm] == "halving":
        units = asked or HALVING_EPOCHS
        return {**values, "num_epochs": units * values.get("epoch_multiplier", 1)}
    epochs = asked or spec_epochs or DEFAULT_EPOCHS
    if algorithm != "pbt":
        return {**values, "num_epochs": epochs}
    interval, generations = values.get("eval_interval"), values.get("max_generations")
    if interval and generations and not asked:
        epochs = interval * generations
    if generations is None:
        generations = -(-epochs // interval) if interval else min(20, epochs)
    interval = interval or max(1, epochs // generations)
    shape = {"eval_interval": interval, "max_generations": generations}
    return {**values, **shape, "num_epochs": min(epochs, interval * generations)}
