"""The drawings of twenty more kinds of things: their colours, their variety and their outlines."""

from itertools import combinations, product

import cv2
import numpy as np
import pytest

from cosmos_core.data.scenes import COLOURS, PALETTE, SMALL, THINGS
from cosmos_core.data.scenes.more_things import MORE_PAINTERS
from cosmos_core.data.scenes.sprites import draw_sprites, paint_sprites
from cosmos_core.data.scenes.things import Canvas

KINDS = sorted(MORE_PAINTERS)
KINDS_AND_COLOURS = list(product(KINDS, PALETTE))
N_VARIANTS = 6


def paint(kind, colour, seed):
    """Return the drawing (240, 240, 4) of a thing, before it is outlined and shrunk."""
    canvas = Canvas()
    MORE_PAINTERS[kind](canvas, PALETTE[colour], np.random.default_rng(seed))
    return canvas.rgba


def distance_to_shades(values, colour):
    """Return the distance of RGB values (N, 3) to the nearest shade of a colour (N,).

    A shade lies on the lines from the colour halfway to black and 70 % of the way to white. These
    are the shades at which a person still says the word of the colour.
    """
    colour = np.asarray(colour, float)
    towards_black = colour * np.linspace(0.5, 1, 26)[:, None]
    towards_white = colour + (255 - colour) * np.linspace(0, 0.7, 36)[:, None]
    shades = np.concatenate([towards_black, towards_white])
    return np.linalg.norm(values[:, None] - shades, axis=2).min(1)


def small_outline(sprites):
    """Return which pixels of a small sprite (16, 16) a thing covers."""
    alpha = (sprites[SMALL][..., 3] >= 128).astype(np.float32)
    return cv2.resize(alpha, (16, 16), interpolation=cv2.INTER_AREA) >= 0.5


def outlines_by_kind():
    """Return outlines (N_VARIANTS, 16, 16) of each of the thirty kinds."""
    outlines = {}
    for kind in THINGS:
        sprites = [draw_sprites(kind, COLOURS[kind][0], seed) for seed in range(N_VARIANTS)]
        outlines[kind] = np.stack([small_outline(sprite) for sprite in sprites])
    for kind, painter in MORE_PAINTERS.items():
        generators = [np.random.default_rng(seed) for seed in range(N_VARIANTS)]
        sprites = [paint_sprites(painter, PALETTE["red"], rng) for rng in generators]
        outlines[kind] = np.stack([small_outline(sprite) for sprite in sprites])
    return outlines


def test_there_are_twenty_more_kinds_in_the_order_of_the_alphabet():
    assert list(MORE_PAINTERS) == KINDS
    assert len(KINDS) == 20
    assert not set(KINDS) & set(THINGS)


@pytest.mark.parametrize(("kind", "colour"), KINDS_AND_COLOURS)
def test_at_least_half_of_a_thing_has_its_colour(kind, colour):
    for seed in range(3):
        rgba = paint(kind, colour, seed)
        colours, counts = np.unique(rgba[rgba[..., 3] > 0, :3], axis=0, return_counts=True)
        distances = {word: distance_to_shades(colours, rgb) for word, rgb in PALETTE.items()}
        nearest = np.min(list(distances.values()), axis=0)
        # Dark yellow and dark orange are as near to brown: the shades of two colours may cross.
        has_colour = (distances[colour] < 12) & (distances[colour] <= nearest + 6)
        assert np.sum(counts[has_colour]) > 0.5 * np.sum(counts), seed


@pytest.mark.parametrize("kind", KINDS)
def test_a_thing_fills_most_of_its_canvas_and_is_not_cut_off(kind):
    for seed in range(8):
        alpha = paint(kind, "red", seed)[..., 3]
        _, _, width, height = cv2.boundingRect(alpha)
        assert max(width, height) > 0.8 * len(alpha), seed
        assert min(width, height) > 0.5 * len(alpha), seed
        assert np.mean(alpha > 0) > 0.15, seed
        border = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        assert not border.any(), seed


@pytest.mark.parametrize("kind", KINDS)
def test_drawings_vary_by_their_seeds_only(kind):
    drawings = [paint(kind, "blue", seed) for seed in range(N_VARIANTS)]
    np.testing.assert_array_equal(paint(kind, "blue", 0), drawings[0])
    for first, second in combinations(drawings, 2):
        is_covered = (first[..., 3] > 0) | (second[..., 3] > 0)
        differs = np.any(first != second, axis=2)
        assert differs[is_covered].mean() > 0.04


def test_outlines_of_thirty_kinds_differ_at_16_pixels():
    outlines = outlines_by_kind()
    assert len(outlines) == 30
    # The mean intersection over union of all pairs of drawings of two kinds.
    overlaps = {}
    for kind, other_kind in combinations(outlines, 2):
        drawings, other_drawings = outlines[kind][:, None], outlines[other_kind][None]
        intersections = (drawings & other_drawings).sum((2, 3))
        unions = (drawings | other_drawings).sum((2, 3))
        overlaps[kind, other_kind] = np.mean(intersections / unions)
    most_similar = sorted(overlaps, key=overlaps.get, reverse=True)[:5]
    assert overlaps[most_similar[0]] < 0.9, most_similar


def test_sprites_of_more_kinds_have_the_sizes_of_the_first_ten():
    sprites = paint_sprites(MORE_PAINTERS["key"], PALETTE["red"], np.random.default_rng(0))
    shapes = {size: image.shape for size, image in sprites.items()}
    sprites_of_first_kind = draw_sprites("apple", "red", 0)
    assert shapes == {size: image.shape for size, image in sprites_of_first_kind.items()}
