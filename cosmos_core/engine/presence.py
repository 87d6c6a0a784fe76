"""Find the process that the others wait for.

Processes that train together wait for each other until a timeout. Its error says who has waited,
but not for whom. So each process counts the exchanges that it enters, and a thread writes the count
to the store through which the processes met. Once a process has waited long, its thread reads all
counts. If the count of a process is no longer written, the process or its machine has stopped. If
it is smaller than the others, the process hangs elsewhere.
"""

import json
import logging
import os
import platform
import threading
import time
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist

from cosmos_core.utils.distributed import Distributed, restarts

MAX_INTERVAL = 10.0  # seconds from one entry of a process in the store to the next
MAX_NAMES = 3  # processes that a message names
STORE_TIMEOUT = timedelta(seconds=60)
logger = logging.getLogger(__name__)


class LostProcessError(RuntimeError):
    """A process has not come to an exchange before the timeout; one line that names it."""


class _Entry(NamedTuple):
    """The entry of a process in the store."""

    # The number of exchanges that the process has entered.
    exchanges: int
    # How often the process has written its entry. It grows as long as the process lives.
    writes: int


class Presence(AbstractContextManager["Presence"]):
    """The signs of life of all processes of a group, while they train together.

    At the end of the block, an error of an exchange that took `limit` seconds becomes a
    LostProcessError. With `reports` its line is logged shortly before the timeout, for exchanges of
    NCCL, whose timeout ends the process.
    """

    def __init__(self, group: Distributed, limit: float, *, reports: bool) -> None:
        self._group = group
        self._limit = limit
        self._reports = reports
        self._interval = min(MAX_INTERVAL, limit / 20)
        # The exchanges that this process has entered, and when it entered the last one.
        self._exchanges = 0
        self._entered_at = time.monotonic()
        # How often this process has written an entry to the store.
        self._writes = 0
        # The entries of all processes when this process had waited long, and when they were read.
        self._first_entries: dict[int, _Entry] = {}
        self._first_read_at = 0.0
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # A second connection, since the first one blocks while it waits for a value.
        store = dist.TCPStore(host, port, timeout=STORE_TIMEOUT, wait_for_workers=False)
        self._store = dist.PrefixStore(f"presence {restarts()}", store)
        self._write()
        self._hosts = group.gather(platform.node())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Presence":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: object) -> None:
        self._ended.set()
        self._thread.join(timeout=self._interval)
        if not isinstance(error, RuntimeError) or self._waiting_seconds() < self._limit / 2:
            return
        try:
            message = self._message()
        except RuntimeError:
            host = os.environ["MASTER_ADDR"]
            message = f"the store of the processes, on {host}, does not answer"
        if message:
            raise LostProcessError(message) from error

    def enter(self) -> None:
        """Record that this process enters an exchange with all other processes."""
        self._exchanges += 1
        self._entered_at = time.monotonic()
        self._first_entries = {}

    def gather(self, item: Any) -> list[Any]:
        """Return an object of every process by rank."""
        self.enter()
        return self._group.gather(item)

    def _waiting_seconds(self) -> float:
        """Return the seconds since this process entered its last exchange."""
        return time.monotonic() - self._entered_at

    def _watch(self) -> None:
        """Write this process's entry regularly; read all entries once it has waited long."""
        reported_exchange = -1
        try:
            while not self._ended.wait(self._interval):
                self._write()
                if self._waiting_seconds() > self._limit / 2 and not self._first_entries:
                    self._first_entries = self._read()
                    self._first_read_at = time.monotonic()
                is_late = self._waiting_seconds() > self._limit - 2 * self._interval
                if self._reports and is_late and reported_exchange != self._exchanges:
                    reported_exchange = self._exchanges
                    message = self._message()
                    if message:
                        logger.error(message)
        except RuntimeError:
            # The process that holds the store has ended, and this one will end too.
            return

    def _write(self) -> None:
        """Write this process's entry to the store."""
        self._writes += 1
        entry = json.dumps([self._exchanges, self._writes])
        self._store.set(str(self._group.rank), entry)

    def _read(self) -> dict[int, _Entry]:
        """Return the entries of all processes by rank."""
        ranks = range(self._group.world_size)
        entries = self._store.multi_get([str(rank) for rank in ranks])
        return {
            rank: _Entry(*json.loads(entry)) for rank, entry in zip(ranks, entries, strict=True)
        }

    def _message(self) -> str:
        """Return a line that names the processes that this one waits for; empty if none is known.

        Raises RuntimeError if the store does not answer.
        """
        entries = self._read()
        silent_ranks = [
            rank
            for rank, first_entry in self._first_entries.items()
            if first_entry.writes == entries[rank].writes
        ]
        if silent_ranks and time.monotonic() - self._first_read_at > 3 * self._interval:
            return self._message_about(
                silent_ranks, "does not answer: it or its machine has stopped"
            )
        late_ranks = [rank for rank, entry in entries.items() if entry.exchanges < self._exchanges]
        return self._message_about(
            late_ranks, "does not come to the exchange that the others wait in"
        )

    def _message_about(self, ranks: list[int], fault: str) -> str:
        """Return a line that names processes and their fault; empty without processes."""
        if not ranks:
            return ""
        names = ", ".join(f"rank {rank} on {self._hosts[rank]}" for rank in ranks[:MAX_NAMES])
        if len(ranks) > MAX_NAMES:
            names += f" and {len(ranks) - MAX_NAMES} others"
        return f"{names} {fault} (compute.timeout: {self._limit:g} s)"
