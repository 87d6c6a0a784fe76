"""Time limits for requests to the Hugging Face hub, whose client waits for ever in several places.

The client's own limits, HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT, are for the next byte of
some requests. Here they hold for all, and an answer must also come at a least speed and to an end.
Connections of hf_xet have limits of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.utils import _http

LEAST_SPEED = 1024  # bytes a second, on average over SLOW time-outs
SLOW = 3  # times HF_HUB_DOWNLOAD_TIMEOUT, 10 seconds by default
ENDLESS = 30  # times the same: for an answer that does not state its size


class SlowHubError(OSError):
    """Raised for an answer that would take too long; the client does not try again."""


def limit_waiting() -> None:
    """Make the hub's client give up a hub that does not answer, hardly sends, or never ends."""
    make_client = _http._GLOBAL_CLIENT_FACTORY
    if not isinstance(make_client, _LimitedClients):
        huggingface_hub.set_client_factory(_LimitedClients(make_client))


class _LimitedClients:
    """Makes clients as a factory does, with limits; the hub's client makes another after errors."""

    def __init__(self, make_client: Callable[[], Any]) -> None:
        self._make_client = make_client

    def __call__(self) -> Any:
        client = self._make_client()
        client.event_hooks["response"].append(_limit_unstated_size)
        transports = (client._transport, *client._mounts.values())  # the second are of proxies
        for pool in (transport._pool for transport in transports if transport is not None):
            pool._network_backend = _Network(pool._network_backend)
        return client


def _limit_unstated_size(response: Any) -> None:
    stream = response.extensions["network_stream"]
    if "content-length" not in response.headers and isinstance(stream, _Stream):
        stream.ends_at = time.monotonic() + ENDLESS * constants.HF_HUB_DOWNLOAD_TIMEOUT


def _seconds_for(timeout: float | None) -> float:
    """Return a time-out no longer than the user's: after one, the client asks with 60 seconds."""
    if timeout is None:
        return constants.HF_HUB_ETAG_TIMEOUT
    return min(timeout, max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT))


class _Network:
    """A backend of the HTTP library that opens connections with limits."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> _Stream:
        limit = _seconds_for(timeout)
        return _Stream(self._backend.connect_tcp(host, port, timeout=limit, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class _Stream:
    """A connection of the HTTP library; a request starts its clock, and reads take from it."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.write(b"")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._seconds, self._received, self.ends_at = 0.0, 0, math.inf
        if buffer:
            self._stream.write(buffer, _seconds_for(timeout))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        started = time.monotonic()
        data: bytes = self._stream.read(max_bytes, _seconds_for(timeout))
        now = time.monotonic()
        self._seconds, self._received = self._seconds + now - started, self._received + len(data)
        if now > self.ends_at:
            limit = ENDLESS * constants.HF_HUB_DOWNLOAD_TIMEOUT
            raise self._slow(f"an answer of unknown size has not ended within {limit:g} seconds")
        window = SLOW * constants.HF_HUB_DOWNLOAD_TIMEOUT
        if self._seconds > window:
            if self._received < LEAST_SPEED * self._seconds:
                speed = f"{self._received} bytes in {self._seconds:.0f} seconds"
                raise self._slow(f"it sent no more than {speed}")
            self._seconds, self._received = 0.0, 0
        return data

    def start_tls(self, *arguments: Any, **options: Any) -> _Stream:
        return _Stream(self._stream.start_tls(*arguments, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _slow(self, fault: str) -> SlowHubError:
        hub = constants.ENDPOINT
        remedy = "try again later, or set HF_HUB_DOWNLOAD_TIMEOUT to more seconds"
        return SlowHubError(f"{hub} is too slow: {fault}; {remedy}")
