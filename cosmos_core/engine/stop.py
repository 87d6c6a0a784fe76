"""Signals that ask a training to stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from cosmos_core.engine.distributed import World, mean_over_processes

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
REPEAT_SECONDS = 2.0  # after a signal, within which torchrun may send it again


class StopWaiting(BaseException):
    """Raised by a signal while a run waits for data, which may never come."""


class StopRequest:
    """Records the first signal in its context, so that a run can stop after a step.

    A later SIGINT interrupts the run, unless it follows at once: a signal from a terminal reaches
    the processes twice, directly and through torchrun.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._requested_at = 0.0
        self._previous_handlers: dict[signal.Signals, Any] = {}
        self._waiting = False
        self.requested = False

    def __enter__(self) -> StopRequest:
        for number in STOP_SIGNALS:
            self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise StopWaiting in the block at the first signal, or at once if there was one."""
        self._waiting = True
        try:
            if self.requested:
                raise StopWaiting
            yield
        finally:
            self._waiting = False

    def agreed(self, *, failed: bool = False) -> bool:
        """Return whether any process has received a signal or has `failed`.

        All processes must call it after the same step. The hosts exchange the answer, so that no
        device is waited for.
        """
        stops = self.requested or failed
        if self._world.world_size == 1:
            return stops
        if self._world.presence is not None:
            self._world.presence.enter()
        share_of_processes = mean_over_processes(torch.tensor([float(stops)]))
        return bool(share_of_processes.item() > 0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: record the first one, and let a later SIGINT interrupt the run."""
        if self.requested:
            seconds = time.monotonic() - self._requested_at
            is_repeated = seconds <= REPEAT_SECONDS and self._world.world_size > 1
            if number == signal.SIGINT and not is_repeated:
                raise KeyboardInterrupt
            # Other signals are ignored: SLURM repeats SIGTERM at the end of a job, when a snapshot
            # may be half written.
            return
        self.requested = True
        self._requested_at = time.monotonic()
        if self._waiting:
            raise StopWaiting
