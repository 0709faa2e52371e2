"""`kineme analyze`: the words of the command, and one source after another.

Promises: all that is wrong with the words is told at once; of a folder of videos, one that fails
does not keep the others from being looked at.
Leaves out: how videos are looked at (analyze.py).
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from kineme.concealment import VARIABLE, environment_key
from kineme.engine.names import REPORT_FILE
from kineme.errors import (
    EXIT_OK,
    HIDDEN,
    DataError,
    KinemeError,
    PartialError,
    Problem,
    SpecError,
    listed,
    printable,
    shortened,
)
from kineme.people.analysis_settings import AnalysisSettings
from kineme.people.analyze import analyze
from kineme.people.estimators import ESTIMATORS, check_settings, layout_of_estimator
from kineme.people.estimators.choosing import Chosen, choose_estimator
from kineme.people.found import Found
from kineme.people.repetitions.form_rules import FormRule, load_form_rules
from kineme.people.results import refuse_folder
from kineme.people.segments import SegmentSettings
from kineme.people.sources import check_path, open_source, videos_in
from kineme.people.streams import StreamSettings, is_stream
from kineme.pose_classification.layouts import LAYOUTS
from kineme.spec.key_file import read_key
from kineme.spec.overrides import parse_overrides
from kineme.spec.suggest import did_you_mean

USAGE = """\
kineme analyze SOURCE [options] [ESTIMATOR.SETTING=VALUE ...] [encryption_key_file=FILE]

SOURCE is a video, a folder of images (one video) or of videos (each on its own), the number of a
camera, or an address (rtsp, http, tcp, udp, rtmp). Without a checkpoint it finds people and
follows them; with one it says what each of them does, and when.

  --checkpoint FILE        a model of pose_classification, for example results/train/best.pth;
                           of an encrypted one the key: encryption_key_file=FILE,
                           KINEME_ENCRYPTION_KEY in the environment, or encryption_key=KEY
  --estimator NAME         who finds people: movenet, blazepose, rtmpose, files (default: movenet
                           where its file is here, or blazepose)
  --out FOLDER             for the results (default: <name of the source>-people)
  --max-frames N           look at no more frames
  --window SECONDS         what the model sees at a time (default: what the checkpoint says)
  --stride SECONDS         from window to window (default: a quarter of the window)
  --min-probability P      below it, a label does not begin (default 0.5)
  --keep-probability P     below it, a label does not go on (default 0.35)
  --min-seconds SECONDS    what is shorter belongs to its neighbour (default 0.5)
  --no-threshold           not to call unknown what is less familiar than the checkpoint's threshold
  --alone                  show everybody alone to a model that sees two people
  --step                   let the model take every frame once in place of windows: a fraction of
                           the work, labels later; everybody is shown alone
  --repetitions            count repetitions of each person, whatever they do
  --rules FILE             count, and hold every repetition against the form rules of a YAML file
  --no-video               do not write annotated.mp4
  --video-side N           pixels of its longer side, at most (default 1280)
  --live                   print results as they come, as JSON lines; leave out frames rather than
                           fall behind a stream
  --wait                   wait for a stream that is not there

Results: timeline.csv, timeline.json, report.html, annotated.mp4, tracks.npz, repetitions.csv. A
run that was stopped goes on when it is started again. All of it: docs/analyze.md.

example: kineme analyze street.mp4 --estimator movenet movenet.long_side=512 --out street"""

_FLAGS = ("--no-video", "--live", "--wait", "--repetitions", "--no-threshold", "--alone", "--step")
_NUMBERS = {  # option: lowest, highest
    "--max-frames": (1, 1e12), "--window": (0.1, 60), "--stride": (0.02, 60),
    "--min-probability": (0, 1), "--keep-probability": (0, 1), "--min-seconds": (0, 60),
    "--video-side": (64, 1e12),
}  # fmt: skip
_WORDS = ("--checkpoint", "--estimator", "--out", "--rules")
_KEYS = ("encryption_key", "encryption_key_file")
_OF_MODEL = ("--min-probability", "--keep-probability", "--alone", "--no-threshold")


@dataclass
class _Request:
    source: str = ""
    flags: set[str] = field(default_factory=set)
    words: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list, repr=False)
    problems: list[Problem] = field(default_factory=list)  # of the words


def main(words: Sequence[str]) -> int:
    """`kineme analyze ...`; returns the exit code. Raises KinemeError."""
    request = _parsed(words)
    settings, videos = _checked(request)
    stream = StreamSettings(waits="--wait" in request.flags, is_live="--live" in request.flags)
    if not videos:
        found = _analyze_one(request.source, settings, stream)
        _say(found, settings.out, is_live=stream.is_live)
        return EXIT_OK
    failed: list[Problem] = []
    for video in videos:
        one = _settings_of(video, settings, len(videos))
        try:
            _say(_analyze_one(str(video), one, stream), one.out, is_live=stream.is_live)
        except DataError as error:
            failed += error.problems
            _tell(f"left out: {error}")
    if failed:
        received = f"{len(failed)} that cannot be read, the first: {failed[0]}".rstrip(".")
        raise PartialError(request.source, f"{len(videos)} videos", received)
    return EXIT_OK


def _analyze_one(word: str, settings: AnalysisSettings, stream: StreamSettings) -> Found:
    source = open_source(word, stream)
    try:
        events = partial(_print, source.name) if stream.is_live else None
        return analyze(source, settings, tell=_tell, stream=events)
    finally:
        source.close()


def _parsed(words: Sequence[str]) -> _Request:
    """What the words ask for, as far as they make sense, and what is wrong with the others."""
    request = _Request()
    problems = request.problems
    known = [*_WORDS, *_NUMBERS, *_FLAGS, "--help"]
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, attached = word.partition("=")
        if word in _FLAGS:
            request.flags.add(word)
        elif option in (*_WORDS, *_NUMBERS):
            value = attached if equals else _value_in(rest)
            if not value:
                problems.append(Problem(option, "a value after it", "nothing"))
            elif option in _WORDS:
                request.words[option] = value
            else:
                problems += _take_number(request, option, value)
        elif word.startswith("-") and not word[1:].isdigit():
            fix = did_you_mean(option, known, otherwise="`kineme analyze --help` lists them.")
            expected = f"a known option ({', '.join(known)})"
            problems.append(Problem("analyze", expected, shortened(option), fix))
            if not equals and fix == did_you_mean(option, (*_WORDS, *_NUMBERS)):
                _value_in(rest)  # it is no source
        elif equals and option in _KEYS:
            request.keys.append(word)
        elif equals and option.partition(".")[0] in ESTIMATORS and "." in option:
            request.settings[option] = attached
        elif equals and (fix := _meant_setting(word, option)):
            expected = "a setting of an estimator, or a source"
            problems.append(Problem("analyze", expected, shortened(f"{option}=..."), fix))
        elif request.source:
            problems.append(Problem("analyze", "one source", shortened(word), _ONE_AT_A_TIME))
        else:
            request.source = word
    if not request.source and not problems:
        problems.append(
            Problem(
                "analyze", "a video, folder, camera or address", "nothing", "kineme analyze --help"
            )
        )
    return request


def _value_in(rest: list[str]) -> str:
    """The value of an option, taken off the words after it; "" where another option follows."""
    return rest.pop(0) if rest and not rest[0].startswith("--") else ""


def _meant_setting(word: str, key: str) -> str:
    """What to write in place of a `key=value` that is neither known nor a source; "" if nothing.

    Never the value, which may be a key.
    """
    if is_stream(word) or Path(word).expanduser().exists():
        return ""
    if key in ESTIMATORS:
        return f"Settings of an estimator are {key}.SETTING=VALUE; --estimator {key} chooses it."
    estimator, dot, setting = key.partition(".")
    if dot:
        return did_you_mean(estimator, ESTIMATORS, shown=lambda name: f"{name}.{setting}")
    option = "--" + key.replace("_", "-")
    return did_you_mean(key, _KEYS) or did_you_mean(option, (*_WORDS, *_NUMBERS))


_ONE_AT_A_TIME = "Several videos can be given as a folder."


def _take_number(request: _Request, option: str, value: str) -> list[Problem]:
    low, high = _NUMBERS[option]
    is_whole = option in ("--max-frames", "--video-side")
    try:
        number = int(value) if is_whole else float(value)
    except ValueError:
        number = float("nan")
    if not low <= number <= high:
        kind = f"a whole number of at least {low}" if is_whole else f"a number from {low} to {high}"
        return [Problem(option, kind, shortened(value))]
    request.numbers[option] = number
    return []


def _checked(request: _Request) -> tuple[AnalysisSettings, tuple[Path, ...]]:
    """The settings, and the videos of a folder of them.

    Raises all that is known to be wrong before anything is opened, in one KinemeError: SpecError,
    if any of it is of the words, or else of the source (DataError) or CheckpointError.
    """
    errors: list[KinemeError] = [SpecError.of(request.problems)] if request.problems else []
    if not request.source or any(one.where not in _NUMBERS for one in request.problems):
        _raise_all(errors)  # what else is wrong may follow from that
    with _collected(errors):
        settings = _settings(request)
    videos: tuple[Path, ...] = ()
    if not is_stream(request.source):
        path = Path(request.source).expanduser()
        videos = videos_in(path) if path.is_dir() else ()
        with _collected(errors):
            if not videos:
                check_path(request.source)
    with _collected(errors):
        _check_points(request, videos)
    with _collected(errors):
        for out in [_out(request), *(_out(request) / video.name for video in videos)]:
            refuse_folder(out, request.source)
    if checkpoint := request.words.get("--checkpoint"):
        with _collected(errors):
            _check_checkpoint(checkpoint)
    _raise_all(errors)
    for note in _idle(request):
        _tell(note)
    return settings, videos


@contextlib.contextmanager
def _collected(errors: list[KinemeError]) -> Iterator[None]:
    """What the block raises goes to `errors`."""
    try:
        yield
    except KinemeError as error:
        errors.append(error)


def _raise_all(errors: Sequence[KinemeError]) -> None:
    """Raise their problems as one error, a SpecError if one of them is, else as the first."""
    if errors:
        ordered = sorted(errors, key=lambda error: not isinstance(error, SpecError))
        raise type(ordered[0]).of([one for error in ordered for one in error.problems])


def _check_points(request: _Request, videos: Sequence[Path]) -> None:
    """Raise SpecError with all videos that have no key points of their own."""
    given = str(request.settings.get("files.path", ""))
    if not given:
        return
    if is_stream(request.source):
        received = "a camera or a stream"
        raise SpecError("files.path", "a video, whose frames the file tells of", received)
    folder = Path(given).expanduser()
    lacking = [video for video in videos if len(videos) > 1 and not _points_of(video, folder)]
    if lacking:
        names = listed(f"{video.stem}.json" for video in lacking)
        expected = f"a folder with key points of each of the {len(videos)} videos ({names})"
        received = f"none of {len(lacking)}" if folder.is_dir() else "no folder"
        raise SpecError("files.path", expected, f"{received}: {shortened(given)}")


def _points_of(video: Path, folder: Path) -> Path | None:
    """Where key points of one of several videos lie: in a file, or in a folder of OpenPose's."""
    found = (folder / f"{video.stem}.json", folder / video.stem)
    return next((path for path in found if path.exists()), None)


def _settings_of(video: Path, settings: AnalysisSettings, num_videos: int) -> AnalysisSettings:
    """The settings, with results and key points of one of the videos of a folder."""
    own = dict(settings.estimator_settings)
    if settings.estimator == "files" and num_videos > 1:
        own["path"] = str(_points_of(video, Path(str(own["path"])).expanduser()))
    return replace(settings, out=settings.out / video.name, estimator_settings=own)


def _check_checkpoint(path: str) -> None:
    """Raise CheckpointError where no such file is, which needs no torch to be seen."""
    if not Path(path).is_file():
        from kineme.engine.checkpoint import load_checkpoint

        load_checkpoint(path)


def _idle(request: _Request) -> Iterator[str]:
    """Options without effect."""
    given = request.flags | request.numbers.keys()
    of_model = [one for one in _OF_MODEL if one in given]
    if of_model and "--checkpoint" not in request.words:
        verb = "has" if len(of_model) == 1 else "have"
        yield f"{', '.join(of_model)} {verb} no effect: there is no --checkpoint"
    if {"--video-side", "--no-video"} <= given:
        yield "--video-side has no effect: --no-video"
    if "--wait" in given and not is_stream(request.source):
        yield "--wait has no effect: the source is no stream"


def _settings(request: _Request) -> AnalysisSettings:
    """Raises SpecError with all problems."""
    numbers, words, flags = request.numbers, request.words, request.flags
    errors: list[KinemeError] = []
    chosen = _estimator(request, errors)
    own = {
        key.partition(".")[2]: value
        for key, value in request.settings.items()
        if key.partition(".")[0] == chosen.name
    }
    rules: tuple[FormRule, ...] = ()
    if "--rules" in words:
        rules = _rules(words["--rules"], chosen.name, own, errors)
    low, high = numbers.get("--keep-probability", 0.35), numbers.get("--min-probability", 0.5)
    if "--keep-probability" not in numbers:
        low = min(low, high)
    with _collected(errors):
        _check_numbers(request, low=low, high=high)
    with _collected(errors):
        key = _key(request)
    _raise_all(errors)
    if chosen.note:
        _tell(chosen.note)
    return AnalysisSettings(
        out=_out(request),
        estimator=chosen.name,
        estimator_settings=own,
        checkpoint=words.get("--checkpoint"),
        max_frames=int(numbers.get("--max-frames", 0)),
        window_seconds=numbers.get("--window", 0.0),
        stride_seconds=numbers.get("--stride", 0.0),
        segments=SegmentSettings(high, low, numbers.get("--min-seconds", 0.5)),
        writes_video="--no-video" not in flags,
        video_side=int(numbers.get("--video-side", 1280)),
        key=key,
        uses_threshold="--no-threshold" not in flags,
        is_alone="--alone" in flags,
        is_stepped="--step" in flags,
        counts="--repetitions" in flags or "--rules" in words,
        rules=rules,
    )


def _estimator(request: _Request, errors: list[KinemeError]) -> Chosen:
    """Who finds people; what is wrong with the name and with settings goes to `errors`."""
    by_name: dict[str, dict[str, object]] = {}
    for key, value in request.settings.items():
        estimator, _, setting = key.partition(".")
        by_name.setdefault(estimator, {})[setting] = value
    only = next(iter(by_name)) if len(by_name) == 1 else None  # whose settings are given, is meant
    chosen = choose_estimator(request.words.get("--estimator", only), request.settings)
    is_known = chosen.name in ESTIMATORS
    for name in [chosen.name] if is_known else [chosen.name, *by_name]:
        with _collected(errors):
            check_settings(name, by_name.get(name, {}))
    expected = f"settings of the estimator {chosen.name}"
    others = [
        Problem(key, expected, "one of another", "Set --estimator.")
        for key in request.settings
        if is_known and key.partition(".")[0] != chosen.name
    ]
    if others:
        errors.append(SpecError.of(others))
    return chosen


def _check_numbers(request: _Request, *, low: float, high: float) -> None:
    """Raise SpecError with all that contradicts. low, high: of probabilities, as they apply."""
    problems: list[Problem] = []
    if low > high:
        expected = f"at most {high} (--min-probability)"
        problems.append(Problem("--keep-probability", expected, str(low)))
    window, stride = (request.numbers.get(name, 0.0) for name in ("--window", "--stride"))
    if window and stride > window:
        problems.append(Problem("--stride", f"at most {window} (--window)", str(stride)))
    if "--step" in request.flags and "--checkpoint" not in request.words:
        expected = "a checkpoint whose model steps"
        problems.append(Problem("--step", expected, "none", "Set --checkpoint."))
    if problems:
        raise SpecError.of(problems)


def _rules(
    path: str, estimator: str, settings: Mapping[str, object], errors: list[KinemeError]
) -> tuple[FormRule, ...]:
    """The rules of a file, for the joints that the estimator finds; for any, where `errors` say
    that something is wrong with it. What is wrong with the rules goes there too."""
    joints: Sequence[str] | None = None
    if not errors:
        with _collected(errors):
            joints = LAYOUTS[layout_of_estimator(estimator, settings)].joints
    with _collected(errors):
        return load_form_rules(Path(path).expanduser(), joints)
    return ()


def _key(request: _Request) -> str | None:
    """The key of the checkpoint, as the words or the environment say it. Raises SpecError."""
    read, problems = parse_overrides(request.keys, secret_keys=("encryption_key",))
    problems += [
        Problem(one.key, "text", HIDDEN)
        for one in read
        if not isinstance(one.value, str | None) or one.value == ""
    ]
    if problems:
        raise SpecError.of(problems)
    given = {one.key: one.value for one in read if one.value is not None}
    if given and "--checkpoint" not in request.words:
        expected = "a checkpoint that it opens"
        raise SpecError(next(iter(given)), expected, "none", "Set --checkpoint.")
    if len(given) > 1:
        raise SpecError("encryption_key_file", "no encryption_key beside it", "both", "Give one.")
    named = read_key(given["encryption_key_file"]) if "encryption_key_file" in given else None
    key, of_environment = named or given.get("encryption_key"), environment_key()
    if key is not None and of_environment not in (None, key):
        _tell(f"{VARIABLE} is not used: the words name a key.")
    return of_environment if key is None else key


def _out(request: _Request) -> Path:
    """The folder for the results: as named, or beside where the command is run, called after the
    source."""
    source = request.source
    if "--out" in request.words:
        return Path(request.words["--out"]).expanduser()
    if source.isdigit():
        return Path(f"camera-{source}-people")
    if is_stream(source):
        return Path("stream-people")
    return Path(f"{Path(source).expanduser().resolve().stem}-people")


def _tell(text: str) -> None:
    print(f"note: {printable(text)}", file=sys.stderr, flush=True)


def _print(source: str, values: Mapping[str, Any]) -> None:
    """An event, and of which source it is."""
    print(json.dumps({**values, "source": source}, ensure_ascii=False), flush=True)


def _say(found: Found, out: Path, *, is_live: bool) -> None:
    facts = found.facts
    if facts.damage:
        _tell(f"{facts.source} is damaged: {facts.damage}")
    people = "1 person" if len(found.people) == 1 else f"{len(found.people):,} people"
    frames = "1 frame" if facts.num_frames == 1 else f"{facts.num_frames:,} frames"
    text = f"{people} in {frames}; {out / REPORT_FILE}"
    if is_live:
        _print(facts.source, {"event": "done", "text": text})
    else:
        print(text, flush=True)
