"""Attention maps and captions as one picture, drawn by Matplotlib, in PNG and SVG."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image

from cosmos_core.utils.figures import plain_style
from cosmos_eval.models.maps import scaled, upsample
from cosmos_eval.report.attention import describe
from cosmos_eval.report.attention.compute import CaptionShares, Level, Look, Row, View
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.colors import Colormap

OPACITY = 0.6
"""Opacity of a map over its image."""

# Lengths are in pixels of the SVG, 72 to an inch; a PNG has three for two of them.
_DPI = 108
_MARGIN, _GAP, _ROW_GAP, _WIDTH = 20, 12, 18, 940
_PANEL = (180, 340)  # the least and the largest side of a panel
_IN_LINE = 4  # maps beside an image
_HEADED = 8  # rows under one heading
_BODY, _SMALL = 15, 12  # sizes of letters
_PAD, _CHIP, _CHIP_LINE = 4.0, 24.0, 29.0  # of a word on its colour: padding, height, line
_INK, _SOFT, _RULE = "#1c1e21", "#5b6169", "#d5d8dc"
# Text as it is, and the same bytes every time.
_STYLE = {
    "font.family": describe.FAMILY,
    "text.hinting": "none",
    "text.parse_math": False,
    "image.composite_image": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cosmos-eval",
}
# Pillow and other programs refuse to open larger pictures.
_MOST_PIXELS = Image.MAX_IMAGE_PIXELS or 89_478_485


class Ink(NamedTuple):
    """A background and the colour of text on it."""

    ground: str
    text: str


# Contrast of text to background: 11.7, 12.3 and 15.9 (WCAG requires 4.5).
LEVELS: dict[Level, Ink] = {
    "low": Ink("#26357a", "#ffffff"),
    "middle": Ink("#93dc8f", "#10221a"),
    "high": Ink("#fde725", "#1c1a00"),
}
PLAIN = Ink("#e4e7ec", "#1c1e21")  # of words that have nothing to be compared with
_UNREAD = Ink("#ffffff", "#8a9099")


@cache
def colour_map() -> Colormap:
    """Return viridis without its violet end: perceptually even, brighter for more."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis"](np.linspace(0.18, 1, 256)))


def coloured(view: View, size: tuple[int, int]) -> Image.Image:
    """Draw a map in colours at a width and height: upsampled, then scaled to its own range."""
    large = scaled(upsample(torch.from_numpy(view.map), size[::-1])).numpy()
    return Image.fromarray(colour_map()(large, bytes=True)[..., :3])


def overlaid(view: View, picture: Image.Image) -> Image.Image:
    """Draw a map over its picture in grey, so that all colour is the map's."""
    grey = picture.convert("L").convert("RGB")
    return Image.blend(grey, coloured(view, picture.size), OPACITY)


def to_png(rows: Sequence[Row]) -> bytes:
    """Draw rows as PNG. Raises UsageError for a picture that other programs would not open."""
    return _draw_rows(rows, "png")[0]


def to_svg(rows: Sequence[Row]) -> bytes:
    """Draw rows as SVG, with text as text and titles of images and words."""
    svg, titles = _draw_rows(rows, "svg")
    namespace = "http://www.w3.org/2000/svg"
    ET.register_namespace("", namespace)
    root = ET.fromstring(svg)
    for metadata in root.findall(f"{{{namespace}}}metadata"):
        root.remove(metadata)
    # Viewers show titles and screen readers read them, but Matplotlib cannot write them.
    for element in [root, *root.iter()]:
        text = describe.TITLE if element is root else titles.get(element.get("id", ""), "")
        if text and not element.findall(f"{{{namespace}}}title"):
            child = ET.Element(f"{{{namespace}}}title")
            child.text = text
            element.insert(0, child)
    return ET.tostring(root, "utf-8", xml_declaration=True)


class _Chip(NamedTuple):
    """A word, or a piece of one that is wider than a line, on its colour."""

    text: str
    ink: Ink
    spaced: bool = True
    title: str = ""

    @property
    def width(self) -> float:
        return text_width(self.text, _BODY) + 2 * _PAD


class _Sheet:
    """A figure with one set of axes in pixels, y downwards, that is filled from top to bottom."""

    def __init__(self) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        self.titles: dict[str, str] = {}  # of artists in an SVG, by the artist's gid

    def save(self, kind: str, width: float, height: float) -> bytes:
        """Return the figure as a file. Raises UsageError for too many pixels."""
        size = [round(_DPI / 72 * side) for side in (width, height)]
        if kind == "png" and (size[0] * size[1] > _MOST_PIXELS or max(size) >= 2**16):
            raise UsageError(
                f"the picture would have {size[0]} x {size[1]} pixels, more than programs open: "
                "take fewer rows, or a name that ends with .html"
            )
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.figure.set_size_inches(width / 72, height / 72)
        content, undated = io.BytesIO(), {"svg": {"Date": None}}.get(kind)
        self.figure.savefig(content, format=kind, dpi=_DPI, metadata=undated)
        return content.getvalue()

    def text(
        self, x: float, y: float, text: str, size: float, colour: str, *, bold: bool = False
    ) -> Artist:
        """Write one line below `y`."""
        weight = "bold" if bold else "normal"
        return self.axes.text(x, y + size, text, size=size, color=colour, weight=weight)

    def paragraph(
        self, x: float, y: float, text: str, width: float, size: float = _SMALL, colour: str = _SOFT
    ) -> float:
        """Write running text in lines of a width; returns its lower edge."""
        for line in wrapped(text, size, width):
            self.text(x, y, line, size, colour)
            y += round(1.4 * size)
        return y

    def image(
        self, x: float, y: float, image: Image.Image, width: float, height: float, title: str
    ) -> None:
        extent = (x, x + width, y + height, y)
        self._titled(self.axes.imshow(image, extent=extent, aspect="auto"), title)

    def chip(self, x: float, y: float, chip: _Chip) -> None:
        from matplotlib.patches import FancyBboxPatch

        style, colour = f"round,pad=0,rounding_size={_PAD}", chip.ink.ground
        box = FancyBboxPatch((x, y), chip.width, _CHIP, style, facecolor=colour, linewidth=0)
        self.axes.add_patch(box)
        self._titled(self.text(x + _PAD, y + 2, chip.text, _BODY, chip.ink.text), chip.title)

    def caption(self, x: float, y: float, caption: CaptionShares, width: float) -> float:
        """Write a caption on its colours, and where the rest of the attention went."""
        chips = list(_chips(caption, width))
        places = flowed([c.width for c in chips], [c.spaced for c in chips], width)
        for chip, (left, line) in zip(chips, places, strict=True):
            self.chip(x + left, y + _CHIP_LINE * line, chip)
        y += _CHIP_LINE * (places[-1][1] + 1)
        return self.paragraph(x, y, describe.padding_line(caption), width)

    def _titled(self, artist: Artist, title: str) -> None:
        if title:
            gid = f"titled-{len(self.titles)}"
            artist.set_gid(gid)
            self.titles[gid] = title


def _chips(caption: CaptionShares, width: float) -> Iterator[_Chip]:
    for word in caption.words:
        title = f"{describe.printable(word.text)}: {describe.percent(word.share)} of the weight"
        chip = _Chip(word.text, LEVELS[word.level] if word.level else PLAIN, word.spaced, title)
        yield from _pieces(chip, width)
    for text in caption.unread.split():
        yield from _pieces(_Chip(text, _UNREAD, title="not read"), width)


def _pieces(chip: _Chip, width: float) -> Iterator[_Chip]:
    pieces = broken(describe.printable(chip.text), _BODY, width - 2 * _PAD)
    for number, piece in enumerate(pieces):
        yield chip._replace(text=piece, spaced=chip.spaced and not number)


def flowed(
    widths: Sequence[float], spaced: Sequence[bool], line_width: float
) -> list[tuple[float, int]]:
    """Return the left edge and the line of each word; those that touch are kept together."""
    places: list[tuple[float, int]] = []
    right, line = 0.0, 0
    for number, (width, is_spaced) in enumerate(zip(widths, spaced, strict=True)):
        gap = _PAD if right and is_spaced else 0.0
        rest = zip(widths[number + 1 :], spaced[number + 1 :], strict=True)
        touching = sum(other for other, _ in takewhile(lambda one: not one[1], rest))
        if right and right + gap + width + is_spaced * touching > line_width:
            right, gap, line = 0.0, 0.0, line + 1
        places.append((right + gap, line))
        right += gap + width
    return places


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=describe.FAMILY, size=size, weight="bold" if bold else "normal")
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def broken(text: str, size: float, width: float) -> list[str]:
    """Split a word into pieces that are no wider than a line."""
    pieces = [""]
    for character in text:
        if pieces[-1] and text_width(pieces[-1] + character, size) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def wrapped(text: str, size: float, width: float) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        first, *others = broken(word, size, width)
        if lines and text_width(f"{lines[-1]} {first}", size) <= width:
            lines[-1] += f" {first}"
        else:
            lines.append(first)
        lines += others
    return lines


def shortened(text: str, size: float, width: float, bold: bool = False) -> str:
    """Keep the end of a text that fits, which tells a path from others."""
    while len(text) > 1 and text_width(text, size, bold) > width:
        text = f"…{text[2:]}"
    return text


def _draw_rows(rows: Sequence[Row], kind: str) -> tuple[bytes, dict[str, str]]:
    """Draw all rows and what their colours mean; returns the file and the sheet's titles."""
    columns = 1 + max(len(line) for line in _lines(rows[0].looks))
    side = (_WIDTH - _GAP * (columns - 1)) / columns
    panel = min(max(side, _PANEL[0]), _PANEL[1])
    width = columns * panel + _GAP * (columns - 1)
    with plain_style(_STYLE):
        sheet, y = _Sheet(), float(_MARGIN)
        for number, row in enumerate(rows):
            headed = number % _HEADED == 0 or len(_lines(row.looks)) > 1
            y = _draw_row(sheet, y, row, panel, headed)
            y = _draw_captions(sheet, y, row, width) + _ROW_GAP
            sheet.axes.plot((_MARGIN, _MARGIN + width), (y, y), color=_RULE, lw=1)
            y += _ROW_GAP
        y = _draw_legend(sheet, y, rows, width)
        return sheet.save(kind, width + 2 * _MARGIN, y + _MARGIN), sheet.titles


def _lines(looks: Sequence[Look]) -> list[list[tuple[Look, View]]]:
    """Group the views that stand beside each other: of all models, or a few heads of one."""
    groups = [[(look, view) for view in look.views] for look in looks]
    if all(len(group) == 1 for group in groups):
        groups = [[shown for group in groups for shown in group]]
    starts = [(group, start) for group in groups for start in range(0, len(group), _IN_LINE)]
    return [group[start : start + _IN_LINE] for group, start in starts]


def _draw_row(sheet: _Sheet, y: float, row: Row, panel: float, headed: bool) -> float:
    width, height = (side * panel / max(row.picture.size) for side in row.picture.size)
    for number, line in enumerate(_lines(row.looks)):
        places = [(_MARGIN + (panel + _GAP) * n, *shown) for n, shown in enumerate(line, start=1)]
        if headed:
            y = max(_draw_heading(sheet, x, y, look, view, panel) for x, look, view in places) + 4
        lower = y + height + 4
        bottoms = [lower]
        if number == 0:
            name = describe.printable(row.name)
            sheet.image(_MARGIN, y, row.picture, width, height, name)
            sheet.text(_MARGIN, lower, shortened(name, _SMALL, panel), _SMALL, _SOFT)
            size = f"{row.size[0]} x {row.size[1]} px"
            bottoms.append(sheet.paragraph(_MARGIN, lower + 17, size, panel))
        for x, look, view in places:
            map_over = overlaid(view, row.picture)
            sheet.image(x, y, map_over, width, height, describe.alt_text(row, look, view))
            bottom = sheet.paragraph(x, lower, describe.range_line(look, view), panel)
            # The words of one head of several stand below its map.
            if view.caption and len(look.views) > 1:
                bottom = sheet.caption(x, bottom + 4, view.caption, panel)
            bottoms.append(bottom)
        y = max(bottoms) + _GAP
    return y


def _draw_heading(sheet: _Sheet, x: float, y: float, look: Look, view: View, panel: float) -> float:
    model = shortened(describe.printable(look.info.spec), _SMALL, panel, bold=True)
    sheet.text(x, y, model, _SMALL, _INK, bold=True)
    shows = f"{describe.title(look)}, {view.head}" if view.head else describe.title(look)
    return sheet.paragraph(x, y + 17, shows, panel)


def _draw_captions(sheet: _Sheet, y: float, row: Row, width: float) -> float:
    """Write captions on their colours, named if there are several; without any, the text."""
    if not describe.has_words(row.looks):
        return sheet.paragraph(_MARGIN, y, describe.printable(row.text), width, _BODY, _INK)
    alone = [(look.info, look.views[0].caption) for look in row.looks if len(look.views) == 1]
    shown = [(info, caption) for info, caption in alone if caption]
    for info, caption in shown:
        if len(shown) > 1:
            y = sheet.paragraph(_MARGIN, y, describe.printable(info.spec), width) + 4
        y = sheet.caption(_MARGIN, y, caption, width)
    return y


def _draw_legend(sheet: _Sheet, y: float, rows: Sequence[Row], width: float) -> float:
    looks = [look for row in rows for look in row.looks]
    bar = Image.fromarray(colour_map()(np.arange(256), bytes=True)[None, :, :3])
    sheet.text(_MARGIN, y, "0", _SMALL, _SOFT)
    sheet.image(_MARGIN + 12, y + 1, bar, 150, 13, "colours from 0 to 1")
    sheet.text(_MARGIN + 167, y, "1", _SMALL, _SOFT)
    kinds = " / ".join(dict.fromkeys(describe.title(look) for look in looks))
    y = sheet.paragraph(_MARGIN + 188, y, kinds, width - 188, colour=_INK) + 8
    if describe.has_words(looks):
        x = float(_MARGIN)
        for level, ink in LEVELS.items():
            chip = _Chip(describe.LEVEL_NAMES[level], ink)
            sheet.chip(x, y, chip)
            x += chip.width + _PAD
        y += _CHIP_LINE + 4
    for line in describe.footer(rows):
        y = sheet.paragraph(_MARGIN, y, line, width) + 2
    return y
