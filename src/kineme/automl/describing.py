"""The settings of a search as a page of Markdown, for the skill that runs searches.

Promises: every setting with its default, bounds and meaning as the table of settings has them,
every other name that is understood, every setting of TAO's that is refused and why, and where each
network is searched if nothing else is said. `kineme schema generate` writes the page.
Leaves out: what to choose when (SKILL.md, which people write).
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from kineme.automl.page import range_words, scale_words
from kineme.automl.setting_rows import (
    ALGORITHM_NAMES,
    FAMILIES,
    NOT_SUPPORTED,
    OTHER_NAMES,
    ROWS,
    Row,
)
from kineme.automl.settings import BLOCK, HALVING_EPOCHS, Settings
from kineme.automl.space import build_space
from kineme.automl.wording import shown
from kineme.network import NETWORKS, load_specs
from kineme.skills import load_schema
from kineme.spec.load import load_spec
from kineme.spec.schema import resolved

_HEAD = f"""<!-- Written by `kineme schema generate`; do not edit. -->
# Settings of a search

In the block `{BLOCK}` of a spec file, as `{BLOCK}.NAME=value` on the command line, or as
`automl_settings` of `create_job`. TAO's names with `automl_` in front are the same settings; an
unknown name is an error that suggests the right one.

| Setting | Default | Values | Meaning | Read by |
|---|---|---|---|---|
"""
_DEFAULTS = {  # what no single value says
    "direction": "by the metric's name",
    "max_trials": "as max_recommendations",
    "max_epochs": f"`train.num_epochs`; {HALVING_EPOCHS} where trials are stopped early",
    "max_generations": "as max_epochs allows, at most 20",
    "eval_interval": "max_epochs in max_generations parts",
    "hyperparameters": "the table below",
    "ranges": "the table below",
    "baseline_metric": "not known",
    "final_evaluation_metric": "that of metric",
    "trial_timeout_seconds": "no limit",
}
_VALUES: Mapping[type, str] = {
    tuple: "a list of dotted settings; `+key` adds one, `-key` takes one away",
    dict: "`{setting: [lowest, highest]}`, or `{setting: {options: [...]}}`",
}


def settings_page() -> str:
    """The text of references/settings.md."""
    defaults = {one.name: one.default for one in fields(Settings)}
    lines = [_row(row, defaults.get(row.name)) for row in ROWS.values()]
    parts = [
        _HEAD + "\n".join(lines),
        "## Where each network is searched\n\nWith the defaults of the spec. Bounds follow the "
        "spec's own values, and what\nhas no effect beside them is left out; "
        f"`{BLOCK}.hyperparameters` and `{BLOCK}.ranges` say otherwise.",
        _table(("Network", "Setting", "Searched", "Scale", "Default"), _searched()),
        "## Other names\n\nOf algorithms, then of settings.",
        _table(("Written", "Means"), _other_names()),
        "## Not supported\n\nSettings of TAO's that are refused. The error says why, too.",
        _table(("Why", "Settings"), _refused()),
    ]
    return "\n\n".join(parts) + "\n"


def _row(row: Row, default: Any) -> str:
    said = _DEFAULTS.get(row.name) or f"`{shown(default)}`"
    values = _VALUES.get(row.kind, row.expected)
    if row.name == "algorithm":
        values = ", ".join(f"`{name}`" for name in FAMILIES)
    elif row.choices:
        values = ", ".join(f"`{choice}`" for choice in row.choices)
    readers = ", ".join(name for name in FAMILIES if name in row.algorithms) or "all"
    return f"| `{row.name}` | {said} | {values} | {row.doc} | {readers} |"


def _searched() -> Iterator[tuple[str, ...]]:
    for network in NETWORKS:
        model = load_specs(network)["train"]
        spec, _ = load_spec(model, dict.fromkeys(model.mandatory, "data"))
        space, _ = build_space(
            load_schema(network, "train"), resolved(spec), Settings(), idle=dict(spec.ignored())
        )
        for one in space.parameters:
            yield network, f"`{one.key}`", range_words(one), scale_words(one), shown(one.default)


def _other_names() -> Iterator[tuple[str, ...]]:
    for table in (ALGORITHM_NAMES, OTHER_NAMES):
        for name, meant in table.items():
            yield f"`{name}`", f"`{meant}`"


def _refused() -> Iterator[tuple[str, ...]]:
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, reason in NOT_SUPPORTED.items():
        by_reason[reason].append(f"`{name}`")
    for reason, names in by_reason.items():
        yield reason, ", ".join(names)


def _table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    rule = "|---" * len(header) + "|"
    first, *others = ("| " + " | ".join(cells) + " |" for cells in (header, *rows))
    return "\n".join([first, rule, *others])
