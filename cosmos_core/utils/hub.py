"""Time limits for requests to the Hugging Face hub, whose client can wait without end.

The client's own limits, HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT, are for the next byte of
some requests. Here they hold for all requests. An answer must also have a minimum speed, and must
end. Connections of hf_xet have limits of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.utils import _http

MIN_SPEED = 1024  # bytes per second, on average over a window
WINDOW_TIMEOUTS = 3  # the window, in multiples of HF_HUB_DOWNLOAD_TIMEOUT, which is 10 s by default
# The time for an answer that does not state its size, in multiples of HF_HUB_DOWNLOAD_TIMEOUT.
UNKNOWN_SIZE_TIMEOUTS = 30


class SlowHubError(OSError):
    """An answer would take too long; the client does not try again."""


def limit_waiting() -> None:
    """Make the hub's client give up if the hub does not answer, is very slow, or never ends."""
    make_client = _http._GLOBAL_CLIENT_FACTORY
    if not isinstance(make_client, _LimitedClients):
        huggingface_hub.set_client_factory(_LimitedClients(make_client))


class _LimitedClients:
    """A factory of clients with limits; the hub's library makes another client after errors."""

    def __init__(self, make_client: Callable[[], Any]) -> None:
        self._make_client = make_client

    def __call__(self) -> Any:
        client = self._make_client()
        client.event_hooks["response"].append(_limit_unstated_size)
        # `_mounts` are the transports of proxies.
        for transport in (client._transport, *client._mounts.values()):
            if transport is not None:
                pool = transport._pool
                pool._network_backend = _LimitedNetwork(pool._network_backend)
        return client


def _limit_unstated_size(response: Any) -> None:
    """Limit the time of an answer that does not state its size."""
    stream = response.extensions["network_stream"]
    if "content-length" not in response.headers and isinstance(stream, _LimitedStream):
        seconds = UNKNOWN_SIZE_TIMEOUTS * constants.HF_HUB_DOWNLOAD_TIMEOUT
        stream.ends_at = time.monotonic() + seconds


def _seconds_for(timeout: float | None) -> float:
    """Return a time-out that is not longer than the user's.

    After a first time-out the client would ask again with 60 seconds.
    """
    if timeout is None:
        return constants.HF_HUB_ETAG_TIMEOUT
    longest = max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
    return min(timeout, longest)


class _LimitedNetwork:
    """A backend of the HTTP library that opens connections with limits."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> _LimitedStream:
        limit = _seconds_for(timeout)
        return _LimitedStream(self._backend.connect_tcp(host, port, timeout=limit, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


class _LimitedStream:
    """A connection of the HTTP library, which measures the speed of each answer."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._start_request()

    def _start_request(self) -> None:
        # Seconds spent waiting for data in the current window, and bytes received in it.
        self._seconds = 0.0
        self._received = 0
        # When an answer that does not state its size must have ended.
        self.ends_at = math.inf

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._start_request()
        if buffer:
            self._stream.write(buffer, _seconds_for(timeout))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        started = time.monotonic()
        data: bytes = self._stream.read(max_bytes, _seconds_for(timeout))
        now = time.monotonic()
        self._seconds += now - started
        self._received += len(data)
        if now > self.ends_at:
            limit = UNKNOWN_SIZE_TIMEOUTS * constants.HF_HUB_DOWNLOAD_TIMEOUT
            raise self._slow(f"an answer of unknown size has not ended within {limit:g} seconds")
        window = WINDOW_TIMEOUTS * constants.HF_HUB_DOWNLOAD_TIMEOUT
        if self._seconds > window:
            if self._received < MIN_SPEED * self._seconds:
                speed = f"{self._received} bytes in {self._seconds:.0f} seconds"
                raise self._slow(f"it sent no more than {speed}")
            self._seconds = 0.0
            self._received = 0
        return data

    def start_tls(self, *arguments: Any, **options: Any) -> _LimitedStream:
        return _LimitedStream(self._stream.start_tls(*arguments, **options))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _slow(self, fault: str) -> SlowHubError:
        hub = constants.ENDPOINT
        remedy = "try again later, or set HF_HUB_DOWNLOAD_TIMEOUT to more seconds"
        return SlowHubError(f"{hub} is too slow: {fault}; {remedy}")
