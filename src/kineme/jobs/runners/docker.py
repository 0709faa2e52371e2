"""Jobs in a container of this machine: one command line, checked word by word.

The container sees the jobs of the store, the datasets of the spec and `platform.mounts` under
their own paths, all to be read only, and the folder of its own job.
Promises: no word comes from a record unchecked; the key goes through the standard input of the
agent, never into words, environment or what `docker inspect` shows. A job that names an object
store has this machine's variables for that: words have their names alone, but `docker inspect`
shows values to those who may use docker. The job outlives its client.
Leaves out: pulling and building images, which must have kineme in them.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kineme import concealment
from kineme.data.remote.addresses import ENDPOINT_VARIABLES
from kineme.errors import Problem, ResourceError, ServiceError, SpecError, shortened
from kineme.files import write_errors_named, write_json
from kineme.jobs.liveness import ask_to_end
from kineme.jobs.log import tail
from kineme.jobs.record import JobRecord, State
from kineme.jobs.runners import Runner, check_platform
from kineme.jobs.store import LOG_FILE, JobStore
from kineme.processes import ProcessIdentity, identity

SETTINGS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "image": ((str,), "that has kineme in it; needed"),
    "mounts": ((list, tuple), "further folders and files to read, by absolute path"),
    "num_gpus": ((int,), "GPUs that the container sees (0); gpu_ids says which"),
    "shm_size": ((str,), "of /dev/shm, for data workers (8g)"),
    "network": ((str,), "of the container (docker's default)"),
    "user": ((str,), "number:number (who starts the job)"),
    "python": ((str,), "of the image (python)"),
}
_IMAGE = re.compile(
    r"([a-z0-9]+([.-][a-z0-9]+)*(:\d{1,5})?/)?[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
    r"(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*(:\w[\w.-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
_WORDS = {
    "shm_size": (re.compile(r"[1-9]\d{0,8}[bkmg]?"), "a size such as 8g"),
    "network": (re.compile(r"[A-Za-z0-9][\w.-]{0,63}"), "the name of a network"),
    "user": (re.compile(r"\d{1,9}(:\d{1,9})?"), "numbers such as 1000:1000"),
    "python": (re.compile(r"/?[A-Za-z0-9][\w./-]{0,127}"), "a program"),
}
_FAILS_WITHIN_SECONDS = 3.0  # what docker refuses, it refuses soon
_ANSWER_SECONDS = 10.0
_STOP_SECONDS = 10  # of one that did not hear in its own grace
_ENDED = ("exited", "dead", "removing")
_STARTER_FILE = "docker.json"  # who runs `docker run`, which first fetches the image
_STORE_VARIABLES = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "ACCESS_KEY", "SECRET_KEY",
    "AWS_REGION", "AWS_DEFAULT_REGION", "S3_REGION", "CLOUD_REGION", *ENDPOINT_VARIABLES,
)  # fmt: skip


def start(store: JobStore, record: JobRecord, *, key: str | None = None) -> JobRecord:
    """Start a container with the job's agent. See runners.Start."""
    key = concealment.environment_key() if key is None else key
    words = command_line(store, record, has_key=key is not None)
    record = store.load(record.id)
    if record.state is not State.PENDING or record.backend_job_id is not None:
        return record
    if shutil.which("docker") is None:
        fix = "Install docker, or use the runner subprocess."
        raise ResourceError("runner docker", "the command docker", "none", fix)
    folder = store.folder(record.id)
    content = concealment.handed_bytes(key) if key is not None else b""
    with write_errors_named(Path(record.results_dir)):  # docker mounts nothing that is not there
        Path(record.results_dir).mkdir(parents=True, exist_ok=True)
    _remember(folder, identity())
    record = store.amend(record.id, backend_job_id=container_name(record))
    process = _started(words, folder, content)
    _remember(folder, identity(process.pid))
    deadline = time.monotonic() + _FAILS_WITHIN_SECONDS
    while time.monotonic() < deadline and store.load(record.id).state is State.PENDING:
        if process.poll() is not None and store.load(record.id).state is State.PENDING:
            store.amend(record.id, backend_job_id=None)
            last = tail(folder / LOG_FILE, 1)
            reason = shortened(last[-1] if last else f"code {process.returncode}", 200)
            raise ServiceError("docker", "a container", reason)
        time.sleep(0.05)
    return store.load(record.id)


def is_gone(store: JobStore, record: JobRecord) -> bool | None:
    """See runners.IsGone."""
    starter = _starter(store, record)
    if record.backend_job_id is None or starter is None:
        return None
    words = ["docker", "container", "inspect", "--format", "{{.State.Status}}"]
    try:
        done = subprocess.run(
            [*words, record.backend_job_id], capture_output=True, text=True, check=False,
            timeout=_ANSWER_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode == 0:
        return done.stdout.strip() in _ENDED
    if "No such container" not in done.stderr:
        return None
    return not starter.is_alive  # as long as its image is fetched, there is none yet


def end(store: JobStore, record: JobRecord) -> None:
    """`docker stop`. See runners.End."""
    if record.backend_job_id is None or _starter(store, record) is None:
        raise ServiceError("docker", "the machine that started the container", "another")
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            ["docker", "stop", "-t", str(_STOP_SECONDS), record.backend_job_id],
            capture_output=True, check=False, timeout=_STOP_SECONDS + _ANSWER_SECONDS,
        )  # fmt: skip


def command_line(store: JobStore, record: JobRecord, *, has_key: bool = False) -> list[str]:
    """The words that start a job's container. Raises SpecError with all that does not fit."""
    check_platform("docker", record.platform)
    platform = record.platform
    folder = store.folder(record.id)
    readable = [*_paths_in(record), *platform.get("mounts", ())]
    problems = _problems(platform, [str(store.root), str(folder), record.results_dir, *readable])
    if problems:
        raise SpecError.of(problems)
    name = container_name(record)
    words = ["docker", "run", "--rm", "--init", "--name", name, "--hostname", name]
    words += ["--user", platform.get("user", f"{os.getuid()}:{os.getgid()}")]
    words += ["--shm-size", platform.get("shm_size", "8g"), "--env", "HOME=/tmp"]
    words += ["--network", platform["network"]] if "network" in platform else []
    words += _gpus(platform)
    if any("://" in text for text in (*_texts_of(record), record.uploads_to or "")):
        given = [name for name in _STORE_VARIABLES if os.environ.get(name)]
        words += [word for name in given for word in ("--env", name)]
    if has_key:
        words += ["--interactive", "--env", f"{concealment.PIPE_VARIABLE}=0"]
    writable = {str(folder)}
    if not Path(record.results_dir).is_relative_to(folder):
        writable.add(record.results_dir)
    for path in sorted({str(store.root), *readable, *writable}):  # outer folders come first
        words += ["--mount", _mount(path, is_writable=path in writable)]
    python = platform.get("python", "python")
    return [
        *words, "--workdir", str(folder), platform["image"],
        python, "-P", "-m", "kineme.jobs.agent", str(folder),
    ]  # fmt: skip


def container_name(record: JobRecord) -> str:
    """Of a job's container."""
    return f"kineme-{record.id}"


def _remember(folder: Path, starter: ProcessIdentity) -> None:
    write_json(folder / _STARTER_FILE, asdict(starter))


def _starter(store: JobStore, record: JobRecord) -> ProcessIdentity | None:
    """Who started a container; None where docker of this machine cannot know it."""
    try:
        value = json.loads((store.folder(record.id) / _STARTER_FILE).read_bytes())
        starter = ProcessIdentity(**value)
    except (OSError, ValueError, TypeError):
        return None
    return starter if starter.is_here and shutil.which("docker") is not None else None


def _started(words: list[str], folder: Path, content: bytes) -> subprocess.Popen[bytes]:
    with write_errors_named(folder):
        log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    reading, writing = os.pipe()
    try:
        os.write(writing, content)
        return subprocess.Popen(
            words, cwd=folder, stdin=reading, stdout=log, stderr=log, start_new_session=True,
            env=concealment.without_key(),
        )  # fmt: skip
    finally:
        for descriptor in (log, reading, writing):
            os.close(descriptor)


def _gpus(platform: Mapping[str, Any]) -> list[str]:
    if "gpu_ids" in platform:  # docker reads this as a line of CSV
        return ["--gpus", f'"device={",".join(str(int(one)) for one in platform["gpu_ids"])}"']
    number = platform.get("num_gpus", 0)
    return ["--gpus", str(number)] if number else []


def _mount(path: str, *, is_writable: bool) -> str:
    return f"type=bind,src={path},dst={path}" + ("" if is_writable else ",readonly")


def _problems(platform: Mapping[str, Any], paths: list[str]) -> list[Problem]:
    problems = []
    image = platform.get("image")
    if image is None or len(image) > 512 or not _IMAGE.fullmatch(image):
        received = "none" if image is None else shortened(image)
        problems.append(Problem("platform.image", "the name of an image", received))
    for name, (pattern, expected) in _WORDS.items():
        if name in platform and not pattern.fullmatch(platform[name]):
            problems.append(Problem(f"platform.{name}", expected, shortened(platform[name])))
    for number in platform.get("gpu_ids", ()):
        if not isinstance(number, int) or number < 0:
            problems.append(Problem("platform.gpu_ids", "numbers", shortened(number)))
    for path in dict.fromkeys(paths):
        if not isinstance(path, str) or not _is_mountable(path):
            expected = "an absolute path without commas, quotes and .."
            problems.append(Problem("mount", expected, shortened(path, 200)))
    return problems


def _is_mountable(path: str) -> bool:
    parts = Path(path).parts
    is_plain = path.isprintable() and not set(path) & set(",\"'\\")
    return is_plain and path.startswith("/") and len(parts) > 1 and ".." not in parts


def _paths_in(record: JobRecord) -> list[str]:
    """Files and folders that the spec and the datasets name, and that are there."""
    named = dict.fromkeys(_texts_of(record))
    return [text for text in named if text.startswith("/") and os.path.exists(text)]


def _texts_of(record: JobRecord) -> list[str]:
    return [*_texts(record.spec), *record.train_datasets, record.eval_dataset or ""]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


RUNNER = Runner(start=start, cancel=ask_to_end, is_gone=is_gone, settings=SETTINGS, end=end)
