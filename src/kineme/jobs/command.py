"""`kineme jobs ...`: the same as `kineme.jobs.Client`, in a terminal.

Promises: what scripts read (ids, tables, JSON) goes to stdout, everything else to stderr; an id may
be shortened as long as it is clear; `wait` ends with the exit code of the job.
Leaves out: what jobs are (client.py).
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kineme.actions import ACTIONS
from kineme.errors import (
    EXIT_OK,
    EXIT_SIGTERM,
    KinemeError,
    Problem,
    ServiceError,
    SpecError,
    listed,
    printable,
)
from kineme.jobs.client import Client, Job
from kineme.jobs.record import CRASHED, State
from kineme.jobs.store import RECORD_FILE
from kineme.network import NETWORKS

USAGE = """\
usage: kineme jobs create NETWORK ACTION [-e SPEC] [key=value ...] [options]
       kineme jobs list [--state STATE] [--network NAME] [--action NAME] [-n N] [--json]
       kineme jobs show ID [--json]
       kineme jobs logs ID [-n LINES] [-f]
       kineme jobs wait ID [--timeout SECONDS]
       kineme jobs cancel ID
       kineme jobs retry ID [--wait]
       kineme jobs delete ID [--cascade]
       kineme jobs checkpoints ID [--json]
       kineme jobs results ID [--json]

Runs actions as jobs, which are recorded, outlive the terminal and find their inputs in the jobs
before them. An ID may be shortened to its first digits. Times are UTC.

options of create
  --parent ID              the job whose model to use
  --checkpoint WHICH       of its models: best (default), latest, or the number of an epoch, which
                           counts from 0 as in the names of checkpoints
  --train-dataset PLACE    a folder, an archive or an s3:// address, for whatever the action reads
  --eval-dataset PLACE     in its place for validation and test
  --runner NAME            subprocess (default), slurm, ray, docker, in_process
  --platform NAME=VALUE    a setting of the runner; may be repeated
  --automl-policy POLICY   auto (default) and on: a training searches for good settings; off: not
  --idempotency-key KEY    the same key makes one job, however often this is run
  --wait                   wait for its end; the exit code is the job's
  --json                   print the record
options of the others
  --state, --network, --action, -n     list: jobs of that kind alone, the newest N
  -n LINES, -f, --follow   logs: the last LINES (100), and those to come until the job has ended
  --timeout SECONDS        wait: no longer than that (exit code 6); the job goes on
  --cascade                delete: the jobs that go on with it, too
options of all
  --root FOLDER            where the jobs are (default: $KINEME_JOBS, or ~/.kineme/jobs), or an
                           s3:// address that results are copied to
"""
_MAX_DIGITS = 19
_SHORT = 8  # characters of an id in tables
_FLAGS = ("--wait", "--json", "--cascade", "-f", "--follow")
_REPEATED = ("--platform", "--state", "--train-dataset")
_OF = {  # verb -> its options beside --root
    "create": ("-e", "--parent", "--checkpoint", "--train-dataset", "--eval-dataset", "--runner",
               "--platform", "--automl-policy", "--idempotency-key", "--wait", "--json"),
    "list": ("--state", "--network", "--action", "-n", "--json"),
    "show": ("--json",),
    "logs": ("-n", "--tail", "-f", "--follow"),
    "wait": ("--timeout",),
    "cancel": (),
    "retry": ("--wait",),
    "delete": ("--cascade",),
    "checkpoints": ("--json",),
    "results": ("--json",),
}  # fmt: skip


def main(words: Sequence[str]) -> int:
    """Run the command; returns the exit code. Raises KinemeError."""
    if not words:
        print(USAGE, end="")
        return EXIT_OK
    verb, *rest = words
    if verb not in _VERBS:
        fix = _did_you_mean(verb, _VERBS, otherwise="`kineme jobs --help` explains them.")
        raise SpecError("kineme jobs", f"one of {', '.join(_VERBS)}", repr(verb)[:80], fix)
    asked = _parsed(verb, rest)
    return _VERBS[verb](Client(asked.one("--root")), asked)


@dataclass(frozen=True)
class _Asked:
    """The words after a verb."""

    verb: str
    words: tuple[str, ...]
    options: Mapping[str, tuple[str, ...]]

    def one(self, *names: str) -> str | None:
        found = [value for name in names for value in self.options.get(name, ())]
        return found[-1] if found else None

    def has(self, *names: str) -> bool:
        return any(name in self.options for name in names)

    def number(self, *names: str, default: int | None = None) -> int | None:
        text = self.one(*names)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < _MAX_DIGITS):
            raise SpecError(names[0], "a whole number from 0", repr(text)[:40])
        return int(text)

    def id(self, client: Client) -> str:
        """The id that the only word stands for. Raises SpecError."""
        if len(self.words) != 1:
            received = "nothing" if not self.words else f"{len(self.words)} words"
            raise SpecError(f"kineme jobs {self.verb}", "the id of a job", received)
        return full_id(client, self.words[0])


def full_id(client: Client, text: str) -> str:
    """The id that begins with `text`, if it is clear which one. Raises SpecError."""
    store = client.store
    if len(text) >= 36 or not text or not set(text.lower()) <= set("0123456789abcdef-"):
        return store.load(text).id
    first = text.lower()
    found = {job_id for job_id in store.ids() if job_id.startswith(first)}
    for trials in store.trial_folders():
        found |= {path.parent.name for path in trials.glob(f"{first}*/{RECORD_FILE}")}
    if len(found) == 1:
        return found.pop()
    if not found:
        fix = "`kineme jobs list` shows them."
        raise SpecError("job id", f"a job of {store.root}", repr(text), fix)
    raise SpecError("job id", "enough digits for one job", f"those of {listed(sorted(found))}")


def _create(client: Client, asked: _Asked) -> int:
    if len(asked.words) < 2:
        received = " ".join(asked.words) or "nothing"
        fix = "For example: kineme jobs create pose_classification train --train-dataset data"
        raise SpecError("kineme jobs create", "a network and an action", received, fix)
    network, action, *overrides = asked.words
    parent, problem = _parent(client, asked.one("--parent"))
    try:
        job = _created(client, asked, network, action, overrides=overrides, parent=parent)
    except SpecError as error:
        if problem is None:
            raise
        told = [problem if one.where == problem.where else one for one in error.problems]
        raise SpecError.of(told) from error
    return _tell_new(job, asked)


def _created(
    client: Client,
    asked: _Asked,
    network: str,
    action: str,
    *,
    overrides: Sequence[str],
    parent: str | None,
) -> Job:
    return client.create_job(
        network,
        action,
        specs=asked.one("-e"),
        overrides=overrides,
        parent_job_id=parent,
        train_datasets=asked.options.get("--train-dataset"),
        eval_dataset=asked.one("--eval-dataset"),
        checkpoint=asked.one("--checkpoint"),
        runner=asked.one("--runner"),
        platform=_platform(asked.options.get("--platform", ())),
        automl_policy=asked.one("--automl-policy") or "auto",
        idempotency_key=asked.one("--idempotency-key"),
    )


def _parent(client: Client, text: str | None) -> tuple[str | None, Problem | None]:
    """The full id; one that is none as it is, for the request to refuse with the rest, and why."""
    try:
        return None if text is None else full_id(client, text), None
    except SpecError as error:
        return text, replace(error.problems[0], where="parent_job_id")


def _platform(texts: Iterable[str]) -> dict[str, Any]:
    from kineme.spec.overrides import parse_overrides

    parsed, problems = parse_overrides(texts)
    if problems:
        raise SpecError.of(problems)
    return {override.key: override.value for override in parsed}


def _tell_new(job: Job, asked: _Asked) -> int:
    """Print a job that was made just now or by the same key, and wait for it if asked to."""
    if not job.is_new:
        _say(f"note: job {job.id} was made before under this key; it is {job.status}")
    for choice in job.record.choices:
        _say(f"{choice.key}: {choice.value} ({choice.reason})")
    for note in job.record.notes:
        _say(f"note: {note}")
    print(json.dumps(job.to_dict(), indent=2) if asked.has("--json") else job.id, flush=True)
    return _wait(job) if asked.has("--wait") else EXIT_OK


def _list(client: Client, asked: _Asked) -> int:
    if asked.words:
        raise SpecError("kineme jobs list", "options alone", " ".join(asked.words))
    for option, known in (("--network", NETWORKS), ("--action", ACTIONS)):
        name = asked.one(option)
        if name is not None and name not in known:
            fix = _did_you_mean(name, known)
            raise SpecError(option, f"one of {', '.join(known)}", repr(name)[:60], fix)
    rows = client.list_jobs(
        states=asked.options.get("--state"),
        network_arch=asked.one("--network"),
        action=asked.one("--action"),
        limit=asked.number("-n"),
    )
    if asked.has("--json"):
        print(json.dumps([row._asdict() for row in rows], indent=2))
        return EXIT_OK
    if not rows:
        _say(_none_there(client, asked))
        return EXIT_OK
    _print_table(
        ("id", "network", "action", "state", "created", "parent"),
        [
            (row.id[:_SHORT], row.network_arch, row.action, str(row.state),
             _time(row.created_at), (row.parent_job_id or "")[:_SHORT])
            for row in rows
        ],
    )  # fmt: skip
    return EXIT_OK


def _none_there(client: Client, asked: _Asked) -> str:
    root = client.store.root
    if asked.has("--root") and not root.is_dir():
        return f"no jobs in {root}, which is no folder"
    is_limited = asked.has("--state", "--network", "--action", "-n")
    return f"no {'such ' if is_limited else ''}jobs in {root}"


def _show(client: Client, asked: _Asked) -> int:
    job = client.get_job(asked.id(client))
    record = job.record
    if asked.has("--json"):
        print(json.dumps(job.to_dict(), indent=2))
        return EXIT_OK
    facts = [("job", record.id), ("what", f"{record.network_arch} {record.action}"),
             ("state", str(record.state)), ("results", record.results_dir)]  # fmt: skip
    more = ("parent_job_id", "retry_of", "eval_dataset", "uploads_to", "backend_job_id")
    facts += [(name, str(value)) for name in more if (value := getattr(record, name))]
    facts += [("train_dataset", text) for text in record.train_datasets]
    facts += [("runner", record.runner)]
    if record.failure is not None:
        facts += [("failure", f"{record.failure.kind}: {line}")
                  for line in record.failure.message.splitlines()]  # fmt: skip
    facts += [(one.key, f"{one.value} ({one.function}: {one.reason})") for one in record.choices]
    facts += [("note", text) for text in record.notes]
    facts += [("created", _time(record.created_at))]
    facts += [(_time(step.time), f"{step.state}: {step.reason} ({step.source})")
              for step in record.transitions]  # fmt: skip
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        print(f"{name:<{width}}  {printable(text)}")
    return EXIT_OK


def _logs(client: Client, asked: _Asked) -> int:
    num_lines = asked.number("-n", "--tail", default=100)
    follow = asked.has("-f", "--follow")
    for line in client.get_job_logs(asked.id(client), num_lines or 0, follow=follow):
        print(line, flush=follow)
    return EXIT_OK


def _wait_for(client: Client, asked: _Asked) -> int:
    timeout = asked.number("--timeout")
    return _wait(client.get_job(asked.id(client)), timeout)


def _wait(job: Job, timeout: float | None = None) -> int:
    """The exit code of a job when it has ended. Raises ServiceError if it has not in time."""
    try:
        record = job.wait(timeout).record
    except TimeoutError as error:
        fix = "It goes on."
        expected = f"an end within {timeout:g} s"
        raise ServiceError(f"job {job.id}", expected, f"{job.status}", fix) from error
    except KeyboardInterrupt:
        _say(f"job {job.id} goes on; `kineme jobs cancel {job.id}` ends it")
        raise
    _say(f"job {record.id}: {record.state}")
    if record.failure is not None:
        for line in record.failure.message.splitlines():
            _say(f"error: {line}")
        if record.failure.kind == CRASHED:
            _say(f"`kineme jobs retry {record.id}` tries it again, from its newest checkpoint")
    return exit_code_of(job)


def exit_code_of(job: Job) -> int:
    """Of a job that has ended: its action's; 143 for one that was cancelled, 1 for a crash."""
    record = job.record
    if record.state is State.COMPLETE:
        return record.exit_code or EXIT_OK
    if record.state is State.CANCELED:
        return record.exit_code or EXIT_SIGTERM
    known = record.exit_code or (record.failure.exit_code if record.failure else None)
    return known or KinemeError.exit_code


def _cancel(client: Client, asked: _Asked) -> int:
    job_id = asked.id(client)
    is_canceled = client.cancel_job(job_id)
    job = client.get_job(job_id)
    if not is_canceled:
        _say(f"job {job_id}: {job.status}, which it was before")
    elif job.record.is_terminal:
        _say(f"job {job_id}: {job.status}")
    else:
        _say(f"job {job_id}: {job.status}, asked to end; `kineme jobs wait {job_id}` tells when")
    return EXIT_OK


def _retry(client: Client, asked: _Asked) -> int:
    return _tell_new(client.retry_job(asked.id(client)), asked)


def _delete(client: Client, asked: _Asked) -> int:
    job_id = asked.id(client)
    kept = client.delete_job(job_id, cascade=asked.has("--cascade"))
    _say(f"job {job_id}: deleted")
    for place in kept:
        _say(f"note: results stay in {place}, outside the folder of the job")
    return EXIT_OK


def _checkpoints(client: Client, asked: _Asked) -> int:
    found = client.get_checkpoints(asked.id(client))
    if asked.has("--json"):
        print(json.dumps([vars(one) for one in found], indent=2))
        return EXIT_OK
    for one in found:
        facts = [f"epoch {one.epoch}" if one.epoch is not None else "",
                 f"step {one.step}" if one.step is not None else "",
                 f"{one.metric_name} {one.metric_value:.4f}" if one.metric_name else "",
                 "best" if one.is_best else "", one.damage]  # fmt: skip
        print("  ".join([one.path, *filter(None, facts)]))
    return EXIT_OK


def _results(client: Client, asked: _Asked) -> int:
    job_id = asked.id(client)
    found = client.list_results(job_id)
    if asked.has("--json"):
        print(json.dumps({"results_dir": client.get_job(job_id).record.results_dir,
                          "files": found}, indent=2))  # fmt: skip
        return EXIT_OK
    _say(client.get_job(job_id).record.results_dir)
    for name in found:
        print(printable(name))
    return EXIT_OK


_VERBS: Mapping[str, Callable[[Client, _Asked], int]] = {
    "create": _create,
    "list": _list,
    "show": _show,
    "logs": _logs,
    "wait": _wait_for,
    "cancel": _cancel,
    "retry": _retry,
    "delete": _delete,
    "checkpoints": _checkpoints,
    "results": _results,
}


def _parsed(verb: str, words: Sequence[str]) -> _Asked:
    """Options and other words in any order. Raises SpecError."""
    allowed = (*_OF[verb], "--root")
    options: dict[str, tuple[str, ...]] = {}
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            others.append(word)
            continue
        if name not in allowed:
            expected = f"an option of it ({', '.join(allowed)})"
            fix = _did_you_mean(name, allowed)
            raise SpecError(f"kineme jobs {verb}", expected, repr(name)[:60], fix)
        if name in _FLAGS:
            options[name] = ()
            continue
        value = value if equals else next(rest, "")
        if not value:
            raise SpecError(name, "a value after it", "nothing")
        if name in options and name not in _REPEATED:
            raise SpecError(name, "it once", "it twice")
        options[name] = (*options.get(name, ()), value)
    return _Asked(verb, tuple(others), options)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    pattern = "  ".join(f"{{:<{width}}}" for width in widths)
    lines = [pattern.format(*row).rstrip() for row in (header, *rows)]
    print("\n".join(line if line.isprintable() else printable(line) for line in lines))


def _did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "") -> str:
    from kineme.spec.suggest import did_you_mean

    return did_you_mean(word, known, otherwise=otherwise)


def _time(text: str) -> str:
    """A time of a record without its fraction of seconds; all are UTC."""
    return text[:19].replace("T", " ")


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)
