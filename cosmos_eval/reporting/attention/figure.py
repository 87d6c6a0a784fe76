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
from cosmos_eval.reporting.attention import describe
from cosmos_eval.reporting.attention.compute import CaptionShares, Level, Look, Row, View
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
    """Return the colours of maps: viridis without its violet end, brighter for larger values."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps["viridis"](np.linspace(0.18, 1, 256)))


def draw_map(view: View, size: tuple[int, int]) -> Image.Image:
    """Return an attention map in colours, as an RGB image.

    The values of patches are interpolated, and then scaled so that the least is 0 and the largest
    is 1.

    Args:
        view: The map (h, w) of one head, or of the mean of all heads.
        size: The width and height of the image in pixels.
    """
    width, height = size
    pixels = upsample(torch.from_numpy(view.map), (height, width))
    rgba = colour_map()(scale_to_unit_range(pixels).numpy(), bytes=True)
    return Image.fromarray(rgba[..., :3])


def draw_map_over(view: View, picture: Image.Image) -> Image.Image:
    """Return an attention map, half transparent, over the picture that it belongs to.

    The picture is drawn in grey, so that all colours are the map's.
    """
    grey = picture.convert("L").convert("RGB")
    return Image.blend(grey, draw_map(view, picture.size), OPACITY)


def to_png(rows: Sequence[Row]) -> bytes:
    """Return a picture of all rows as a PNG file.

    Raises UsageError if it would be too large for other programs.
    """
    content, _ = _draw_rows(rows, "png")
    return content


def to_svg(rows: Sequence[Row]) -> bytes:
    """Return a picture of all rows as an SVG file.

    Text is written as text, and images and words have titles, which viewers show under the pointer.
    """
    svg, title_by_id = _draw_rows(rows, "svg")
    ET.register_namespace("", _SVG)
    root = ET.fromstring(svg)
    # Remove what Matplotlib says about itself.
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    # Viewers show titles and screen readers read them, but Matplotlib cannot write them.
    _insert_title(root, describe.TITLE)
    for element in list(root.iter()):
        title = title_by_id.get(element.get("id", ""))
        if title:
            _insert_title(element, title)
    return ET.tostring(root, "utf-8", xml_declaration=True)


def _insert_title(element: ET.Element, text: str) -> None:
    """Insert an SVG element `<title>` with a text as the first child of an element."""
    title = ET.Element(f"{{{_SVG}}}title")
    title.text = text
    element.insert(0, title)


class _Chip(NamedTuple):
    """A word on its colour, or a piece of a word that is wider than a line."""

    text: str
    # The colours of the background and of the text.
    ink: Ink
    # Whether white space comes before it.
    spaced: bool = True
    # The title under the pointer in an SVG, such as "dog: 12.3% of the weight".
    title: str = ""

    @property
    def width(self) -> float:
        """The width of the colour in pixels: the word and a margin on both sides."""
        return text_width(self.text, _BODY) + 2 * _CHIP_PAD


class _Sheet:
    """A figure that is filled from top to bottom. Lengths are in pixels, and y goes downwards.

    Methods that write texts of unknown height return the lower edge of what they wrote.
    """

    def __init__(self) -> None:
        """Create an empty white figure without axes."""
        from matplotlib.figure import Figure

        self.figure = Figure(facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.axis("off")
        # The titles of elements of an SVG by their id.
        self.title_by_id: dict[str, str] = {}

    def save(self, file_format: str, width: float, height: float) -> bytes:
        """Return the figure as the content of a file.

        Args:
            file_format: "png" or "svg".
            width: The width of the figure in pixels of an SVG, 72 to an inch.
            height: The height of the figure in these pixels.

        Raises:
            UsageError: A PNG would have more pixels than other programs open.
        """
        pixel_width = round(_DPI / 72 * width)
        pixel_height = round(_DPI / 72 * height)
        has_too_many_pixels = pixel_width * pixel_height > _MOST_PIXELS
        has_too_long_side = max(pixel_width, pixel_height) >= 2**16
        if file_format == "png" and (has_too_many_pixels or has_too_long_side):
            raise UsageError(
                f"the picture would have {pixel_width} x {pixel_height} pixels, more than programs "
                "open: take fewer rows, or a name that ends with .html"
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
        """Write one line of text with its upper left corner at (x, y).

        `size` is the size of the letters, and `colour` their colour, such as "#1c1e21".
        """
        weight = "bold" if bold else "normal"
        return self.axes.text(x, y + size, text, size=size, color=colour, weight=weight)

    def paragraph(
        self, x: float, y: float, text: str, width: float, size: float = _SMALL, colour: str = _SOFT
    ) -> float:
        """Write running text from (x, y) on, and return its lower edge.

        Args:
            x: The left edge.
            y: The upper edge.
            text: The text, which is broken into lines.
            width: The width of a line.
            size: The size of the letters.
            colour: The colour of the letters, such as "#5b6169".
        """
        for line in wrap_text(text, size, width):
            self.text(x, y, line, size, colour)
            y += round(1.4 * size)
        return y

    def image(
        self, x: float, y: float, image: Image.Image, width: float, height: float, title: str
    ) -> None:
        """Draw an image with its upper left corner at (x, y).

        Args:
            x: The left edge.
            y: The upper edge.
            image: The image, which is stretched to the width and height.
            width: The width in pixels.
            height: The height in pixels.
            title: The text that viewers of an SVG show under the pointer.
        """
        extent = (x, x + width, y + height, y)  # left, right, bottom, top
        artist = self.axes.imshow(image, extent=extent, aspect="auto")
        self._set_title(artist, title)

    def chip(self, x: float, y: float, chip: _Chip) -> None:
        """Draw a chip, a word on its colour, with its upper left corner at (x, y)."""
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
        """Write the words of a caption on their colours, and the attention outside of words below.

        Args:
            x: The left edge.
            y: The upper edge.
            caption: The words of the caption with their shares of the attention.
            width: The width of a line.

        Returns:
            The lower edge.
        """
        chips = list(_make_chips(caption, width))
        widths = [chip.width for chip in chips]
        spaced = [chip.spaced for chip in chips]
        places = place_words(widths, spaced, width)
        for chip, (left_edge, line_index) in zip(chips, places, strict=True):
            self.chip(x + left_edge, y + _CHIP_LINE * line_index, chip)
        _, last_line_index = places[-1]
        y += _CHIP_LINE * (last_line_index + 1)
        return self.paragraph(x, y, describe.padding_line(caption), width)

    def _set_title(self, artist: Artist, title: str) -> None:
        """Give an element of the SVG a title, unless the title is empty."""
        if title:
            element_id = f"titled-{len(self.title_by_id)}"
            artist.set_gid(element_id)
            self.title_by_id[element_id] = title


def _make_chips(caption: CaptionShares, width: float) -> Iterator[_Chip]:
    """Yield a chip, a word on its colour, for each word of a caption.

    Words that the model does not read come last. A word that is wider than a line has several
    chips. `caption` holds the words with their shares of the attention, and `width` is the width of
    a line in pixels.
    """
    for word in caption.words:
        ink = LEVELS[word.level] if word.level else PLAIN
        title = f"{describe.printable(word.text)}: {describe.percent(word.share)} of the weight"
        yield from _split_chip(_Chip(word.text, ink, word.spaced, title), width)
    for text in caption.unread.split():
        yield from _split_chip(_Chip(text, _UNREAD, title="not read"), width)


def _split_chip(chip: _Chip, width: float) -> Iterator[_Chip]:
    """Yield the chip, or several chips with pieces of its word if it is wider than a line.

    `width` is the width of a line in pixels.
    """
    pieces = break_word(describe.printable(chip.text), _BODY, width - 2 * _CHIP_PAD)
    for index, piece in enumerate(pieces):
        is_first_piece = index == 0
        yield chip._replace(text=piece, spaced=chip.spaced and is_first_piece)


def place_words(
    widths: Sequence[float], spaced: Sequence[bool], line_width: float
) -> list[tuple[float, int]]:
    """Arrange words in lines, and return the left edge and the index of the line of each word.

    Words without white space between them, such as a word and its comma, stay on one line if they
    fit.

    Args:
        widths: The width of each word in pixels.
        spaced: For each word, whether white space comes before it.
        line_width: The width of a line in pixels.

    Example:
        >>> place_words([50, 30, 40], [True, True, True], 100)  # gaps are 4 pixels wide
        [(0.0, 0), (54.0, 0), (0.0, 1)]
    """
    places: list[tuple[float, int]] = []
    line_index = 0
    right_edge = 0.0  # of the words on the line so far; 0 at the start of a line
    for index, (width, is_spaced) in enumerate(zip(widths, spaced, strict=True)):
        is_first_of_line = right_edge == 0
        gap = _CHIP_PAD if is_spaced and not is_first_of_line else 0.0
        # The right edge of the word, with all words that touch it on the right.
        new_right_edge = right_edge + gap + width
        if is_spaced:
            new_right_edge += _width_without_space(widths, spaced, index + 1)
        if new_right_edge > line_width and not is_first_of_line:
            # Begin another line.
            line_index += 1
            right_edge = 0.0
            gap = 0.0
        places.append((right_edge + gap, line_index))
        right_edge += gap + width
    return places


def _width_without_space(widths: Sequence[float], spaced: Sequence[bool], start: int) -> float:
    """Return the width of the words from index `start` on, up to the first white space.

    Args:
        widths: The width of each word in pixels.
        spaced: For each word, whether white space comes before it.
        start: The index of the first word that counts.

    Example:
        >>> _width_without_space([50, 8, 30], [True, False, True], 1)
        8.0
    """
    total_width = 0.0
    for width, is_spaced in zip(widths[start:], spaced[start:], strict=True):
        if is_spaced:
            break
        total_width += width
    return total_width


@lru_cache(maxsize=4096)
def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return the width of a line of text in pixels.

    `size` is the size of the letters. Bold letters are wider.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family=describe.FAMILY, size=size, weight="bold" if bold else "normal")
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])


def break_word(word: str, size: float, width: float) -> list[str]:
    """Split a word into pieces that are at most `width` pixels wide.

    Args:
        word: The word.
        size: The size of the letters.
        width: The largest width of a piece. A piece has at least one character, even if it is
            wider.

    Example:
        "abcdefgh" becomes ["abcd", "efgh"] if four letters fit.
    """
    pieces = [""]
    for character in word:
        if pieces[-1] and text_width(pieces[-1] + character, size) > width:
            pieces.append("")
        pieces[-1] += character
    return pieces


def wrap_text(text: str, size: float, width: float) -> list[str]:
    """Split a text into lines that are at most `width` pixels wide.

    Args:
        text: The text. White space between words becomes a single space or a new line.
        size: The size of the letters.
        width: The width of a line. Words that are wider are broken.

    Example:
        "a dog runs" becomes ["a dog", "runs"] if seven letters fit.
    """
    lines: list[str] = []
    for word in text.split():
        first_piece, *more_pieces = break_word(word, size, width)
        if lines and text_width(f"{lines[-1]} {first_piece}", size) <= width:
            lines[-1] += f" {first_piece}"
        else:
            lines.append(first_piece)
        lines += more_pieces
    return lines


def shorten_start(text: str, size: float, width: float, bold: bool = False) -> str:
    """Cut characters off at the start of a text, so that it fits into a width in pixels.

    For example, "/data/runs/last.pt" becomes "…runs/last.pt": the end of a path names the file.

    Args:
        text: The text, such as the path of a model.
        size: The size of the letters.
        width: The largest width.
        bold: True if the letters are bold, which makes them wider.
    """
    while len(text) > 1 and text_width(text, size, bold) > width:
        # The ellipsis takes the place of two characters, of which one may be an ellipsis itself.
        text = f"…{text[2:]}"
    return text


def _draw_rows(rows: Sequence[Row], file_format: str) -> tuple[bytes, dict[str, str]]:
    """Draw all rows, and a legend of their colours, as one picture.

    Args:
        rows: Pairs of image and text, each with the attention of all models.
        file_format: "png" or "svg".

    Returns:
        The content of the file, and the titles of elements of an SVG by the id of the element.
    """
    # The panels of a line share its width: first the image, then its maps.
    map_lines_of_rows = [_arrange_maps(row.looks) for row in rows]
    n_columns = 1 + max(len(line) for line in map_lines_of_rows[0])
    gaps = _GAP * (n_columns - 1)
    fitting_side = (_WIDTH - gaps) / n_columns
    panel_side = min(max(fitting_side, _LEAST_PANEL), _LARGEST_PANEL)
    width = n_columns * panel_side + gaps

    with plain_style(_STYLE):
        sheet = _Sheet()
        y = float(_MARGIN)  # the lower edge of what is drawn so far
        for index, (row, map_lines) in enumerate(zip(rows, map_lines_of_rows, strict=True)):
            # Rows of a single line share headings, like the rows of a table.
            has_headings = index % _ROWS_PER_HEADING == 0 or len(map_lines) > 1
            y = _draw_row(sheet, y, row, map_lines, panel_side, has_headings)
            y = _draw_captions(sheet, y, row, width) + _ROW_GAP
            sheet.axes.plot((_MARGIN, _MARGIN + width), (y, y), color=_RULE, lw=1)
            y += _ROW_GAP
        y = _draw_legend(sheet, y, rows, width)
        content = sheet.save(file_format, width + 2 * _MARGIN, y + _MARGIN)
        return content, sheet.title_by_id


class _Panel(NamedTuple):
    """A map that is drawn."""

    # The attention of a model on the pair of image and text.
    look: Look
    # The map of one head of the model, or of the mean of all heads.
    view: View


def _arrange_maps(looks: Sequence[Look]) -> list[list[_Panel]]:
    """Arrange the maps of all models in lines of at most four panels.

    If every model has one map, models share lines. Otherwise each line has heads of one model. For
    example, two models with six heads each have lines of 4, 2, 4 and 2 panels. `looks` are the
    attention of each model on one pair of image and text.
    """
    panels_of_looks = [[_Panel(look, view) for view in look.views] for look in looks]
    has_one_map_per_model = all(len(panels) == 1 for panels in panels_of_looks)
    if has_one_map_per_model:
        panels_of_looks = [[panels[0] for panels in panels_of_looks]]
    lines = []
    for panels in panels_of_looks:
        for start in range(0, len(panels), _MAPS_PER_LINE):
            lines.append(panels[start : start + _MAPS_PER_LINE])
    return lines


def _draw_row(
    sheet: _Sheet,
    y: float,
    row: Row,
    map_lines: Sequence[Sequence[_Panel]],
    panel_side: float,
    has_headings: bool,
) -> float:
    """Draw the image of a row on the left and its maps beside it, and return the lower edge.

    Lines after the first one leave the place of the image empty.

    Args:
        sheet: The figure to draw on.
        y: The upper edge.
        row: A pair of image and text.
        map_lines: The maps of each line, see `_arrange_maps`.
        panel_side: The longest side of every image in pixels.
        has_headings: True if the model and the kind of each map are written above it.
    """
    for line_index, panels in enumerate(map_lines):
        # The left edges of the maps. Column 0 is the image's.
        left_edges = []
        for column in range(1, len(panels) + 1):
            left_edges.append(_MARGIN + (panel_side + _GAP) * column)

        # Panels begin at the same height, below the longest heading.
        if has_headings:
            heading_bottoms = []
            for x, (look, view) in zip(left_edges, panels, strict=True):
                heading_bottoms.append(_draw_heading(sheet, x, y, look, view, panel_side))
            y = max(heading_bottoms) + 4

        bottoms = []
        if line_index == 0:
            bottoms.append(_draw_image(sheet, y, row, panel_side))
        for x, (look, view) in zip(left_edges, panels, strict=True):
            bottoms.append(_draw_map(sheet, x, y, row, look, view, panel_side))
        y = max(bottoms) + _GAP
    return y


def _image_size(row: Row, panel_side: float) -> tuple[float, float]:
    """Return the width and height at which a row's image and maps are drawn.

    The longest side is `panel_side`. For example, (680, 510) becomes (200, 150) for a side of 200.
    """
    width, height = row.picture.size
    longest = max(width, height)
    return width * panel_side / longest, height * panel_side / longest


def _draw_image(sheet: _Sheet, y: float, row: Row, panel_side: float) -> float:
    """Draw the image of a row at the left margin, with its name and size below.

    Return the lower edge. `y` is the upper edge, and `panel_side` the longest side of the image in
    pixels.
    """
    width, height = _image_size(row, panel_side)
    name = describe.printable(row.name)
    sheet.image(_MARGIN, y, row.picture, width, height, name)
    y += height + 4
    sheet.text(_MARGIN, y, shorten_start(name, _SMALL, panel_side), _SMALL, _SOFT)
    size_text = f"{row.size[0]} x {row.size[1]} px"
    return sheet.paragraph(_MARGIN, y + 17, size_text, panel_side)


def _draw_map(
    sheet: _Sheet, x: float, y: float, row: Row, look: Look, view: View, panel_side: float
) -> float:
    """Draw a map over its image, with its range of values below, and return the lower edge.

    If there are several heads, the caption of the head is written below, too.

    Args:
        sheet: The figure to draw on.
        x: The left edge.
        y: The upper edge.
        row: The pair of image and text that the map belongs to.
        look: The attention of the model on the pair.
        view: The map of one head of the model, or of the mean of all heads.
        panel_side: The longest side of the image in pixels.
    """
    width, height = _image_size(row, panel_side)
    map_over_image = draw_map_over(view, row.picture)
    sheet.image(x, y, map_over_image, width, height, describe.alt_text(row, look, view))
    bottom = sheet.paragraph(x, y + height + 4, describe.range_line(look, view), panel_side)
    if view.caption and len(look.views) > 1:
        bottom = sheet.caption(x, bottom + 4, view.caption, panel_side)
    return bottom


def _draw_heading(
    sheet: _Sheet, x: float, y: float, look: Look, view: View, panel_side: float
) -> float:
    """Write the heading of a map, its model, its kind and its head, and return the lower edge.

    Args:
        sheet: The figure to draw on.
        x: The left edge.
        y: The upper edge.
        look: The attention of the model.
        view: The map of one head of the model, or of the mean of all heads.
        panel_side: The largest width of texts in pixels.
    """
    model = shorten_start(describe.printable(look.info.spec), _SMALL, panel_side, bold=True)
    sheet.text(x, y, model, _SMALL, _INK, bold=True)
    kind = describe.title(look)
    if view.head:
        kind += f", {view.head}"
    return sheet.paragraph(x, y + 17, kind, panel_side)


def _draw_captions(sheet: _Sheet, y: float, row: Row, width: float) -> float:
    """Write the text of a row once for each model, with the words on their colours.

    If several models weigh words, the name of each model stands above. If no model does, the text
    is written once without colours.

    Args:
        sheet: The figure to draw on.
        y: The upper edge.
        row: The pair of image and text, with the attention of all models.
        width: The width of a line in pixels.

    Returns:
        The lower edge.
    """
    if not describe.has_words(row.looks):
        return sheet.paragraph(_MARGIN, y, describe.printable(row.text), width, _BODY, _INK)
    model_captions = []
    for look in row.looks:
        # The captions of several heads stand below their maps.
        has_one_map = len(look.views) == 1
        caption = look.views[0].caption
        if has_one_map and caption:
            model_captions.append((look.info.spec, caption))
    for model, caption in model_captions:
        if len(model_captions) > 1:
            y = sheet.paragraph(_MARGIN, y, describe.printable(model), width) + 4
        y = sheet.caption(_MARGIN, y, caption, width)
    return y


def _draw_legend(sheet: _Sheet, y: float, rows: Sequence[Row], width: float) -> float:
    """Draw the legend below all rows: the scale of colours, the colours of words, and notes.

    Return the lower edge. `y` is the upper edge, and `width` the width of the legend in pixels.
    """
    looks = [look for row in rows for look in row.looks]
    # The scale: a bar of all colours between 0 and 1, and the kinds of maps beside it.
    bar = Image.fromarray(colour_map()(np.arange(256), bytes=True)[None, :, :3])
    sheet.text(_MARGIN, y, "0", _SMALL, _SOFT)
    sheet.image(_MARGIN + 12, y + 1, bar, 150, 13, "colours from 0 to 1")
    sheet.text(_MARGIN + 167, y, "1", _SMALL, _SOFT)
    kinds = " / ".join(dict.fromkeys(describe.title(look) for look in looks))
    y = sheet.paragraph(_MARGIN + 188, y, kinds, width - 188, colour=_INK) + 8
    # The colours of words, by the thirds of their scale.
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
