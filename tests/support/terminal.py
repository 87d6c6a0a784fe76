"""`python terminal.py SHELL HOME LINE...`: type lines into an interactive shell, on a terminal.

A line that ends with a tab is not run. Instead, the completions of the shell are printed, one per
line. The shell runs in the folder HOME, and takes it for the home folder of its user.
"""

from __future__ import annotations

import os
import pty
import select
import sys
import time
from pathlib import Path

LINE_START, LINE_END, ENTER = "\x01", "\x05", "\r"
SECONDS = 60  # for a shell to answer


def main() -> None:
    shell, home, *lines = sys.argv[1:]
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(home)
        environment = {"HOME": home, "PATH": os.environ["PATH"], "TERM": "xterm"}
        os.execvpe(shell, [shell, "-i"], environment)

    for number, line in enumerate(["true", *lines]):
        completed, written = Path(home, f"completed{number}"), Path(home, f"written{number}")
        keys = f"{line}; touch {written}{ENTER}"
        if line.endswith("\t"):
            keys = f'{line}{LINE_START}echo "{LINE_END}" > {completed}; touch {written}{ENTER}'
        os.write(terminal, keys.encode())
        read_until(terminal, written, line)
        if line.endswith("\t"):
            print(completed.read_text().rstrip("\n"))
            completed.unlink()
        written.unlink()
    os.close(terminal)  # which ends the shell


def read_until(terminal: int, file: Path, line: str) -> None:
    """Read what the shell writes on its terminal until a file is there."""
    screen = b""
    deadline = time.monotonic() + SECONDS
    while not file.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no answer to {line!r}: {screen!r}")
        readable, _, _ = select.select([terminal], [], [], 0.05)
        if readable:
            screen += os.read(terminal, 1 << 16)


if __name__ == "__main__":
    main()
