"""A small HTTP server on loopback that can be told to misbehave: what downloads are tested against."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CHUNK_BYTES = 16 * 1024


@dataclass
class FileServer:
    """``files`` by path: (content type, bytes). Each request takes the next of ``faults``, if any is left."""

    url: str = ""
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    faults: list[str | int] = field(default_factory=list)
    """A number: cut the connection after that many bytes of the body. A word: see ``_Handler.do_GET``."""
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range header) of every request."""
    headers: list[dict[str, str]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10
    state: FileServer

    def do_GET(self) -> None:
        state = self.state
        wanted = self.headers.get("Range")
        state.requests.append((self.path, wanted))
        state.headers.append(dict(self.headers))
        fault = state.faults.pop(0) if state.faults else None
        if self.path not in state.files:
            self.answer(404, "text/plain", b"no such file")
            return
        kind, data = state.files[self.path]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and fault != "no ranges" else 0
        if fault == "unavailable":
            self.answer(503, "text/plain", b"later")
        elif fault == "hang up":
            self.close_connection = True
        elif fault == "not satisfiable" or start >= len(data) > 0:
            self.answer(416, "text/plain", b"")
        elif fault == "another range":
            self.answer(206, kind, data, {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"})
        elif wanted and fault != "no ranges":
            body = data[start:]
            self.answer(206, kind, body, {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}, fault)
        else:
            self.answer(200, kind, data, {}, fault)

    def answer(self, status: int, kind: str, body: bytes, headers=None, cut: str | int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        end = cut if isinstance(cut, int) else len(body)
        for at in range(0, end, CHUNK_BYTES):
            self.wfile.write(body[at : min(end, at + CHUNK_BYTES)])
        self.close_connection = isinstance(cut, int)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@contextmanager
def serve_files() -> Iterator[FileServer]:
    """A running server; stopped and joined at the end."""
    state = FileServer()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    server.handle_error = lambda request, address: None  # a client that hangs up early is part of the tests
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
