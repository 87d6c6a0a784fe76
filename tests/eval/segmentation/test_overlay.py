"""Pictures for people: what is drawn where, by hand-made images."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.segmenting import measure

from cosmos_eval.data.label_maps import palette
from cosmos_eval.runner.plan import make_plan
from cosmos_eval.tasks import find_protocol
from cosmos_eval.tasks.segmentation.inference import draw_image
from cosmos_eval.tasks.segmentation.pictures import (
    class_fractions,
    colours,
    distinct_colours,
    draw_picture,
)
from cosmos_eval.types import RunOptions, UsageError


def test_shares_count_classes_and_leave_out_ignored_pixels():
    assert list(class_fractions(np.array([[0, 2, 2, 255]], np.uint8), 3).items()) == [
        (2, 0.5),
        (0, 0.25),
    ]


def lab_distance(first, second):
    """Return the distance of two sRGB colours in CIELAB (CIE 1976), by the formulas."""
    return np.linalg.norm(lab(np.divide(first, 255)) - lab(np.divide(second, 255)))


def lab(srgb):
    """Return a colour of sRGB values in [0, 1] in CIELAB, with the white point D65."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in srgb]
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.array(to_xyz) @ linear / (0.9505, 1, 1.089)
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in xyz)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(("count", "distance"), [(11, 49), (21, 35), (150, 15)])
def test_colours_of_many_classes_differ(count, distance):
    colours = distinct_colours(count)
    assert len(colours) == count
    pairs = itertools.combinations(colours, 2)
    assert min(lab_distance(*pair) for pair in pairs) > distance


def test_a_palette_with_colours_that_look_alike_is_not_used():
    context59 = find_protocol("context59")  # MMSegmentation's snow and bicycle are equal
    assert colours(context59) == distinct_colours(59)
    assert distinct_colours(59) != palette(context59)
    cityscapes = find_protocol("cityscapes")
    assert colours(cityscapes) == palette(cityscapes)


def test_the_legend_lists_classes_by_size_and_pixels_without_one_stay():
    white = np.full((480, 480, 3), 255, np.uint8)
    classes = np.full((480, 480), 255, np.uint8)
    classes[:120], classes[120:180] = 1, 0
    panels = [("image", white, None), ("found", white, classes)]
    colours = ((255, 0, 0), (0, 0, 255), (0, 255, 0))
    pixels = np.asarray(draw_picture(panels, ("sky", "sea", "sand"), colours, {0: 1, 1: 0.5}))
    # The second panel begins after a margin, a panel and a margin, below a title of 32 pixels.
    panel_x, panel_y = 10 + 480 + 10, 32
    # 0.6 of the class's colour, 0.4 of white.
    assert pixels[panel_y + 60, panel_x + 60].tolist() == [102, 102, 255]
    assert pixels[panel_y + 150, panel_x + 60].tolist() == [255, 102, 102]
    assert pixels[panel_y + 300, panel_x + 60].tolist() == [255, 255, 255]
    assert pixels[panel_y + 60, 60].tolist() == [255, 255, 255]
    # The first square of the legend has the colour of the larger class.
    assert pixels[panel_y + 8, panel_x + 480 + 10 + 8].tolist() == [255, 0, 0]


def test_an_image_without_a_data_set_is_drawn_as_it_is_segmented(
    encoder, protocol, write_set, tmp_path
):
    write_set(tmp_path / "data", {"one": (48, 60)})
    options = RunOptions(data_root=str(tmp_path / "data"), save_predictions=str(tmp_path / "out"))
    measure(encoder, protocol, options)
    with Image.open(tmp_path / "out/pets__user/one.png") as saved:
        expected = class_fractions(np.asarray(saved), 4)
    image = tmp_path / "data/images/one.png"
    _, fractions = draw_image(encoder, protocol, image, RunOptions())
    named_fractions = [(protocol.class_names[i], fraction) for i, fraction in expected.items()]
    assert list(fractions.items()) == named_fractions


def test_overlays_are_drawn_beside_saved_predictions(encoder, protocol, write_set, tmp_path):
    write_set(tmp_path / "data", {"one": (48, 60), "sub/two": (30, 70)})
    options = RunOptions(data_root=str(tmp_path / "data"), save_predictions=str(tmp_path / "out"))
    measure(encoder, protocol, options)
    assert not list(tmp_path.rglob("*.jpg"))
    measure(encoder, protocol, replace(options, overlays=True))
    for name in ("one", "sub/two"):
        with Image.open(tmp_path / "out/pets__user/overlays" / f"{name}.jpg") as drawn:
            assert drawn.width > 3 * 480
    with pytest.raises(UsageError, match="--overlays needs --save-predictions DIR"):
        make_plan(options=RunOptions(overlays=True))


def test_the_command_writes_one_picture(tmp_path, command):
    image, out = tmp_path / "photo.png", tmp_path / "new/drawn.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)).save(image)
    classes = "the ground is covered with grass, a red apple"
    ended = command("segment", image, "--output", out, "--classes", classes, "--json")
    assert ended.status == 0
    fractions = json.loads(ended.out)
    assert set(fractions) <= {"the ground is covered with grass", "a red apple"}
    assert sum(fractions.values()) == pytest.approx(1)
    with Image.open(out) as drawn:
        assert drawn.width > 2 * 480


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo.jpg"], "cannot read image photo.jpg"),
        (["photo.jpg", "--output", "drawn.jpg"], "pictures are PNG files"),
        (["photo.jpg", "--classes", "apple,,sky"], "has an empty name"),
        (["photo.jpg", "--dataset", "scenes-cls"], "scenes-cls is not a segmentation data set"),
        (["photo.jpg", "--dataset", "voc22"], "unknown data set 'voc22'"),
    ],
)
def test_bad_input_is_refused_in_one_line(arguments, message, tmp_path, command):
    ended = command("segment", *arguments)
    assert ended.status == 2
    (line,) = ended.err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())
