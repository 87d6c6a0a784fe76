"""Peak memory of a function, for a process that does nothing else. Linux only."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path


def peak_of(function: Callable[[], object]) -> float:
    """Megabytes that calling the function takes at most beside what the process has already."""
    Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak starts again from here
    before = _status("VmRSS")
    function()
    return (_status("VmHWM") - before) / 1e6


def _status(name: str) -> int:
    """A number of bytes in this process's status."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kilobytes,) = re.findall(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) * 1024
