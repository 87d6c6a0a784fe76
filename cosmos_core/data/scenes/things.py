"""Draw the ten kinds of things: the structure of a kind is fixed, and its details vary.

Shapes are N points (x, y) in a square from -1 to 1; y points downwards.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product

import cv2
import numpy as np
import numpy.typing as npt

from cosmos_core.data.scenes import PALETTE

Shape = npt.NDArray[np.float64] | Sequence[tuple[float, float]]
Colour = tuple[float, float, float]
Image = npt.NDArray[np.uint8]
Rng = np.random.Generator

_RESOLUTION = 240  # pixels of a canvas
_FILLED_FRACTION = 0.94  # of a canvas, by the square from -1 to 1
_SUBPIXEL_BITS = 4  # of coordinates in OpenCV's drawing functions

DARK: Colour = (34, 28, 34)
WHITE: Colour = (246, 246, 242)
HIGHLIGHT: Colour = (255, 255, 255)
CREAM: Colour = (240, 226, 196)
BARK: Colour = (112, 72, 42)
LEAF: Colour = (62, 142, 52)
GLASS: Colour = (168, 214, 240)


def oval(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> npt.NDArray[np.float64]:
    """Return 40 points (40, 2) of an ellipse.

    If it is not turned, the points begin at the right end, and the lower end comes next.

    Args:
        x: The x of its centre.
        y: The y of its centre, counted downwards.
        rx: Its radius in the direction of x, before it is turned.
        ry: Its radius in the direction of y, before it is turned.
        angle: The angle by which it is turned, in degrees.
    """
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    # The points before the turn, relative to the centre.
    along, across = rx * np.cos(turns), ry * np.sin(turns)
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.stack([x + along * cos - across * sin, y + along * sin + across * cos], 1)


def circle(x: float, y: float, radius: float) -> npt.NDArray[np.float64]:
    """Return 40 points (40, 2) of a circle around (x, y)."""
    return oval(x, y, radius, radius)


def box(x0: float, y0: float, x1: float, y1: float) -> Shape:
    """Return the four corners of the upright rectangle between (x0, y0) and (x1, y1)."""
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def shade(colour: Colour, level: float) -> Colour:
    """Return a darker or lighter shade of a colour.

    Args:
        colour: The red, green and blue values from 0 to 255.
        level: 0 is black, 0.5 half as bright as the colour, 1 the colour itself, and 2 white.

    Example::

        shade((100, 200, 0), 0.5) -> (50.0, 100.0, 0.0)
        shade((100, 200, 0), 1.5) -> (177.5, 227.5, 127.5)
    """
    # The result lies between a target, black or white, and the colour. At 0 it is the target, and
    # at 1 the colour.
    if level <= 1:
        target, fraction_of_way = 0, level
    else:
        target, fraction_of_way = 255, 2 - level
    red, green, blue = colour
    return (
        target - (target - red) * fraction_of_way,
        target - (target - green) * fraction_of_way,
        target - (target - blue) * fraction_of_way,
    )


class Canvas:
    """A transparent square image to draw one thing on, in coordinates from -1 to 1."""

    def __init__(self) -> None:
        """Create a transparent canvas."""
        self.rgba: Image = np.zeros((_RESOLUTION, _RESOLUTION, 4), np.uint8)

    def _to_pixels(self, points: Shape) -> npt.NDArray[np.int32]:
        """Convert points (N, 2) between -1 and 1 to pixels, in OpenCV's fixed-point numbers.

        A pixel is 16 units: on a canvas of 240 pixels, the point (0, 0) is at (1920, 1920).
        """
        half = _RESOLUTION / 2
        pixels = np.asarray(points) * half * _FILLED_FRACTION + half
        return np.rint(pixels * 2**_SUBPIXEL_BITS).astype(np.int32)

    def fill(self, points: Shape, colour: Colour, edge: int = 0) -> None:
        """Fill a polygon.

        Args:
            points: The corners (N, 2) between -1 and 1.
            colour: The red, green and blue values from 0 to 255.
            edge: The width of a darker border in pixels. 0 means no border.
        """
        pixels = self._to_pixels(points)
        cv2.fillPoly(self.rgba, [pixels], (*colour, 255), cv2.LINE_8, _SUBPIXEL_BITS)
        if edge:
            dark = (*shade(colour, 0.5), 255)
            cv2.polylines(self.rgba, [pixels], True, dark, edge, cv2.LINE_8, _SUBPIXEL_BITS)

    def line(self, points: Shape, colour: Colour, width: int) -> None:
        """Draw an open line.

        Args:
            points: The points (N, 2) between -1 and 1.
            colour: The red, green and blue values from 0 to 255.
            width: The width of the line in pixels.
        """
        pixels = self._to_pixels(points)
        cv2.polylines(self.rgba, [pixels], False, (*colour, 255), width, cv2.LINE_8, _SUBPIXEL_BITS)

    @contextmanager
    def inside(self, points: Shape, colour: Colour | None = None, edge: int = 0) -> Iterator[None]:
        """Clip everything that is drawn in the block to a polygon.

        Args:
            points: The corners (N, 2) of the polygon, between -1 and 1.
            colour: The colour with which the polygon is filled first, or None if it is not filled.
            edge: The width of a darker border of the polygon in pixels.
        """
        if colour is not None:
            self.fill(points, colour, edge)
        rgba_before = self.rgba.copy()
        yield
        # Outside of the polygon, restore the pixels as they were before the block.
        outside_mask = np.full(self.rgba.shape[:2], 255, np.uint8)
        cv2.fillPoly(outside_mask, [self._to_pixels(points)], 0, cv2.LINE_8, _SUBPIXEL_BITS)
        cv2.copyTo(rgba_before, outside_mask, self.rgba)


# A function that draws one thing of its kind on a canvas, in a main colour. The random generator
# varies the drawing.
Painter = Callable[[Canvas, Colour, Rng], None]

# The painters draw on a canvas with coordinates from -1 to 1, and y downwards. They share the names
# `x` and `y` for the place of a repeated detail, and `side` for the left (-1) or the right (1) one
# of two. Numbers are chosen by eye.


def _paint_apple(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a speckled apple with a stem and a leaf. Its body is a circle with a dip at the top."""
    # The body, as 60 points whose distance from the middle is shorter around the top.
    turns = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    dip_depth = rng.uniform(0.28, 0.4)
    turns_from_top = np.angle(np.exp(1j * (turns + np.pi / 2)))  # between -pi and pi
    radii = 0.78 - dip_depth * np.exp(-((turns_from_top / 0.42) ** 2))
    width = rng.uniform(1.0, 1.12)
    body = np.stack([radii * width * np.cos(turns), 0.16 + radii * np.sin(turns)], 1)

    with canvas.inside(body, colour):
        shadow = oval(0.34, 0.42, 0.72, 0.66)
        canvas.fill(shadow, shade(colour, 0.86))
        lit_side = oval(-0.08, 0.1, 0.72, 0.66)
        canvas.fill(lit_side, colour)
        n_speckles = int(rng.integers(18, 40))
        for x, y in rng.uniform(-0.75, 0.75, (n_speckles, 2)):
            speckle = circle(x, y + 0.16, 0.03)
            canvas.fill(speckle, shade(colour, 1.45))

    highlight = oval(-0.42, -0.12, 0.1, 0.2, 28)
    canvas.fill(highlight, shade(colour, 1.8))
    stem = [(0, -0.22), (0.03, -0.55), (0.12, -0.86)]
    canvas.line(stem, BARK, 15)
    leaf = oval(0.38, -0.7, 0.3, 0.13, -22)
    canvas.fill(leaf, LEAF, 3)
    leaf_vein = [(0.14, -0.6), (0.6, -0.8)]
    canvas.line(leaf_vein, shade(LEAF, 0.6), 3)


def _paint_ball(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a white beach ball with coloured wedges, which meet at a pole near its middle."""
    pole = rng.uniform(-0.3, 0.3, 2)
    n_wedges = int(rng.choice([3, 4]))
    first_turn = rng.uniform(0, 2 * np.pi)
    with canvas.inside(circle(0, 0, 0.9), WHITE):
        for wedge in range(n_wedges):
            # A wedge takes half of its share of the circle. It ends outside of the ball.
            turns = first_turn + (wedge + np.linspace(0, 0.5, 9)) / n_wedges * 2 * np.pi
            arc = np.stack([1.6 * np.cos(turns), 1.6 * np.sin(turns)], 1)
            canvas.fill(np.vstack([pole, arc]), colour, 4)
        pole_disc = circle(pole[0], pole[1], 0.17)
        canvas.fill(pole_disc, shade(colour, 0.7), 4)
        highlight = oval(-0.45, -0.5, 0.16, 0.09, -45)
        canvas.fill(highlight, HIGHLIGHT)


def _paint_boat(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a sailing boat: a coloured hull and flag, and two striped sails."""
    mast_x = rng.uniform(-0.12, 0.08)
    sail_colour = PALETTE["white"] if colour != PALETTE["white"] else CREAM
    mast = box(mast_x - 0.035, -0.9, mast_x + 0.035, 0.4)
    canvas.fill(mast, BARK)

    # The sails, to the right and to the left of the mast.
    mainsail_end, jib_end = rng.uniform(0.62, 0.8), rng.uniform(-0.72, -0.5)
    mainsail = [(mast_x + 0.07, -0.82), (mast_x + 0.07, 0.33), (mainsail_end, 0.33)]
    jib = [(mast_x - 0.07, -0.7), (mast_x - 0.07, 0.33), (jib_end, 0.33)]
    n_stripes = rng.integers(2, 5)
    for sail in (mainsail, jib):
        with canvas.inside(sail, sail_colour):
            for y in np.linspace(-0.45, 0.2, n_stripes):
                stripe = [(-1, y), (1, y)]
                canvas.line(stripe, shade(colour, 0.72), 9)

    hull = [(-0.95, 0.36), (0.95, 0.36), (0.62, 0.84), (-0.66, 0.84)]
    with canvas.inside(hull, colour):
        gunwale, keel = box(-1, 0.36, 1, 0.47), box(-1, 0.72, 1, 0.9)
        canvas.fill(gunwale, shade(colour, 0.6))
        canvas.fill(keel, shade(colour, 0.75))
    n_portholes = int(rng.integers(2, 5))
    for x in np.linspace(-0.45, 0.45, n_portholes):
        porthole = circle(x, 0.59, 0.075)
        canvas.fill(porthole, GLASS, 4)
    flag = [(mast_x, -0.98), (mast_x, -0.78), (mast_x + 0.3, -0.88)]
    canvas.fill(flag, shade(colour, 0.8))


def _paint_car(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a car that drives to the right, with two windows and two wheels."""
    roof_back, roof_y = rng.uniform(-0.62, -0.42), rng.uniform(-0.56, -0.46)
    roof_front = rng.uniform(0.22, 0.36)
    cabin = [
        (roof_back - 0.18, -0.06),
        (roof_back, roof_y),
        (roof_front, roof_y),
        (roof_front + 0.26, -0.06),
    ]
    body = [(-0.95, 0.38), (-0.95, 0.02), (-0.86, -0.1), (0.62, -0.1), (0.95, 0.08), (0.95, 0.38)]
    canvas.fill(cabin, colour, 4)
    canvas.fill(body, colour)

    # The windows, on both sides of the middle of the roof.
    middle = (roof_back + roof_front) / 2
    window_top, window_bottom = roof_y + 0.09, -0.1
    back_window = [
        (roof_back - 0.06, window_bottom),
        (roof_back + 0.05, window_top),
        (middle - 0.05, window_top),
        (middle - 0.05, window_bottom),
    ]
    front_window = [
        (middle + 0.05, window_bottom),
        (middle + 0.05, window_top),
        (roof_front - 0.04, window_top),
        (roof_front + 0.14, window_bottom),
    ]
    canvas.fill(back_window, GLASS, 3)
    canvas.fill(front_window, GLASS, 3)

    sill = box(-0.95, 0.24, 0.95, 0.38)
    canvas.fill(sill, shade(colour, 0.68))
    door_edge = [(middle, -0.06), (middle, 0.24)]
    canvas.line(door_edge, shade(colour, 0.5), 4)
    door_handle = [(middle + 0.1, 0.04), (middle + 0.22, 0.04)]
    canvas.line(door_handle, shade(colour, 0.4), 6)
    head_light, tail_light = oval(0.86, 0.1, 0.08, 0.07), box(-0.95, 0.02, -0.86, 0.16)
    canvas.fill(head_light, (255, 240, 150), 3)
    canvas.fill(tail_light, (190, 30, 40))

    # The wheels: a tyre, a rim and a hub, at the back and at the front.
    tyre_radius = rng.uniform(0.21, 0.26)
    for x in (-0.54, 0.52):
        canvas.fill(circle(x, 0.4, tyre_radius), (38, 38, 42))
        canvas.fill(circle(x, 0.4, tyre_radius * 0.52), (190, 194, 200), 3)
        canvas.fill(circle(x, 0.4, tyre_radius * 0.18), (90, 92, 98))


def _paint_fish(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a fish that swims to the right, with scales and, sometimes, two white stripes."""
    fin_colour = shade(colour, 0.72)
    height = rng.uniform(0.42, 0.54)  # from the middle of the body to its upper end
    tail_fin = [(-0.48, 0), (-0.96, -0.44), (-0.84, 0), (-0.96, 0.44)]
    upper_fin = [(-0.3, -height * 0.7), (0.02, -height - 0.28), (0.34, -height * 0.7)]
    lower_fin = [(-0.1, height * 0.7), (-0.14, height + 0.2), (0.2, height * 0.8)]
    for fin in (tail_fin, upper_fin, lower_fin):
        canvas.fill(fin, fin_colour, 4)

    # The body: a belly, scales, stripes and a gill.
    has_stripes = rng.random() < 0.4
    with canvas.inside(oval(0.14, 0, 0.76, height), colour):
        belly = oval(0.14, height, 0.8, height * 0.75)
        canvas.fill(belly, shade(colour, 1.5))
        for row, y in enumerate(np.arange(-0.5, 0.5, 0.17)):
            # Every other row of scales begins half a scale later.
            for x in np.arange(-0.62 + 0.11 * (row % 2), 0.4, 0.22):
                scale = circle(x, y, 0.11)
                _draw_right_half(canvas, scale, fin_colour, 4)
        if has_stripes:
            for x in (-0.32, 0.04):
                stripe = [(x, -1), (x + 0.16, -1), (x + 0.12, 1), (x - 0.04, 1)]
                canvas.fill(stripe, WHITE)
        gill = oval(0.34, 0, 0.24, height * 1.1)
        _draw_right_half(canvas, gill, fin_colour, 6)

    eye, pupil = circle(0.68, -0.1, 0.11), circle(0.7, -0.1, 0.055)
    canvas.fill(eye, HIGHLIGHT, 3)
    canvas.fill(pupil, (16, 16, 20))
    mouth = [(0.86, 0.12), (0.76, 0.17), (0.68, 0.15)]
    canvas.line(mouth, DARK, 5)


def _draw_right_half(
    canvas: Canvas, ellipse: npt.NDArray[np.float64], colour: Colour, width: int
) -> None:
    """Draw the right half of an upright ellipse (40, 2), as `oval` returns it.

    The points go from the right end (0) to the lower end (10), the left end (20) and the upper end
    (30). So the upper right quarter is the last ten points, and the lower right one the first.

    Args:
        canvas: The canvas to draw on.
        ellipse: The points.
        colour: The red, green and blue values from 0 to 255.
        width: The width of the line in pixels.
    """
    canvas.line(ellipse[30:], colour, width)
    canvas.line(ellipse[:11], colour, width)


def _paint_house(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a house: coloured walls, a roof with a chimney, a door and two windows."""
    roof_colours: tuple[Colour, ...] = ((122, 52, 40), (78, 82, 96), (96, 60, 36))
    roof_colour = roof_colours[int(rng.integers(3))]
    eaves_y = rng.uniform(-0.2, -0.08)
    wall_x = rng.uniform(0.66, 0.76)  # of the right wall; the left one is at -wall_x
    chimney_x = rng.uniform(0.3, 0.46)
    chimney = box(chimney_x, -0.86, chimney_x + 0.2, -0.3)
    canvas.fill(chimney, shade(roof_colour, 0.8))

    walls = box(-wall_x, eaves_y, wall_x, 0.88)
    canvas.fill(walls, colour, 4)
    for y in np.arange(eaves_y + 0.14, 0.86, 0.14):
        board = [(-wall_x, y), (wall_x, y)]
        canvas.line(board, shade(colour, 0.86), 3)

    roof = [(-wall_x - 0.2, eaves_y), (0, -0.92), (wall_x + 0.2, eaves_y)]
    with canvas.inside(roof, roof_colour):
        for y in np.arange(-0.8, eaves_y, 0.13):
            row_of_tiles = [(-1, y), (1, y)]
            canvas.line(row_of_tiles, shade(roof_colour, 0.65), 4)

    door, door_knob = box(-0.15, 0.36, 0.15, 0.88), circle(0.09, 0.62, 0.03)
    canvas.fill(door, (104, 62, 34), 4)
    canvas.fill(door_knob, (240, 210, 90))

    # The windows: white squares with four blue panes each.
    half_window = 0.17
    half_pane = half_window * 0.33
    for x in (-wall_x + 0.27, wall_x - 0.27):
        y = rng.uniform(0.2, 0.34)
        canvas.fill(_square(x, y, half_window), WHITE)
        for pane_side_x, pane_side_y in product((-0.45, 0.45), repeat=2):
            pane_x, pane_y = x + pane_side_x * half_window, y + pane_side_y * half_window
            canvas.fill(_square(pane_x, pane_y, half_pane), (70, 130, 190))


def _square(x: float, y: float, half_side: float) -> Shape:
    """Return the four corners of an upright square around (x, y), with sides of 2 * half_side."""
    return box(x - half_side, y - half_side, x + half_side, y + half_side)


def _paint_ladybird(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a ladybird from above: legs, feelers, head, and coloured wings with spots."""
    for y in (-0.22, 0.12, 0.46):
        foot_x = rng.uniform(0.86, 0.96)
        for side in (-1, 1):
            leg = [(0, y), (side * 0.78, y), (side * foot_x, y + 0.14)]
            canvas.line(leg, DARK, 11)

    for side in (-1, 1):
        feeler = [(0, -0.6), (side * 0.2, -0.84), (side * 0.36, -0.94)]
        canvas.line(feeler, DARK, 8)
    head = oval(0, -0.56, 0.4, 0.28)
    canvas.fill(head, (30, 28, 32))
    for side in (-1, 1):
        eye = oval(side * 0.2, -0.62, 0.09, 0.08)
        canvas.fill(eye, WHITE)

    wings = oval(0, 0.16, 0.7, 0.72)
    with canvas.inside(wings, colour):
        highlight = oval(-0.3, -0.14, 0.2, 0.13, -35)
        canvas.fill(highlight, shade(colour, 1.5))
        spot_places = ((0.34, -0.2), (0.42, 0.26), (0.2, 0.6), (0.14, 0.08))
        spot_radius = rng.uniform(0.11, 0.15)
        n_spots = int(rng.integers(3, 5))  # on each wing
        for x, y in spot_places[:n_spots]:
            for side in (-1, 1):
                spot = circle(side * x, y, spot_radius)
                canvas.fill(spot, DARK)
        seam = [(0, -0.6), (0, 0.9)]  # between the wings
        canvas.line(seam, DARK, 8)


def _paint_mushroom(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a mushroom: a stem with a ring, gills, and a coloured cap with white spots."""
    stem_x = rng.uniform(0.17, 0.25)  # of the stem's right edge at its top
    stem = [(-stem_x, -0.1), (stem_x, -0.1), (stem_x + 0.12, 0.84), (-stem_x - 0.12, 0.84)]
    with canvas.inside(stem, CREAM):
        shadow, ring = box(stem_x * 0.35, -0.1, 1, 0.9), oval(0, 0.3, 0.5, 0.07)
        canvas.fill(shadow, shade(CREAM, 0.84))
        canvas.fill(ring, shade(CREAM, 0.7))

    cap_height = rng.uniform(0.86, 1.02)
    dome = oval(0, 0.06, 0.9, cap_height)
    underside = oval(0, 0.06, 0.9, 0.16)
    with canvas.inside(underside, shade(CREAM, 0.82)):
        for x in np.linspace(-0.8, 0.8, 15):
            gill = [(x * 0.3, -0.1), (x, 0.3)]
            canvas.line(gill, shade(CREAM, 0.55), 3)

    # The cap is the upper half of the dome, from the right end to the left. The lower half of a
    # flat ellipse, from the left end to the right, closes it.
    upper_half = dome[dome[:, 1] <= 0.07]
    upper_half = upper_half[np.argsort(-upper_half[:, 0], kind="stable")]
    rim = oval(0, 0.04, 0.9, 0.1)[:20][::-1]
    cap = np.vstack([upper_half, rim])
    canvas.fill(cap, colour)

    spot_places = (
        (-0.5, -0.22),
        (0.04, -0.42),
        (0.52, -0.2),
        (-0.2, -0.7),
        (0.3, -0.66),
        (0.02, -0.1),
    )
    n_spots = int(rng.integers(4, 7))
    with canvas.inside(dome):
        for x, y in spot_places[:n_spots]:
            radius = rng.uniform(0.09, 0.15)
            spot_x = x + rng.uniform(-0.06, 0.06)
            spot = oval(spot_x, y * cap_height, radius, radius * 0.85)
            canvas.fill(spot, WHITE)


def _paint_sunflower(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a sunflower: a stem with two leaves, coloured petals, and a disc of seeds."""
    sway = rng.uniform(-0.12, 0.12)
    stem = [(0, -0.3), (sway, 0.4), (0, 0.95)]
    canvas.line(stem, LEAF, 19)
    for side in (-1, 1):
        leaf_y = rng.uniform(0.5, 0.72)
        leaf = oval(side * 0.32, leaf_y, 0.3, 0.12, -side * 28)
        canvas.fill(leaf, LEAF, 4)
        leaf_vein = [(0, leaf_y + 0.14), (side * 0.52, leaf_y - 0.1)]
        canvas.line(leaf_vein, shade(LEAF, 0.6), 3)

    # The petals, in a circle around (0, -0.34); every other one is darker.
    n_petals = int(rng.integers(11, 16))
    for petal, turn in enumerate(np.arange(n_petals) * 2 * np.pi / n_petals):
        x, y = 0.42 * np.cos(turn), -0.34 + 0.42 * np.sin(turn)
        level = 1.0 if petal % 2 == 0 else 0.86
        petal_shape = oval(x, y, 0.24, 0.12, float(np.degrees(turn)))
        canvas.fill(petal_shape, shade(colour, level), 4)

    disc = circle(0, -0.34, 0.31)
    with canvas.inside(disc, (94, 54, 26), 4):
        for row, y in enumerate(np.arange(-0.66, 0, 0.09)):
            # Every other row of seeds begins half a step later.
            for x in np.arange(-0.4 + 0.05 * (row % 2), 0.4, 0.1):
                seed = circle(x, y, 0.024)
                canvas.fill(seed, (176, 118, 60))


def _paint_tree(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a tree: a trunk, and a coloured crown of several ovals with specks of leaves."""
    foot_x = rng.uniform(0.2, 0.28)
    trunk = [(-0.12, 0), (0.12, 0), (0.14, 0.7), (foot_x, 0.92), (-foot_x, 0.92), (-0.14, 0.7)]
    with canvas.inside(trunk, BARK):
        for x in (-0.08, 0.0, 0.07):
            crack = [(x, 0), (x * 1.3, 1)]
            canvas.line(crack, shade(BARK, 0.6), 4)

    # The crown: an oval in the middle, and others in a circle around it.
    crown_ovals = [oval(0, -0.32, 0.5, 0.42)]
    n_outer_ovals = int(rng.integers(6, 9))
    for turn in np.linspace(0, 2 * np.pi, n_outer_ovals, endpoint=False):
        x, y = 0.44 * np.cos(turn), -0.32 + 0.3 * np.sin(turn)
        rx, ry = rng.uniform(0.27, 0.36, 2)
        crown_ovals.append(oval(x, y, rx, ry))
    for crown_oval in crown_ovals:
        canvas.fill(crown_oval, shade(colour, 0.78), 5)
    # Lighter ovals, slightly smaller and moved up, leave dark edges only around the crown.
    for crown_oval in crown_ovals:
        canvas.fill(crown_oval * 0.92 + np.array([-0.01, -0.05]), shade(colour, 0.88))

    # Specks of leaves at random places inside of the crown; half of them are light.
    for turn_draw, radius_draw, light_draw in rng.uniform(0, 1, (70, 3)):
        turn, radius = turn_draw * 2 * np.pi, np.sqrt(radius_draw)
        level = 0.55 if light_draw < 0.5 else 1.3
        x, y = 0.66 * radius * np.cos(turn), -0.34 + 0.52 * radius * np.sin(turn)
        speck = oval(x, y, 0.06, 0.035, 30)
        canvas.fill(speck, shade(colour, level))


# The painters of the kinds of things of version 1, by kind.
PAINTERS: dict[str, Painter] = {
    "apple": _paint_apple,
    "ball": _paint_ball,
    "boat": _paint_boat,
    "car": _paint_car,
    "fish": _paint_fish,
    "house": _paint_house,
    "ladybird": _paint_ladybird,
    "mushroom": _paint_mushroom,
    "sunflower": _paint_sunflower,
    "tree": _paint_tree,
}
