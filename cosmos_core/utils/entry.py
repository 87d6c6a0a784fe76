"""Start a command whose imports take seconds, in which Ctrl-C must end it as it does later."""

from __future__ import annotations

import os
import signal
from importlib import import_module
from types import FrameType


def start(module: str, program: str) -> None:
    """Import a module and run its `main`, which exits with the status of the command.

    Until it is imported, SIGINT ends the process at once with status 130: some libraries drop an
    exception that interrupts their import, and then fail in another way.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, f"{program}: interrupted\n".encode())
        os._exit(130)

    former = signal.getsignal(signal.SIGINT)
    if former is signal.default_int_handler:  # else it is ignored, as in a background job
        signal.signal(signal.SIGINT, end)
    main = import_module(module).main
    signal.signal(signal.SIGINT, former)
    main()
