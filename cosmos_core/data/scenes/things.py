"""Draw the ten kinds of things: the structure of a kind is fixed, and its details vary.

Shapes are N points (x, y) in a square from -1 to 1; y points downwards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import product

import cv2
import numpy as np
import numpy.typing as npt

from cosmos_core.data.scenes import COLOURS, PALETTE, THINGS
from cosmos_core.data.scenes.captions import LARGE, SMALL

Shape = npt.NDArray[np.float64] | Sequence[tuple[float, float]]
Colour = tuple[float, float, float]
Image = npt.NDArray[np.uint8]
Rng = np.random.Generator

VARIANTS = 12
SPRITE_SIDES = {LARGE: 92, SMALL: 46}  # pixels of a sprite without its margin
_BANK_SEED = 7002  # differs from the seeds of scenes: drawings belong to no split
_RESOLUTION = 240
_BITS = 4  # sub-pixel bits of OpenCV's drawing functions
_OUTLINE = 3  # pixels
# A sprite is enlarged by a margin for its light: three pixels around a small one.
_WIDENED = 1 + 2 * 3 / SPRITE_SIDES[SMALL]

_DARK: Colour = (34, 28, 34)
_WHITE: Colour = (246, 246, 242)
_CREAM: Colour = (240, 226, 196)
_BARK: Colour = (112, 72, 42)
_LEAF: Colour = (62, 142, 52)
_GLASS: Colour = (168, 214, 240)


@cache
def sprite(kind: str, colour: str, variant: int) -> dict[str, Image]:
    """Return images of one thing, the same in any process, by their size, `large` or `small`.

    They are premultiplied RGBA (S, S, 4). Alpha below 128 is light around the thing.
    """
    number, pen = THINGS.index(kind), Canvas()
    rng = np.random.default_rng([_BANK_SEED, number, COLOURS[kind].index(colour), variant])
    _PAINTERS[number](pen, PALETTE[colour], rng)
    x, y, w, h = cv2.boundingRect(pen.rgba[..., 3])
    # The square round the centre that holds the thing and the margin.
    half = int(np.ceil(max(w, h) / 2 * _WIDENED))
    padded = np.pad(pen.rgba, ((half, half), (half, half), (0, 0)))
    square = padded[y + h // 2 :, x + w // 2 :][: 2 * half, : 2 * half]
    # A small sprite is shrunk more, so its outline is relatively wider.
    small = cv2.resize(square, (half, half), interpolation=cv2.INTER_NEAREST)
    return {LARGE: _finished(square, 9, LARGE), SMALL: _finished(small, 7, SMALL)}


def oval(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> npt.NDArray[np.float64]:
    """Return an ellipse round (x, y), turned by an angle in degrees."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    along, across = rx * np.cos(turn), ry * np.sin(turn)
    return np.stack([x + along * cos - across * sin, y + along * sin + across * cos], 1)


def box(x0: float, y0: float, x1: float, y1: float) -> Shape:
    """Return an upright rectangle."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def shade(colour: Colour, level: float) -> Colour:
    """Darken (level < 1) or lighten towards white (level > 1) a colour."""
    end, distance = (0, level) if level <= 1 else (255, 2 - level)
    return tuple(end - (end - c) * distance for c in colour)  # type: ignore[return-value]


class Canvas:
    """A transparent square to draw one thing on."""

    def __init__(self) -> None:
        self.rgba: Image = np.zeros((_RESOLUTION, _RESOLUTION, 4), np.uint8)

    def _pixels(self, points: Shape) -> npt.NDArray[np.int32]:
        half = _RESOLUTION / 2
        return np.rint((np.asarray(points) * half * 0.94 + half) * 2**_BITS).astype(np.int32)

    def fill(self, points: Shape, colour: Colour, edge: int = 0) -> None:
        """Fill a shape; `edge` > 0 also draws its border that many pixels wide, darker."""
        pixels = self._pixels(points)
        cv2.fillPoly(self.rgba, [pixels], (*colour, 255), cv2.LINE_8, _BITS)
        if edge:
            dark = (*shade(colour, 0.5), 255)
            cv2.polylines(self.rgba, [pixels], True, dark, edge, cv2.LINE_8, _BITS)

    def line(self, points: Shape, colour: Colour, width: int) -> None:
        """Draw an open line through points, `width` pixels wide."""
        pixels = self._pixels(points)
        cv2.polylines(self.rgba, [pixels], False, (*colour, 255), width, cv2.LINE_8, _BITS)

    @contextmanager
    def inside(self, points: Shape, colour: Colour | None = None, edge: int = 0) -> Iterator[None]:
        """Clip drawings in this context to a shape, which is first filled if a colour is given."""
        if colour is not None:
            self.fill(points, colour, edge)
        before = self.rgba.copy()
        yield
        outside = np.full(self.rgba.shape[:2], 255, np.uint8)
        cv2.fillPoly(outside, [self._pixels(points)], 0, cv2.LINE_8, _BITS)
        cv2.copyTo(before, outside, self.rgba)


def _finished(rgba: Image, rim: int, size: str) -> Image:
    """Add a dark outline and, up to `rim` pixels away, a light of alpha below half, and shrink."""
    away = cv2.distanceTransform((rgba[..., 3] == 0).view(np.uint8), cv2.DIST_L2, 3)
    rings = np.array([(*_DARK, 255), (110, 110, 106, 112), (0, 0, 0, 0)], np.uint8)
    ring = (away > _OUTLINE).astype(np.intp) + (away > rim)
    # One 32-bit word per pixel is much quicker to look up than four bytes.
    around = rings.view(np.uint32)[:, 0][ring].view(np.uint8).reshape(rgba.shape)
    side = round(SPRITE_SIDES[size] * _WIDENED)
    with_rim = cv2.copyTo(rgba, rgba[..., 3], around)
    small: Image = cv2.resize(with_rim, (side, side), interpolation=cv2.INTER_AREA)
    small.flags.writeable = False
    return small


def _apple(pen: Canvas, colour: Colour, rng: Rng) -> None:
    turn = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    dip = rng.uniform(0.28, 0.4)
    radius = 0.78 - dip * np.exp(-((np.angle(np.exp(1j * (turn + np.pi / 2))) / 0.42) ** 2))
    width = rng.uniform(1.0, 1.12)
    body = np.stack([radius * width * np.cos(turn), 0.16 + radius * np.sin(turn)], 1)
    with pen.inside(body, colour):
        pen.fill(oval(0.34, 0.42, 0.72, 0.66), shade(colour, 0.86))
        pen.fill(oval(-0.08, 0.1, 0.72, 0.66), colour)
        for x, y in rng.uniform(-0.75, 0.75, (int(rng.integers(18, 40)), 2)):
            pen.fill(oval(x, y + 0.16, 0.03, 0.03), shade(colour, 1.45))
    pen.fill(oval(-0.42, -0.12, 0.1, 0.2, 28), shade(colour, 1.8))
    pen.line([(0, -0.22), (0.03, -0.55), (0.12, -0.86)], _BARK, 15)
    pen.fill(oval(0.38, -0.7, 0.3, 0.13, -22), _LEAF, 3)
    pen.line([(0.14, -0.6), (0.6, -0.8)], shade(_LEAF, 0.6), 3)


def _ball(pen: Canvas, colour: Colour, rng: Rng) -> None:
    pole = rng.uniform(-0.3, 0.3, 2)
    wedges = int(rng.choice([3, 4]))
    start = rng.uniform(0, 2 * np.pi)
    with pen.inside(oval(0, 0, 0.9, 0.9), _WHITE):
        for wedge in range(wedges):
            turn = start + (wedge + np.linspace(0, 0.5, 9)) / wedges * 2 * np.pi
            rim = np.stack([1.6 * np.cos(turn), 1.6 * np.sin(turn)], 1)
            pen.fill(np.vstack([pole, rim]), colour, 4)
        pen.fill(oval(pole[0], pole[1], 0.17, 0.17), shade(colour, 0.7), 4)
        pen.fill(oval(-0.45, -0.5, 0.16, 0.09, -45), (255, 255, 255))


def _boat(pen: Canvas, colour: Colour, rng: Rng) -> None:
    mast = rng.uniform(-0.12, 0.08)
    sail = PALETTE["white"] if colour != PALETTE["white"] else _CREAM
    pen.fill(box(mast - 0.035, -0.9, mast + 0.035, 0.4), _BARK)
    main = [(mast + 0.07, -0.82), (mast + 0.07, 0.33), (rng.uniform(0.62, 0.8), 0.33)]
    jib = [(mast - 0.07, -0.7), (mast - 0.07, 0.33), (rng.uniform(-0.72, -0.5), 0.33)]
    stripes = rng.integers(2, 5)
    for part in (main, jib):
        with pen.inside(part, sail):
            for y in np.linspace(-0.45, 0.2, stripes):
                pen.line([(-1, y), (1, y)], shade(colour, 0.72), 9)
    with pen.inside([(-0.95, 0.36), (0.95, 0.36), (0.62, 0.84), (-0.66, 0.84)], colour):
        pen.fill(box(-1, 0.36, 1, 0.47), shade(colour, 0.6))
        pen.fill(box(-1, 0.72, 1, 0.9), shade(colour, 0.75))
    for x in np.linspace(-0.45, 0.45, int(rng.integers(2, 5))):
        pen.fill(oval(x, 0.59, 0.075, 0.075), _GLASS, 4)
    pen.fill([(mast, -0.98), (mast, -0.78), (mast + 0.3, -0.88)], shade(colour, 0.8))


def _car(pen: Canvas, colour: Colour, rng: Rng) -> None:
    back, roof = rng.uniform(-0.62, -0.42), rng.uniform(-0.56, -0.46)
    front = rng.uniform(0.22, 0.36)
    cabin = [(back - 0.18, -0.06), (back, roof), (front, roof), (front + 0.26, -0.06)]
    body = [(-0.95, 0.38), (-0.95, 0.02), (-0.86, -0.1), (0.62, -0.1), (0.95, 0.08), (0.95, 0.38)]
    pen.fill(cabin, colour, 4)
    pen.fill(body, colour)
    middle, top = (back + front) / 2, roof + 0.09
    for x0, x1, x2, x3 in (
        (back - 0.06, back + 0.05, middle - 0.05, middle - 0.05),
        (middle + 0.05, middle + 0.05, front - 0.04, front + 0.14),
    ):
        pen.fill([(x0, -0.1), (x1, top), (x2, top), (x3, -0.1)], _GLASS, 3)
    pen.fill(box(-0.95, 0.24, 0.95, 0.38), shade(colour, 0.68))
    pen.line([(middle, -0.06), (middle, 0.24)], shade(colour, 0.5), 4)
    pen.line([(middle + 0.1, 0.04), (middle + 0.22, 0.04)], shade(colour, 0.4), 6)
    pen.fill(oval(0.86, 0.1, 0.08, 0.07), (255, 240, 150), 3)
    pen.fill(box(-0.95, 0.02, -0.86, 0.16), (190, 30, 40))
    radius = rng.uniform(0.21, 0.26)
    for x in (-0.54, 0.52):
        pen.fill(oval(x, 0.4, radius, radius), (38, 38, 42))
        pen.fill(oval(x, 0.4, radius * 0.52, radius * 0.52), (190, 194, 200), 3)
        pen.fill(oval(x, 0.4, radius * 0.18, radius * 0.18), (90, 92, 98))


def _fish(pen: Canvas, colour: Colour, rng: Rng) -> None:
    dark, tall = shade(colour, 0.72), rng.uniform(0.42, 0.54)
    pen.fill([(-0.48, 0), (-0.96, -0.44), (-0.84, 0), (-0.96, 0.44)], dark, 4)
    pen.fill([(-0.3, -tall * 0.7), (0.02, -tall - 0.28), (0.34, -tall * 0.7)], dark, 4)
    pen.fill([(-0.1, tall * 0.7), (-0.14, tall + 0.2), (0.2, tall * 0.8)], dark, 4)
    striped = rng.random() < 0.4
    with pen.inside(oval(0.14, 0, 0.76, tall), colour):
        pen.fill(oval(0.14, tall, 0.8, tall * 0.75), shade(colour, 1.5))
        for row, y in enumerate(np.arange(-0.5, 0.5, 0.17)):
            for x in np.arange(-0.62 + 0.11 * (row % 2), 0.4, 0.22):
                pen.line(oval(x, y, 0.11, 0.11)[30:], dark, 4)
                pen.line(oval(x, y, 0.11, 0.11)[:11], dark, 4)
        for x in (-0.32, 0.04) if striped else ():
            pen.fill([(x, -1), (x + 0.16, -1), (x + 0.12, 1), (x - 0.04, 1)], _WHITE)
        pen.line(oval(0.34, 0, 0.24, tall * 1.1)[30:], dark, 6)
        pen.line(oval(0.34, 0, 0.24, tall * 1.1)[:11], dark, 6)
    pen.fill(oval(0.68, -0.1, 0.11, 0.11), (255, 255, 255), 3)
    pen.fill(oval(0.7, -0.1, 0.055, 0.055), (16, 16, 20))
    pen.line([(0.86, 0.12), (0.76, 0.17), (0.68, 0.15)], _DARK, 5)


def _house(pen: Canvas, colour: Colour, rng: Rng) -> None:
    roof: Colour = ((122, 52, 40), (78, 82, 96), (96, 60, 36))[int(rng.integers(3))]
    eaves, wall = rng.uniform(-0.2, -0.08), rng.uniform(0.66, 0.76)
    chimney = rng.uniform(0.3, 0.46)
    pen.fill(box(chimney, -0.86, chimney + 0.2, -0.3), shade(roof, 0.8))
    pen.fill(box(-wall, eaves, wall, 0.88), colour, 4)
    for y in np.arange(eaves + 0.14, 0.86, 0.14):
        pen.line([(-wall, y), (wall, y)], shade(colour, 0.86), 3)
    with pen.inside([(-wall - 0.2, eaves), (0, -0.92), (wall + 0.2, eaves)], roof):
        for y in np.arange(-0.8, eaves, 0.13):
            pen.line([(-1, y), (1, y)], shade(roof, 0.65), 4)
    pen.fill(box(-0.15, 0.36, 0.15, 0.88), (104, 62, 34), 4)
    pen.fill(oval(0.09, 0.62, 0.03, 0.03), (240, 210, 90))
    for x in (-wall + 0.27, wall - 0.27):
        y, half = rng.uniform(0.2, 0.34), 0.17  # of a window
        pen.fill(box(x - half, y - half, x + half, y + half), _WHITE)
        for dx, dy in product((-0.45, 0.45), repeat=2):
            cx, cy, r = x + dx * half, y + dy * half, half * 0.33
            pen.fill(box(cx - r, cy - r, cx + r, cy + r), (70, 130, 190))


def _ladybird(pen: Canvas, colour: Colour, rng: Rng) -> None:
    for y in (-0.22, 0.12, 0.46):
        reach = rng.uniform(0.86, 0.96)
        for side in (-1, 1):
            pen.line([(0, y), (side * 0.78, y), (side * reach, y + 0.14)], _DARK, 11)
    for side in (-1, 1):
        pen.line([(0, -0.6), (side * 0.2, -0.84), (side * 0.36, -0.94)], _DARK, 8)
    pen.fill(oval(0, -0.56, 0.4, 0.28), (30, 28, 32))
    for side in (-1, 1):
        pen.fill(oval(side * 0.2, -0.62, 0.09, 0.08), _WHITE)
    with pen.inside(oval(0, 0.16, 0.7, 0.72), colour):
        pen.fill(oval(-0.3, -0.14, 0.2, 0.13, -35), shade(colour, 1.5))
        spots = ((0.34, -0.2), (0.42, 0.26), (0.2, 0.6), (0.14, 0.08))
        radius = rng.uniform(0.11, 0.15)
        for x, y in spots[: int(rng.integers(3, 5))]:
            for side in (-1, 1):
                pen.fill(oval(side * x, y, radius, radius), _DARK)
        pen.line([(0, -0.6), (0, 0.9)], _DARK, 8)


def _mushroom(pen: Canvas, colour: Colour, rng: Rng) -> None:
    thin = rng.uniform(0.17, 0.25)
    stem = [(-thin, -0.1), (thin, -0.1), (thin + 0.12, 0.84), (-thin - 0.12, 0.84)]
    with pen.inside(stem, _CREAM):
        pen.fill(box(thin * 0.35, -0.1, 1, 0.9), shade(_CREAM, 0.84))
        pen.fill(oval(0, 0.3, 0.5, 0.07), shade(_CREAM, 0.7))
    tall = rng.uniform(0.86, 1.02)
    dome = oval(0, 0.06, 0.9, tall)
    with pen.inside(oval(0, 0.06, 0.9, 0.16), shade(_CREAM, 0.82)):
        for x in np.linspace(-0.8, 0.8, 15):
            pen.line([(x * 0.3, -0.1), (x, 0.3)], shade(_CREAM, 0.55), 3)
    # The half ellipse starts at its right end, goes over the top and comes back by a chord.
    cap = dome[dome[:, 1] <= 0.07]
    cap = cap[np.argsort(-cap[:, 0], kind="stable")]
    pen.fill(np.vstack([cap, oval(0, 0.04, 0.9, 0.1)[:20][::-1]]), colour)
    spots = ((-0.5, -0.22), (0.04, -0.42), (0.52, -0.2), (-0.2, -0.7), (0.3, -0.66), (0.02, -0.1))
    with pen.inside(dome):
        for x, y in spots[: int(rng.integers(4, 7))]:
            radius = rng.uniform(0.09, 0.15)
            pen.fill(oval(x + rng.uniform(-0.06, 0.06), y * tall, radius, radius * 0.85), _WHITE)


def _sunflower(pen: Canvas, colour: Colour, rng: Rng) -> None:
    sway = rng.uniform(-0.12, 0.12)
    pen.line([(0, -0.3), (sway, 0.4), (0, 0.95)], _LEAF, 19)
    for side in (-1, 1):
        y = rng.uniform(0.5, 0.72)
        pen.fill(oval(side * 0.32, y, 0.3, 0.12, -side * 28), _LEAF, 4)
        pen.line([(0, y + 0.14), (side * 0.52, y - 0.1)], shade(_LEAF, 0.6), 3)
    count = int(rng.integers(11, 16))
    for i, t in enumerate(np.arange(count) * 2 * np.pi / count):
        petal = oval(0.42 * np.cos(t), -0.34 + 0.42 * np.sin(t), 0.24, 0.12, float(np.degrees(t)))
        pen.fill(petal, shade(colour, (1.0, 0.86)[i % 2]), 4)
    with pen.inside(oval(0, -0.34, 0.31, 0.31), (94, 54, 26), 4):
        for row, y in enumerate(np.arange(-0.66, 0, 0.09)):
            for x in np.arange(-0.4 + 0.05 * (row % 2), 0.4, 0.1):
                pen.fill(oval(x, y, 0.024, 0.024), (176, 118, 60))


def _tree(pen: Canvas, colour: Colour, rng: Rng) -> None:
    foot = rng.uniform(0.2, 0.28)
    trunk = [(-0.12, 0), (0.12, 0), (0.14, 0.7), (foot, 0.92), (-foot, 0.92), (-0.14, 0.7)]
    with pen.inside(trunk, _BARK):
        for x in (-0.08, 0.0, 0.07):
            pen.line([(x, 0), (x * 1.3, 1)], shade(_BARK, 0.6), 4)
    crown = [oval(0, -0.32, 0.5, 0.42)]
    for t in np.linspace(0, 2 * np.pi, int(rng.integers(6, 9)), endpoint=False):
        x, y = 0.44 * np.cos(t), -0.32 + 0.3 * np.sin(t)
        crown.append(oval(x, y, *rng.uniform(0.27, 0.36, 2)))
    for blob in crown:
        pen.fill(blob, shade(colour, 0.78), 5)
    for blob in crown:
        pen.fill(blob * 0.92 + np.array([-0.01, -0.05]), shade(colour, 0.88))
    for x, y, light in rng.uniform(0, 1, (70, 3)):
        t, r = x * 2 * np.pi, np.sqrt(y)
        tone = shade(colour, 0.55 if light < 0.5 else 1.3)
        pen.fill(oval(0.66 * r * np.cos(t), -0.34 + 0.52 * r * np.sin(t), 0.06, 0.035, 30), tone)


# In the order of THINGS.
_PAINTERS = (_apple, _ball, _boat, _car, _fish, _house, _ladybird, _mushroom, _sunflower, _tree)
