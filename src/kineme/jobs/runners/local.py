"""Jobs as processes of this machine, which outlive whoever started them.

Promises: `start` returns when the job's agent runs it, or is known not to. The agent is in a
session of its own: neither the end of the client nor its terminal's Ctrl-C reaches it. The key
goes through a pipe, never through words or an environment.
Leaves out: how many run at a time, and on which GPUs (platform.gpu_ids says it).
"""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from kineme import concealment
from kineme.errors import ResourceError
from kineme.files import write_errors_named
from kineme.jobs.ending import MARK
from kineme.jobs.liveness import ask_to_end, is_agent_there
from kineme.jobs.log import tail
from kineme.jobs.record import JobRecord, State
from kineme.jobs.runners import Runner, check_platform
from kineme.jobs.store import LOG_FILE, JobStore

WORDS = (sys.executable, "-P", "-m", "kineme.jobs.agent")
_START_SECONDS = 60.0
_PAUSE_SECONDS = 0.02
_agents: list[subprocess.Popen[bytes]] = []  # of this process, until they are seen to have ended


def start(store: JobStore, record: JobRecord, *, key: str | None = None) -> JobRecord:
    """Start an agent for a job and wait until it has taken over. See runners.Start."""
    check_platform("subprocess", record.platform)
    if store.load(record.id).state is not State.PENDING:
        return store.load(record.id)
    folder = store.folder(record.id)
    agent = _started(folder, concealment.environment_key() if key is None else key)
    deadline = time.monotonic() + _START_SECONDS
    while (record := store.load(record.id)).state is State.PENDING:
        if agent.poll() is not None and not is_agent_there(folder):
            record = store.load(record.id)
            if record.state is not State.PENDING:
                break
            last = tail(folder / LOG_FILE, 1)
            words = f"one that ended with code {agent.returncode}: {last[-1] if last else ''}"
            raise ResourceError(f"job {record.id}", "an agent that runs it", words)
        if time.monotonic() > deadline:
            raise ResourceError(
                f"job {record.id}", "an agent that runs it",
                f"none that began within {_START_SECONDS:g} s",
                "The machine may be overloaded; try again when it has less to do.",
            )  # fmt: skip
        time.sleep(_PAUSE_SECONDS)
    return record


def is_gone(store: JobStore, record: JobRecord) -> bool | None:
    """See runners.IsGone."""
    if is_agent_there(store.folder(record.id)):
        return False
    if record.agent is None:
        return None  # it may not have been started yet
    return not record.agent.is_alive if record.agent.is_here else None


def agent_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Of an agent: that of whoever starts it, which may be the process of another job."""
    return {name: value for name, value in environment.items() if name != MARK}


def _started(folder: Path, key: str | None) -> subprocess.Popen[bytes]:
    _agents[:] = [agent for agent in _agents if agent.poll() is None]
    with write_errors_named(folder):
        log = os.open(folder / LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        with concealment.handed_on(key) as (environment, descriptors):
            agent = subprocess.Popen(
                [*WORDS, str(folder)], cwd=folder, env=agent_environment(environment),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                pass_fds=descriptors,
            )  # fmt: skip
    finally:
        os.close(log)
    _agents.append(agent)
    return agent


RUNNER = Runner(start=start, cancel=ask_to_end, is_gone=is_gone, settings={})
