"""Draw attention maps and captions as one picture in PNG or SVG, by Matplotlib."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image

from cosmos_core.utils.figures import plain_style
from cosmos_eval.models.maps import scale_to_unit_range, upsample
from cosmos_eval.report.attention import describe
from cosmos_eval.report.attention.compute import CaptionShares, Level, Look, Row, View
from cosmos_eval.types import UsageError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.colors import Colormap

OPACITY = 0.6
"""Opacity of a map over its image."""

# Lengths are in pixels of the SVG, 72 to an inch. A PNG has 108 pixels to an inch.
_DPI = 108
_MARGIN, _GAP, _ROW_GAP = 20, 12, 18
_WIDTH = 940  # of all panels of a line together, unless this makes them too small
_LEAST_PANEL, _LARGEST_PANEL = 180, 340  # the side of a panel
_MAPS_PER_LINE = 4  # beside an image
_ROWS_PER_HEADING = 8
_BODY, _SMALL = 15, 12  # sizes of letters
_CHIP_PAD, _CHIP_HEIGHT, _CHIP_LINE = 4.0, 24.0, 29.0  # of a word on its colour
_INK, _SOFT, _RULE = "#1c1e21", "#5b6169", "#d5d8dc"
# Text is not interpreted, and equal input gives equal bytes.
_STYLE = {
    "font.family": describe.FAMILY,
    "text.hinting": "none",
    "text.parse_math": False,
    "image.composite_image": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cosmos-eval",
}
_SVG = "http://www.w3.org/2000/svg"
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
PLAIN = Ink("#e4e7ec", "#1c1e21")  # for words that are all weighed alike
_UNREAD = Ink("#ffffff", "#8a9099")


@cache
def colour_map() -> Colormap:
    """Return viridis without its violet end: perceptually even, brighter for more."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis"](np.linspace(0.18, 1, 256)))


def coloured(view: View, size: tuple[int, int]) -> Image.Image:
    """Draw a map in colours at a width and height: upsampled, then scaled to [0, 1]."""
    width, height = size
    values = scale_to_unit_range(upsample(torch.from_numpy(view.map), (height, width))).numpy()
    return Image.fromarray(colour_map()(values, bytes=True)[..., :3])


def overlaid(view: View, picture: Image.Image) -> Image.Image:
    """Draw a map over its picture in grey, so that every colour belongs to the map."""
    grey = picture.convert("L").convert("RGB")
    return Image.blend(grey, coloured(view, picture.size), OPACITY)


def to_png(rows: Sequence[Row]) -> bytes:
    """Draw rows as PNG. Raises UsageError for a picture too large for other programs."""
    return _draw_rows(rows, "png")[0]


def to_svg(rows: Sequence[Row]) -> bytes:
    """Draw rows as SVG, with text as text, and titles of images and words."""
    svg, titles = _draw_rows(rows, "svg")
    ET.register_namespace("", _SVG)
    root = ET.fromstring(svg)
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    # Viewers show titles and screen readers read them, but Matplotlib cannot write them.
    _insert_title(root, describe.TITLE)
    for element in list(root.iter()):
        title = titles.get(element.get("id", ""))
        if title:
            _insert_title(element, title)
    return ET.tostring(root, "utf-8", xml_declaration=True)


def _insert_title(element: ET.Element, text: str) -> None:
    """Insert a title as the first child of an element."""
    title = ET.Element(f"{{{_SVG}}}title")
    title.text = text
    element.insert(0, title)


class _Chip(NamedTuple):
    """A word on its colour, or a piece of a word that is wider than a line."""

    text: str
    ink: Ink
    # Whether white space comes before it.
    spaced: bool = True
    title: str = ""

    @property
    def width(self) -> float:
        return text_width(self.text, _BODY) + 2 * _CHIP_PAD


class _Sheet:
    """A figure that is filled from top to bottom; lengths are in pixels, and y goes downwards."""

    def __init__(self) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        # The titles of elements of an SVG by their id.
        self.titles: dict[str, str] = {}

    def save(self, file_format: str, width: float, height: float) -> bytes:
        """Return the figure as a file. Raises UsageError for too many pixels."""
        n_columns = round(_DPI / 72 * width)
        n_rows = round(_DPI / 72 * height)
        is_too_large = n_columns * n_rows > _MOST_PIXELS or max(n_columns, n_rows) >= 2**16
        if file_format == "png" and is_too_large:
            raise UsageError(
                f"the picture would have {n_columns} x {n_rows} pixels, more than programs open: "
                "take fewer rows, or a name that ends with .html"
            )
        self.axes.set(xlim=(0, width), ylim=(height, 0))
        self.figure.set_size_inches(width / 72, height / 72)
        # Without a date, equal input gives equal bytes.
        metadata = {"Date": None} if file_format == "svg" else None
        content = io.BytesIO()
        self.figure.savefig(content, format=file_format, dpi=_DPI, metadata=metadata)
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
        """Write running text in lines of a width, and return its lower edge."""
        for line in wrapped(text, size, width):
            self.text(x, y, line, size, colour)
            y += round(1.4 * size)
        return y

    def image(
        self, x: float, y: float, image: Image.Image, width: float, height: float, title: str
    ) -> None:
        """Draw an image with its upper left corner at (x, y)."""
        extent = (x, x + width, y + height, y)
        self._set_title(self.axes.imshow(image, extent=extent, aspect="auto"), title)

    def chip(self, x: float, y: float, chip: _Chip) -> None:
        """Write a word on its colour, with the upper left corner of the colour at (x, y)."""
        from matplotlib.patches import FancyBboxPatch

        box = FancyBboxPatch(
            (x, y),
            chip.width,
            _CHIP_HEIGHT,
            f"round,pad=0,rounding_size={_CHIP_PAD}",
            facecolor=chip.ink.ground,
            linewidth=0,
        )
        self.axes.add_patch(box)
        text = self.text(x + _CHIP_PAD, y + 2, chip.text, _BODY, chip.ink.text)
        self._set_title(text, chip.title)

    def caption(self, x: float, y: float, caption: CaptionShares, width: float) -> float:
        """Write a caption on its colours, and the attention outside of words below.

        Returns the lower edge.
        """
        chips = list(_chips(caption, width))
        widths = [chip.width for chip in chips]
        places = flowed(widths, [chip.spaced for chip in chips], width)
        for chip, (left_edge, line) in zip(chips, places, strict=True):
            self.chip(x + left_edge, y + _CHIP_LINE * line, chip)
        _, last_line = places[-1]
        y += _CHIP_LINE * (last_line + 1)
        return self.paragraph(x, y, describe.padding_line(caption), width)

    def _set_title(self, artist: Artist, title: str) -> None:
        """Give an element of the SVG a title, unless it is empty."""
        if title:
            element_id = f"titled-{len(self.titles)}"
            artist.set_gid(element_id)
            self.titles[element_id] = title


def _chips(caption: CaptionShares, width: float) -> Iterator[_Chip]:
    """Yield the words of a caption on their colours, then the words that are not read."""
    for word in caption.words:
        ink = LEVELS[word.level] if word.level else PLAIN
        title = f"{describe.printable(word.text)}: {describe.percent(word.share)} of the weight"
        yield from _split_chip(_Chip(word.text, ink, word.spaced, title), width)
    for text in caption.unread.split():
        yield from _split_chip(_Chip(text, _UNREAD, title="not read"), width)


def _split_chip(chip: _Chip, width: float) -> Iterator[_Chip]:
    """Yield a chip, or several chips with pieces of its word if it is wider than a line."""
    pieces = broken(describe.printable(chip.text), _BODY, width - 2 * _CHIP_PAD)
    for number, piece in enumerate(pieces):
        yield chip._replace(text=piece, spaced=chip.spaced and number == 0)


def flowed(
    widths: Sequence[float], spaced: Sequence[bool], line_width: float
) -> list[tuple[float, int]]:
    """Place words in lines, and return the left edge and the number of the line of each word.

    `spaced` tells for each word whether white space comes before it. Words without white space
    between them, such as a word and its comma, stay on one line if they fit.
    """
    places: list[tuple[float, int]] = []
    right, line = 0.0, 0
    for number, (width, is_spaced) in enumerate(zip(widths, spaced, strict=True)):
        gap = _CHIP_PAD if right and is_spaced else 0.0
        touching_width = _touching_width(widths, spaced, number + 1) if is_spaced else 0.0
        if right and right + gap + width + touching_width > line_width:
            right, gap, line = 0.0, 0.0, line + 1
        places.append((right + gap, line))
        right += gap + width
    return places


def _touching_width(widths: Sequence[float], spaced: Sequence[bool], start: int) -> float:
    """Return the width of the words from `start` on that have no white space before them."""
    touching_width = 0.0
    for width, is_spaced in zip(widths[start:], spaced[start:], strict=True):
        if is_spaced:
            break
        touching_width += width
    return touching_width


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return the width of a line of text in pixels."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=describe.FAMILY, size=size, weight="bold" if bold else "normal")
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def broken(text: str, size: float, width: float) -> list[str]:
    """Split a word into pieces that are at most `width` wide."""
    pieces = [""]
    for character in text:
        if pieces[-1] and text_width(pieces[-1] + character, size) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def wrapped(text: str, size: float, width: float) -> list[str]:
    """Split a text into lines of a width; words that are wider than a line are broken."""
    lines: list[str] = []
    for word in text.split():
        first_piece, *more_pieces = broken(word, size, width)
        if lines and text_width(f"{lines[-1]} {first_piece}", size) <= width:
            lines[-1] += f" {first_piece}"
        else:
            lines.append(first_piece)
        lines += more_pieces
    return lines


def shortened(text: str, size: float, width: float, bold: bool = False) -> str:
    """Return a text that fits into a width: "/data/runs/last.pt" -> "…runs/last.pt".

    Characters are cut off at the start, because the end of a path names the file.
    """
    while len(text) > 1 and text_width(text, size, bold) > width:
        text = f"…{text[2:]}"
    return text


def _draw_rows(rows: Sequence[Row], file_format: str) -> tuple[bytes, dict[str, str]]:
    """Draw all rows and a legend of their colours; return the file and its titles by element id."""
    map_lines_of_rows = [_map_lines(row.looks) for row in rows]
    n_columns = 1 + max(len(line) for line in map_lines_of_rows[0])  # the image, then maps
    gaps = _GAP * (n_columns - 1)
    fitting_panel = (_WIDTH - gaps) / n_columns
    panel = min(max(fitting_panel, _LEAST_PANEL), _LARGEST_PANEL)
    width = n_columns * panel + gaps
    with plain_style(_STYLE):
        sheet = _Sheet()
        y = float(_MARGIN)
        for number, (row, lines) in enumerate(zip(rows, map_lines_of_rows, strict=True)):
            has_headings = number % _ROWS_PER_HEADING == 0 or len(lines) > 1
            y = _draw_row(sheet, y, row, lines, panel, has_headings)
            y = _draw_captions(sheet, y, row, width) + _ROW_GAP
            sheet.axes.plot((_MARGIN, _MARGIN + width), (y, y), color=_RULE, lw=1)
            y += _ROW_GAP
        y = _draw_legend(sheet, y, rows, width)
        return sheet.save(file_format, width + 2 * _MARGIN, y + _MARGIN), sheet.titles


class _Panel(NamedTuple):
    """A map that is drawn: one view of a look."""

    look: Look
    view: View


def _map_lines(looks: Sequence[Look]) -> list[list[_Panel]]:
    """Arrange maps in lines of a few panels.

    If every model has one map, models share lines. Otherwise each line has heads of one model.
    """
    groups = [[_Panel(look, view) for view in look.views] for look in looks]
    if all(len(group) == 1 for group in groups):
        groups = [[group[0] for group in groups]]
    lines = []
    for group in groups:
        for start in range(0, len(group), _MAPS_PER_LINE):
            lines.append(group[start : start + _MAPS_PER_LINE])
    return lines


def _draw_row(
    sheet: _Sheet,
    y: float,
    row: Row,
    lines: Sequence[Sequence[_Panel]],
    panel: float,
    has_headings: bool,
) -> float:
    """Draw the image of a row on the left and its maps beside it; return the lower edge.

    `lines` are the maps by line. `panel` is the longest side of every image in pixels. Lines after
    the first one leave the place of the image empty.
    """
    for number, line in enumerate(lines):
        left_edges = [_MARGIN + (panel + _GAP) * column for column in range(1, len(line) + 1)]
        if has_headings:
            heading_bottoms = [
                _draw_heading(sheet, x, y, look, view, panel)
                for x, (look, view) in zip(left_edges, line, strict=True)
            ]
            y = max(heading_bottoms) + 4
        bottoms = []
        if number == 0:
            bottoms.append(_draw_image(sheet, y, row, panel))
        for x, (look, view) in zip(left_edges, line, strict=True):
            bottoms.append(_draw_map(sheet, x, y, row, look, view, panel))
        y = max(bottoms) + _GAP
    return y


def _image_size(row: Row, panel: float) -> tuple[float, float]:
    """Return width and height at which the images of a row are drawn."""
    width, height = row.picture.size
    longest = max(width, height)
    return width * panel / longest, height * panel / longest


def _draw_image(sheet: _Sheet, y: float, row: Row, panel: float) -> float:
    """Draw the image of a row with its name and size below; return the lower edge."""
    width, height = _image_size(row, panel)
    name = describe.printable(row.name)
    sheet.image(_MARGIN, y, row.picture, width, height, name)
    y += height + 4
    sheet.text(_MARGIN, y, shortened(name, _SMALL, panel), _SMALL, _SOFT)
    size = f"{row.size[0]} x {row.size[1]} px"
    return sheet.paragraph(_MARGIN, y + 17, size, panel)


def _draw_map(
    sheet: _Sheet, x: float, y: float, row: Row, look: Look, view: View, panel: float
) -> float:
    """Draw a map over its image with its range below; return the lower edge."""
    width, height = _image_size(row, panel)
    map_over_image = overlaid(view, row.picture)
    sheet.image(x, y, map_over_image, width, height, describe.alt_text(row, look, view))
    bottom = sheet.paragraph(x, y + height + 4, describe.range_line(look, view), panel)
    # If there are several heads, each has its caption below its map.
    if view.caption and len(look.views) > 1:
        bottom = sheet.caption(x, bottom + 4, view.caption, panel)
    return bottom


def _draw_heading(sheet: _Sheet, x: float, y: float, look: Look, view: View, panel: float) -> float:
    """Write the name of a model, and the kind and head of its map; return the lower edge."""
    model = shortened(describe.printable(look.info.spec), _SMALL, panel, bold=True)
    sheet.text(x, y, model, _SMALL, _INK, bold=True)
    kind = describe.title(look)
    if view.head:
        kind += f", {view.head}"
    return sheet.paragraph(x, y + 17, kind, panel)


def _draw_captions(sheet: _Sheet, y: float, row: Row, width: float) -> float:
    """Write the captions of all models on their colours; return the lower edge.

    Several captions have the names of their models. If no model weighs words, the text is written.
    """
    if not describe.has_words(row.looks):
        return sheet.paragraph(_MARGIN, y, describe.printable(row.text), width, _BODY, _INK)
    captions = []
    for look in row.looks:
        # The captions of several heads stand below their maps.
        if len(look.views) == 1 and look.views[0].caption:
            captions.append((look.info, look.views[0].caption))
    for info, caption in captions:
        if len(captions) > 1:
            y = sheet.paragraph(_MARGIN, y, describe.printable(info.spec), width) + 4
        y = sheet.caption(_MARGIN, y, caption, width)
    return y


def _draw_legend(sheet: _Sheet, y: float, rows: Sequence[Row], width: float) -> float:
    """Draw the scale of colours, the colours of words, and notes; return the lower edge."""
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
            x += chip.width + _CHIP_PAD
        y += _CHIP_LINE + 4
    for line in describe.footer(rows):
        y = sheet.paragraph(_MARGIN, y, line, width) + 2
    return y
