"""How long a store is waited for, what is tried again, and how failure is told.

Promises: without progress, all attempts at one thing end within the deadline (60 s unless told
otherwise): a silent server, one that sends a byte now and then, one that takes nothing. What
may pass (503 SlowDown, a reset, silence) is tried again with growing pauses; what will not
(403, 404, a wrong clock) is told at once. Every error is a line with bucket and key, and no
credentials. Progress starts the clock anew.
Leaves out: how long the system takes to resolve a name, which nobody can cut short.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from kineme.data.remote.addresses import Address
from kineme.errors import KinemeError, ServiceError

DEADLINE_SECONDS = 60.0
SILENCE = "silence"
NUM_SILENCES = 3  # attempts at a silent server within the deadline
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0

_LOOK_SECONDS = 0.2  # between looks at attempts that are under way

_Value = TypeVar("_Value")
_PASSING_STATUSES = (429, 500, 502, 503, 504)
_PASSING_CODES = ("SlowDown", "InternalError", "RequestTimeout", "ServiceUnavailable",
                  "Throttling", "ThrottlingException", "OperationAborted")  # fmt: skip
_EXPIRED_CODES = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired")
_CREDENTIALS = "Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they may do."
_NAMES = "Check the name, the region (AWS_REGION) and S3_ENDPOINT_URL."


class UnavailableError(ServiceError):
    """A store that does not answer now, but may later: silent, overloaded, cut off."""


class CutShortError(Exception):
    """A body that ended before its length."""


class Watch:
    """Sees to it that an attempt gets on: after `limit_seconds` without a beat it is cut off."""

    def __init__(self, limit_seconds: float, is_over: threading.Event | None = None) -> None:
        self.limit_seconds = limit_seconds
        self.is_over = is_over
        self.has_progress = False
        self.is_cut = False
        self._last_beat = time.monotonic()
        self._socket: socket.socket | None = None

    def beat(self, *, is_kept: bool = False) -> None:
        """Say that bytes have come or gone; kept ones need not come again if this attempt fails."""
        self.has_progress |= is_kept
        self._last_beat = time.monotonic()

    def hold(self, connected: socket.socket | None) -> None:
        """Name the socket to cut."""
        self._socket = connected

    @property
    def expires(self) -> float:
        return self._last_beat + self.limit_seconds

    @property
    def is_unwanted(self) -> bool:
        return self.is_over is not None and self.is_over.is_set()

    def cut(self) -> None:
        """End the attempt: whoever waits for its socket is woken."""
        self.is_cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):  # closed by now
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


_OF_THREAD = threading.local()


def current_watch() -> Watch | None:
    """The watch over what this thread does."""
    return getattr(_OF_THREAD, "watch", None)


@contextlib.contextmanager
def until(is_over: threading.Event) -> Iterator[None]:
    """In the block, this thread's attempts end soon after the event, as if the store were away."""
    outer, _OF_THREAD.is_over = getattr(_OF_THREAD, "is_over", None), is_over
    try:
        yield
    finally:
        _OF_THREAD.is_over = outer


def persistently(
    address: Address, attempt: Callable[[Watch], _Value], *, deadline_seconds: float
) -> _Value:
    """What `attempt` returns, tried again as long as that makes sense.

    Raises UnavailableError after the deadline, ServiceError for what will not pass, and
    whatever KinemeError the attempt raises.
    """
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
    from urllib3.exceptions import HTTPError

    began, pause = time.monotonic(), FIRST_PAUSE_SECONDS
    share_seconds, num_attempts = deadline_seconds / NUM_SILENCES, 0
    is_over: threading.Event = getattr(_OF_THREAD, "is_over", None) or threading.Event()
    while True:
        remaining = began + deadline_seconds - time.monotonic()
        limit_seconds = min(remaining, share_seconds) if remaining > 0 else share_seconds
        watch = Watch(max(limit_seconds, 0.01), is_over)
        num_attempts += 1
        try:
            with _watched(watch):
                return attempt(watch)
        except (BotoCoreError, ClientError, HTTPClientError, HTTPError, CutShortError) as error:
            told = _told(address, error, watch)
            if not isinstance(told, UnavailableError):
                raise told from error
            cause, problem = error, told
        if watch.has_progress:
            began, pause = time.monotonic(), FIRST_PAUSE_SECONDS
        wait_seconds = pause * random.uniform(0.75, 1.25)
        is_late = time.monotonic() + wait_seconds >= began + deadline_seconds
        # what broke after long sending gets a second try, what was silent had its time
        if is_late and (num_attempts >= NUM_SILENCES or _is_silence(problem)):
            raise _given_up(problem, deadline_seconds) from cause
        if is_over.wait(wait_seconds):
            raise problem from cause
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def error_code(error: Exception) -> str:
    """The word that a store gave its refusal, as NoSuchKey; "" where there was none."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _told(address: Address, error: Exception, watch: Watch) -> KinemeError:
    """The error as its reader needs it."""
    inner = getattr(error, "kwargs", {}).get("error")
    if isinstance(inner, KinemeError):  # from the judges of client.py
        return inner
    if isinstance(getattr(error, "response", None), dict):
        return _refused(address, error)
    name = type(error).__name__
    if name in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"):
        fix = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or ACCESS_KEY and SECRET_KEY)."
        return ServiceError(str(address), "credentials for it", "none", fix)
    if name == "SSLError":
        fix = "Name the store's certificate in AWS_CA_BUNDLE, if it is one of your own."
        return ServiceError(str(address), "a certificate that can be trusted", "another one", fix)
    if name in ("ParamValidationError", "InvalidEndpointUrlError", "NoRegionError"):
        return ServiceError(
            str(address), "an address that boto3 takes", " ".join(str(error).split())
        )
    if watch.is_cut or "Timeout" in name:
        received = SILENCE
    elif name == "EndpointConnectionError":
        received = "no connection"
    elif name == "ResponseParserError":
        received = "an answer that is none of an object store"
    elif isinstance(error, CutShortError):
        received = str(error)
    else:
        received = "a connection that broke"
    return UnavailableError(str(address), "an object store that answers", received, _NAMES)


def _refused(address: Address, error: Any) -> KinemeError:
    """What an answer with an error means."""
    facts = error.response.get("ResponseMetadata", {})
    status, code = int(facts.get("HTTPStatusCode", 0)), error_code(error)
    received = f"{status} {code}" if code and not code.isdecimal() else str(status)
    where = str(address)
    if status in _PASSING_STATUSES or code in _PASSING_CODES:
        return UnavailableError(where, "an object store that answers", received, "Try later.")
    if code in _EXPIRED_CODES:
        return ServiceError(
            where, "credentials that are valid", received, "Renew AWS_SESSION_TOKEN and its keys."
        )
    if code == "RequestTimeTooSkewed":
        theirs = facts.get("HTTPHeaders", {}).get("date", "")
        received += f" (the store's clock: {theirs[:40]})" if theirs else ""
        return ServiceError(where, "a clock that is right", received, "Set this machine's clock.")
    if code == "NoSuchBucket":
        return ServiceError(where, f"a bucket {address.bucket!r}", received, _NAMES)
    if status == 404:
        return ServiceError(where, "an object or folder there", received, "Check the key.")
    if status in (401, 403):
        return ServiceError(where, "access to it", received, _CREDENTIALS)
    if 300 <= status < 400:
        return ServiceError(where, "an answer from the store itself", received, _NAMES)
    return ServiceError(where, "an answer without an error", received, _NAMES)


def _is_silence(problem: KinemeError) -> bool:
    return problem.problems[0].received == SILENCE


def _given_up(problem: KinemeError, seconds: float) -> KinemeError:
    (told,) = problem.problems
    return type(problem)(told.where, told.expected, f"{told.received} for {seconds:g} s", told.fix)


@contextlib.contextmanager
def _watched(watch: Watch) -> Iterator[None]:
    """Have `watch` cut when it is due, by a thread that all of them share."""
    outer, _OF_THREAD.watch = current_watch(), watch
    _WATCHER.add(watch)
    try:
        yield
    finally:
        _WATCHER.remove(watch)
        _OF_THREAD.watch = outer


class _Watcher:
    """One thread that cuts the watches that are due."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, watch: Watch) -> None:
        with self._changed:
            self._watches.add(watch)
            if self._thread is None or not self._thread.is_alive():  # or lost in a fork
                self._thread = threading.Thread(target=self._run, daemon=True, name="patience")
                self._thread.start()
            self._changed.notify()

    def remove(self, watch: Watch) -> None:
        with self._changed:
            self._watches.discard(watch)

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for watch in [w for w in self._watches if w.expires <= now or w.is_unwanted]:
                    self._watches.discard(watch)
                    watch.cut()
                due = min((watch.expires for watch in self._watches), default=None)
                pause = None if due is None else min(max(due - now, 0.001), _LOOK_SECONDS)
                self._changed.wait(pause)


_WATCHER = _Watcher()
