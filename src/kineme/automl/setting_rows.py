"""The table of a search's settings: name, type, bounds, words, and who reads them.

Promises: one row for one setting; defaults are those of `Settings` (settings.py).
Leaves out: reading (settings.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FAMILIES: Mapping[str, str] = {  # algorithm: how it spends epochs
    "bayesian": "single", "bfbo": "single", "random": "single",
    "hyperband": "halving", "hyperband_es": "halving", "asha": "halving",
    "bohb": "halving", "dehb": "halving", "pbt": "population",
}  # fmt: skip
ALGORITHM_NAMES: Mapping[str, str] = {
    "b": "bayesian", "bayes": "bayesian", "bayesian_optimization": "bayesian",
    "bo": "bayesian", "h": "hyperband", "hes": "hyperband_es",
    "hyperband_early_stop": "hyperband_es", "r": "random", "random_search": "random",
}  # fmt: skip
OTHER_NAMES: Mapping[str, str] = {  # as written: the row
    "num_recommendations": "max_recommendations",
    "num_trials": "max_recommendations",
    "automl_algorithm": "algorithm",
    "r": "max_epochs", "R": "max_epochs", "nu": "reduction_factor", "eta": "reduction_factor",
    "custom_param_ranges": "ranges", "range_override": "ranges",
    "parameters": "hyperparameters", "trial_timeout": "trial_timeout_seconds",
}  # fmt: skip
_LLM = "It needs a language model to ask; no algorithm here does."
_ONE = "A search here has one metric: set automl.metric and automl.direction."
_HOME = "A search is its results folder: the same command goes on with it."
_RECORDS = "Evaluations are jobs, whose records lie in the results folder."
_SAMPLES = "The data themselves say how many samples there are."
NOT_SUPPORTED: Mapping[str, str] = {
    "algorithm=llm": _LLM, "algorithm=hybrid": _LLM, "algorithm=autoresearch": _LLM,
    "research_program": _LLM, "api_key": _LLM, "base_url": _LLM, "model": _LLM,
    "enable_llm_range_narrowing": _LLM, "hybrid_enable_llm_range_narrowing": _LLM,
    "automl_max_experiments": _LLM, "automl_min_top_configs": _LLM,
    "evolvable_text_parameters": _LLM,
    "multi_objective": _ONE, "objectives": _ONE, "metric_weight": _ONE, "metric_scale": _ONE,
    "include_latency": _ONE,
    "session_id": _HOME, "experiment_id": _HOME, "resume": _HOME, "workspace_path": _HOME,
    "baseline_record_path": _RECORDS, "evaluation_records_dir": _RECORDS,
    "final_evaluation_record_path": _RECORDS, "final_evaluation": _RECORDS,
    "reuse_best_metric_for_final_evaluation":
        "The final evaluation is always a run of its own.",
    "allow_unsafe_effective_batch":
        "A batch larger than the data is refused by train itself.",
    "override_automl_disabled_params":
        "Settings that the schema disables cannot be searched; give "
        "the value in the spec.",
    "feedback_fn": "Functions are no settings; read the ledger of the search instead.",
    "metric_extractor": "Metrics are read from status.json.",
    "eval_fn": "Metrics are read from status.json.",
    "baseline_fn": "Set automl.run_baseline.", "final_eval_fn": "Set automl.run_final_evaluation.",
    "wandb_config": "Set the block wandb of the spec.",
    "automl_enabled": "Set automl_policy beside the block.",
    "automl_policy": "Set automl_policy beside the block.",
    **dict.fromkeys(
        ("train_sample_count", "training_sample_count", "num_train_samples", "train_samples",
         "dataset_sample_count", "dataset_size", "samples_per_epoch"), _SAMPLES),
}  # fmt: skip
_PREFIXES = {"llm_": _LLM, "latency_": _ONE}
RANGE_WORDS: Mapping[str, tuple[str, ...]] = {  # what a range may say, and its other names
    "min": ("min", "valid_min", "minimum", "low"),
    "max": ("max", "valid_max", "maximum", "high"),
    "options": ("options", "valid_options", "enum", "choices"),
    "weights": ("weights", "option_weights"),
    "math_cond": ("math_cond",),
    "depends_on": ("depends_on", "parent_param"),
    "log": ("log",),
    "off": ("off",),
}
RETENTION = ("auto", "best", "terminal")
_HALVING = frozenset(name for name, family in FAMILIES.items() if family == "halving")
_DENSITIES = frozenset({"bohb"})
DRAWING = frozenset({"bayesian", "bfbo", "random", "asha"})


@dataclass(frozen=True)
class Row:
    """One setting. algorithms: those that read it; empty: all."""

    name: str
    kind: type
    doc: str
    low: float | None = None
    high: float | None = None
    is_open: bool = False  # the lower bound itself is not allowed
    choices: tuple[str, ...] = ()
    algorithms: frozenset[str] = frozenset()

    @property
    def expected(self) -> str:
        if self.choices:
            return "one of " + ", ".join(repr(choice) for choice in sorted(self.choices))
        word = {int: "an integer", float: "a number", bool: "true or false"}.get(self.kind, "text")
        if self.low is not None and self.high is not None:
            return f"{word} in {'(' if self.is_open else '['}{self.low:.12g}, {self.high:.12g}]"
        if self.low is not None:
            return f"{word} {'>' if self.is_open else '>='} {self.low:.12g}"
        return word

    def allows(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return not isinstance(value, str) or bool(value)
        is_above = self.low is None or (value > self.low if self.is_open else value >= self.low)
        return is_above and (value <= self.high if self.high is not None else value < float("inf"))


def reason_not_supported(key: str) -> str | None:
    """Why a key of TAO has no place here, if it is one."""
    for name in (key, f"automl_{key}", key.removeprefix("automl_")):
        if name in NOT_SUPPORTED:
            return NOT_SUPPORTED[name]
    plain = key.removeprefix("automl_")
    return next((why for prefix, why in _PREFIXES.items() if plain.startswith(prefix)), None)


ROWS: Mapping[str, Row] = {
    row.name: row
    for row in (
        Row("algorithm", str, "how configurations are chosen"),
        Row("metric", str, "figure of status.json that is tuned for"),
        Row("direction", str, "which way is better; left out: as the metric's name says",
            choices=("maximize", "minimize")),
        Row("max_recommendations", int, "configurations in all", 1, 100_000, algorithms=DRAWING),
        Row("max_trials", int, "the same", 1, 100_000, algorithms=DRAWING),
        Row("max_epochs", int, "epochs of a full training", 1, 1_000_000),
        Row("max_concurrent", int, "trials at a time", 1, 1024),
        Row("seed", int, "seed of every draw", 0, 2**32 - 1),
        Row("reduction_factor", int, "one in so many goes on to the next rung", 2, 100,
            algorithms=_HALVING),
        Row("epoch_multiplier", int, "epochs of a unit of max_epochs", 1, 100_000,
            algorithms=_HALVING),
        Row("min_epochs", int, "units of the lowest rung, at least", 1, 1_000_000,
            algorithms=_HALVING),
        Row("early_stop_threshold", float, "share of the best by which a trial may trail it",
            0, 1, is_open=True, algorithms=frozenset({"hyperband_es"})),
        Row("min_early_stop_epochs", int, "epochs that every trial gets", 1, 1_000_000,
            algorithms=frozenset({"hyperband_es"})),
        Row("kde_samples", int, "candidates that the model chooses from", 1, 100_000,
            algorithms=_DENSITIES),
        Row("top_n_percent", float, "percent of the results that count as good", 0, 100,
            is_open=True, algorithms=_DENSITIES),
        Row("min_points_in_model", int, "results at one budget before a model is made", 1, 100_000,
            algorithms=_DENSITIES),
        Row("mutation_factor", float, "weight of the difference of two members", 0, 2,
            is_open=True, algorithms=frozenset({"dehb"})),
        Row("crossover_prob", float, "chance that a setting comes from the mutant", 0, 1,
            algorithms=frozenset({"dehb"})),
        Row("population_size", int, "members", 2, 10_000, algorithms=frozenset({"pbt"})),
        Row("max_generations", int, "times that the population is compared", 1, 100_000,
            algorithms=frozenset({"pbt"})),
        Row("eval_interval", int, "epochs of a generation", 1, 100_000,
            algorithms=frozenset({"pbt"})),
        Row("perturbation_factor", float, "factor by which a copied setting changes", 1, 100,
            is_open=True, algorithms=frozenset({"pbt"})),
        Row("hyperparameters", tuple, "settings that are searched"),
        Row("ranges", dict, "where they are searched"),
        Row("delete_intermediate_ckpt", bool, "delete checkpoints that nothing needs any more"),
        Row("checkpoint_retention_strategy", str, "which checkpoints of a kept trial stay",
            choices=RETENTION),
        Row("keep_best", int, "trials whose checkpoints are kept", 1, 100_000),
        Row("run_baseline", bool, "evaluate where training starts, before the search"),
        Row("baseline_metric", float, "the metric of the baseline, where it is known"),
        Row("run_final_evaluation", bool, "evaluate the best trial in the end"),
        Row("final_evaluation_metric", str, "figure of metrics.json that the evaluation tells"),
        Row("retries", int, "times that a crashed trial is tried again", 0, 100),
        Row("max_failures_in_a_row", int, "failed trials after which a search ends", 1, 100_000),
        Row("allow_constant_metric", bool, "go on although the metric is always the same"),
        Row("trial_timeout_seconds", float, "longest time of a trial", 0, is_open=True),
    )
}  # fmt: skip
