"""automl.html: every point is where its figures say, and nothing of strangers is obeyed."""

import math
import random
import re
from dataclasses import replace

import jinja2
import numpy as np
import pytest

from automl_views import (
    BATCH,
    CLIP,
    LR,
    MOMENTUM,
    PATIENCE,
    SCHEDULER,
    SPACE,
    ended,
    halving,
    realistic,
    search_of,
)
from kineme.automl import charts, comparing
from kineme.automl.findings import find_next_steps
from kineme.automl.importance import find_importances
from kineme.automl.page import render_page, write_page
from kineme.automl.parameters import Kind, Parameter, Space
from kineme.automl.trials import TrialState
from kineme.automl.view import Figure
from kineme.automl.wording import as_words, changes, duration, short_names, shown, typed
from kineme.spec.overrides import parse_override
from pages_read import Page

NASTY = "<script>alert(1)</script> \" ' & \x1b[31m {{ 7*7 }} \u202e"
FIVE = (
    ended(0, 0.5), ended(1, None, reason="broke"), ended(2, 0.7), ended(3, 0.6), ended(4, 0.9),
)  # fmt: skip


def titles(view):
    return [step.title for step in find_next_steps(view)]


def fix_of(view, part):
    return next(step.fix for step in find_next_steps(view) if part in step.title)


# The history ------------------------------------------------------------------------------
# The plotted area is x 60 to 940 and y 16 to 240.


def test_points_of_the_history_lie_where_their_values_say():
    svg = charts.draw_history(search_of(*FIVE))
    dots = re.findall(r'<circle class="c0" cx="([\d.]+)" cy="([\d.]+)"', svg)
    assert dots == [("60.0", "240.0"), ("500.0", "128.0"), ("720.0", "184.0"), ("940.0", "16.0")]
    assert 'd="M280.0 240m-4 -4l8 8m0 -8l-8 8"' in svg


def test_the_best_so_far_rises_where_a_trial_is_better():
    svg = charts.draw_history(search_of(*FIVE))
    assert '<path class="line c0" d="M60.0 240.0H500.0V128.0H940.0V16.0H940.0"/>' in svg


def test_of_a_loss_the_best_so_far_falls():
    trials = (ended(0, 0.6), ended(1, 0.8), ended(2, 0.4))
    view = search_of(*trials, settings={"metric": "val_loss", "direction": "minimize"})
    assert comparing.best_so_far(view) == [(0, 0.6), (2, 0.4)]
    assert "the best is 0.4, trial 2" in charts.draw_history(view)


def test_trials_of_fewer_epochs_are_hollow_and_raise_no_best():
    svg = charts.draw_history(search_of(ended(0, 0.9, 1), ended(1, 0.5, 10), ended(2, 0.7, 10)))
    assert comparing.best_so_far(search_of(ended(0, 0.9, 1), ended(1, 0.5, 10))) == [(1, 0.5)]
    assert len(re.findall(r'<circle class="hollow"', svg)) == 1
    assert len(re.findall(r'<circle class="c0"', svg)) == 2


def test_a_value_far_off_is_drawn_at_the_edge_and_leaves_room_for_the_others():
    trials = [ended(i, 0.5 + 0.1 * i) for i in range(4)]
    view = search_of(*trials, ended(4, 1e9),
                     settings={"metric": "val_loss", "direction": "minimize"})  # fmt: skip
    svg = charts.draw_history(view)
    # median 0.7, best 0.5: the chart ends at 0.7 + 3 x 0.2 = 1.3, its ticks at 1.4
    assert '<path class="c0" d="M940.0 16.0m-5 4h10l-5 -8z"/>' in svg
    ticks = re.findall(r'text-anchor="end">([\d.]+)</text>', svg)
    assert ticks == ["0.4", "0.6", "0.8", "1", "1.2", "1.4"]


def test_every_point_says_what_it_is():
    svg = charts.draw_history(search_of(*FIVE))
    assert "<title>trial 4: val_acc 0.9 after 10 epochs; lr 0.01</title>" in svg
    assert "<title>trial 1: failed (broke); lr 0.01</title>" in svg


# Parallel coordinates: axes at x = 66, 198, 330, ...; y from 264 up to 44 --------------------


def parallel_points(view):
    """Number of the trial -> the points of its line."""
    svg = charts.draw_parallel(view)
    lines = re.findall(r"<title>trial (\d+).*?</title><path class=\"line\" d=\"(.*?)\"", svg)
    return {
        int(number): [tuple(map(float, point.split())) for point in re.split("[ML]", path)[1:]]
        for number, path in lines
    }


def test_log_axes_are_straight_in_the_logarithm():
    trials = [ended(i, 0.5 + 0.1 * i, params={LR.key: lr, MOMENTUM.key: 0.5 + 0.1 * i})
              for i, lr in enumerate((0.001, 0.01, 0.1, 1.0))]  # fmt: skip
    points = parallel_points(search_of(*trials, space=Space((LR, MOMENTUM))))
    third = 220 / 3
    for i in range(4):
        x = [point[0] for point in points[i]]
        y = [point[1] for point in points[i]]
        assert x == [66, 198, 330]
        assert y[0] == pytest.approx(264 - i * third, abs=0.06)
        assert y[1] == pytest.approx(264 - i * 55, abs=0.06)
        assert y[2] == pytest.approx(264 - i * third, abs=0.06)


def test_choices_powers_and_off_have_places_of_their_own():
    both = Space((SCHEDULER, BATCH, CLIP))
    trials = [
        ended(0, 0.1, params={SCHEDULER.key: "MultiStep", BATCH.key: 4, CLIP.key: 0.0}),
        ended(1, 0.2, params={SCHEDULER.key: "AutoReduce", BATCH.key: 16, CLIP.key: 0.1}),
        ended(2, 0.3, params={SCHEDULER.key: "cosine", BATCH.key: 64, CLIP.key: 10.0}),
    ]
    points = parallel_points(search_of(*trials, space=both))
    heights = {number: [264 - point[1] for point in line][:3] for number, line in points.items()}
    assert heights[0] == pytest.approx([220 / 6, 0, 0], abs=0.06)
    assert heights[1] == pytest.approx([220 * 5 / 6, 110, 0.12 * 220], abs=0.06)
    assert heights[2] == pytest.approx([110, 220, 220], abs=0.06)


def test_a_setting_without_effect_is_bridged_by_a_dashed_line():
    trials = [ended(0, 0.1, params={SCHEDULER.key: "cosine"}), ended(1, 0.2, params={
        SCHEDULER.key: "AutoReduce", PATIENCE.key: 5})]  # fmt: skip
    svg = charts.draw_parallel(search_of(*trials, space=Space((SCHEDULER, PATIENCE))))
    # of trial 0, from its choice in the middle to its value at the bottom
    assert '<path class="line bridge" d="M66 154.0L330 264.0"/>' in svg
    assert svg.count("bridge") == 1


def test_the_best_fifth_has_the_first_shade_and_lies_on_top():
    trials = [ended(i, i / 10) for i in range(10)]
    svg = charts.draw_parallel(search_of(*trials))
    assert re.findall(r'<g class="(q\d)"', svg) == [f"q{4 - i // 2}" for i in range(10)]


def test_a_promoted_configuration_is_one_line_and_ranks_by_how_far_it_came():
    view = halving()
    shown_trials = comparing.configurations(view)
    assert len(view.trials) == 9 + 3 + 1
    assert [one.number for one in comparing.ranked(shown_trials, "maximize")] == [
        12, 10, 9, 5, 4, 3, 2, 1, 0,
    ]  # fmt: skip
    assert len(parallel_points(view)) == 9


# Learning curves ---------------------------------------------------------------------------


def test_a_curve_goes_over_all_steps_of_a_configuration():
    view = halving()
    best = 0.9
    assert comparing.curve_of(view, view.trials[12]) == [
        (1, pytest.approx(best * 0.5)), (3, pytest.approx(best * 7 / 8)),
        (9, pytest.approx(best * 511 / 512)),
    ]  # fmt: skip
    svg = charts.draw_learning_curves(view)
    # ticks 0 to 1 by 0.2; x = 60 + 880 / 9 x epochs
    heights = [f"{240 - 224 * value:.1f}" for value in (0.45, 0.7875, 0.8982)]
    line = "M157.8 {}L353.3 {}L940.0 {}".format(*heights)
    assert f'd="{line}"' in svg


def test_without_two_points_there_are_no_curves():
    assert charts.draw_learning_curves(search_of(*FIVE)) == ""


# Importance -------------------------------------------------------------------------------


def searched(value_of, num_trials=40, seed=3, space=SPACE):
    draws = random.Random(seed)
    trials = []
    for number in range(num_trials):
        params = space.params_at({one.key: draws.random() for one in space.parameters})
        trials.append(ended(number, value_of(params, draws), params=params))
    return search_of(*trials, space=space)


def test_what_decides_is_most_important_and_the_rest_explains_little():
    view = searched(lambda params, _: -abs(math.log10(params[LR.key]) + 2))
    found = find_importances(view)
    assert (found.num_trials, found.budget) == (40, 10)
    first, *others = found.rows
    assert first.key == LR.key
    assert first.share > 0.8
    assert first.is_clear
    assert max(row.share for row in others) < 0.15


def test_a_choice_that_decides_is_found():
    view = searched(lambda params, draws: (params[SCHEDULER.key] == "cosine") + draws.random() / 9)
    assert find_importances(view).rows[0].key == SCHEDULER.key


def test_importance_of_two_choices_is_that_computed_by_hand():
    two = Parameter("model.kind", Kind.CHOICE, "a", choices=("a", "b"))
    trials = [ended(i, float(i), params={two.key: "ab"[i // 4]}) for i in range(8)]
    (row,) = find_importances(search_of(*trials, space=Space((two,)))).rows
    ranks = np.arange(8.0)
    groups = np.array([[0, 1, 2, 3], [4, 5, 6, 7]], dtype=float)
    error = sum(((g - (g.sum() - g) / 3) ** 2).sum() for g in groups)
    assert row.share == pytest.approx(1 - error / ((ranks - (28 - ranks) / 7) ** 2).sum())


def test_noise_passes_for_an_effect_as_seldom_as_is_said():
    clear = total = 0
    for seed in range(20):
        rows = find_importances(searched(lambda _, draws: draws.random(), 16, seed)).rows
        clear += sum(row.is_clear for row in rows)
        total += len(rows)
    assert total == 120
    assert clear <= 14  # 6 are to be expected


def test_few_trials_or_equal_ones_say_nothing():
    assert find_importances(searched(lambda _, draws: draws.random(), 7)) is None
    assert find_importances(searched(lambda *_: 0.5, 20)) is None
    assert "fewer than 8 different results" in render_page(search_of(*FIVE))


def test_only_trials_of_one_length_are_compared():
    found = find_importances(halving(9))
    assert (found.num_trials, found.budget) == (9, 1)


# Findings ---------------------------------------------------------------------------------


def at_rates(*pairs, **more):
    trials = [ended(i, value, params={LR.key: lr}) for i, (lr, value) in enumerate(pairs)]
    return search_of(*trials, **more)


def test_a_best_value_at_the_end_of_its_range_asks_for_a_wider_one():
    view = at_rates((0.01, 0.2), (0.1, 0.4), (0.9, 0.9), (0.8, 0.8), (0.001, 0.1))
    assert "lr is best at the upper end of its range" in titles(view)
    assert fix_of(view, "upper end") == "Widen it: automl.ranges='{train.optim.lr: [0.001, 10]}'"
    down = at_rates((0.01, 0.5), (0.1, 0.4), (0.9, 0.1), (0.0011, 0.8), (0.0012, 0.7))
    assert fix_of(down, "lower end") == "Widen it: automl.ranges='{train.optim.lr: [0.0001, 1]}'"
    inside = at_rates((0.01, 0.9), (0.02, 0.8), (0.9, 0.1), (0.0011, 0.2), (0.0012, 0.3))
    assert not any("range" in title for title in titles(inside))


def test_what_the_setting_itself_bounds_is_not_to_be_widened():
    dropout = Parameter("model.dropout", Kind.FLOAT, 0.5, 0.0, 0.8)
    trials = [ended(i, 1 - i / 10, params={dropout.key: i / 10}) for i in range(8)]
    assert not any(
        "range" in title for title in titles(search_of(*trials, space=Space((dropout,))))
    )


def test_failures_of_one_cause_are_counted_and_told_with_the_setting_that_tells_them_apart():
    reason = "expected a finite loss, got nan at step {}"
    trials = [ended(i, 0.5 + i / 100, params={LR.key: 0.01 * (i + 1)}) for i in range(8)]
    trials += [
        ended(8 + i, None, params={LR.key: 0.5 + i / 10}, reason=reason.format(i)) for i in range(3)
    ]
    view = search_of(*trials)
    step = next(step for step in find_next_steps(view) if "failed" in step.title)
    assert step.title == "3 of 11 trials failed with the same cause"
    assert step.seen == (
        "Trial 8: expected a finite loss, got nan at step 0 "
        "All of them have lr 0.5 or more, all others less."
    )
    assert step.fix == "automl.ranges='{train.optim.lr: [0.001, 0.08]}'"


def test_one_failure_leads_to_its_log():
    view = search_of(
        *(ended(i, 0.5 + i / 10) for i in range(3)), ended(3, None, reason="no memory")
    )
    step = find_next_steps(view)[0]
    assert (step.title, step.seen) == ("1 of 4 trials failed", "Trial 3: no memory")
    assert step.fix == "Read its log: kineme jobs logs job3 --root results/trials"


def test_trials_that_brought_nothing_are_counted():
    view = search_of(ended(0, 0.5), ended(1, 0.9), *(ended(i, 0.6) for i in range(2, 14)))
    assert "The last 12 trials brought nothing" in titles(view)
    young = search_of(*(ended(i, 0.5 + i / 100) for i in range(12)))
    assert "The best came last" in titles(young)
    assert not any("brought nothing" in title for title in titles(young))


def test_a_figure_that_was_chosen_is_not_taken_for_a_measured_one():
    chosen = search_of(*FIVE, selected_on="the validation data")
    assert "Nobody has measured the best on held-out data" in titles(chosen)
    measured = replace(chosen, final=Figure(0.88, "test data"))
    assert not any("held-out" in title or "worse" in title for title in titles(measured))
    seen = replace(chosen, final=Figure(0.9, "the same data", is_seen=True))
    assert "Nobody has measured the best on held-out data" in titles(seen)
    worse = replace(chosen, final=Figure(0.8, "test data"))
    (step,) = (one for one in find_next_steps(worse) if "worse" in one.title)
    assert step.seen == "val_acc 0.9 on the validation data, 0.8 after."


def test_the_same_value_in_every_trial_is_no_result():
    assert titles(search_of(*(ended(i, 0.25) for i in range(6))))[0] == (
        "Every trial has the same value"
    )


def test_a_search_that_does_not_beat_its_start_says_so():
    view = search_of(*FIVE, baseline=Figure(0.95, "of the given weights"))
    assert "The search did not beat where it started" in titles(view)
    assert not any("beat" in one for one in titles(replace(view, baseline=Figure(0.5))))


def test_a_best_trial_with_the_values_of_the_spec_says_so():
    others = [ended(i, 0.5, params={LR.key: 0.2 + i / 100}) for i in range(1, 9)]
    view = search_of(ended(0, 0.9, params={LR.key: 0.1}), *others, baseline=Figure(0.9, "trial 0"))
    assert "The given spec is the best" in titles(view)
    assert not any("beat" in title for title in titles(view))


def test_a_curve_that_still_rises_asks_for_more_epochs():
    rising = ended(0, 1.0, curve=tuple((e, e / 10) for e in range(1, 11)))
    flat = ended(0, 0.5, curve=tuple((e, min(e / 10, 0.5)) for e in range(1, 11)))
    assert "The best trial ended too early" in titles(search_of(rising))
    assert "The best trial ended too early" not in titles(search_of(flat))


def test_every_advised_range_is_one_that_the_settings_take():
    from kineme.automl.settings import read_settings

    view = at_rates((0.01, 0.2), (0.1, 0.4), (0.9, 0.9), (0.8, 0.8), (0.001, 0.1))
    words = fix_of(view, "upper end").removeprefix("Widen it: ").replace("'", "")
    override = parse_override(words)
    settings, _ = read_settings({override.key.removeprefix("automl."): override.value})
    assert settings.ranges == {"train.optim.lr": {"min": 0.001, "max": 10}}


# The page ---------------------------------------------------------------------------------


@pytest.mark.parametrize("num_trials", [0, 1, 20, 200])
def test_any_number_of_trials_makes_a_page(num_trials, tmp_path):
    write_page(tmp_path / "automl.html", realistic(num_trials))
    page = Page((tmp_path / "automl.html").read_text(encoding="utf-8"))
    rows = [tag for tag, _ in page.tags].count("tr")
    assert rows >= num_trials + 1
    assert len((tmp_path / "automl.html").read_bytes()) < 500_000


def test_the_page_asks_nothing_of_the_network_and_runs_nothing():
    text = render_page(replace(realistic(), final=Figure(0.9, "test data"), notes=("a note",)))
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {
        tag for tag, _ in page.tags
    }
    assert not re.search(r"https?:|//\w|url\(|@import|javascript:", text)
    policies = [a for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policies[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    for _, attrs in page.tags:
        assert not any(name.startswith("on") for name in attrs)
        assert attrs.get("href", "#").startswith("#")
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"][1:] for tag, attrs in page.tags if tag == "a"} <= ids


def test_strangers_text_is_shown_and_not_obeyed():
    key = f"train.{NASTY}"
    odd = Parameter(key, Kind.CHOICE, NASTY, choices=(NASTY, "b"))
    trials = [
        ended(
            i, i / 10 if i else None, params={key: (NASTY, "b")[i % 2]}, reason=NASTY, folder=NASTY
        )
        for i in range(12)
    ]
    view = search_of(
        *trials, space=Space((odd,)), own={key: NASTY}, network=NASTY, folder=NASTY,
        selected_on=NASTY, best_spec=NASTY, notes=(NASTY,), next_steps=(NASTY,),
        baseline=Figure(0.5, NASTY), final=Figure(0.5, NASTY), settings={"metric": NASTY},
    )  # fmt: skip
    text = render_page(view)
    page = Page(text)
    assert "script" not in {tag for tag, _ in page.tags}
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "{{ 7*7 }}" in page.text
    assert page.text.count("<script>alert(1)</script>") > 10


def test_the_page_says_what_was_found_and_how_sure_it_is():
    view = realistic()
    said = Page(render_page(view)).text
    number = view.best.number
    assert f"trial {number}, best of" in said
    assert "chosen on the validation data" in said
    assert "2 running" in said
    assert "Not over yet" in said
    assert "Share of the differences between" in said
    assert "with fewer than 20 trials only strong effects do" in said
    assert said.count("got nan at step") >= 2


def test_settings_that_changed_are_words_to_copy_that_read_back_the_same():
    view = realistic()
    words = as_words(changes(view.best.params, view.own))
    assert words in Page(render_page(view)).text
    for word in words.split():
        override = parse_override(word)
        assert override.value == view.best.params[override.key]
    kept = [key for key, value in view.best.params.items() if view.own[key] == value]
    assert not any(f"{key}=" in words for key in kept)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (0.1, "0.1"), (1e-05, "1e-05"), (True, "true"), ("cosine", "cosine"), ("no", '"no"'),
        ([10, 60], "[10, 60]"), ("a b", '"a b"'), (None, "null"),
        ("torch.optim.SGD", "torch.optim.SGD"),
    ],
)  # fmt: skip
def test_a_typed_value_reads_back_the_same(value, word):
    assert typed(value) == word
    assert parse_override(f"a.b={word}").value == value


def test_figures_are_short_and_names_are_as_short_as_can_be():
    assert [shown(x) for x in (0.123456, 1e-7, 64, True, None, "a")] == [
        "0.1235", "1e-07", "64", "true", "not set", "a",
    ]  # fmt: skip
    assert [duration(x) for x in (None, 5.25, 59.94, 185, 7620)] == [
        "–", "5.2 s", "59.9 s", "3 min 05 s", "2 h 07 min",
    ]  # fmt: skip
    assert short_names(["a.lr", "b.lr", "b.x", "c"]) == {
        "a.lr": "a.lr", "b.lr": "b.lr", "b.x": "x", "c": "c",
    }  # fmt: skip


def test_a_pruned_trial_is_neither_a_failure_nor_a_result():
    view = search_of(ended(0, 0.5), ended(1, 0.4, state=TrialState.PRUNED, reason="trails"))
    assert not any("failed" in title for title in titles(view))
    assert "1 pruned" in Page(render_page(view)).text
    assert comparing.scored(view) == [view.trials[0]]


def test_the_template_is_compiled_once_however_often_the_page_is_written(tmp_path, monkeypatch):
    view = search_of(*FIVE)
    write_page(tmp_path / "first.html", view)
    monkeypatch.setattr(jinja2.Environment, "compile", None)
    write_page(tmp_path / "second.html", view)
    first, second = (tmp_path / f"{name}.html" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
