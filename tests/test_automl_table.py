"""The search on a terminal: what is shown, in which order, and what lines say elsewhere."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from automl_views import LR, ended, realistic, search_of
from kineme.automl.table import LiveTable, chosen_rows, describe_event, draw_table, summary
from kineme.automl.trials import Trial, TrialState
from kineme.automl.view import TrialView

NASTY = "[bold]x[/bold] \x1b[31m\n{}"


def console_of(height=24, *, is_terminal):
    return Console(file=io.StringIO(), force_terminal=is_terminal, width=160, height=height,
                   color_system=None, _environ={"TERM": "xterm"})  # fmt: skip


def drawn(view, num_rows=50):
    console = console_of(100, is_terminal=False)
    console.print(draw_table(view, num_rows=num_rows))
    return console.file.getvalue()


def running(number, epochs=3, curve=()):
    trial = Trial(number, {LR.key: 0.02}, 10, TrialState.RUNNING, curve=curve)
    return TrialView(trial, f"job{number}", epochs, 12.0)


def test_rows_are_the_running_then_the_best_then_the_newest_of_the_others():
    view = search_of(
        ended(0, 0.5), ended(1, None), ended(2, 0.7), running(3), ended(4, None), ended(5, 0.6)
    )
    rows, num_left_out = chosen_rows(view, 50)
    assert [one.number for one in rows] == [3, 2, 5, 0, 4, 1]
    assert num_left_out == 0
    rows, num_left_out = chosen_rows(view, 4)
    assert ([one.number for one in rows], num_left_out) == ([3, 2, 5, 0], 2)
    assert "2 more trials are in automl.html" in drawn(view, 4)


def test_a_row_says_how_far_a_trial_is():
    view = search_of(ended(0, 0.875, seconds=65.0), running(1, curve=((3, 0.25),)))
    lines = [line.split("│")[1:-1] for line in drawn(view).splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line] for line in lines]
    assert cells == [
        ["1", "running", "3/10", "0.25…", "0.02", "12.0 s", ""],
        ["0", "complete", "10", "0.875", "0.01", "1 min 05 s", ""],
    ]


def test_the_whole_is_told_in_one_line():
    view = search_of(ended(0, 0.5), ended(1, None), running(2), num_planned=20, seconds=130.0)
    assert (
        summary(view) == "2 of 20 trials ended, 1 failed, val_acc: best 0.5 (trial 0), 2 min 10 s"
    )
    assert summary(search_of(seconds=1.0)) == "0 trials ended, val_acc: no value yet, 1.0 s"


def test_without_a_terminal_every_event_is_one_line_once():
    console = console_of(is_terminal=False)
    with LiveTable(console) as table:
        table.update(search_of(running(0), num_planned=2))
        table.update(search_of(running(0, epochs=5), num_planned=2))
        done = ended(0, 0.5, seconds=3.0)
        table.update(search_of(done, num_planned=2))
        failed = ended(1, None, reason="no memory", seconds=1.0)
        table.update(search_of(done, failed, num_planned=2))
        table.update(search_of(done, failed, num_planned=2))
    assert console.file.getvalue().splitlines() == [
        "trial 0 of 2: running, 10 epochs; lr 0.02",
        "trial 0 of 2: complete, val_acc 0.5 after 10 epochs in 3.0 s; best 0.5 (trial 0)",
        "trial 1 of 2: failed (no memory) in 1.0 s; best 0.5 (trial 0)",
    ]


def test_lines_go_to_stderr(capsys):
    with LiveTable() as table:
        table.update(search_of(ended(0, 0.5)))
    out, err = capsys.readouterr()
    assert (out, err) == (
        "",
        "trial 0: complete, val_acc 0.5 after 10 epochs; best 0.5 (trial 0)\n",
    )


def test_on_a_terminal_the_table_is_drawn_anew_and_stays():
    console = console_of(is_terminal=True)
    with LiveTable(console) as table:
        table.update(search_of(running(0)))
        table.update(search_of(ended(0, 0.625)))
    first, *others = console.file.getvalue().split("pose_classification, bayesian")[1:]
    assert "running" in first
    assert "running" not in others[-1]
    assert "best 0.625 (trial 0)" in others[-1]


@pytest.mark.parametrize("num_trials", [0, 1, 200])
def test_a_table_of_any_number_of_trials_fits_the_window(num_trials):
    console = console_of(24, is_terminal=True)
    with LiveTable(console) as table:
        table.update(realistic(num_trials))
    frames = console.file.getvalue().split("pose_classification, bayesian")[1:]
    assert 1 <= len(frames) <= 2
    assert all(len(frame.splitlines()) <= 24 for frame in frames)


def test_what_strangers_wrote_is_not_obeyed():
    odd = ended(0, None, reason=NASTY, params={LR.key: NASTY})
    view = replace(search_of(odd), network=NASTY)
    assert "\x1b" not in drawn(view)
    assert "[bold]x[/bold]" in drawn(view)
    line = describe_event(odd, view)
    assert "\n" not in line
    assert "\x1b" not in line
