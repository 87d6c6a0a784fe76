"""Textures of the eight kinds of stuff, drawn once each and then cropped."""

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from cosmos_core.data.scenes import SIDE, STUFF

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Rng = np.random.Generator

TILE = SIDE + 64  # side of a texture in pixels: larger than a scene, so that crops differ
_BANK_SEED = 7001  # differs from the seeds of scenes: textures belong to no split


def sample_texture(rng: Rng, kind: str, textures: range) -> Image:
    """Return a random image (SIDE, SIDE, 3) of a kind of stuff.

    It is a crop of one of the textures of this kind, randomly tinted, and sometimes mirrored.

    Args:
        rng: The random generator.
        kind: The kind of stuff in STUFF, such as "grass".
        textures: The numbers of the textures of the kind that may be taken.
    """
    n_textures = len(textures)
    number, y, x, is_mirrored = rng.integers((n_textures, TILE - SIDE, TILE - SIDE, 2)).tolist()
    crop = texture(kind, textures[number])[y : y + SIDE, x : x + SIDE]
    if is_mirrored:
        crop = crop[:, ::-1]
    channel_gains = rng.uniform(0.95, 1.05, 3)
    brightness = rng.uniform(0.9, 1.06)
    gains = channel_gains * brightness
    return cv2.multiply(np.ascontiguousarray(crop), (*gains.tolist(), 1.0))


@cache
def texture(kind: str, variant: int) -> Image:
    """Return a texture (TILE, TILE, 3) in RGB of one kind of stuff.

    A texture is the same in any process. It is cached, and must not be changed.

    Args:
        kind: The kind of stuff in STUFF, such as "grass".
        variant: The number of the texture, from 0.
    """
    kind_index = STUFF.index(kind)
    rng = np.random.default_rng([_BANK_SEED, kind_index, variant])
    scale = float(rng.uniform(0.8, 1.25))
    paint = _PAINTERS[kind_index]
    tile = paint(rng, scale)
    tile.flags.writeable = False
    return tile


def _smooth_noise(rng: Rng, cells: int, stretch: float = 1.0) -> Floats:
    """Return smooth noise (TILE, TILE), which is interpolated from a coarse grid of normal values.

    Args:
        rng: The random generator.
        cells: The number of rows and columns of the grid.
        stretch: A factor by which the noise is drawn out sideways. The grid has fewer columns then.
    """
    n_columns = max(2, int(cells / stretch))
    grid = rng.standard_normal((cells, n_columns)).astype(np.float32)
    return cv2.resize(grid, (TILE, TILE), interpolation=cv2.INTER_CUBIC)


def _to_image(values: npt.NDArray[np.floating]) -> Image:
    """Return values as uint8: clipped to 0..255, and rounded down."""
    return np.clip(values, 0, 255).astype(np.uint8)


def _darken_pixels(tile: Image, rng: Rng, max_depth: int) -> Image:
    """Return a tile in which each pixel is darker by a random amount below `max_depth`."""
    depth = rng.integers(0, max_depth, (TILE, TILE, 1), dtype=np.uint8)
    return np.maximum(tile, depth) - depth


def _shaded_tile(colour: tuple[int, int, int], brightness: Floats) -> Image:
    """Return a tile (TILE, TILE, 3) of one RGB colour with an uneven brightness.

    Args:
        colour: The red, green and blue values from 0 to 255.
        brightness: The values (TILE, TILE) that are added to all channels.
    """
    return _to_image(np.array(colour, np.float32) + brightness[..., None])


# The painters return a texture (TILE, TILE, 3) of one kind of stuff each. Variables called
# `..._draw` are random numbers from 0 to 1.


def _paint_grass(rng: Rng, scale: float) -> Image:
    """Return a texture of grass: blades that lean to either side, on a green ground.

    Args:
        rng: The random generator.
        scale: The factor by which the blades are enlarged.
    """
    tile = _shaded_tile((70, 132, 42), 9 * _smooth_noise(rng, 10))
    n_blades = int(1500 / scale)
    for x_draw, y_draw, lean_draw, height_draw, light_draw in rng.random((n_blades, 5)):
        root_x, root_y = int(x_draw * TILE), int(y_draw * TILE)
        lean = (lean_draw - 0.5) * 8 * scale
        height = (5 + 8 * height_draw) * scale
        tip = (int(root_x + lean), int(root_y - height))
        level = 0.55 + 0.95 * light_draw
        colour = (84 * level, 158 * level, 46 * level)
        cv2.line(tile, (root_x, root_y), tip, colour, 1, cv2.LINE_AA)
    return tile


def _paint_water(rng: Rng, scale: float) -> Image:
    """Return a texture of water: rows of waves with dark shadows below them.

    Args:
        rng: The random generator.
        scale: The factor by which the waves and their distance are enlarged.
    """
    tile = _shaded_tile((26, 104, 168), 7 * _smooth_noise(rng, 6, stretch=2.0))
    x = np.arange(0, TILE + 4, 4)
    row_distance = 11 * scale
    for row_y in np.arange(0.0, TILE + row_distance, row_distance):
        phase = rng.random() * 6.3
        wave_length = (16 + 6 * rng.random()) * scale
        y = row_y + 2.6 * scale * np.sin(x / wave_length * 3.1 + phase)
        wave = np.stack([x, y], 1).astype(np.int32)
        cv2.polylines(tile, [wave], False, (150, 214, 236), 2, cv2.LINE_AA)
        shadow = wave + np.array([0, 3], np.int32)
        cv2.polylines(tile, [shadow], False, (14, 70, 130), 1, cv2.LINE_AA)
    return tile


def _paint_brick(rng: Rng, scale: float) -> Image:
    """Return a texture of bricks on mortar. Every other row begins with half a brick.

    Args:
        rng: The random generator.
        scale: The factor by which the bricks are enlarged.
    """
    tile = _shaded_tile((206, 196, 184), 6 * _smooth_noise(rng, 40))
    height, width = int(11 * scale), int(25 * scale)
    for row, top in enumerate(range(0, TILE, height)):
        start = -(width // 2) * (row % 2)
        for left in range(start, TILE, width):
            level = rng.uniform(0.82, 1.12)
            colour = (172 * level, 74 * level, 54 * level)
            # Two pixels of mortar are left between bricks.
            cv2.rectangle(tile, (left, top, width - 2, height - 2), colour, -1)
    return _darken_pixels(tile, rng, 14)


def _paint_sand(rng: Rng, scale: float) -> Image:
    """Return a texture of sand: ripples and grains, with dark and light pebbles.

    Args:
        rng: The random generator.
        scale: The factor by which the ripples are enlarged.
    """
    y = np.arange(TILE, dtype=np.float32)[:, None]
    ripples = 9 * np.sin(y / (3.4 * scale) + 2.2 * _smooth_noise(rng, 5))
    grains = rng.normal(0, 11, (TILE, TILE)).astype(np.float32)
    tile = _shaded_tile((224, 192, 128), ripples + grains)
    for x_draw, y_draw, light_draw in rng.random((90, 3)):
        colour = (150, 116, 64) if light_draw < 0.6 else (250, 234, 190)
        cv2.circle(tile, (int(x_draw * TILE), int(y_draw * TILE)), 1, colour, -1)
    return tile


def _paint_wood(rng: Rng, scale: float) -> Image:
    """Return a texture of wood: planks of different brightness with gaps, a grain and nails.

    Args:
        rng: The random generator.
        scale: The factor by which the planks and the grain are enlarged.
    """
    y = np.arange(TILE, dtype=np.float32)[:, None]
    grain = 11 * np.sin(y / (1.1 * scale) + 3.5 * _smooth_noise(rng, 12, stretch=6.0))
    plank_height = int(22 * scale)
    plank_brightness = rng.uniform(-14, 14, TILE // plank_height + 1)
    row_brightness = np.repeat(plank_brightness, plank_height)[:TILE, None]
    tile = _shaded_tile((152, 98, 50), grain + row_brightness.astype(np.float32))
    gap_colour, nail_colour = (62, 36, 18), (48, 28, 16)
    for row, top in enumerate(range(0, TILE, plank_height)):
        cv2.line(tile, (0, top), (TILE, top), gap_colour, 2)
        # Planks end in the left half of a row, and in the right half of the next one.
        end_x = int(rng.integers(TILE // 2)) + (row % 2) * TILE // 2
        cv2.line(tile, (end_x, top), (end_x, top + plank_height), gap_colour, 2)
        for nail_x in (end_x - 4, end_x + 5):
            cv2.circle(tile, (nail_x, top + plank_height // 2), 1, nail_colour, -1)
    return tile


def _paint_snow(rng: Rng, scale: float) -> Image:
    """Return a texture of snow: bluish hollows, and flakes with six arms in an irregular grid.

    Args:
        rng: The random generator.
        scale: The factor by which the drifts, the flakes and their distance are enlarged.
    """
    drifts = _smooth_noise(rng, int(7 / scale), stretch=2.0)
    hollow_depth = np.clip(-drifts, 0, 1.5)[..., None]
    shadow = hollow_depth * np.array([30, 19, 5], np.float32)
    tile = _to_image(np.array([240, 245, 252], np.float32) - shadow)
    step = 17 * scale
    for row, y in enumerate(np.arange(0, TILE, step)):
        for x in np.arange((row % 2) * step / 2, TILE, step):
            dx_draw, dy_draw, size_draw, turn = rng.random(4).tolist()
            centre_x = int(x + (dx_draw - 0.5) * step * 0.6)
            centre_y = int(y + (dy_draw - 0.5) * step * 0.6)
            centre = (centre_x, centre_y)
            arm_length = (2.6 + 2.2 * size_draw) * scale
            # Three lines through the centre are six arms.
            for angle in turn + np.arange(3) * np.pi / 3:
                arm = np.array([np.cos(angle), np.sin(angle)]) * arm_length
                ends = np.rint(np.array([centre - arm, centre + arm])).astype(np.int32)
                cv2.polylines(tile, [ends], False, (128, 172, 226), 1, cv2.LINE_AA)
    return tile


def _paint_stone(rng: Rng, scale: float) -> Image:
    """Return a texture of stone: rows of irregular grey stones, each with a lighter top.

    Args:
        rng: The random generator.
        scale: The factor by which the stones are enlarged.
    """
    tile = _shaded_tile((62, 62, 64), 4 * _smooth_noise(rng, 30))
    step = int(21 * scale)
    angles = np.arange(9) / 9 * 2 * np.pi  # of the nine corners of a stone
    for row, y in enumerate(range(0, TILE + step, step)):
        for x in range((row % 2) * step // 2, TILE + step, step):
            radii = step * rng.uniform(0.4, 0.53, 9)
            corners = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)
            grey = float(rng.uniform(118, 178))
            cv2.fillPoly(tile, [corners.astype(np.int32)], (grey, grey, grey + 4))
            # The same shape, smaller, around a point to the upper left of the centre.
            light_corners = corners * 0.55 + np.array([x - 2, y - 2]) * 0.45
            light_colour = (grey + 18, grey + 18, grey + 22)
            cv2.fillPoly(tile, [light_corners.astype(np.int32)], light_colour)
    return _darken_pixels(tile, rng, 22)


def _paint_sky(rng: Rng, scale: float) -> Image:
    """Return a texture of a sky that is lighter at the bottom, with clouds.

    A cloud is a heap of six blurred discs.

    Args:
        rng: The random generator.
        scale: The factor by which the clouds are enlarged.
    """
    gradient = np.linspace(-18, 18, TILE, dtype=np.float32)[:, None]
    tile = _shaded_tile((128, 186, 240), np.repeat(gradient, TILE, 1))
    clouds = np.zeros((TILE, TILE), np.float32)
    n_clouds = int(13 / scale)
    for x_draw, y_draw in rng.random((n_clouds, 2)):
        for dx_draw, dy_draw, size_draw in rng.random((6, 3)):
            disc_x = int(x_draw * TILE + (dx_draw - 0.5) * 34 * scale)
            disc_y = int(y_draw * TILE - dy_draw * 7 * scale)
            radius = int((3 + 5 * size_draw) * scale)
            cv2.circle(clouds, (disc_x, disc_y), radius, 1.0, -1)
    cloud_alpha = cv2.GaussianBlur(clouds, (0, 0), 1.3)[..., None]
    cloud_brightness = 252
    return _to_image(tile + (cloud_brightness - tile.astype(np.float32)) * cloud_alpha)


# The painters of the kinds of stuff, in the order of STUFF.
_PAINTERS = (
    _paint_grass,
    _paint_water,
    _paint_brick,
    _paint_sand,
    _paint_wood,
    _paint_snow,
    _paint_stone,
    _paint_sky,
)
