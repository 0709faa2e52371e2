"""`kineme automl NETWORK -e SPEC`: search for good settings of a training.

Promises: everything that is wrong with spec, settings and space is told before anything is made;
the same command goes on with a search that was cut off. What was found, and what to type next,
are the last lines; the exit code is 0 when a best trial was found.
Leaves out: the search (controller.py), the spec's own keys (`kineme spec NETWORK train`).
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kineme import concealment
from kineme.errors import EXIT_OK, SpecError, printable
from kineme.network import NETWORKS

if TYPE_CHECKING:  # --help needs none of what makes a plan
    from kineme.automl.trial_specs import Plan

USAGE = """\
usage: kineme automl NETWORK -e SPEC [key=value ...] [automl.NAME=value ...] [options]

Trains many times, each time with other settings, and tells the best. SPEC is a spec of train that
may have a block `automl`; the trials lie in <results_dir>/automl. Cut off at any moment, the same
command goes on.

  automl.algorithm=NAME           bayesian, bfbo, random, hyperband, hyperband_es, asha, bohb, dehb
                                  or pbt
  automl.max_recommendations=N    configurations to try (bayesian, bfbo, random, asha)
  automl.max_epochs=N             epochs of a full training
  automl.max_concurrent=N         trials at a time
  automl.metric=NAME              figure of status.json: val_acc, val_loss, ...
  automl.hyperparameters=[KEYS]   settings to search, in place of the usual ones; [+KEY] adds one
  automl.ranges={KEY: {min: A, max: B}}

options
  --network NAME        the same as NETWORK
  --runner NAME         who runs the trials: subprocess (default), in_process, ray, slurm, docker
  --platform KEY=VALUE  a setting of that runner
  --dry-run             show the search space and the plan, check what a trial needs; make nothing

examples
  kineme automl pose_classification -e train.yaml automl.algorithm=asha automl.max_epochs=27
"""
_OPTIONS = ("-e", "--experiment_spec_file", "--experiment-spec-file", "--network", "--runner",
            "--platform", "--device")  # fmt: skip
_FLAGS = ("--dry-run", "--log-json")
_MOST_WORDS = 100  # of a line of values


@dataclass
class _Request:
    """The words after `kineme automl`."""

    network: str = ""
    spec_path: str | None = None
    overrides: list[str] = field(default_factory=list)
    runner: str = "subprocess"
    platform: dict[str, Any] = field(default_factory=dict)
    is_dry_run: bool = False
    is_json: bool = False


def main(words: Sequence[str]) -> int:
    """Search; returns the exit code. Raises KinemeError."""
    request = _parse(words)
    from kineme.automl.controller import check_runner, search
    from kineme.automl.study import refuse_another
    from kineme.automl.trial_specs import read_plan

    plan = read_plan(
        request.network, request.spec_path, request.overrides, key=concealment.environment_key()
    )
    check_runner(plan, request.runner, request.platform)
    if request.is_dry_run:
        for text in plan.notes:
            _note(text)
        refuse_another(plan)
        for line in _plan_lines(plan, request.runner):
            print(line)
        _check_first_trial(plan, request.runner)
        return EXIT_OK
    from kineme.automl.table import LiveTable

    with LiveTable() as live:
        try:
            view = search(
                plan, runner=request.runner, platform=request.platform,
                show=live.update, tell=_note,
            )  # fmt: skip
        except BaseException:
            live.__exit__(None, None, None)  # what follows belongs below the table
            for line in _found_so_far(plan):
                print(line, file=sys.stderr)
            raise
    if request.is_json:
        print(json.dumps({"level": "result", **_result(view)}, default=str))
    else:
        for line in _result_lines(view):
            print(line)
    return EXIT_OK


def _check_first_trial(plan: "Plan", runner: str) -> None:
    """Data, disk and device of a training with the spec's own values. Raises KinemeError."""
    if runner not in ("subprocess", "in_process"):
        _note(f"Data and devices are those of the runner {runner}: they are not checked here.")
        return
    from kineme.actions.dry_run import check
    from kineme.data.remote.staging import localized
    from kineme.network import load_network

    spec = plan.spec.model_copy(update={"results_dir": str(plan.folder)})
    spec, fetched = localized(spec, tell=_note)
    for text in fetched:
        _note(text)
    for line in check(load_network(plan.network), spec):
        print(printable(line), file=sys.stderr if line.startswith("note: ") else sys.stdout)


def _parse(words: Sequence[str]) -> _Request:
    request = _Request()
    rest = iter(words)
    for word in rest:
        option, equals, attached = word.partition("=")
        if option in _OPTIONS:
            value = attached if equals else next(rest, "")
            if not value:
                raise SpecError(option, "a value after it", "nothing")
            _take(request, option, value)
        elif word in _FLAGS:
            request.is_dry_run |= word == "--dry-run"
            request.is_json |= word == "--log-json"
        elif word == "--resume":
            raise SpecError("automl", "no such option", word, "The same command goes on by itself.")
        elif word.startswith("-"):
            raise _unknown("option", option, [*_OPTIONS, *_FLAGS])
        elif word == "train":
            fix = "Leave it out: a search is always one of trainings."
            raise SpecError("automl", "a network and settings", repr(word), fix)
        elif equals and (meant := _of_block(option)):
            expected = "a setting of the spec, or automl.NAME=value"
            raise SpecError("automl", expected, repr(option), meant)
        elif not equals and not word.startswith("~"):
            _take(request, "--network", word)
        else:
            request.overrides.append(word)
    if not request.network:
        expected = f"a network ({', '.join(NETWORKS)})"
        raise SpecError("automl", expected, "none", "For example: kineme automl "
                        "pose_classification -e train.yaml")  # fmt: skip
    return request


def _of_block(key: str) -> str:
    """What to do about a setting of the search without its block in front."""
    from kineme.automl.setting_rows import ROWS
    from kineme.network import load_specs
    from kineme.spec.suggest import did_you_mean

    is_of_spec = any(key in specs["train"].model_fields for specs in map(load_specs, NETWORKS))
    known = [key] if key in ROWS and not is_of_spec else []
    return did_you_mean(key, known, shown=lambda name: f"automl.{name}")


def _take(request: _Request, option: str, value: str) -> None:
    if option == "--network":
        if value not in NETWORKS:
            raise _unknown("network", value, list(NETWORKS))
        if request.network not in ("", value):
            raise SpecError("automl", "one network", f"{request.network} and {value}")
        request.network = value
    elif option == "--runner":
        request.runner = value
    elif option == "--device":
        request.overrides.append(f"device={value}")
    elif option == "--platform":
        from kineme.spec.overrides import parse_override

        try:
            override = parse_override(value)
        except ValueError as error:
            expected, received = error.args
            raise SpecError(option, expected, received[:80]) from error
        request.platform[override.key] = override.value
    elif request.spec_path is not None:
        raise SpecError(option, "one spec file", f"{request.spec_path!r} and {value!r}")
    else:
        request.spec_path = value


def _unknown(what: str, word: str, known: Sequence[str]) -> SpecError:
    from kineme.spec.suggest import did_you_mean

    fix = did_you_mean(word, known, otherwise="`kineme automl --help` lists them.")
    return SpecError("automl", f"a known {what} ({', '.join(known)})", repr(word[:80]), fix)


def _note(text: str) -> None:
    print(f"note: {printable(text)}", file=sys.stderr, flush=True)


def _plan_lines(plan: Any, runner: str) -> Iterator[str]:
    """What a search would do."""
    from kineme.automl.telling import num_planned, selected_on
    from kineme.automl.trial_specs import is_begun
    from kineme.automl.wording import epochs, shown

    settings = plan.settings
    begun = "goes on in" if is_begun(plan) else "would begin in"
    count = num_planned(plan)
    yield f"AutoML of {plan.network} {begun} {plan.folder}"
    yield f"{settings.algorithm}: {settings.metric} is to be {settings.direction}d on " + (
        selected_on(plan)
    )
    yield (
        f"{count if count is not None else f'{settings.num_trials} configurations and more'} "
        f"trials of at most {epochs(settings.num_epochs)}, {settings.max_concurrent} at a time, "
        f"by the runner {runner}"
    )
    yield "search space:"
    for one in plan.space.parameters:
        values = ", ".join(map(shown, one.choices)) if one.choices else (
            f"{shown(one.low)} to {shown(one.high)}" + (", logarithmic" if one.is_log else "")
        )  # fmt: skip
        off = f", or {shown(one.off)}" if one.off is not None else ""
        own = f" (the spec has {shown(plan.own[one.key])})"
        yield printable(f"  {one.key}: {values[:_MOST_WORDS]}{off}{own}")


def _result_lines(view: Any) -> Iterator[str]:
    """What was found, and what to type next."""
    from kineme.automl.study import PAGE_FILE
    from kineme.automl.table import summary
    from kineme.automl.wording import shown

    yield summary(view)
    if view.best is None:
        return
    yield f"best trial {view.best.number}: {view.metric} {shown(view.best.value)}"
    for key, value in view.best.params.items():
        yield printable(f"  {key}: {shown(value)} (the spec has {shown(view.own.get(key))})")
    if view.baseline is not None:
        yield printable(f"baseline: {shown(view.baseline.value)} ({view.baseline.where})")
    if view.final is not None:
        yield printable(f"final evaluation: {shown(view.final.value)} ({view.final.where})")
    else:
        yield printable(f"chosen on {view.selected_on}: no held-out data have measured it")
    yield f"page: {view.folder}/{PAGE_FILE}"
    yield "next:"
    yield from (f"  {printable(text)}" for text in view.next_steps)


def _result(view: Any) -> Mapping[str, Any]:
    """The same for programs."""
    best = view.best
    return {
        "network": view.network, "folder": view.folder, "metric": view.metric,
        "direction": view.direction, "trials": len(view.trials),
        "best": {"trial": best.number, "job_id": best.job_id, "value": best.value,
                 "params": dict(best.params)} if best else None,
        "baseline": view.baseline.value if view.baseline else None,
        "final": view.final.value if view.final else None,
        "best_spec": view.best_spec, "next_steps": list(view.next_steps),
    }  # fmt: skip


def _found_so_far(plan: Any) -> Iterator[str]:
    """The best of a search that ends early."""
    from kineme.automl.study import BEST_SPEC_FILE
    from kineme.jobs.choosing import BEST_TRIAL_FILE

    try:
        best = json.loads((plan.folder / BEST_TRIAL_FILE).read_bytes())
        yield printable(
            f"best so far: trial {best['trial']}, {best['metric']} {best['value']:.6g}; "
            f"{plan.folder / BEST_SPEC_FILE}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        yield "best so far: no trial has ended yet"
