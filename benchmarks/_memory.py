"""Measure the peak memory of a function, in a process that does nothing else. Linux only."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


def peak_of(function: Callable[[], object]) -> float:
    """Call a function, and return the memory that it takes at its peak, in megabytes.

    The memory that the process has before the call is not counted.
    """
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the present size; proc(5)
    before = _status_bytes("VmRSS")
    function()
    return (_status_bytes("VmHWM") - before) / 1e6


def _status_bytes(name: str) -> int:
    """Return a size in the status of this process, in bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kilobytes,) = re.findall(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) * 1024
