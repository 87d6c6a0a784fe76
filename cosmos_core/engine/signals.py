"""Stopping in good order on SIGTERM and SIGINT."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from cosmos_core.engine.distributed import World, mean_over_processes

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopWaiting(BaseException):
    """Raised by a signal while a run waits for data, which may never come."""


class StopRequest:
    """Record the first signal, so that a run ends after the current step; a second one interrupts.

    A context manager: outside it, signals act as before.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._former: dict[signal.Signals, Any] = {}
        self._waiting = False
        self.requested = False

    def __enter__(self) -> StopRequest:
        self._former = {number: signal.signal(number, self._handle) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise StopWaiting in the block at the first signal, or at once after an earlier one."""
        self._waiting = True
        try:
            if self.requested:
                raise StopWaiting
            yield
        finally:
            self._waiting = False

    def agreed(self) -> bool:
        """Whether any process received a signal; all must call it at the same step."""
        if self._world.world_size == 1:
            return self.requested
        requested = torch.tensor([float(self.requested)], device=self._world.device)
        return bool(mean_over_processes(requested).item() > 0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._waiting:
            raise StopWaiting
