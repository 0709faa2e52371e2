"""Object stores for tests: moto in this process, and servers that misbehave as they are told."""

import contextlib
import socket
import threading
import time

from moto.server import ThreadedMotoServer

from kineme.data.remote.client import Access
from kineme.data.remote.s3 import S3Store

KEY_ID, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


@contextlib.contextmanager
def moto(port=0):
    """A moto server; yields its URL. What is in it outlives it: it is of this process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def store_at(url, deadline_seconds=5.0):
    access = Access(endpoint_url=url, region="us-east-1", key_id=KEY_ID, secret=SECRET)
    return S3Store(access, deadline_seconds=deadline_seconds)


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class Faulty:
    """A server that answers each request with the next of `answers`; the last one stays.

    An answer is bytes to send, or a function of (request head, connection). requests: their
    heads. What is closed early, silent or slow is for the answer to do.
    """

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._open = []

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._is_over.set()
        with contextlib.suppress(OSError):
            socket.create_connection(self._listening.getsockname()).close()
        self._listening.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._thread.join()

    def _run(self):
        while not self._is_over.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self._listening.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                received = connection.recv(65536)
                if not received:
                    return
                head += received
            self.requests.append(head.decode("latin-1"))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if callable(answer):
                answer(head.decode("latin-1"), connection)
            else:
                connection.sendall(answer)
        connection.close()


def answer(status="200 OK", body=b"", **headers):
    """The bytes of an HTTP answer that ends its connection."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given = {"Content-Length": str(len(body)), "Connection": "close", **given}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def refusal(status, code):
    text = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    return answer(status, text, Content_Type="application/xml")


def silent(head, connection):
    """Take the request and never answer, until the other side is gone."""
    with contextlib.suppress(OSError):
        connection.recv(1)


def dripping(head, connection):
    """Answer a byte every 50 ms, which no time-out of a socket notices."""
    for byte in answer("200 OK", b"x" * 10_000):
        connection.sendall(bytes([byte]))
        time.sleep(0.05)
