"""A Hugging Face hub on this machine: what huggingface_hub asks of one when it fetches files.

HEAD and GET of /REPOSITORY/resolve/REVISION/FILE with a commit, an ETag and ranges, and 404 with a
code that says what is missing (huggingface_hub 2.4, file_download.py and utils/_http.py); the
commit of a revision, and the files of a commit (hf_api.py). Names of data sets' repositories begin
with `datasets/`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Literal

_CHUNK = 1 << 16  # bytes sent at once
COMMIT = "0123456789abcdef0123456789abcdef01234567"
Trouble = Literal["cut", "short", "changed", "gated"] | int
"""`cut`: every connection breaks after half of what was asked for, or at once where it goes on from
the middle. `short`: half of the file, as if it were all. `changed`: its bytes in reverse. `gated`:
its owner has not granted access. A number: this status."""


@dataclass
class Hub:
    """`files` by REPOSITORY/FILE; `trouble` by the same names; `requests` of files as METHOD NAME;
    `tags` of every repository, all of which are `commit`. `on_request` is called before an answer,
    whose body is sent at `bytes_per_second`."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    trouble: dict[str, Trouble] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    commit: str = COMMIT
    on_request: Callable[[str], object] = str
    bytes_per_second: float = math.inf


Delay = Literal["silent", "slow headers", "slow body", "endless"]
"""What a stalling server does instead of refusing a request: it sends nothing; it sends the headers
or the body a byte at a time; or it sends a body without an end."""


@contextmanager
def stalling(delay: Delay, pause: float) -> Iterator[str]:
    """The address of a server that delays every answer; `pause` is the time between two bytes."""
    stopped = Event()
    server = socket.create_server(("127.0.0.1", 0))
    connections: list[socket.socket] = []

    def answer(connection: socket.socket) -> None:
        with suppress(OSError):
            connection.recv(1 << 16)
            start = b"HTTP/1.1 200 OK\r\n"
            if delay == "slow body":
                connection.sendall(start + b"Content-Length: 1000000\r\n\r\n")
            elif delay == "endless":
                connection.sendall(start + b"Content-Type: application/json\r\n\r\n[")
            elif delay == "slow headers":
                connection.sendall(start + b"X-")
            while not stopped.wait(pause):
                if delay != "silent":
                    connection.sendall(b" " * 4096 if delay == "endless" else b"x")

    def accept() -> None:
        with suppress(OSError):
            while True:
                connections.append(server.accept()[0])
                Thread(target=answer, args=(connections[-1],)).start()

    thread = Thread(target=accept)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
    finally:
        stopped.set()
        server.shutdown(socket.SHUT_RDWR)
        for closing in (server, *connections):
            closing.close()
        thread.join()


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub without files on a free port of 127.0.0.1."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.hub = Hub(f"http://127.0.0.1:{server.server_address[1]}")  # type: ignore[attr-defined]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.hub  # type: ignore[attr-defined]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listed(name: str, content: bytes) -> dict[str, object]:
    """Return what a hub lists for a file. For a large one, this includes how it is stored."""
    entry: dict[str, object] = {
        "type": "file",
        "path": name,
        "size": len(content),
        "oid": hashlib.sha1(content).hexdigest(),
    }
    if name.endswith(".tar"):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 130}
    return entry


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing is printed."""

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            self._describe()
            return
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        name = re.sub(r"^/(.+)/resolve/[^/]+/", r"\1/", self.path)
        hub.requests.append(f"{self.command} {name}")
        hub.on_request(hub.requests[-1])
        trouble, content = hub.trouble.get(name), hub.files.get(name)
        if isinstance(trouble, int):
            self._refuse(trouble, {})
        elif trouble == "gated":
            self._refuse(403, {"X-Error-Code": "GatedRepo"})
        elif content is None:
            repository = any(file.startswith(name.rpartition("/")[0]) for file in hub.files)
            self._refuse(404, {"X-Error-Code": "EntryNotFound" if repository else "RepoNotFound"})
        else:
            self._send(content, trouble)

    def _describe(self) -> None:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        asked = re.fullmatch(
            r"/api/(?:models|(datasets))/([^/]+/[^/]+)/(revision|tree)/([^/?]+)/?([^?]*)(\?.*)?",
            self.path,
        )
        kind, repository, question, revision, folder = asked.groups()[:5] if asked else [""] * 5
        start = f"{kind}/{repository}/" if kind else f"{repository}/"
        files = {k.removeprefix(start): v for k, v in hub.files.items() if k.startswith(start)}
        if not asked:  # what a hub may lack
            self._refuse(404, {"X-Error-Code": "EntryNotFound"})
        elif not files:
            self._refuse(404, {"X-Error-Code": "RepoNotFound"})
        elif revision not in ("main", hub.commit, *hub.tags):
            self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            listed = [_listed(name, files[name]) for name in files if name.startswith(folder)]
            info = {"id": repository, "sha": hub.commit}
            self._send(json.dumps(listed if question == "tree" else info).encode(), None)

    def do_HEAD(self) -> None:
        self.do_GET()

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": "0", **headers}.items():
            self.send_header(key, value)
        self.end_headers()

    def _send(self, content: bytes, trouble: Trouble | None) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        body = content[start:]
        half = body[: len(content) // 2 - start] if start < len(content) // 2 else b""
        if trouble == "short" and self.command == "GET":
            body = half
        elif trouble == "changed":
            body = content[::-1]
        self.send_response(206 if asked else 200)
        self.send_header("X-Repo-Commit", self.server.hub.commit)  # type: ignore[attr-defined]
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body)))
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "GET":
            self._write(half if trouble == "cut" else body)

    def _write(self, body: bytes) -> None:
        rate: float = self.server.hub.bytes_per_second  # type: ignore[attr-defined]
        begun = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):  # a client that gave up
            for start in range(0, len(body), _CHUNK):
                self.wfile.write(body[start : start + _CHUNK])
                time.sleep(max(0.0, begun + (start + _CHUNK) / rate - time.monotonic()))
