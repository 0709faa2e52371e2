"""What users ask of a search: every key of TAO's read, or refused by name."""

import pytest

from kineme.automl.setting_rows import FAMILIES, ROWS
from kineme.automl.settings import (
    Settings,
    direction_of,
    metric_name,
    read_settings,
    split_document,
)
from kineme.errors import SpecError

# What TAO's AutoML knows (contract 7.2), each with a value that it takes there.
TAO_KEYS = {
    "automl_max_recommendations": 5, "automl_max_epochs": 9, "automl_reduction_factor": 4,
    "epoch_multiplier": 2, "automl_max_concurrent": 3, "automl_population_size": 6,
    "automl_max_generations": 4, "automl_eval_interval": 2, "automl_perturbation_factor": 1.5,
    "automl_mutation_factor": 0.6, "automl_crossover_prob": 0.4,
    "automl_early_stop_threshold": 0.2, "automl_min_early_stop_epochs": 5,
    "automl_kde_samples": 32, "automl_top_n_percent": 20, "automl_min_points_in_model": 7,
    "automl_max_trials": 12, "automl_delete_intermediate_ckpt": False,
    "automl_checkpoint_retention_strategy": "best", "run_baseline": True,
    "baseline_metric": 0.5, "run_final_evaluation": False,
    "final_evaluation_metric": "accuracy",
}  # fmt: skip
REFUSED = (
    "llm_endpoint", "llm_model", "llm_api_key", "llm_temperature", "llm_max_tokens",
    "research_program", "enable_llm_range_narrowing", "hybrid_enable_llm_range_narrowing",
    "automl_min_top_configs", "automl_max_experiments", "session_id", "experiment_id",
    "baseline_record_path", "final_evaluation", "final_evaluation_record_path",
    "reuse_best_metric_for_final_evaluation", "evaluation_records_dir", "multi_objective",
    "objectives", "metric_weight", "metric_scale", "include_latency", "latency_metric",
    "latency_objective", "latency_direction", "latency_weight", "latency_scale",
    "train_sample_count", "dataset_size", "allow_unsafe_effective_batch",
)  # fmt: skip


def problems_of(mapping):
    with pytest.raises(SpecError) as error:
        read_settings(mapping)
    assert error.value.exit_code == 2
    return [str(problem) for problem in error.value.problems]


def test_nothing_said_is_a_bayesian_search_of_20_full_trainings():
    settings, notes = read_settings({}, num_epochs=30)
    assert settings == Settings(num_epochs=30)
    assert (settings.algorithm, settings.metric, settings.direction) == (
        "bayesian", "val_acc", "maximize",
    )  # fmt: skip
    assert (settings.num_trials, settings.max_concurrent, settings.seed) == (20, 1, 0)
    assert (settings.retries, settings.max_failures_in_a_row) == (2, 3)
    assert notes == ()


@pytest.mark.parametrize("key", TAO_KEYS)
def test_tao_keys_are_read_with_and_without_their_prefix(key):
    value = TAO_KEYS[key]
    name = key.removeprefix("automl_")
    algorithm = next(iter(sorted(ROWS[name].algorithms)), "bayesian")
    for written in {key, name}:
        settings, notes = read_settings({"algorithm": algorithm, written: value})
        if name != "max_epochs":
            assert getattr(settings, name) == value
        assert notes == ()


@pytest.mark.parametrize("key", REFUSED)
def test_tao_keys_that_have_no_place_are_refused_by_name_and_with_the_reason(key):
    (problem,) = problems_of({key: "sk-secret"})
    assert problem.startswith(f"automl.{key}: expected a setting that kineme has, got one of TAO")
    assert problem.count(".") >= 3  # the reason is a sentence of its own
    assert "sk-secret" not in problem


@pytest.mark.parametrize(
    "key",
    ["override_automl_disabled_params", "feedback_fn", "evolvable_text_parameters", "wandb_config"],
)
def test_defect_67_options_that_tao_documents_and_drops_are_answered(key):
    """Defect 67: they are refused in words, neither ignored nor passed on."""
    (problem,) = problems_of({key: {}})
    assert "one of TAO's alone" in problem


def test_all_problems_are_told_at_once_with_the_likely_repair():
    assert problems_of(
        {"algoritm": "asha", "direction": "minimise", "seed": -1, "max_concurrent": True,
         "retries": "two", "automl_max_epoch": 3}
    ) == [
        "automl.algoritm: expected a known setting, got an unknown one. "
        "Did you mean automl.algorithm?",
        "automl.automl_max_epoch: expected a known setting, got an unknown one. "
        "Did you mean automl.automl_max_epochs?",
        "automl.direction: expected one of 'maximize', 'minimize', got 'minimise'. "
        "Did you mean 'minimize'?",
        "automl.seed: expected an integer in [0, 4294967295], got -1.",
        "automl.max_concurrent: expected an integer in [1, 1024], got True.",
        "automl.retries: expected an integer in [0, 100], got 'two'.",
    ]  # fmt: skip


def test_an_unknown_key_without_a_likely_repair_lists_those_that_are_known():
    (problem,) = problems_of({"zzzzzzzzzzzz": 1})
    assert "Known: algorithm, allow_constant_metric" in problem


@pytest.mark.parametrize(
    ("written", "name"),
    [("b", "bayesian"), ("h", "hyperband"), ("hes", "hyperband_es"), ("BOHB", "bohb"),
     ("bayes", "bayesian"), *((name, name) for name in FAMILIES)],
)  # fmt: skip
def test_algorithms_have_tao_s_short_names(written, name):
    assert read_settings({"algorithm": written})[0].algorithm == name
    assert read_settings({"automl_algorithm": written})[0].algorithm == name


def test_an_algorithm_that_is_none_is_refused():
    assert problems_of({"algorithm": "hyperbnd"})[0].endswith("Did you mean 'hyperband'?")
    assert "needs a language model" in problems_of({"algorithm": "llm"})[0]
    assert "needs a language model" in problems_of({"algorithm": "hybrid"})[0]


def test_one_setting_said_twice_must_be_said_the_same():
    said = {"num_recommendations": 3, "automl_max_recommendations": 3}
    assert read_settings(said)[0].num_trials == 3
    (problem,) = problems_of({"num_recommendations": 3, "automl_max_recommendations": 4})
    assert problem == (
        "automl.automl_max_recommendations: expected what automl.num_recommendations says, 3, "
        "got 4. They mean the same: keep one of them."
    )


def test_the_older_service_s_nesting_and_names_are_read():
    settings, _ = read_settings(
        {"automl_algorithm": "hyperband", "automl_hyperparameters": '["train.optim.lr"]',
         "algorithm_specific_params": {"automl_R": 9, "automl_nu": 2},
         "automl_range_override": [
             {"parameter": "train.optim.lr", "valid_min": 0.1, "valid_max": 0.2}]}
    )  # fmt: skip
    assert (settings.num_epochs, settings.reduction_factor) == (9, 2)
    assert settings.hyperparameters == ("train.optim.lr",)
    assert settings.ranges == {"train.optim.lr": {"valid_min": 0.1, "valid_max": 0.2}}


def test_ranges_may_be_pairs_mappings_or_blocks():
    wanted = {"train.optim.lr": {"min": 0.1, "max": 0.2}}
    for written in (
        {"train.optim.lr": [0.1, 0.2]},
        {"train.optim.lr": {"min": 0.1, "max": 0.2}},
        {"train": {"optim": {"lr": [0.1, 0.2]}}},
        {"train": {"optim": {"lr": {"min": 0.1, "max": 0.2}}}},
    ):
        assert read_settings({"ranges": written})[0].ranges == wanted
    assert "expected [lowest, highest]" in problems_of({"ranges": {"train.optim.lr": 3}})[0]


@pytest.mark.parametrize(
    ("metric", "direction"),
    [("val_loss", "minimize"), ("val_acc", "maximize"), ("error_rate", "minimize"),
     ("latency_ms", "minimize"), ("train time", "minimize"), ("cost", "minimize"),
     ("f1", "maximize"), ("glossary", "maximize"), ("timeline_score", "maximize")],
)  # fmt: skip
def test_defect_61_the_direction_follows_from_whole_words_of_the_metric(metric, direction):
    """Defect 61: a loss is minimised; a word that merely contains one is none."""
    assert direction_of(metric) == direction
    assert read_settings({"metric": metric})[0].direction == direction
    assert read_settings({"metric": metric, "direction": "maximize"})[0].direction == "maximize"


@pytest.mark.parametrize("written", ["val_acc", "val_acc_1", "val_acc@1", "accuracy", "kpi"])
def test_defect_68_all_names_of_the_accuracy_are_that_of_status_json(written):
    """Defect 68: SEED, Lightning and status.json name it differently."""
    assert metric_name(written) == "val_acc"
    assert read_settings({"metric": written})[0].metric == "val_acc"


def test_settings_that_the_algorithm_does_not_read_are_notes():
    _, notes = read_settings({"algorithm": "asha", "automl_population_size": 4, "seed": 3})
    assert notes == ("automl.population_size has no effect: algorithm is asha.",)


def test_the_length_of_a_full_training_follows_the_family():
    assert read_settings({}, num_epochs=12)[0].num_epochs == 12
    assert read_settings({"max_epochs": 5}, num_epochs=12)[0].num_epochs == 5
    assert read_settings({"algorithm": "asha"}, num_epochs=12)[0].num_epochs == 27
    units = {"algorithm": "h", "max_epochs": 9, "epoch_multiplier": 4}
    assert read_settings(units)[0].num_epochs == 36


@pytest.mark.parametrize(
    ("said", "epochs", "shape"),
    [
        ({}, 10, (10, 10, 1)),  # epochs, generations, interval
        ({}, 50, (40, 20, 2)),
        ({"automl_max_generations": 20, "automl_eval_interval": 10}, 12, (200, 20, 10)),
        ({"automl_eval_interval": 5}, 12, (12, 3, 5)),
        ({"automl_max_generations": 4}, 12, (12, 4, 3)),
        ({"automl_max_epochs": 7, "automl_eval_interval": 2}, 12, (7, 4, 2)),
    ],
)
def test_defect_64_the_generations_of_pbt_are_finite_and_fit_the_training(said, epochs, shape):
    """Defect 64: TAO's bounds of PBT may be infinite."""
    settings, _ = read_settings({"algorithm": "pbt", **said}, num_epochs=epochs)
    found = settings.num_epochs, settings.max_generations, settings.eval_interval
    assert found == shape


def test_defect_69_the_best_is_evaluated_in_the_end_unless_it_is_declined():
    """Defect 69: selection on validation data alone; the evaluation may be on held-out data."""
    assert read_settings({})[0].run_final_evaluation is True
    assert read_settings({"run_final_evaluation": False})[0].run_final_evaluation is False


def test_the_block_is_taken_out_of_a_document_before_the_spec_is_read():
    own, rest = split_document(
        {"automl": {"algorithm": "asha"}, "automl.seed": 3, "train": {"num_epochs": 2},
         "automl_policy": "on"}
    )  # fmt: skip
    assert own == {"algorithm": "asha", "seed": 3}
    assert rest == {"train": {"num_epochs": 2}, "automl_policy": "on"}
    assert split_document({"automl": None, "model": {}}) == ({}, {"model": {}})
    own, _ = split_document({"automl": {"ranges": {"a.b": [1, 2]}}, "automl.ranges.c.d": [3, 4]})
    assert own == {"ranges": {"a.b": [1, 2], "c.d": [3, 4]}}
    with pytest.raises(SpecError, match="automl: expected a block of settings"):
        split_document({"automl": "asha"})


def test_numbers_are_read_where_their_spelling_means_one():
    settings, _ = read_settings({"seed": "7", "max_concurrent": 2.0, "run_baseline": "yes"})
    assert (settings.seed, settings.max_concurrent, settings.run_baseline) == (7, 2, True)
    assert problems_of({"seed": 1.5}) == [
        "automl.seed: expected an integer in [0, 4294967295], got 1.5."
    ]
    assert "got nan" in problems_of({"automl_early_stop_threshold": float("nan")})[0]


def test_a_misspelt_metric_is_refused_and_one_that_no_training_tells_is_a_note():
    with pytest.raises(SpecError) as caught:
        read_settings({"metric": "valacc", "seed": "x"})
    assert [str(problem) for problem in caught.value.problems] == [
        "automl.seed: expected an integer in [0, 4294967295], got 'x'.",
        "automl.metric: expected a figure that trainings tell (train_loss, train_acc, val_loss, "
        "val_acc), got 'valacc'. Did you mean val_acc?",
    ]
    (note,) = read_settings({"metric": "f1"})[1]
    assert note.startswith("automl.metric 'f1' is none of the figures that trainings tell")
