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
# The length of a window of time, and the longest time for an answer that does not state its size.
# Both are multiples of HF_HUB_DOWNLOAD_TIMEOUT, which is 10 seconds by default.
WINDOW_TIMEOUTS = 3
UNKNOWN_SIZE_TIMEOUTS = 30


class SlowHubError(OSError):
    """The hub is too slow or does not finish its answer. The client does not try again."""


def limit_waiting() -> None:
    """Make the client of the Hugging Face hub give up if an answer would take too long.

    From then on it raises an error if the hub does not answer, sends its answer very slowly, or
    never ends it. Further calls of this function change nothing.
    """
    make_client = _http._GLOBAL_CLIENT_FACTORY
    is_limited_already = isinstance(make_client, _LimitedClients)
    if not is_limited_already:
        huggingface_hub.set_client_factory(_LimitedClients(make_client))


class _LimitedClients:
    """A factory of HTTP clients with time limits, for `huggingface_hub.set_client_factory`.

    It is a factory because huggingface_hub makes another client after some errors.
    """

    def __init__(self, make_client: Callable[[], Any]) -> None:
        """Create a factory whose clients are made by the former factory, and then limited."""
        self._make_client = make_client

    def __call__(self) -> Any:
        """Return a client of the former factory whose connections are limited."""
        client = self._make_client()
        # The client calls the hook for each answer, before it reads the content.
        client.event_hooks["response"].append(_limit_answer_of_unknown_size)
        # The transport of direct connections, and the transports of proxies (`_mounts`).
        for transport in (client._transport, *client._mounts.values()):
            if transport is not None:
                pool = transport._pool
                pool._network_backend = _LimitedNetwork(pool._network_backend)
        return client


def _limit_answer_of_unknown_size(response: Any) -> None:
    """Set the time at which an answer must have ended, if its headers do not state its size.

    Args:
        response: The answer of the HTTP library (httpx), whose content is not read yet.
    """
    stream = response.extensions["network_stream"]
    states_size = "content-length" in response.headers
    if not states_size and isinstance(stream, _LimitedStream):
        seconds = UNKNOWN_SIZE_TIMEOUTS * constants.HF_HUB_DOWNLOAD_TIMEOUT
        stream.ends_at = time.monotonic() + seconds


def _limited_timeout(timeout: float | None) -> float:
    """Return a time-out in seconds that is at most as long as the user's environment allows.

    After a first time-out, the client itself would ask again and wait 60 seconds.

    Args:
        timeout: The client's time-out in seconds, or None if it would wait without end.

    Returns:
        `timeout`, but at most the longer of HF_HUB_ETAG_TIMEOUT and HF_HUB_DOWNLOAD_TIMEOUT. If it
        is None: HF_HUB_ETAG_TIMEOUT.
    """
    if timeout is None:
        return constants.HF_HUB_ETAG_TIMEOUT
    max_timeout = max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
    return min(timeout, max_timeout)


class _LimitedNetwork:
    """A network backend of the HTTP library (httpcore) that opens connections with limits."""

    def __init__(self, backend: Any) -> None:
        """Limit the connections that the HTTP library's own backend opens."""
        self._backend = backend

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, **options: Any
    ) -> _LimitedStream:
        """Open a connection to a host with limits for its answers.

        The arguments are as in the HTTP library's own backend. `timeout` is in seconds.
        """
        limited_timeout = _limited_timeout(timeout)
        stream = self._backend.connect_tcp(host, port, timeout=limited_timeout, **options)
        return _LimitedStream(stream)

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the HTTP library's own backend."""
        return getattr(self._backend, name)


class _LimitedStream:
    """A connection of the HTTP library (httpcore) that measures the speed of each answer."""

    def __init__(self, stream: Any) -> None:
        """Limit a connection of the HTTP library."""
        self._stream = stream
        self._start_request()

    def _start_request(self) -> None:
        """Begin to measure the answer to a new request."""
        # The seconds spent waiting for data in the current window, and the bytes received in it.
        self._waited_seconds = 0.0
        self._received_bytes = 0
        # When an answer that does not state its size must have ended, by `time.monotonic`.
        self.ends_at = math.inf

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send some bytes of a request."""
        self._start_request()
        if buffer:
            self._stream.write(buffer, _limited_timeout(timeout))

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at most `max_bytes` bytes of an answer.

        Args:
            max_bytes: How many bytes may be returned.
            timeout: How many seconds to wait for the next byte.

        Raises:
            SlowHubError: If the answer has not ended in time, or if fewer than MIN_SPEED bytes per
                second have come in a window of time.
        """
        start = time.monotonic()
        data: bytes = self._stream.read(max_bytes, _limited_timeout(timeout))
        now = time.monotonic()
        self._waited_seconds += now - start
        self._received_bytes += len(data)

        # Check the time of the whole answer, if it does not state its size.
        if now > self.ends_at:
            limit = UNKNOWN_SIZE_TIMEOUTS * constants.HF_HUB_DOWNLOAD_TIMEOUT
            raise self._slow_error(
                f"an answer of unknown size has not ended within {limit:g} seconds"
            )

        # Check the speed at the end of each window of time.
        window_seconds = WINDOW_TIMEOUTS * constants.HF_HUB_DOWNLOAD_TIMEOUT
        if self._waited_seconds > window_seconds:
            if self._received_bytes < MIN_SPEED * self._waited_seconds:
                raise self._slow_error(
                    f"it sent no more than {self._received_bytes} bytes in "
                    f"{self._waited_seconds:.0f} seconds"
                )
            # The next window begins.
            self._waited_seconds = 0.0
            self._received_bytes = 0
        return data

    def start_tls(self, *arguments: Any, **options: Any) -> _LimitedStream:
        """Encrypt the connection, and return the encrypted one, which is limited too."""
        return _LimitedStream(self._stream.start_tls(*arguments, **options))

    def __getattr__(self, name: str) -> Any:
        """Return any other attribute of the HTTP library's own connection."""
        return getattr(self._stream, name)

    def _slow_error(self, problem: str) -> SlowHubError:
        """Return an error that states what is too slow, and what the user can do about it.

        Args:
            problem: A clause such as "it sent no more than 10 bytes in 30 seconds".
        """
        hub = constants.ENDPOINT
        advice = "try again later, or set HF_HUB_DOWNLOAD_TIMEOUT to more seconds"
        return SlowHubError(f"{hub} is too slow: {problem}; {advice}")
