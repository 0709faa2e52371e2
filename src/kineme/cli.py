"""Words to calls: the commands `kineme` and `pose_classification`.

Promises: `--help` of networks and actions imports neither torch nor numpy; every error a user
can cause is a line per problem on stderr and its own exit code; a bug is one line that names
the traceback's file; secrets of the spec are in none of them. An action ends with TAO's status
line. What could not be printed is exit code 5 where all else went well.
Leaves out: what actions do (actions/), what specs mean (spec/), the texts of help (usage.py).
"""

import importlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kineme import __version__, concealment
from kineme.actions import ACTIONS
from kineme.console import Session, notes_from_warnings, steady_streams
from kineme.errors import (
    EXIT_BUG,
    EXIT_OK,
    EXIT_SIGINT,
    KinemeError,
    Problem,
    ResourceError,
    SpecError,
)
from kineme.network import NETWORKS, load_network, load_specs
from kineme.usage import SPEC_USAGE, action_usage, network_usage, usage

# Commands beside the networks' own: words -> exit code.
COMMANDS = {
    "analyze": "kineme.people.command:main",
    "automl": "kineme.automl.command:main",
    "check": "kineme.actions.data_check:check",
    "data": "kineme.actions.data_check:main",
    "demo": "kineme.demo:main",
    "jobs": "kineme.jobs.command:main",
    "migrate": "kineme.migrate:main",
    "models": "kineme.people.models:main",
    "schema": "kineme.skills.generate:main",
    "skills": "kineme.skills.copying:main",
}

SPEC_OPTIONS = ("-e", "--experiment_spec_file", "--experiment-spec-file")
FLAGS = ("--dry-run", "--log-json")
SHORTHANDS = {"--annotate": "inference.annotate=true", "--resume": "{action}.resume=true"}
MAX_BAD = "inference.max_bad"
PURPOSES = {"--annotate": "It labels videos.", "--max-bad": "It is for inputs without labels."}
RETIRED_OPTIONS = {
    "-r": "results_dir=...",
    "-k": "encryption_key=...",
    "-m": "<action>.checkpoint=...",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. argv: its words, by default this process's.

    Words of this process that hold a key make it start anew without them (concealment.py).
    """
    return _main((), argv)


def pose_classification() -> int:
    """TAO's own command: `pose_classification <action> ...`."""
    return _main(("pose_classification",))


def action_recognition() -> int:
    """TAO's own command: `action_recognition <action> ...`."""
    return _main(("action_recognition",))


def _main(first: Sequence[str], argv: Sequence[str] | None = None) -> int:
    # Read by OpenMP when torch is loaded: threads that wait sleep instead of spinning, which
    # costs nothing alone and an order of magnitude where something else wants the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    session = Session(is_json="--log-json" in (sys.argv[1:] if argv is None else argv))
    with steady_streams(session), notes_from_warnings(session):
        try:
            told = concealment.told(argv)
            session.secrets = told.secrets
            code = _command([*first, *told.words], session)
        except KeyboardInterrupt as error:
            code = _failed(session, error, EXIT_SIGINT)
        except KinemeError as error:
            code = _refused(session, error)
        except Exception as error:  # noqa: BLE001 - where bugs end
            code = _failed(session, error, EXIT_BUG)
        if session.is_action:
            print(f"Execution status: {'PASS' if code == EXIT_OK else 'FAIL'}")
        sys.stdout.flush()
        if session.lost and code == EXIT_OK:
            code = _refused(session, _not_printed(session.lost))
    return code


@dataclass
class _Request:
    """The words after `<network> <action>`."""

    spec_path: str | None = None
    overrides: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)  # those that stand for settings
    is_dry_run: bool = False
    wants_help: bool = False


def _command(words: list[str], session: Session) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
    elif words[0] == "--version":
        print(f"kineme {__version__}")
    elif words[0] in NETWORKS:
        return _network(words[0], words[1:], session)
    elif words[0] == "spec" and _wants_help(words):
        print(SPEC_USAGE)
    elif words[0] == "spec":
        print(_spec_text(words[1:]), end="")
    elif words[0] in COMMANDS and _wants_help(words):
        text = importlib.import_module(COMMANDS[words[0]].partition(":")[0]).USAGE.rstrip()
        print(text if text.startswith("usage: ") else f"usage: {text}")
    elif words[0] in COMMANDS:
        return int(_imported(COMMANDS[words[0]])(words[1:]))
    else:
        known = [*NETWORKS, "spec", *COMMANDS]
        raise _unknown("command", words[0], known, "`kineme --help` lists them.")
    return EXIT_OK


def _network(name: str, words: list[str], session: Session) -> int:
    """`<network> <action> ...`"""
    if not words or words[0] in ("-h", "--help"):
        print(network_usage(name))
        return EXIT_OK
    action = words[0]
    if action not in (*ACTIONS, "default_specs"):
        fix = f"`kineme {name} --help` lists them."
        raise _unknown("action", action, [*ACTIONS, "default_specs"], fix)
    if _wants_help(words):
        print(action_usage(name, action))
        return EXIT_OK
    session.is_action = action in ACTIONS and _is_first_process()
    request = _parse(words[1:], action, load_specs(name).get(action))
    if action == "default_specs":
        _write_default_specs(name, request)
    else:
        _refuse_unfit(name, action, request.options)
        _run(name, action, request, session)
    return EXIT_OK


def _wants_help(words: Sequence[str]) -> bool:
    return "-h" in words or "--help" in words


def _refuse_unfit(name: str, action: str, options: Sequence[str]) -> None:
    """Raise SpecError for each option that stands for a setting this action does not have."""
    from kineme.spec.fields import settings_by_key

    problems = []
    for option in options:
        having = [
            (network, one)
            for network in NETWORKS
            for one, spec in load_specs(network).items()
            if (key := _key_of(option, one)).startswith(f"{one}.") and key in settings_by_key(spec)
        ]
        if (name, action) not in having:
            here = [one for network, one in having if network == name]
            others = [f"{network} {one}" for network, one in having]
            expected = f"an action that has it ({', '.join(here or others)})"
            fix = PURPOSES.get(option, "")
            problems.append(Problem(option, expected, f"{name} {action}", fix))
    if problems:
        raise SpecError.of(problems)


def _key_of(option: str, action: str) -> str:
    """The setting that an option stands for."""
    text = MAX_BAD if option == "--max-bad" else SHORTHANDS[option]
    return text.format(action=action).partition("=")[0]


def _run(name: str, action: str, request: _Request, session: Session) -> None:
    from kineme.data.remote.staging import localized
    from kineme.spec.load import load_spec
    from kineme.spec.schema import secrets_of
    from kineme.spec.sections import run_folder

    spec, notes = load_spec(load_specs(name)[action], request.spec_path, request.overrides)
    spec, notes = _with_environment_key(spec, notes)
    session.secrets += secrets_of(spec)
    session.run_folder = run_folder(spec)
    for note in notes:
        session.say("note", note)
    spec, fetched = localized(spec, tell=lambda text: session.say("note", text))
    for note in fetched:
        session.say("note", note)
    network = load_network(name)
    if request.is_dry_run:
        for line in _imported("kineme.actions.dry_run:check")(network, spec):
            if line.startswith("note: "):
                session.say("note", line.removeprefix("note: "))
            else:
                print(line)
        return
    result = _imported(ACTIONS[action])(network, spec)
    if session.is_json and session.is_action:
        print(json.dumps({"level": "result", **(result or {})}, default=str))


def _with_environment_key(spec: Any, notes: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """`spec` with the key of the environment, if it has none of its own."""
    from kineme.spec.load import with_values

    key = concealment.environment_key()
    if key is None or spec.encryption_key == key:
        return spec, notes
    if spec.encryption_key is not None:
        return spec, (*notes, f"{concealment.VARIABLE} is not used: the spec names a key.")
    return with_values(spec, {"encryption_key": key}), notes


def _parse(words: list[str], action: str, spec: Any = None) -> _Request:
    """Options and overrides of an action, whose spec model is `spec`, in any order."""
    request = _Request()
    rest = iter(words)
    for word in rest:
        option, equals, attached = word.partition("=")
        if option in (*SPEC_OPTIONS, "--device", "--max-bad"):
            value = attached if equals else next(rest, "")
            if not value:
                raise SpecError(option, "a value after it", "nothing")
            if option == "--device":
                request.overrides.append(f"device={value}")
            elif option == "--max-bad":
                request.overrides.append(f"{MAX_BAD}={_share(value)}")
                request.options.append(option)
            elif request.spec_path is not None:
                raise SpecError(option, "one spec file", f"{request.spec_path!r} and {value!r}")
            else:
                request.spec_path = value
        elif word in SHORTHANDS:
            request.overrides.append(SHORTHANDS[word].format(action=action))
            request.options.append(word)
        elif word in FLAGS:
            request.is_dry_run |= word == "--dry-run"
        elif word in ("-h", "--help"):
            request.wants_help = True
        elif word in RETIRED_OPTIONS or word.startswith("-k"):
            word = word[:2]  # the key may be attached
            fix = f"Write {RETIRED_OPTIONS[word]} instead."
            raise SpecError(word, "the options of TAO 5.0 and later", "one of 4.0", fix)
        elif word.startswith("-"):
            fix = f"Settings have no dashes: {_as_setting(word, next(rest, ''), spec)}."
            known = [*SPEC_OPTIONS, *FLAGS, *SHORTHANDS, "--device", "--max-bad", "--help"]
            raise _unknown("option", option, known, fix)
        else:
            request.overrides.append(word)
    return request


def _as_setting(word: str, following: str, spec: Any) -> str:
    """What `--word value` or `--word=value` means as key=value: the closest real key.

    The value is shown only where the key is certain and not secret.
    """
    from kineme.spec.fields import settings_by_key
    from kineme.spec.suggest import suggested_key

    written, equals, value = word.lstrip("-").partition("=")
    written = written.replace("-", "_")
    key = suggested_key(spec, written) if spec else None
    if key is None:
        return "key=value"
    is_certain = key.split(".")[-1] == written.split(".")[-1]
    is_value = is_certain and not settings_by_key(spec)[key].rule.secret if "." in key else False
    value = value if equals else "" if following.startswith("-") else following
    return f"{key}={value[:80] if is_value and value else 'value'}"


def _share(text: str) -> str:
    """A share as the spec has it: 5% is 0.05. What is no number is left to the spec to refuse."""
    number = text.removesuffix("%").strip()
    try:
        return str(float(number) / 100) if text.endswith("%") else number
    except ValueError:
        return text


def _write_default_specs(name: str, request: _Request) -> None:
    """One commented spec per action in results_dir; what is there already stays."""
    from kineme.files import write_text
    from kineme.spec.schema import template

    folders = [
        text.partition("=")[2] for text in request.overrides if text.startswith("results_dir=")
    ]
    unknown = [
        text for text in request.overrides if not text.startswith(("results_dir=", "module_name="))
    ]
    words = [*request.overrides, *request.options]
    words += ["--dry-run"] * request.is_dry_run + ["-e"] * (request.spec_path is not None)
    if len(folders) != 1 or not folders[0] or unknown or len(words) > len(request.overrides):
        received = " ".join(words) or "nothing"
        raise SpecError("default_specs", "results_dir=FOLDER", received)
    targets = {
        Path(folders[0]).expanduser() / f"{action}.yaml": spec
        for action, spec in load_specs(name).items()
    }
    taken = [str(path) for path in targets if path.exists()]
    if taken:
        raise SpecError(
            taken[0], "a free path", "a file that exists", "Remove it or choose another folder."
        )
    for path, spec in targets.items():
        write_text(path, template(spec))
        print(path)


def _spec_text(words: list[str]) -> str:
    """`spec <network> <action> [--json]`, or `spec [<network>] --docs`."""
    from kineme.spec.schema import json_schema, markdown, template

    names = [word for word in words if not word.startswith("-")]
    options = [word for word in words if word.startswith("-")]
    if options == ["--docs"] and not names:
        return "\n".join(markdown(load_specs(name)) for name in NETWORKS)
    num_words = 1 if "--docs" in options else 2
    if not names or len(names) > num_words or not set(options) <= {"--json", "--docs"}:
        raise SpecError(
            "spec",
            "a network and an action, or a network and --docs",
            " ".join(words) or "nothing",
            "For example: kineme spec pose_classification train",
        )
    if names[0] not in NETWORKS:
        raise _unknown("network", names[0], list(NETWORKS))
    specs = load_specs(names[0])
    if "--docs" in options:
        return markdown(specs)
    action = names[1] if len(names) > 1 else ""
    if action not in specs:
        raise _unknown("action", action, list(specs))
    if "--json" in options:
        return json.dumps(json_schema(specs[action]), indent=2, allow_nan=False) + "\n"
    return template(specs[action])


def _unknown(what: str, word: str, known: Sequence[str], fix: str = "") -> SpecError:
    from kineme.spec.suggest import did_you_mean

    fix = did_you_mean(word, known, otherwise=fix)
    return SpecError("command line", f"a known {what} ({', '.join(known)})", repr(word[:80]), fix)


def _refused(session: Session, error: KinemeError) -> int:
    for problem in error.problems:
        session.say("error", str(problem), {**_facts(problem), "exit_code": error.exit_code})
    return error.exit_code


def _facts(problem: Problem) -> dict[str, str]:
    return {
        "where": problem.where,
        "expected": problem.expected,
        "received": problem.received,
        "fix": problem.fix,
    }


def _failed(session: Session, error: BaseException, default_code: int) -> int:
    """Report what no one expected: one line, the traceback in a file."""
    code = getattr(error, "exit_code", default_code)
    if _is_out_of_memory(error):
        fix = "Lower dataset.batch_size or the number of data workers."
        return _refused(session, ResourceError("memory", "enough of it", _one_line(error), fix))
    if isinstance(error, KeyboardInterrupt):
        session.say("error", "interrupted")
    else:
        where = _save_traceback(session)
        session.say("error", f"{_one_line(error)} (a bug of kineme; traceback in {where})")
    return code if isinstance(code, int) else default_code


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _not_printed(error: OSError) -> ResourceError:
    fix = "Everything else is done; what should have been printed is lost."
    return ResourceError("stdout", "room for what is printed", error.strerror or str(error), fix)


def _is_out_of_memory(error: BaseException) -> bool:
    """Python, torch on a GPU and torch on a CPU say it in three ways."""
    words = ("OutOfMemoryError", "can't allocate memory")
    return isinstance(error, MemoryError) or any(word in _one_line(error) for word in words)


def _save_traceback(session: Session) -> str:
    """Where the traceback is: in the run's log (which may have it already), else in a file."""
    from kineme.files import append_line, write_text

    text = session.clean(traceback.format_exc())
    log = session.run_folder / "log.txt" if session.run_folder else None
    try:
        if log is None or not log.parent.is_dir():
            path = Path(tempfile.gettempdir()) / f"kineme-crash-{time.time_ns()}.txt"
            write_text(path, text)
            return str(path)
        last_line = text.rstrip().rpartition("\n")[2]
        if not log.is_file() or last_line not in log.read_text("utf-8", "replace")[-20_000:]:
            append_line(log, text)
    except (KinemeError, OSError) as error:
        return f"no file, as it could not be written: {error}"
    return str(log)


def _is_first_process() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _imported(path: str) -> Callable[..., Any]:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
