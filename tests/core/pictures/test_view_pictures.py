"""The picture of sample views, read back: every pixel of every view, where it belongs."""

import io
import itertools

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
    """As of COSMOS: two globals with long captions, six locals."""
    seeds = itertools.count()
    return [
        [
            *(view(f"global {n}", noise(global_size, next(seeds)), LONG) for n in (1, 2)),
            *(view(f"local {n}", noise(local_size, next(seeds))) for n in range(1, 7)),
        ]
        for _ in range(count)
    ]


def read(content):
    return np.asarray(PIL.Image.open(io.BytesIO(content)).convert("RGB"))


def enlarged(pixels, factor):
    return pixels.repeat(factor, 0).repeat(factor, 1)


def place(page, pixels):
    """Row and column of the upper left corner of the only place where a page shows pixels."""
    found = find_pixels(page, pixels)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(("global_size", "local_size", "factor"), [(224, 96, 1), (50, 10, 4)])
def test_every_view_is_there_once_enlarged_without_a_change(global_size, local_size, factor):
    samples = cosmos_samples(2, global_size, local_size)
    page = read(draw_views(samples, TITLE))
    places = [[place(page, enlarged(one.pixels, factor)) for one in row] for row in samples]
    tops = [{y for y, _ in row} for row in places]
    assert [len(ys) for ys in tops] == [1, 1]  # one row per sample
    assert sorted(ys.pop() for ys in tops) == [row[0][0] for row in places]
    lefts = [[x for _, x in row] for row in places]
    assert lefts[0] == sorted(lefts[0])  # globals, then locals
    assert lefts[0] == lefts[1]


def test_one_view_a_sample_stands_side_by_side():
    samples = [[view("global 1", noise(64, seed))] for seed in range(4)]
    page = read(draw_views(samples, TITLE))
    places = [place(page, enlarged(sample[0].pixels, 3)) for sample in samples]
    assert len({y for y, _ in places}) == 1
    assert [x for _, x in places] == sorted(x for _, x in places)


def boxes(samples):
    """Where texts and images lie on the page: (left, bottom, right, top), with what they are."""
    with plain_style():
        page = lay_out(samples, TITLE)
        figure_to_png(page)
        texts = [(text.get_text(), text.get_window_extent().extents) for text in page.texts]
    for image in page.images:
        height, width = image.get_size()
        texts.append(("image", (image.ox, image.oy, image.ox + width, image.oy + height)))
    return page, texts


@pytest.mark.parametrize(
    "samples",
    [
        cosmos_samples(2),
        [[view("global 1", noise(64, 0), LONG)]],
        [[view("global 1", noise(8, 0), "x" * 200), view("global 2", None, "W" * 150)]],
    ],
    ids=["cosmos", "one view", "long words"],
)
def test_nothing_covers_anything(samples):
    page, found = boxes(samples)
    assert len(found) > 5
    for what, (left, bottom, right, top) in found:
        assert left >= 0, what
        assert bottom >= 0, what
        assert right <= page.bbox.width, what
        assert top <= page.bbox.height, what
    for (one, a), (other, b) in itertools.combinations(found, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 1 or b[3] <= a[1] + 1
        assert apart, (one, other)


def column_of(found, name):
    """The texts below a view's name, from above, as one."""
    left = next(box[0] for text, box in found if text == name)
    below = [(-box[3], text) for text, box in found if abs(box[0] - left) < 4 and text != "image"]
    return [text for _, text in sorted(below)]


def test_captions_stand_below_their_views():
    samples = [
        [
            view("global 1", noise(64, 0), LONG),
            SampleView("global 2", noise(64, 1), Caption("costs $5 or $6", 64, 64)),
            view("local 1", noise(32, 2), None),
            view("local 2", None, "no picture"),
        ]
    ]
    _, found = boxes(samples)
    heading, name, tokens, *lines = column_of(found, "global 1")
    assert heading == f"{TITLE}; global views 64 px, local views 32 px, drawn 3 times as large"
    assert (name, tokens, " ".join(lines)) == ("global 1", "4 of 64 tokens", LONG)
    assert column_of(found, "global 2") == ["global 2", "64 of 64 tokens: cut?", "costs $5 or $6"]
    assert column_of(found, "local 1") == ["local 1", "no caption"]
    lines = ["local 2", "no image view", "4 of 64 tokens", "no picture"]
    assert column_of(found, "local 2") == lines


def test_letters_without_a_shape_are_no_failure():
    """Warnings are errors here: Matplotlib's font has no such signs."""
    text = "\N{ROBOT FACE} \u5317\u4eac $x^2 \\frac{"
    _, found = boxes([[view("global 1", noise(32, 0), text)]])
    assert column_of(found, "global 1")[-3:] == ["global 1", "4 of 64 tokens", text]


def test_a_white_view_is_visible_on_the_page():
    white = np.full((64, 64, 3), 255, np.uint8)
    page = read(draw_views([[view("global 1", white)]], TITLE))
    assert tuple(page[0, 0]) == PAPER
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
