"""Stopping in good order on SIGTERM and SIGINT."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

import torch

from cosmos_core.engine.distributed import World, mean_over_processes

STOPPING = (signal.SIGTERM, signal.SIGINT)


class StopWaiting(BaseException):
    """Raised by a signal while a run waits for data, which may never come."""


class StopRequest:
    """Notes the first signal, so that a run ends after the step in hand; a second one interrupts.

    A context manager: outside it, signals act as before.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._former: dict[signal.Signals, Any] = {}
        self._waiting = False
        self.requested = False

    def __enter__(self) -> StopRequest:
        for number in STOPPING:
            self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Inside, the first signal, or one noted before, raises StopWaiting."""
        self._waiting = True
        try:
            if self.requested:
                raise StopWaiting
            yield
        finally:
            self._waiting = False

    def agreed(self) -> bool:
        """Whether any process was asked to stop; all must call it at the same step."""
        if self._world.size == 1:
            return self.requested
        asked = torch.tensor([float(self.requested)], device=self._world.device)
        return bool(mean_over_processes(asked).item() > 0)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        if self._waiting:
            raise StopWaiting
