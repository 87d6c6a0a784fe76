"""Lines, words and colours of pictures, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cosmos_eval.report.attention.captions import caption_block
from cosmos_eval.report.attention.colours import LEVELS, OPACITY, PLAIN, coloured, laid_over, scale
from cosmos_eval.report.attention.fonts import (
    Item,
    broken,
    flowed,
    lacking,
    shortened,
    width_of,
    wrapped,
)
from cosmos_eval.report.attention.marks import Block, Box, Text, beside, moved, stacked
from cosmos_eval.report.attention.png import to_png
from cosmos_eval.report.attention.records import CaptionShares, View, WordShare
from cosmos_eval.report.attention.words import printable
from cosmos_eval.types import UsageError


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("ink", [*LEVELS.values(), PLAIN])
def test_words_can_be_read_on_their_colours(ink) -> None:
    light, dark = sorted((luminance(ink.ground), luminance(ink.text)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 7


def test_more_is_brighter() -> None:
    steps = [luminance("#{:02x}{:02x}{:02x}".format(*rgb)) for rgb in scale()]
    assert scale().shape == (256, 3)
    assert (np.diff(steps[::15]) > 0).all()  # neighbours may round to one colour
    levels = [luminance(ink.ground) for ink in LEVELS.values()]
    assert levels == sorted(levels)


@pytest.mark.parametrize(
    ("scaled_weight", "level"),
    [
        (0.0, "low"),
        (0.333, "low"),
        (1 / 3, "middle"),
        (0.5, "middle"),
        (0.666, "middle"),
        (2 / 3, "high"),
        (1.0, "high"),
        (None, None),
    ],
)
def test_levels_by_hand(scaled_weight: float | None, level: str | None) -> None:
    assert WordShare("a", 0.1, scaled_weight, True).level == level


def test_colours_of_a_map_by_hand() -> None:
    """A patch in four: 0 where the map is least, 1 where it is largest."""
    view = View(head="", map=np.array([[0.1, 0.1], [0.1, 0.5]], np.float32), caption=None)
    pixels = np.asarray(coloured(view, (4, 4)))
    assert pixels[0, 0].tolist() == scale()[0].tolist()
    assert pixels[3, 3].tolist() == scale()[255].tolist()
    assert pixels[2, 3].tolist() == scale()[round(255 * 0.75)].tolist()  # 3/4 of the way down


def test_colour_is_the_map_s_alone() -> None:
    red = Image.new("RGB", (1, 1), (255, 0, 0))  # grey 76
    over = laid_over(Image.new("RGB", (1, 1), (0, 0, 255)), red)
    assert np.allclose(
        over.getpixel((0, 0)), [76 * 0.4, 76 * 0.4, 76 * 0.4 + 255 * OPACITY], atol=1
    )


ITEMS = [Item("a", 4, 1), Item("b", 4, 1), Item(",", 2, 0), Item("c", 5, 1), Item("d", 9, 1)]


@pytest.mark.parametrize(
    ("width", "lines", "lefts"),
    [
        (100, [0, 0, 0, 0, 0], [0, 5, 9, 12, 18]),
        (11, [0, 0, 0, 1, 2], [0, 5, 9, 0, 0]),
        (10, [0, 1, 1, 2, 3], [0, 0, 4, 0, 0]),  # the comma stays with its word
        (5, [0, 1, 2, 3, 4], [0, 0, 0, 0, 0]),  # unless there is no room
    ],
)
def test_lines_by_hand(width: float, lines: list[int], lefts: list[float]) -> None:
    placed = flowed(ITEMS, width)
    assert [place.line for place in placed] == lines
    assert [place.left for place in placed] == lefts


def test_running_text() -> None:
    text = "two words and a verylongwordthatmustbebroken in  pieces"
    lines = wrapped(text, 12, 90)
    assert max(width_of(line, 12) for line in lines) <= 90
    assert lines[0] == "two words and"
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    assert "".join(broken("abcdefgh", 12, 20)) == "abcdefgh"
    assert wrapped("", 12, 90) == []


def test_paths_keep_their_ends() -> None:
    short = shortened("cosmos:/a/long/way/to/checkpoint.pt", 12, 120)
    assert short.startswith("…")
    assert short.endswith("checkpoint.pt")
    assert width_of(short, 12) <= 120
    assert shortened("a.pt", 12, 120) == "a.pt"


def test_characters_that_the_font_lacks() -> None:
    assert lacking("naïve Ж α 日本日 🐕") == "日本🐕"


def test_text_that_no_file_could_hold() -> None:
    assert printable("a\x00b\ud800 c\n\td\uffff 👨‍👩‍👧") == "a�b� c d� 👨‍👩‍👧"


def test_blocks_by_hand() -> None:
    one = Block(10, 4, [Box(0, 0, 10, 4, "#000000")])
    two = Block(6, 8, [Box(1, 2, 3, 4, "#ffffff")])
    below = stacked([one, two], 3)
    assert (below.width, below.height) == (10, 15)
    assert [(mark.x, mark.y) for mark in below.marks] == [(0, 0), (1, 9)]
    right = beside([one, two], 3)
    assert (right.width, right.height) == (19, 8)
    assert [(mark.x, mark.y) for mark in right.marks] == [(0, 0), (14, 2)]
    assert [(mark.x, mark.y) for mark in moved(two, 5, 5)] == [(6, 7)]
    assert stacked([], 3) == Block(0, 0, [])


def caption(**changes: object) -> CaptionShares:
    words = (
        WordShare("A", 0.1, 0.0, False),
        WordShare("dog", 0.2, 0.5, True),
        WordShare(",", 0.3, 1.0, False),
    )
    made = {
        "words": words,
        "unread": "",
        "halved": False,
        "start": 0.05,
        "end": 0.15,
        "padding": 0.2,
        "tokens": 5,
        "context": 8,
    }
    return CaptionShares(**{**made, **changes})


def test_words_on_their_colours() -> None:
    block = caption_block(caption(), 500)
    boxes = [mark for mark in block.marks if isinstance(mark, Box)]
    texts = [mark for mark in block.marks if isinstance(mark, Text)]
    assert [box.colour for box in boxes] == [ink.ground for ink in LEVELS.values()]
    assert [text.text for text in texts[:3]] == ["A", "dog", ","]
    assert [text.colour for text in texts[:3]] == [ink.text for ink in LEVELS.values()]
    assert texts[1].title == "dog: 20.0% of the weight"
    first, second, third = boxes
    assert second.x > first.x + first.width
    assert third.x == second.x + second.width
    line = "padding got 20.0% of the weight, the start of text 5.0%, its end 15.0%, not drawn"
    assert texts[3].text == line


@pytest.mark.parametrize(
    ("unread", "halved", "said"),
    [
        ("running fast.", False, "the last 2 words are not read"),
        ("running", True, "“,” is read in part, the last word is not read"),
        ("", True, "“,” is read in part"),
    ],
)
def test_what_is_not_read_is_said(unread: str, halved: bool, said: str) -> None:
    block = caption_block(caption(unread=unread, halved=halved, tokens=11), 2000)
    *words, line = [mark.text for mark in block.marks if isinstance(mark, Text)]
    assert words[3:] == unread.split()
    assert line.endswith(f"not drawn. The text has 11 tokens and is cut to 8: {said}")


def test_a_picture_that_no_program_would_open() -> None:
    with pytest.raises(UsageError, match=r"1500 x 150000 pixels, more than .* \.html"):
        to_png(Block(1000, 100_000, []))
