"""A job's results, sent to where the record says, while it runs and after.

Promises: the action never waits for it, and how the action ended is recorded before; what cannot
be sent makes a complete job an Error of kind `service`, with all results still on this machine.
Leaves out: how files travel (data/remote/spool.py), and what jobs among the results keep of the
moment: locks and signs of life, which would be sent again and again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kineme.errors import KinemeError, ServiceError, listed, printable
from kineme.files import append_line
from kineme.jobs.liveness import HEARTBEAT_FILE
from kineme.jobs.record import FAILURE_KINDS, Failure, JobRecord, State
from kineme.jobs.store import AGENT_LOCK_FILE, CANCEL_FILE, LOCK_FILE, LOG_FILE

if TYPE_CHECKING:
    from kineme.data.remote.spool import Uploader

# Of the jobs that a search leaves among its results: signs between processes of this moment.
BOOKKEEPING = (HEARTBEAT_FILE, LOCK_FILE, AGENT_LOCK_FILE, CANCEL_FILE)
PATIENCE_SECONDS = 600.0  # with a store that does not answer, after the action's end
_POLL_SECONDS = 0.25


class Sending:
    """Of the results of one job, if its record names an address."""

    def __init__(self, record: JobRecord, folder: Path) -> None:
        self._results = Path(record.results_dir)
        self._folder = folder
        self._uploader: Uploader | None = None
        self._problem = ""
        self._patience_seconds = float(record.platform.get("upload_seconds", PATIENCE_SECONDS))
        if record.uploads_to is None:
            return
        from kineme.data.remote.addresses import parse
        from kineme.data.remote.spool import Uploader

        try:
            address = parse(record.uploads_to, where="uploads_to")
            excludes = (*record.upload_excludes, *BOOKKEEPING)
            self._uploader = Uploader(self._results, address, excludes=excludes, tell=self._tell)
            self._uploader.start()
        except KinemeError as error:  # the action's work is worth more
            self._problem = str(error)
            self._tell(self._problem)

    def finish(self, goes_on: Callable[[], bool] = lambda: True) -> str:
        """Wait until everything is sent while `goes_on`; returns what is wrong, "" if nothing."""
        uploader = self._uploader
        if uploader is None:
            return self._problem
        problems: list[str] = []

        def drain() -> None:
            try:
                drained = uploader.drain(self._patience_seconds)
            except (KinemeError, OSError) as error:
                problems.append(str(error))
                return
            if not drained.is_complete:
                why = drained.error or ServiceError(
                    str(uploader.address), f"an answer within {self._patience_seconds:g} s", "none"
                )
                problems.append(f"{why} Not sent: {listed(drained.pending)}.")

        thread = threading.Thread(target=drain, daemon=True, name="last uploads")
        thread.start()
        while thread.is_alive() and goes_on():
            thread.join(_POLL_SECONDS)
        if thread.is_alive():
            return "stopped before everything was sent"
        uploader.close()
        for problem in problems:
            self._tell(problem)
        return "".join(problems)

    def _tell(self, text: str) -> None:
        with contextlib.suppress(KinemeError, OSError):  # a full disk
            append_line(self._folder / LOG_FILE, f"note: {printable(text)}")


def with_problem(
    state: State, failure: Failure | None, problem: str
) -> tuple[State, Failure | None]:
    """What the end of an action means when its results could not be sent."""
    if not problem or state is not State.COMPLETE:
        return state, failure
    message = f"{problem} The action is done, and its results are here."
    if failure is not None:
        return State.ERROR, replace(failure, message=f"{message} {failure.message}")
    return State.ERROR, Failure(FAILURE_KINDS[6], message, 0)
