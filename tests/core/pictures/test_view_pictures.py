"""The picture of sample views, read back: each view with all its pixels, in its place."""

import io
import itertools
from typing import NamedTuple

import numpy as np
import PIL.Image
import pytest
from support.pixels import find_pixels

from cosmos_core.plots.views import Caption, SampleView, draw_views, lay_out
from cosmos_core.utils.figures import figure_to_png, new_page, plain_style

TITLE = "scenes (cosmos)"
LONG = " ".join(["several words"] * 20)
PAPER = (220, 220, 220)  # gainsboro


def noise(size, seed):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def view(name, pixels, text="a fish"):
    return SampleView(name, pixels, None if text is None else Caption(text, 4, 64))


def cosmos_samples(count, global_size=32, local_size=16):
    """Return samples with the views of COSMOS: two global ones with long captions, six local ones.

    Every view has other pixels.
    """
    seeds = itertools.count()
    samples = []
    for _ in range(count):
        views = []
        for n in (1, 2):
            views.append(view(f"global {n}", noise(global_size, next(seeds)), LONG))
        for n in range(1, 7):
            views.append(view(f"local {n}", noise(local_size, next(seeds))))
        samples.append(views)
    return samples


def read(content):
    return np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))


def find_view(page, pixels, factor):
    """Return the upper left corner, as (row, column), where a page shows the enlarged pixels.

    There must be one such place.
    """
    enlarged = pixels.repeat(factor, 0).repeat(factor, 1)
    (corner,) = find_pixels(page, enlarged)
    return corner


@pytest.mark.parametrize(("global_size", "local_size", "factor"), [(224, 96, 1), (50, 10, 4)])
def test_every_view_is_shown_once_and_enlarged_without_a_change(global_size, local_size, factor):
    samples = cosmos_samples(2, global_size, local_size)
    page = read(draw_views(samples, TITLE))
    rows_by_sample, columns_by_sample = [], []
    for views in samples:
        corners = [find_view(page, view.pixels, factor) for view in views]
        rows_by_sample.append([row for row, _ in corners])
        columns_by_sample.append([column for _, column in corners])
    # The views of a sample are in one row, and the second sample is below the first one.
    assert [len(set(rows)) for rows in rows_by_sample] == [1, 1]
    assert rows_by_sample[0][0] <= rows_by_sample[1][0]
    # From left to right, the global views, then the local ones. They are below each other.
    assert columns_by_sample[0] == sorted(columns_by_sample[0])
    assert columns_by_sample[0] == columns_by_sample[1]


def test_samples_of_one_view_are_side_by_side():
    samples = [[view("global 1", noise(64, seed))] for seed in range(4)]
    page = read(draw_views(samples, TITLE))
    corners = [find_view(page, views[0].pixels, 3) for views in samples]
    columns = [column for _, column in corners]
    assert len({row for row, _ in corners}) == 1
    assert columns == sorted(columns)


class Box(NamedTuple):
    """Where a text or an image is on a page, in pixels from the lower left corner."""

    text: str  # IMAGE for an image
    left: float
    bottom: float
    right: float
    top: float


IMAGE = "image"


def lay_out_boxes(samples):
    """Return the page of these samples, and the boxes of all its texts and images."""
    with plain_style():
        page = lay_out(samples, TITLE)
        figure_to_png(page)
        boxes = [Box(text.get_text(), *text.get_window_extent().extents) for text in page.texts]
    for image in page.images:
        height, width = image.get_size()
        boxes.append(Box(IMAGE, image.ox, image.oy, image.ox + width, image.oy + height))
    return page, boxes


@pytest.mark.parametrize(
    "samples",
    [
        cosmos_samples(2),
        [[view("global 1", noise(64, 0), LONG)]],
        [[view("global 1", noise(8, 0), "x" * 200), view("global 2", None, "W" * 150)]],
    ],
    ids=["cosmos", "one view", "long words"],
)
def test_texts_and_images_are_on_the_page_and_do_not_overlap(samples):
    page, boxes = lay_out_boxes(samples)
    assert len(boxes) > 5
    for box in boxes:
        assert box.left >= 0, box
        assert box.bottom >= 0, box
        assert box.right <= page.bbox.width, box
        assert box.top <= page.bbox.height, box
    for box, other in itertools.combinations(boxes, 2):
        are_side_by_side = box.right <= other.left or other.right <= box.left
        # Boxes of texts may share a row of pixels.
        is_below = box.top <= other.bottom + 1
        is_above = other.top <= box.bottom + 1
        assert are_side_by_side or is_below or is_above, (box, other)


def texts_in_column(boxes, name):
    """Return the texts that begin at the same left side as a view's name, from top to bottom."""
    left = next(box.left for box in boxes if box.text == name)
    column = [box for box in boxes if abs(box.left - left) < 4 and box.text != IMAGE]
    return [box.text for box in sorted(column, key=top_of_box, reverse=True)]


def top_of_box(box):
    return box.top


def test_captions_are_below_their_views():
    samples = [
        [
            view("global 1", noise(64, 0), LONG),
            SampleView("global 2", noise(64, 1), Caption("costs $5 or $6", 64, 64)),
            view("local 1", noise(32, 2), None),
            view("local 2", None, "no picture"),
        ]
    ]
    _, boxes = lay_out_boxes(samples)
    heading, name, tokens, *lines = texts_in_column(boxes, "global 1")
    assert heading == f"{TITLE}; global views 64 px, local views 32 px, drawn 3 times as large"
    assert (name, tokens, " ".join(lines)) == ("global 1", "4 of 64 tokens", LONG)
    assert texts_in_column(boxes, "global 2") == [
        "global 2",
        "64 of 64 tokens: cut?",
        "costs $5 or $6",
    ]
    assert texts_in_column(boxes, "local 1") == ["local 1", "no caption"]
    assert texts_in_column(boxes, "local 2") == [
        "local 2",
        "no image view",
        "4 of 64 tokens",
        "no picture",
    ]


def test_characters_that_the_font_lacks_are_not_an_error():
    # Matplotlib warns of a character that its font lacks, and pytest turns warnings into errors.
    text = "\N{ROBOT FACE} \u5317\u4eac $x^2 \\frac{"
    _, boxes = lay_out_boxes([[view("global 1", noise(32, 0), text)]])
    assert texts_in_column(boxes, "global 1")[-3:] == ["global 1", "4 of 64 tokens", text]


def test_a_white_view_is_visible_on_the_page():
    white = np.full((64, 64, 3), 255, np.uint8)
    page = read(draw_views([[view("global 1", white)]], TITLE))
    assert tuple(page[0, 0]) == PAPER
    # The view is drawn three times as large.
    assert (page == 255).all(-1).sum() == (3 * 64) ** 2


@pytest.mark.parametrize("side", [29, 113, 1000])  # 113 / 100 * 100 is less than 113
def test_a_page_has_the_requested_pixels(side):
    with plain_style():
        assert read(figure_to_png(new_page(side, side + 1))).shape == (side + 1, side, 3)


def test_a_users_style_changes_nothing():
    import matplotlib

    samples = cosmos_samples(1)
    plain = draw_views(samples, TITLE)
    with matplotlib.rc_context({"savefig.dpi": 30, "text.usetex": True, "figure.dpi": 50}):
        assert draw_views(samples, TITLE) == plain
        assert matplotlib.rcParams["text.usetex"]
