"""Find the process for which the other processes of a training wait.

Processes that train together exchange tensors and objects, and wait for each other until a timeout.
PyTorch's error names the process that has waited, but not the one that is missing. So each process
counts the exchanges that it enters, and a thread writes the count to the store through which the
processes met. Once a process has waited long, its thread reads the counts of all processes. If a
process no longer writes its count, it or its machine has stopped. If its count is smaller than the
others, it hangs outside the exchange.
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

# A process writes its entry to the store at least once in so many seconds.
MAX_INTERVAL = 10.0
# A message names at most so many processes.
MAX_NAMES = 3
STORE_TIMEOUT = timedelta(seconds=60)
logger = logging.getLogger(__name__)


class LostProcessError(RuntimeError):
    """A process has not come to an exchange before the timeout. The message names the process."""


class _Entry(NamedTuple):
    """An entry that a process writes to the store to show that it is alive."""

    # The number of exchanges that the process has entered.
    exchanges: int
    # How often the process has written its entry. It grows as long as the process lives.
    writes: int


class Presence(AbstractContextManager["Presence"]):
    """A context in which processes that train together show each other that they are alive.

    If an exchange fails after its timeout, the error at the end of the block is replaced by a
    LostProcessError, which names the missing process.

    Args:
        processes: This process and its communication with the others.
        timeout: The timeout of an exchange, in seconds.
        reports: True if the message is also logged shortly before the timeout. NCCL needs this,
            because its timeout ends the process.
    """

    def __init__(self, processes: Distributed, timeout: float, *, reports: bool) -> None:
        """Connect to the store of the processes, and exchange the names of their machines.

        The arguments are described in the class.
        """
        self._processes = processes
        self._timeout = timeout
        self._reports = reports
        self._interval = min(MAX_INTERVAL, timeout / 20)
        # The number of exchanges that this process has entered, and when it entered the last one.
        self._exchanges = 0
        self._entered_at = time.monotonic()
        # How often this process has written its entry to the store.
        self._writes = 0
        # The entries of all processes by rank, as they were when this process had waited for half
        # of the timeout, and when they were read.
        self._first_entries: dict[int, _Entry] = {}
        self._first_read_at = 0.0
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # PyTorch's own connection to the store blocks while it waits for a value, so open another.
        store = dist.TCPStore(host, port, timeout=STORE_TIMEOUT, wait_for_workers=False)
        self._store = dist.PrefixStore(f"presence {restarts()}", store)
        self._write_entry()
        self._hosts = processes.gather(platform.node())
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Presence":
        """Start the thread that writes the entry of this process."""
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: object) -> None:
        """End the thread, and name the process for which an exchange has waited in vain.

        Raises:
            LostProcessError: If the block has raised a RuntimeError after a long wait, and if a
                process or the store of the processes does not answer.
        """
        self._has_ended.set()
        self._thread.join(timeout=self._interval)
        has_waited_long = self._waiting_seconds() >= self._timeout / 2
        if not isinstance(error, RuntimeError) or not has_waited_long:
            return
        try:
            message = self._describe_missing_processes()
        except RuntimeError:
            host = os.environ["MASTER_ADDR"]
            message = f"the store of the processes, on {host}, does not answer"
        if message:
            raise LostProcessError(message) from error

    def enter(self) -> None:
        """Record that this process enters an exchange with all other processes now."""
        self._exchanges += 1
        self._entered_at = time.monotonic()
        self._first_entries = {}

    def gather(self, item: Any) -> list[Any]:
        """Return a list of the items of all processes by rank. All processes must call it."""
        self.enter()
        return self._processes.gather(item)

    def _waiting_seconds(self) -> float:
        """Return the seconds since this process entered its last exchange."""
        return time.monotonic() - self._entered_at

    def _watch(self) -> None:
        """Write the entry of this process regularly, and read all entries after a long wait.

        This runs in the thread, until the context ends or the store does not answer.
        """
        reported_exchange = -1
        try:
            while not self._has_ended.wait(self._interval):
                self._write_entry()
                has_waited_long = self._waiting_seconds() > self._timeout / 2
                if has_waited_long and not self._first_entries:
                    self._first_entries = self._read_entries()
                    self._first_read_at = time.monotonic()
                # Report each exchange once, shortly before its timeout.
                is_late = self._waiting_seconds() > self._timeout - 2 * self._interval
                if self._reports and is_late and reported_exchange != self._exchanges:
                    reported_exchange = self._exchanges
                    message = self._describe_missing_processes()
                    if message:
                        logger.error(message)
        except RuntimeError:
            # The process that holds the store has ended, and this one will end too.
            return

    def _write_entry(self) -> None:
        """Write the entry of this process to the store."""
        self._writes += 1
        entry = json.dumps([self._exchanges, self._writes])
        self._store.set(str(self._processes.rank), entry)

    def _read_entries(self) -> dict[int, _Entry]:
        """Return the entries of all processes by rank."""
        ranks = range(self._processes.world_size)
        values = self._store.multi_get([str(rank) for rank in ranks])
        entries = {}
        for rank, value in zip(ranks, values, strict=True):
            exchanges, writes = json.loads(value)
            entries[rank] = _Entry(exchanges, writes)
        return entries

    def _describe_missing_processes(self) -> str:
        """Return an error message that names the processes for which this one waits.

        It is empty if no process is missing.

        Raises:
            RuntimeError: If the store does not answer.
        """
        entries = self._read_entries()

        # Find processes that have written nothing since the entries were read for the first time.
        # A living process has written since then, if this was three intervals ago.
        silent_ranks = []
        for rank, first_entry in self._first_entries.items():
            if first_entry.writes == entries[rank].writes:
                silent_ranks.append(rank)
        seconds_since_first_read = time.monotonic() - self._first_read_at
        if silent_ranks and seconds_since_first_read > 3 * self._interval:
            return self._name_processes(
                silent_ranks, "does not answer: it or its machine has stopped"
            )

        # Find living processes that have not come to the exchange in which this one waits.
        late_ranks = [rank for rank, entry in entries.items() if entry.exchanges < self._exchanges]
        return self._name_processes(
            late_ranks, "does not come to the exchange that the others wait in"
        )

    def _name_processes(self, ranks: list[int], problem: str) -> str:
        """Return a message that names processes and their problem.

        Args:
            ranks: The ranks of the processes. If there are none, the message is empty.
            problem: The end of the sentence, such as "does not answer".

        Example:
            "rank 3 on node7 does not answer (compute.timeout: 600 s)"
        """
        if not ranks:
            return ""
        names = ", ".join(f"rank {rank} on {self._hosts[rank]}" for rank in ranks[:MAX_NAMES])
        if len(ranks) > MAX_NAMES:
            names += f" and {len(ranks) - MAX_NAMES} others"
        return f"{names} {problem} (compute.timeout: {self._timeout:g} s)"
