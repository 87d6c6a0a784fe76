"""Names the process that others wait for.

Processes that train together wait for each other until a timeout, whose error says who waited and
not for whom. So each of them counts the exchanges that it enters, and a thread writes the count to
the store that the processes met by. Once a process has waited long, its thread reads the counts of
all. If a count is no longer written, its process or its machine has stopped; if it is smaller, its
process hangs elsewhere.
"""

import json
import logging
import os
import platform
import threading
import time
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from cosmos_core.utils.distributed import Distributed, restarts

LONGEST_INTERVAL = 10.0  # seconds from one entry of a process to the next
NAMED = 3  # processes in a message
STORE_TIMEOUT = timedelta(seconds=60)
logger = logging.getLogger(__name__)


class LostProcessError(RuntimeError):
    """A process that the others have waited for in vain; one line that names it."""


class Presence(AbstractContextManager["Presence"]):
    """The signs of life of all processes of a group, for as long as they train together. On leaving
    it, an error of an exchange that took `limit` seconds becomes a LostProcessError. `reports`
    prints its line shortly before, for exchanges of NCCL, whose timeout ends the process."""

    def __init__(self, group: Distributed, limit: float, *, reports: bool) -> None:
        self._group, self._limit, self._reports = group, limit, reports
        self._interval = min(LONGEST_INTERVAL, limit / 20)
        self._entered, self._since = 0, time.monotonic()
        self._written = 0  # entries of this process
        self._first: dict[int, Any] = {}  # entries of all when this process had waited long
        self._first_time = 0.0
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # A second connection: the first one blocks while it waits for a value.
        client = dist.TCPStore(host, port, timeout=STORE_TIMEOUT, wait_for_workers=False)
        self._store = dist.PrefixStore(f"presence {restarts()}", client)
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
        if not isinstance(error, RuntimeError) or self._waited() < self._limit / 2:
            return
        try:
            line = self._line()
        except RuntimeError:
            line = f"the store of the processes, on {os.environ['MASTER_ADDR']}, does not answer"
        if line:
            raise LostProcessError(line) from error

    def enter(self) -> None:
        """Note that this process enters an exchange with all others."""
        self._entered, self._since, self._first = self._entered + 1, time.monotonic(), {}

    def gather(self, item: Any) -> list[Any]:
        """Return an object of every process by rank."""
        self.enter()
        return self._group.gather(item)

    def _waited(self) -> float:
        return time.monotonic() - self._since

    def _watch(self) -> None:
        """Write this process's entries; read those of all once it has waited long."""
        reported = -1
        try:
            while not self._ended.wait(self._interval):
                self._write()
                if self._waited() > self._limit / 2 and not self._first:
                    self._first, self._first_time = self._read(), time.monotonic()
                late = self._waited() > self._limit - 2 * self._interval
                if self._reports and late and reported != self._entered:
                    reported = self._entered
                    if line := self._line():
                        logger.error(line)
        except RuntimeError:  # the process that holds the store has ended, and so will this one
            return

    def _write(self) -> None:
        self._written += 1
        self._store.set(str(self._group.rank), json.dumps([self._entered, self._written]))

    def _read(self) -> dict[int, list[int]]:
        ranks = range(self._group.world_size)
        entries = self._store.multi_get([str(rank) for rank in ranks])
        return {rank: json.loads(entry) for rank, entry in zip(ranks, entries, strict=True)}

    def _line(self) -> str:
        """Return a line that names the processes that this one waits for; empty if none is known.
        Raises RuntimeError if the store does not answer."""
        now = self._read()
        silent = [rank for rank, entry in self._first.items() if entry[1] == now[rank][1]]
        if silent and time.monotonic() - self._first_time > 3 * self._interval:
            return self._named(silent, "does not answer: it or its machine has stopped")
        behind = [rank for rank, entry in now.items() if entry[0] < self._entered]
        return self._named(behind, "does not come to the exchange that the others wait in")

    def _named(self, ranks: list[int], fault: str) -> str:
        if not ranks:
            return ""
        names = ", ".join(f"rank {rank} on {self._hosts[rank]}" for rank in ranks[:NAMED])
        others = f" and {len(ranks) - NAMED} others" if len(ranks) > NAMED else ""
        return f"{names}{others} {fault} (compute.timeout: {self._limit:g} s)"
