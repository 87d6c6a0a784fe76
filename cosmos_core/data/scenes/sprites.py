"""Sprites: drawings of things in the sizes in which scenes show them."""

from functools import cache

import cv2
import numpy as np

from cosmos_core.data.scenes import LARGE, PALETTE, SMALL, VERSION_1, VERSIONS
from cosmos_core.data.scenes.more_things import MORE_PAINTERS
from cosmos_core.data.scenes.things import DARK, PAINTERS, Canvas, Colour, Image, Painter, Rng

SPRITE_SIDES = {LARGE: 92, SMALL: 46}  # pixels of a sprite without its margin
# They differ from the seeds of scenes: a drawing does not depend on the scenes that show it.
_BANK_SEEDS = {"scenes": 7002, "scenes2": 7003}
_OUTLINE_WIDTH = 3  # pixels of a canvas
# The width of an outline and the light around it, in pixels before a sprite is shrunk.
_RIM_WIDTHS = {LARGE: 9, SMALL: 7}
# The factor by which a margin for the light enlarges a sprite: three pixels around a small one.
_MARGIN_FACTOR = 1 + 2 * 3 / SPRITE_SIDES[SMALL]
_PAINTERS = PAINTERS | MORE_PAINTERS


@cache
def draw_sprites(
    kind: str, colour: str, drawing: int, version: str = VERSION_1.name
) -> dict[str, Image]:
    """Return a large and a small image of one drawing of a thing, such as a red car.

    Drawings are the same in any process. They are cached, and must not be changed.

    Args:
        kind: The kind of thing, such as "car".
        colour: One of the colours of the kind, such as "red".
        drawing: The number of the drawing, from 0.
        version: The name of the version of the scenes, which has drawings of its own.

    Returns:
        The images under the keys LARGE and SMALL, in premultiplied RGBA (S, S, 4). Pixels whose
        alpha is below 128 are light around the thing.
    """
    scenes = VERSIONS[version]
    kind_index = scenes.things.index(kind)
    colour_index = scenes.colours[kind].index(colour)
    rng = np.random.default_rng([_BANK_SEEDS[version], kind_index, colour_index, drawing])
    return paint_sprites(_PAINTERS[kind], PALETTE[colour], rng)


def paint_sprites(paint: Painter, colour: Colour, rng: Rng) -> dict[str, Image]:
    """Paint a thing, and return a large and a small image of it.

    Args:
        paint: The function that draws things of one kind.
        colour: The red, green and blue values of the main colour, from 0 to 255.
        rng: The random generator, which varies the drawing.

    Returns:
        The images, as `draw_sprites` returns them.
    """
    canvas = Canvas()
    paint(canvas, colour, rng)

    # Crop the square around the thing's centre that holds the thing and a margin.
    x, y, width, height = cv2.boundingRect(canvas.rgba[..., 3])
    half = int(np.ceil(max(width, height) / 2 * _MARGIN_FACTOR))
    padded = np.pad(canvas.rgba, ((half, half), (half, half), (0, 0)))
    # The square begins at `centre - half`. In the padded image that is the centre itself.
    square_x, square_y = x + width // 2, y + height // 2
    square = padded[square_y : square_y + 2 * half, square_x : square_x + 2 * half]

    # A small sprite is shrunk before its outline is drawn, so that its outline is relatively wider.
    small_square = cv2.resize(square, (half, half), interpolation=cv2.INTER_NEAREST)
    return {LARGE: _finish_sprite(square, LARGE), SMALL: _finish_sprite(small_square, SMALL)}


def _finish_sprite(rgba: Image, size: str) -> Image:
    """Return a sprite, which is the image of a thing in the size in which scenes show it.

    The thing gets a dark outline and a half-transparent light around it, which reaches as far as
    `_RIM_WIDTHS` from the thing. Then the drawing is shrunk to SPRITE_SIDES and the margin.

    Args:
        rgba: The drawing of the thing (S, S, 4) on a transparent ground.
        size: LARGE or SMALL.
    """
    # The distance in pixels from each transparent pixel to the thing.
    distance = cv2.distanceTransform((rgba[..., 3] == 0).view(np.uint8), cv2.DIST_L2, 3)
    # Premultiplied colours of the outline, the light, and the pixels further away.
    rim_colours = np.array([(*DARK, 255), (110, 110, 106, 112), (0, 0, 0, 0)], np.uint8)
    is_beyond_outline = distance > _OUTLINE_WIDTH
    is_beyond_light = distance > _RIM_WIDTHS[size]
    # 0 in the outline, 1 in the light, and 2 beyond both.
    colour_index = is_beyond_outline.astype(np.intp) + is_beyond_light
    # The four bytes of a pixel are looked up as one 32-bit word, which is much quicker.
    rim_words = rim_colours.view(np.uint32)[:, 0]
    rim = rim_words[colour_index].view(np.uint8).reshape(rgba.shape)
    with_rim = cv2.copyTo(rgba, rgba[..., 3], rim)
    side = round(SPRITE_SIDES[size] * _MARGIN_FACTOR)
    shrunk: Image = cv2.resize(with_rim, (side, side), interpolation=cv2.INTER_AREA)
    shrunk.flags.writeable = False
    return shrunk
