"""A server that stands before another one and spoils chosen requests, as networks and object stores do."""

import http.client
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

import fsspec
import pytest

Fault = Literal[
    "lost answer",
    "lost request",
    "cut body",
    "InternalError",
    "SlowDown",
    "ConditionalRequestConflict",
    "NoSuchUpload",
]
"""The request is served, but nobody hears of it; it never arrives; its answer ends in the middle; or it is
refused with one of S3's codes."""
_STATUS = {"InternalError": 500, "SlowDown": 503, "ConditionalRequestConflict": 409, "NoSuchUpload": 404}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A request: its HTTP method, and its path with the query."""

    method: str
    path: str


Judge = Callable[[Request], Fault | None]
"""Says what goes wrong with a request, if anything; called for one request at a time."""


@contextmanager
def faulty(upstream: str, judge: Judge) -> Iterator[str]:
    """Give the URL of a server that passes requests on to `upstream`, but for those that `judge` spoils."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.upstream = urlsplit(upstream).netloc
    server.judge = judge
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def faulty_object_store(judge: Judge) -> Iterator[None]:
    """Let S3 file systems that this process makes meanwhile, and processes that it starts, meet faults."""
    with faulty(os.environ["AWS_ENDPOINT_URL"], judge) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        try:
            yield
        finally:
            fsspec.get_filesystem_class("s3").clear_instance_cache()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    upstream: str
    judge: Judge
    lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def _answer(self) -> None:
        body = self._body()
        with self.server.lock:
            fault = self.server.judge(Request(method=self.command, path=self.path))
        if fault == "lost request":
            self._hang_up()
        elif fault in _STATUS:
            text = f"<Error><Code>{fault}</Code><Message>spoilt for a test</Message></Error>".encode()
            self._send(_STATUS[fault], [("Content-Type", "application/xml")], len(text), text)
        else:
            status, headers, size, data = self._pass_on(body)
            if fault == "lost answer":
                self._hang_up()
                return
            self._send(status, headers, size, data[: len(data) // 2] if fault == "cut body" else data)
            if fault == "cut body":
                self._hang_up()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _pass_on(self, body: bytes) -> tuple[int, list[tuple[str, str]], int, bytes]:
        dropped = ("connection", "transfer-encoding", "content-length", "expect", "date", "server")
        headers = {key: value for key, value in self.headers.items() if key.lower() not in dropped}
        connection = http.client.HTTPConnection(self.server.upstream)
        try:
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data = answer.read()
            size = int(answer.headers.get("Content-Length", len(data)))
            return (
                answer.status,
                [(k, v) for k, v in answer.getheaders() if k.lower() not in dropped],
                size,
                data,
            )
        finally:
            connection.close()

    def _send(self, status: int, headers: list[tuple[str, str]], size: int, data: bytes) -> None:
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the tests' output quiet."""
