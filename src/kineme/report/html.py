"""One self-contained report.html: how good, where it fails, what to fix next.

Promises: a single file that makes no request of any kind (a content policy forbids it)
and runs no script; every string of the user is escaped; readable on a phone, in print,
in light and dark; tables have headers and drawings have words.
Leaves out: computing the figures (scores.py, findings.py) and drawing (plots.py,
filmstrip.py).

Shapes: N samples, K classes; skeletons (C, T, V, M).
"""

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kineme import files
from kineme.engine.metrics import NO_ANSWER
from kineme.engine.names import CONFUSION_PLOT_FILE, REPORT_FILE
from kineme.report import plots
from kineme.report.environment import environment
from kineme.report.findings import Training, find_next_steps
from kineme.report.scores import Scores, compute_scores, predicted_classes
from kineme.report.trust import Trust

NUM_DRAWN = 12  # mistakes
MAX_CLASSES_AS_TABLE = 24  # beyond that the confusion matrix is a picture
CONFIDENCE_BANDS = ((0.0, 0.5), (0.5, 0.7), (0.7, 0.9), (0.9, 0.99), (0.99, 1.0))


@dataclass(frozen=True)
class Baseline:
    """What another model got on the same data. accuracy: in [0, 1]. curves: as `occlusion`."""

    checkpoint: str
    accuracy: float
    curves: plots.Curves


@dataclass(frozen=True)
class ReportInput:
    """What a report is made of, in plain values.

    labels (N,): -1 where unknown. probabilities (N, K): zero where no class was answered.
    draw: markup of the sample at a position (filmstrip.py).
    parts: accuracy in percent of parts of the model alone.
    history: rows of the training's metrics.csv. facts: what was run, name to value.
    occlusion: what was hidden, to points (share hidden, accuracy), both in [0, 1]; a single
    point is one part of the body. warnings: notes on the data. training: what advice depends on.
    trust: probabilities before and after calibration, and unknown samples.
    baseline: another model, whose figures stand beside.
    """

    title: str
    class_names: Sequence[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.floating]
    ids: Sequence[str]
    draw: Callable[[int], str] | None = None
    parts: Mapping[str, float | None] = field(default_factory=dict)
    history: Sequence[Mapping[str, float]] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    occlusion: Mapping[str, plots.Curve] | None = None
    warnings: Collection[str] = ()
    training: Training = field(default_factory=Training)
    trust: Trust | None = None
    baseline: Baseline | None = None


def write_report(folder: str | Path, report: ReportInput) -> Path:
    """Write report.html and confusion_matrix.png to `folder`; returns the report's path."""
    scores = compute_scores(report.labels, report.probabilities, class_names=report.class_names)
    picture = plots.render_confusion_png(scores.confusion, report.class_names)
    with files.atomic_write(Path(folder) / CONFUSION_PLOT_FILE) as file:
        file.write(picture)
    target = Path(folder) / REPORT_FILE
    files.write_text(target, render_report(report, scores, confusion_png=picture))
    return target


def render_report(report: ReportInput, scores: Scores, *, confusion_png: bytes) -> str:
    """The page as text."""
    from markupsafe import Markup

    pages = environment()
    pages.filters["percent"] = _percent
    is_table = len(report.class_names) <= MAX_CLASSES_AS_TABLE
    drawn, has_mistakes = _drawn_samples(report)
    hidden = _from_nothing(report.occlusion or {}, scores.accuracy)
    return pages.get_template("report.html").render(
        report=report,
        scores=scores,
        chance=1 / max(len(report.class_names), 1),
        steps=find_next_steps(
            scores,
            history=report.history,
            occlusion=hidden,
            training=report.training,
        ),
        classes=sorted(scores.classes, key=lambda score: (score.num_samples == 0, score.f1)),
        confusion=scores.confusion.tolist() if is_table else None,
        columns=[*report.class_names, NO_ANSWER][: scores.confusion.shape[1]],
        confusion_png=base64.b64encode(confusion_png).decode(),
        drawn=[{**sample, "strip": Markup(sample["strip"])} for sample in drawn],  # noqa: S704
        has_mistakes=has_mistakes,
        has_sides=any('class="l"' in sample["strip"] for sample in drawn),
        curves={name: Markup(svg) for name, svg in _curves(report).items() if svg},  # noqa: S704
        occlusion=Markup(_occlusion_chart({**hidden, **_beside(report)})),  # noqa: S704
        parts=[*_shares(report.parts), ("together", scores.accuracy)],
        missing=_parts_hidden(report, hidden),
        bands=_confidence_bands(report),
        reliability=Markup(_reliability(report.trust)),  # noqa: S704
    )


def _curves(report: ReportInput) -> dict[str, str]:
    """Charts of the training, as markup."""
    accuracy = _in_percent(plots.curves_of(report.history, "acc"), which=1)
    return {
        "Loss": plots.draw_curves(plots.curves_of(report.history, "loss"), x="epoch", y="loss"),
        "Accuracy (%)": plots.draw_curves(accuracy, x="epoch", y="accuracy"),
    }


def _from_nothing(curves: plots.Curves, accuracy: float) -> dict[str, plots.Curve]:
    """What was hidden; curves begin where nothing is, single points stay."""
    return {
        name: curve if len(curve) == 1 else [(0.0, accuracy), *curve]
        for name, curve in curves.items()
    }


def _beside(report: ReportInput) -> dict[str, plots.Curve]:
    """The curves of the baseline, named as such."""
    if report.baseline is None:
        return {}
    theirs = _from_nothing(report.baseline.curves, report.baseline.accuracy)
    return {f"{name}, baseline": curve for name, curve in theirs.items()}


def _parts_hidden(
    report: ReportInput, hidden: plots.Curves
) -> list[tuple[str, float, float, float | None]]:
    """(part, share of the joints, accuracy, that of the baseline), the hardest first."""
    theirs = report.baseline.curves if report.baseline else {}
    rows = [
        (name, *curve[0], theirs[name][0][1] if name in theirs else None)
        for name, curve in hidden.items()
        if len(curve) == 1
    ]
    return sorted(rows, key=lambda row: row[2])


def _occlusion_chart(hidden: Mapping[str, plots.Curve]) -> str:
    lines = {name: curve for name, curve in hidden.items() if len(curve) > 1}
    percents = _in_percent(lines, which=slice(0, 2))
    return plots.draw_curves(percents, x="% missing", y="accuracy in %")


def _reliability(trust: Trust | None) -> str:
    """Chart of how often answers are right over how sure they are, as markup."""
    if trust is None or not trust.samples:
        return ""
    curves = {"ideal": [(0.0, 0.0), (1.0, 1.0)], **trust.curves}
    percents = _in_percent(curves, which=slice(0, 2))
    return plots.draw_curves(percents, x="confidence in %", y="right in %")


def _shares(percents: Mapping[str, float | None]) -> list[tuple[str, float | None]]:
    return [(name, None if value is None else value / 100) for name, value in percents.items()]


def _drawn_samples(report: ReportInput) -> tuple[list[dict[str, Any]], bool]:
    """The samples to look at, and whether they are mistakes (or else the closest calls).

    The worst mistake of every pair of classes comes first, then the second worst, ...
    """
    if report.draw is None or not len(report.labels):
        return [], False
    labels, probabilities = report.labels, report.probabilities
    predicted = predicted_classes(probabilities)
    confidence = probabilities.max(axis=1)
    rows = np.arange(len(labels))
    wrong = np.flatnonzero((predicted != labels) & (labels >= 0))
    severity = confidence - probabilities[rows, np.maximum(labels, 0)]
    if len(wrong):
        ordered = wrong[np.argsort(-severity[wrong], kind="stable")]
        rank: dict[tuple[int, int], int] = {}
        turn = []
        for row in ordered:
            pair = (int(labels[row]), int(predicted[row]))
            turn.append(rank.get(pair, 0))
            rank[pair] = turn[-1] + 1
        chosen = ordered[np.argsort(turn, kind="stable")][:NUM_DRAWN]
    else:
        chosen = np.argsort(confidence, kind="stable")[: NUM_DRAWN // 2]
    drawn = [_drawn_sample(report, int(row), report.draw(int(row))) for row in chosen]
    return drawn, bool(len(wrong))


def _drawn_sample(report: ReportInput, row: int, strip: str) -> dict[str, Any]:
    probabilities = report.probabilities[row]
    label = int(report.labels[row])
    return {
        "id": report.ids[row],
        "label": report.class_names[label] if label >= 0 else "",
        "label_probability": float(probabilities[label]) if label >= 0 else None,
        "is_right": label == int(predicted_classes(probabilities[None])[0]),
        "top": [
            (report.class_names[i], float(probabilities[i]), i == label)
            for i in np.argsort(-probabilities, kind="stable")[:3]
            if probabilities.any()
        ],
        "strip": strip,
    }


def _confidence_bands(report: ReportInput) -> list[dict[str, Any]]:
    """How often answers of each confidence are right."""
    is_known = report.labels >= 0
    confidence = report.probabilities[is_known].max(axis=1, initial=0)
    is_right = predicted_classes(report.probabilities[is_known]) == report.labels[is_known]
    bands = []
    for low, high in reversed(CONFIDENCE_BANDS):
        inside = (confidence >= low) & ((confidence < high) | (high == 1))
        if inside.any():
            bands.append(
                {"low": low, "high": high, "count": int(inside.sum()),
                 "right": float(is_right[inside].mean())}
            )  # fmt: skip
    return bands


def _in_percent(curves: Mapping[str, plots.Curve], *, which: int | slice) -> dict[str, plots.Curve]:
    scaled: dict[str, plots.Curve] = {}
    for name, curve in curves.items():
        points = np.array(curve, dtype=float).reshape(-1, 2)
        points[:, which] *= 100
        scaled[name] = [(float(x), float(y)) for x, y in points]
    return scaled


def _percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] for reading; a dash where there is none (NaN)."""
    return "–" if share is None or share != share else f"{100 * share:.{digits}f}"
