"""Textures of the eight kinds of stuff, drawn once each and then cropped."""

from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

from cosmos_core.data.scenes import SIDE, STUFF

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Rng = np.random.Generator

VARIANTS = 10
TILE = SIDE + 64  # larger than a scene, so that crops differ
_BANK_SEED = 7001  # differs from the seeds of scenes: textures belong to no split


def sample_texture(rng: Rng, kind: str) -> Image:
    """Return a random crop (SIDE, SIDE, 3) of a kind of stuff, randomly tinted and flipped."""
    variant, y, x, flip = rng.integers((VARIANTS, TILE - SIDE, TILE - SIDE, 2)).tolist()
    crop = texture(kind, variant)[y : y + SIDE, x : x + SIDE]
    if flip:
        crop = crop[:, ::-1]
    gains = rng.uniform(0.95, 1.05, 3) * rng.uniform(0.9, 1.06)
    return cv2.multiply(np.ascontiguousarray(crop), (*gains.tolist(), 1.0))


@cache
def texture(kind: str, variant: int) -> Image:
    """Return the texture (TILE, TILE, 3) RGB of one kind and variant, the same in any process."""
    number = STUFF.index(kind)
    rng = np.random.default_rng([_BANK_SEED, number, variant])
    tile = _PAINTERS[number](rng, float(rng.uniform(0.8, 1.25)))
    tile.flags.writeable = False
    return tile


def _noise(rng: Rng, cells: int, stretch: float = 1.0) -> Floats:
    """Return smooth noise (TILE, TILE) of unit scale; stretch > 1 draws it out sideways."""
    grid = rng.standard_normal((cells, max(2, int(cells / stretch)))).astype(np.float32)
    return cv2.resize(grid, (TILE, TILE), interpolation=cv2.INTER_CUBIC)


def _clipped(values: npt.NDArray[np.floating]) -> Image:
    return np.clip(values, 0, 255).astype(np.uint8)


def _speckled(tile: Image, rng: Rng, depth: int) -> Image:
    """Darken each pixel by a random amount below `depth`."""
    grain = rng.integers(0, depth, (TILE, TILE, 1), dtype=np.uint8)
    return np.maximum(tile, grain) - grain


def _coloured(base: tuple[int, int, int], shade: Floats) -> Image:
    return _clipped(np.array(base, np.float32) + shade[..., None])


def _grass(rng: Rng, scale: float) -> Image:
    tile = _coloured((70, 132, 42), 9 * _noise(rng, 10))
    for x, y, lean, tall, light in rng.random((int(1500 / scale), 5)):
        root = (int(x * TILE), int(y * TILE))
        tip = (int(root[0] + (lean - 0.5) * 8 * scale), int(root[1] - (5 + 8 * tall) * scale))
        level = 0.55 + 0.95 * light
        cv2.line(tile, root, tip, (84 * level, 158 * level, 46 * level), 1, cv2.LINE_AA)
    return tile


def _water(rng: Rng, scale: float) -> Image:
    tile = _coloured((26, 104, 168), 7 * _noise(rng, 6, 2.0))
    columns = np.arange(0, TILE + 4, 4)
    gap = 11 * scale
    for row in np.arange(0.0, TILE + gap, gap):
        phase, period = rng.random() * 6.3, (16 + 6 * rng.random()) * scale
        wave = row + 2.6 * scale * np.sin(columns / period * 3.1 + phase)
        points = np.stack([columns, wave], 1).astype(np.int32)
        cv2.polylines(tile, [points], False, (150, 214, 236), 2, cv2.LINE_AA)
        shadow = points + np.array([0, 3], np.int32)
        cv2.polylines(tile, [shadow], False, (14, 70, 130), 1, cv2.LINE_AA)
    return tile


def _brick(rng: Rng, scale: float) -> Image:
    tile = _coloured((206, 196, 184), 6 * _noise(rng, 40))
    height, width = int(11 * scale), int(25 * scale)
    for row, top in enumerate(range(0, TILE, height)):
        start = -(width // 2) * (row % 2)
        for left in range(start, TILE, width):
            level = rng.uniform(0.82, 1.12)
            colour = (172 * level, 74 * level, 54 * level)
            cv2.rectangle(tile, (left, top, width - 2, height - 2), colour, -1)
    return _speckled(tile, rng, 14)


def _sand(rng: Rng, scale: float) -> Image:
    rows = np.arange(TILE, dtype=np.float32)[:, None]
    ripples = 9 * np.sin(rows / (3.4 * scale) + 2.2 * _noise(rng, 5))
    grain = rng.normal(0, 11, (TILE, TILE)).astype(np.float32)
    tile = _coloured((224, 192, 128), ripples + grain)
    for x, y, light in rng.random((90, 3)):
        tone = (150, 116, 64) if light < 0.6 else (250, 234, 190)
        cv2.circle(tile, (int(x * TILE), int(y * TILE)), 1, tone, -1)
    return tile


def _wood(rng: Rng, scale: float) -> Image:
    rows = np.arange(TILE, dtype=np.float32)[:, None]
    grain = 11 * np.sin(rows / (1.1 * scale) + 3.5 * _noise(rng, 12, 6.0))
    plank = int(22 * scale)
    levels = np.repeat(rng.uniform(-14, 14, TILE // plank + 1), plank)[:TILE, None]
    tile = _coloured((152, 98, 50), grain + levels.astype(np.float32))
    for row, top in enumerate(range(0, TILE, plank)):
        cv2.line(tile, (0, top), (TILE, top), (62, 36, 18), 2)
        x = int(rng.integers(TILE // 2)) + (row % 2) * TILE // 2
        cv2.line(tile, (x, top), (x, top + plank), (62, 36, 18), 2)
        for nail in (x - 4, x + 5):
            cv2.circle(tile, (nail, top + plank // 2), 1, (48, 28, 16), -1)
    return tile


def _snow(rng: Rng, scale: float) -> Image:
    drifts = _noise(rng, int(7 / scale), 2.0)
    hollow = np.clip(-drifts, 0, 1.5)[..., None] * np.array([30, 19, 5], np.float32)
    tile = _clipped(np.array([240, 245, 252], np.float32) - hollow)
    step = 17 * scale
    for row, y in enumerate(np.arange(0, TILE, step)):
        for x in np.arange((row % 2) * step / 2, TILE, step):
            dx, dy, size, turn = rng.random(4).tolist()
            centre = (int(x + (dx - 0.5) * step * 0.6), int(y + (dy - 0.5) * step * 0.6))
            arm = (2.6 + 2.2 * size) * scale  # of a flake, which has six
            for angle in turn + np.arange(3) * np.pi / 3:
                reach = np.array([np.cos(angle), np.sin(angle)]) * arm
                ends = np.rint(np.array([centre - reach, centre + reach])).astype(np.int32)
                cv2.polylines(tile, [ends], False, (128, 172, 226), 1, cv2.LINE_AA)
    return tile


def _stone(rng: Rng, scale: float) -> Image:
    tile = _coloured((62, 62, 64), 4 * _noise(rng, 30))
    step = int(21 * scale)
    angles = np.arange(9) / 9 * 2 * np.pi
    for row, y in enumerate(range(0, TILE + step, step)):
        for x in range((row % 2) * step // 2, TILE + step, step):
            radii = step * rng.uniform(0.4, 0.53, 9)
            points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)
            grey = float(rng.uniform(118, 178))
            cv2.fillPoly(tile, [points.astype(np.int32)], (grey, grey, grey + 4))
            light = (points * 0.55 + np.array([x - 2, y - 2]) * 0.45).astype(np.int32)
            cv2.fillPoly(tile, [light], (grey + 18, grey + 18, grey + 22))
    return _speckled(tile, rng, 22)


def _sky(rng: Rng, scale: float) -> Image:
    rows = np.linspace(-18, 18, TILE, dtype=np.float32)[:, None]
    tile = _coloured((128, 186, 240), np.repeat(rows, TILE, 1))
    clouds = np.zeros((TILE, TILE), np.float32)
    for x, y in rng.random((int(13 / scale), 2)):
        for dx, dy, size in rng.random((6, 3)):
            spot = (int(x * TILE + (dx - 0.5) * 34 * scale), int(y * TILE - dy * 7 * scale))
            cv2.circle(clouds, spot, int((3 + 5 * size) * scale), 1.0, -1)
    soft = cv2.GaussianBlur(clouds, (0, 0), 1.3)[..., None]
    return _clipped(tile + (252 - tile.astype(np.float32)) * soft)


_PAINTERS = (_grass, _water, _brick, _sand, _wood, _snow, _stone, _sky)  # in the order of STUFF
