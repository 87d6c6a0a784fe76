"""Entry point of `cosmos-train` and of `torchrun -m cosmos_core.train`.

The commands are in `cosmos_core.cli`, whose import takes seconds.
"""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command of the command line and exit with its status."""
    former = signal.getsignal(signal.SIGINT)
    if former is signal.default_int_handler:  # else it is ignored, as in a background job
        signal.signal(signal.SIGINT, _end)
    from cosmos_core.cli import main as run

    signal.signal(signal.SIGINT, former)
    run()


def _end(number: int, frame: FrameType | None) -> None:
    """End at once: some libraries drop an exception that interrupts their import, and then fail."""
    os.write(2, b"cosmos-train: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
