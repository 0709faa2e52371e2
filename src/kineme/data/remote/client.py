"""The boto3 client: as whom, where to, how long, and no further than that.

Promises: credentials come from AWS's variables or TAO's (ACCESS_KEY, SECRET_KEY), else from
where boto3 finds them, and appear in no message; one attempt ends by itself; nothing is retried
here (patience.py does); every connection is judged by the address it reached, every request by
its host (addresses.py has the rules).
Leaves out: requests and their errors. boto3 is imported when the first client is built.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from kineme.data.remote.addresses import AMAZON_DOMAINS, Reach, endpoint_url, reach_of
from kineme.data.remote.patience import current_watch
from kineme.errors import ServiceError, SpecError

_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION", "S3_REGION", "CLOUD_REGION")
_DEFAULT_REGION = "us-east-1"
_MAX_CONNECTIONS = 16


@dataclass(frozen=True)
class Access:
    """Where a store is and who asks. None is what boto3 finds by itself."""

    endpoint_url: str | None = None
    region: str | None = None
    key_id: str | None = field(default=None, repr=False)
    secret: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Access:
        """AWS's variables where both of its keys are set, else TAO's, else neither."""
        pairs = (("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), ("ACCESS_KEY", "SECRET_KEY"))
        found = next((p for p in pairs if all(environment.get(name) for name in p)), None)
        key_id, secret = (environment[name] for name in found) if found else (None, None)
        is_aws = found == pairs[0]
        return cls(
            endpoint_url=endpoint_url(environment),
            region=next((environment[n] for n in _REGION_VARIABLES if environment.get(n)), None),
            key_id=key_id,
            secret=secret,
            token=environment.get("AWS_SESSION_TOKEN") or None if is_aws else None,
        )


def build_client(access: Access, *, attempt_seconds: float) -> Any:
    """A client whose attempts each give up after `attempt_seconds` of silence.

    Raises SpecError where boto3 is not installed.
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise SpecError(
            "s3://", "the package boto3", "none installed", "pip install 'kineme[s3]'"
        ) from error
    own = access.endpoint_url is not None
    config = Config(
        connect_timeout=attempt_seconds,
        read_timeout=attempt_seconds,
        retries={"total_max_attempts": 1, "mode": "standard"},
        max_pool_connections=_MAX_CONNECTIONS,
        request_checksum_calculation="when_required",  # stores that know no newer ones
        response_checksum_validation="when_required",
        s3={"addressing_style": "path"} if own else {},
        user_agent_appid="kineme",
    )
    try:
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=access.endpoint_url,
            region_name=access.region or (_DEFAULT_REGION if own else None),
            aws_access_key_id=access.key_id,
            aws_secret_access_key=access.secret,
            aws_session_token=access.token,
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise ServiceError("s3://", "settings that boto3 takes", str(error)[:200]) from error
    host = urlsplit(client.meta.endpoint_url).hostname or ""  # ~/.aws/config may name one, too
    _keep_in_bounds(client, None if host.endswith(AMAZON_DOMAINS) and not own else host)
    return client


def _keep_in_bounds(client: Any, host: str | None) -> None:
    """Have each request and each connection of `client` judged before anything is sent."""

    def judge(request: Any, **_: object) -> None:
        asked = urlsplit(request.url).hostname or ""
        allowed = AMAZON_DOMAINS if host is None else f".{host}"  # a bucket may come before it
        if asked == host or asked.endswith(allowed):
            return
        expected = f"an answer from {host or 'Amazon'}"
        raise ServiceError("s3://", expected, f"a redirect to {asked!r}", "It is not followed.")

    client.meta.events.register("before-send.s3", judge)
    client._endpoint.http_session._manager.pool_classes_by_scheme = _pools(_Bounds(host))


@dataclass
class _Bounds:
    """How far a connection may reach; the first one decides for those after it."""

    host: str | None  # None: Amazon's
    first: Reach | None = None

    def judge(self, ip: str) -> None:
        reach = reach_of(ip)
        self.first = self.first or reach
        is_inward = self.first == "public" and reach != "public"
        if reach == "never" or (reach == "loopback" and self.host is None) or is_inward:
            raise ServiceError(
                self.host or "Amazon S3",
                "the address of an object store",
                f"{ip}, which is {'reserved' if reach == 'never' else reach}",
                "Nothing was sent there. Check DNS and S3_ENDPOINT_URL.",
            )


def _pools(bounds: _Bounds) -> dict[str, Any]:
    """botocore's connection pools, whose connections are judged and can be cut off."""
    from botocore import awsrequest

    class Plain(awsrequest.AWSHTTPConnection):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            return _judged(super()._new_conn(), bounds)

        def request(self, *args: Any, **keywords: Any) -> Any:
            return _cuttable(self, super().request, *args, **keywords)

    class Encrypted(awsrequest.AWSHTTPSConnection):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            return _judged(super()._new_conn(), bounds)

        def request(self, *args: Any, **keywords: Any) -> Any:
            return _cuttable(self, super().request, *args, **keywords)

    class PlainPool(awsrequest.AWSHTTPConnectionPool):  # type: ignore[misc]
        ConnectionCls = Plain

    class EncryptedPool(awsrequest.AWSHTTPSConnectionPool):  # type: ignore[misc]
        ConnectionCls = Encrypted

    return {"http": PlainPool, "https": EncryptedPool}


def _judged(connected: socket.socket, bounds: _Bounds) -> socket.socket:
    try:
        bounds.judge(connected.getpeername()[0])
    except (ServiceError, OSError):
        connected.close()
        raise
    return connected


def _cuttable(connection: Any, send: Any, *args: Any, **keywords: Any) -> Any:
    """Send a request on a connection that the watch of this thread may cut."""
    watch = current_watch()
    if watch is not None:
        if connection.sock is None:
            connection.connect()
        watch.hold(connection.sock)
    return send(*args, **keywords)
