"""Lines, words and colours of pictures, by hand."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.colours import contrast, luminance

from cosmos_eval.reporting.attention.compute import CaptionShares, Look, Row, View, WordShare
from cosmos_eval.reporting.attention.describe import notes, padding_line, printable
from cosmos_eval.reporting.attention.figure import (
    LEVELS,
    OPACITY,
    PLAIN,
    break_word,
    colour_map,
    draw_map,
    draw_map_over,
    place_words,
    shorten_start,
    text_width,
    to_png,
    to_svg,
    wrap_text,
)
from cosmos_eval.types import EncoderInfo, UsageError

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("ink", [*LEVELS.values(), PLAIN])
def test_words_can_be_read_on_their_colours(ink) -> None:
    assert contrast(ink.ground, ink.text) > 7


def scale() -> np.ndarray:
    """The colours of 0..1 in 256 steps, (256, 3) RGB."""
    return colour_map()(np.arange(256), bytes=True)[:, :3]


def test_more_is_brighter() -> None:
    steps = [luminance("#{:02x}{:02x}{:02x}".format(*rgb)) for rgb in scale()]
    assert (np.diff(steps[::15]) > 0).all()  # neighbours may round to one colour
    levels = [luminance(ink.ground) for ink in LEVELS.values()]
    assert levels == sorted(levels)


@pytest.mark.parametrize(
    ("level", "weights"),
    [
        ("low", (0.0, 0.333)),
        ("middle", (1 / 3, 0.5, 0.666)),
        ("high", (2 / 3, 1.0)),
        (None, (None,)),
    ],
)
def test_levels_by_hand(level: str | None, weights: tuple[float | None, ...]) -> None:
    assert {WordShare("a", 0.1, weight, True).level for weight in weights} == {level}


def test_colours_of_a_map_by_hand() -> None:
    """A patch in four: 0 where the map is least, 1 where it is largest."""
    view = View("", np.array([[0.1, 0.1], [0.1, 0.5]], np.float32), None)
    pixels = np.asarray(draw_map(view, (4, 4)))
    assert pixels[0, 0].tolist() == scale()[0].tolist()
    assert pixels[3, 3].tolist() == scale()[255].tolist()
    assert pixels[2, 3].tolist() == scale()[int(256 * 0.75)].tolist()  # 3/4 of the way down


def test_colour_is_the_map_s_alone() -> None:
    """Of a red picture only its grey is left, below the colour of an even map."""
    even = View("", np.ones((1, 1), np.float32), None)
    over = draw_map_over(even, Image.new("RGB", (1, 1), (255, 0, 0)))  # grey 76
    expected = 76 * (1 - OPACITY) + OPACITY * scale()[0].astype(float)
    assert np.allclose(over.getpixel((0, 0)), expected, atol=1)


@pytest.mark.parametrize(
    ("width", "lines", "lefts"),
    [
        (110, [0, 0, 0, 0, 0], [0, 20, 36, 48, 72]),
        (45, [0, 0, 0, 1, 2], [0, 20, 36, 0, 0]),
        (40, [0, 1, 1, 2, 3], [0, 0, 16, 0, 0]),  # the comma stays with its word
        (20, [0, 1, 2, 3, 4], [0, 0, 0, 0, 0]),  # unless the line is too short
    ],
)
def test_lines_by_hand(width: float, lines: list[int], lefts: list[float]) -> None:
    """Widths of `a b, c d`, with gaps of 4."""
    places = place_words([16, 16, 8, 20, 36], [True, True, False, True, True], width)
    assert [line for _, line in places] == lines
    assert [left for left, _ in places] == lefts


def test_running_text() -> None:
    text = "two words and a verylongwordthatmustbebroken in  pieces"
    lines = wrap_text(text, 12, 90)
    assert max(text_width(line, 12) for line in lines) <= 90
    assert lines[0] == "two words and"
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert "".join(break_word("abcdefgh", 12, 20)) == "abcdefgh"
    assert wrap_text("", 12, 90) == []


def test_paths_keep_their_ends() -> None:
    short = shorten_start("cosmos:/a/long/way/to/checkpoint.pt", 12, 120)
    assert short.startswith("…")
    assert short.endswith("checkpoint.pt")
    assert text_width(short, 12) <= 120
    assert shorten_start("a.pt", 12, 120) == "a.pt"


def test_text_that_no_file_could_hold() -> None:
    assert printable("a\x00b\ud800 c\n\td\uffff 👨‍👩‍👧") == "a�b� c d� 👨‍👩‍👧"


def caption(**changes: object) -> CaptionShares:
    words = (("A", 0.1, 0.0, False), ("dog", 0.2, 0.5, True), (",", 0.3, 1.0, False))
    shares = CaptionShares(
        words=tuple(WordShare(*word) for word in words), unread="", last_word_in_part=False,
        start=0.05, end=0.15, padding=0.2, tokens=5, context=8,
    )  # fmt: skip
    return shares._replace(**changes)


def row_of(shown: CaptionShares | None, text: str = "A dog,") -> Row:
    info = EncoderInfo("a-model", "tiny", None, None, True, "fp32", "cpu")
    view = View("head 1", np.array([[0.1, 0.2], [0.3, 0.4]], np.float32), shown)
    look = Look(info, "cross-attention", "cross-attention", None, (view,))
    return Row("日.jpg", text, Image.new("RGB", (64, 64)), (9, 9), [look])


def test_words_on_their_colours() -> None:
    root = ET.fromstring(to_svg([row_of(caption())]))
    texts = list(root.iter(f"{SVG}text"))
    start = [text.text for text in texts].index("A")
    assert [text.text for text in texts[start : start + 3]] == ["A", "dog", ","]
    for text, ink in zip(texts[start : start + 3], LEVELS.values(), strict=True):
        assert f"fill: {ink.text}" in (text.get("style") or "")
    boxes = [path.get("style", "") for path in root.iter(f"{SVG}path")]
    drawn = [style.removeprefix("fill: ") for style in boxes if "stroke" not in style][1:4]
    assert drawn == [ink.ground for ink in LEVELS.values()]
    first, second, third = (float(text.get("x") or 0) for text in texts[start : start + 3])
    assert second - first == pytest.approx(text_width("A", 15) + 3 * 4, abs=0.1)
    assert third - second == pytest.approx(text_width("dog", 15) + 2 * 4, abs=0.1)
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert titles[0] == "What the models look at"
    assert "dog: 20.0% of the weight" in titles
    assert (
        "cross-attention of “A dog,” over 日.jpg by a-model, head 1: most, 40.0%, at x 6, y 6"
        in (titles)
    )
    line = "padding got 20.0% of the weight, the start of text 5.0%, its end 15.0%, not drawn"
    assert texts[start + 3].text == line


@pytest.mark.parametrize("text", ["$x^2$ and $", r"\alpha $\frac{1}{$", "</text><b>&amp;"])
def test_texts_are_drawn_as_they_are(text: str) -> None:
    """Also such as Matplotlib would take for mathematics, or could not read as such."""
    svg = to_svg([row_of(None, text)])
    assert text in [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_a_picture_is_the_same_every_time() -> None:
    rows = [row_of(None, r"\alpha $\frac{1}{$")]
    assert to_svg(rows) == to_svg(rows)
    assert to_png(rows) == to_png(rows)


def test_characters_that_the_font_lacks() -> None:
    row = row_of(None, "naïve Ж α 日本日 🐕")
    (note,) = notes([row], Path("a.png"))
    assert note.startswith("DejaVu Sans of the PNG has no 日本🐕; ")
    assert notes([row], Path("a.svg")) == []


def test_every_text_that_is_cut_is_noted() -> None:
    """Also where several rows have one image."""
    cut = [caption(unread=unread, tokens=11) for unread in ("far", "far away")]
    lines = notes([row_of(shown) for shown in (*cut, caption())], Path("a.svg"))
    start = "日.jpg, a-model: The text has 11 tokens and is cut to 8: the last "
    assert lines == [f"{start}word is not read", f"{start}2 words are not read"]


@pytest.mark.parametrize(
    ("unread", "in_part", "expected"),
    [
        ("running fast.", False, "the last 2 words are not read"),
        ("running", True, "“,” is read in part, the last word is not read"),
        ("", True, "“,” is read in part"),
    ],
)
def test_what_is_not_read_is_stated(unread: str, in_part: bool, expected: str) -> None:
    shown = caption(unread=unread, last_word_in_part=in_part, tokens=11)
    line = padding_line(shown)
    assert line.endswith(f"not drawn. The text has 11 tokens and is cut to 8: {expected}")
    texts = [element.text for element in ET.fromstring(to_svg([row_of(shown)])).iter(f"{SVG}text")]
    start = texts.index("A")
    assert texts[start + 3 : start + 3 + len(unread.split())] == unread.split()


def test_a_picture_that_no_program_would_open() -> None:
    with pytest.raises(UsageError, match=r"\d+ x \d+ pixels, more than .* \.html"):
        to_png([row_of(None)] * 200)
