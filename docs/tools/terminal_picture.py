"""`python docs/tools/terminal_picture.py [OUT]`: the README's picture of the terminal.

Runs `cosmos-eval leaderboard results` in a pseudo-terminal and draws what it prints, a cell a
character, with the font that matplotlib brings (extra `dev`). Needs a POSIX system.
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
from pathlib import Path

from matplotlib import get_data_path
from picture_source import source_note
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.style import Style
from rich.text import Text

ROOT = Path(__file__).parents[2]
WORDS = ("leaderboard", "results")
COLUMNS = 118
SIZE = 18  # of the font, in pixels
MARGIN = 20
INK, BRIGHT, GREEN, PAPER = "#c8ccd4", "#ffffff", "#7ee787", "#14171f"


def printed(words: tuple[str, ...], columns: int) -> str:
    """What `cosmos-eval` writes to a terminal so many columns wide, colours included."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(columns), PYTHONPATH=str(ROOT))
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "cosmos_eval", *words])
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
    written = bytearray()
    while True:
        try:
            chunk = os.read(terminal, 1 << 16)
        except OSError:  # Linux says so that the child has closed it
            break
        if not chunk:
            break
        written += chunk
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(written.decode())
    return written.decode().replace("\r\n", "\n")


def draw(text: str, columns: int) -> Image.Image:
    """ANSI text as a picture."""
    lines = Text.from_ansi(text.rstrip()).split("\n")
    fonts = Path(get_data_path()) / "fonts" / "ttf"
    plain, bold = (
        ImageFont.truetype(str(fonts / name), SIZE)
        for name in ("DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf")
    )
    width, height = round(plain.getlength("M")), sum(plain.getmetrics())
    size = (2 * MARGIN + columns * width, 2 * MARGIN + len(lines) * height)
    picture = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(picture)
    console = Console(width=columns)
    for row, line in enumerate(lines):
        column = 0
        for segment in line.render(console):
            style = segment.style or Style()
            for character in segment.text.rstrip("\n"):
                at = (MARGIN + column * width, MARGIN + row * height)
                pen.text(at, character, _colour(style), bold if style.bold else plain)
                column += 1
    # A few colours are enough, and a third of the file.
    return picture.quantize(64)


def _colour(style: Style) -> str:
    if style.color is not None and style.color.number == 2:  # ANSI's green
        return GREEN
    return BRIGHT if style.bold else INK


if __name__ == "__main__":
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures" / "terminal.png"
    shown = f"$ cosmos-eval {' '.join(WORDS)}\n{printed(WORDS, COLUMNS)}"
    out.parent.mkdir(parents=True, exist_ok=True)
    draw(shown, COLUMNS).save(out, optimize=True, pnginfo=source_note())
    print(out)
