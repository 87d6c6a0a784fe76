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
# torchrun may send a signal again within so many seconds.
REPEAT_SECONDS = 2.0


class StopWaiting(BaseException):
    """A signal asked to stop while the training waited for data, which may never come."""


class StopRequest:
    """A context that records a signal to stop, so that the training can stop after a step.

    A second SIGINT interrupts the training at once. It does not if it follows the first signal
    immediately, because a signal from a terminal reaches each process twice, directly and through
    torchrun.
    """

    def __init__(self, world: World) -> None:
        """Prepare for signals to this process, one of the processes of `world`."""
        self._world = world
        # The time of the first signal, in seconds of `time.monotonic`.
        self._requested_at = 0.0
        self._previous_handlers: dict[signal.Signals, Any] = {}
        # True in a block of `interrupting`, which a signal interrupts.
        self._is_waiting = False
        # True once this process has received a signal.
        self.requested = False

    def __enter__(self) -> StopRequest:
        """Replace the handlers of the signals to stop."""
        for number in STOP_SIGNALS:
            self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the previous handlers."""
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Return a context in which the first signal raises StopWaiting.

        If there was a signal before, StopWaiting is raised at the start of the block.
        """
        self._is_waiting = True
        try:
            if self.requested:
                raise StopWaiting
            yield
        finally:
            self._is_waiting = False

    def agreed(self, *, failed: bool = False) -> bool:
        """Return, in all processes, whether any process must stop.

        A process must stop if it has received a signal, or if it has failed. All processes must
        call this method after the same step. They exchange the answer on the host, so that they do
        not wait for a GPU.

        Args:
            failed: True if this process has failed.
        """
        must_stop = self.requested or failed
        if self._world.world_size == 1:
            return must_stop
        if self._world.presence is not None:
            self._world.presence.enter()
        # The mean of 0 and 1 over processes is the fraction of processes that must stop.
        fraction_to_stop = mean_over_processes(torch.tensor([float(must_stop)]))
        return bool(fraction_to_stop.item() > 0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal: record the first one, and let a later SIGINT interrupt the training.

        Args:
            number: The number of the signal.
            frame: The current stack frame, which is not needed.
        """
        if self.requested:
            # This is not the first signal. With several processes, torchrun may have sent the first
            # signal again. Other signals than SIGINT are ignored: SLURM repeats SIGTERM at the end
            # of a job, when a snapshot may be half written.
            seconds = time.monotonic() - self._requested_at
            is_repeated = seconds <= REPEAT_SECONDS and self._world.world_size > 1
            if number == signal.SIGINT and not is_repeated:
                raise KeyboardInterrupt
            return
        self.requested = True
        self._requested_at = time.monotonic()
        if self._is_waiting:
            raise StopWaiting
