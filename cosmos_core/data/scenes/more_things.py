"""Draw twenty more kinds of things, as `things` draws the first ten.

Shapes are N points (x, y) in a square from -1 to 1; y points downwards.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from cosmos_core.data.scenes import PALETTE
from cosmos_core.data.scenes.things import (
    BARK,
    CREAM,
    DARK,
    GLASS,
    HIGHLIGHT,
    LEAF,
    WHITE,
    Canvas,
    Colour,
    Painter,
    Rng,
    Shape,
    box,
    circle,
    oval,
    shade,
)

Points = npt.NDArray[np.float64]

_BRASS: Colour = (206, 164, 66)
_CLAY: Colour = (124, 76, 58)
_LIGHT: Colour = (255, 238, 160)
_METAL: Colour = (150, 154, 162)
_STEAM: Colour = (214, 218, 224)


def _arc(x: float, y: float, rx: float, ry: float, start: float, end: float) -> Points:
    """Return 24 points (24, 2) on a part of an ellipse.

    Args:
        x: The x of the ellipse's centre.
        y: The y of its centre, counted downwards.
        rx: Its radius in the direction of x.
        ry: Its radius in the direction of y.
        start: The angle of the first point in degrees. 0 is the right end, and 90 the lower end.
        end: The angle of the last point in degrees.
    """
    turns = np.radians(np.linspace(start, end, 24))
    return np.stack([x + rx * np.cos(turns), y + ry * np.sin(turns)], 1)


def _turned(points: Shape, angle: float) -> Points:
    """Return points (N, 2) turned clockwise around the centre of the canvas.

    Args:
        points: The points (N, 2).
        angle: The angle in degrees. 90 turns the upper end to the right.
    """
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.asarray(points) @ np.array([[cos, sin], [-sin, cos]])


def _mirrored(right_half: Shape) -> Points:
    """Return the symmetric polygon (2 * N, 2) whose right half, from top to bottom, is given."""
    right = np.asarray(right_half, np.float64)
    return np.vstack([right, right[::-1] * [-1, 1]])


def _rounded(corners: Shape) -> Points:
    """Return a polygon (8 * N, 2) with the corners (N, 2) cut off three times, after Chaikin.

    Each pass replaces a corner by two points, at a quarter of the way to its neighbours.
    """
    points = np.asarray(corners, np.float64)
    for _ in range(3):
        next_points = np.roll(points, -1, axis=0)
        near = 0.75 * points + 0.25 * next_points
        far = 0.25 * points + 0.75 * next_points
        points = np.stack([near, far], 1).reshape(-1, 2)
    return points


def _draw_tubes(canvas: Canvas, tubes: list[Shape], colour: Colour, width: int) -> None:
    """Draw thick lines with darker edges, which merge if they cross.

    Args:
        canvas: The canvas to draw on.
        tubes: The points (N, 2) of each line.
        colour: The red, green and blue values from 0 to 255.
        width: The width of a line with its edges in pixels.
    """
    for tube in tubes:
        canvas.line(tube, shade(colour, 0.5), width)
    for tube in tubes:
        canvas.line(tube, colour, width - 7)


def _draw_pattern(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw stripes, bands, dots or zigzags on the whole canvas, or nothing.

    Args:
        canvas: The canvas, which is clipped to the thing that gets the pattern.
        colour: The colour of the thing. The pattern is darker or lighter.
        rng: The random generator, which chooses the pattern, its shade and its density.
    """
    pattern = str(rng.choice(["plain", "stripes", "bands", "dots", "zigzags"]))
    pattern_colour = shade(colour, float(rng.choice([0.72, 1.45])))
    step = rng.uniform(0.24, 0.36)
    width = int(rng.integers(9, 15))
    first = rng.uniform(-1, -1 + step)
    zigzag_x = np.linspace(-1, 1, 17)
    for place in np.arange(first, 1, step):
        if pattern == "stripes":
            canvas.line([(place, -1), (place, 1)], pattern_colour, width)
        elif pattern == "bands":
            canvas.line([(-1, place), (1, place)], pattern_colour, width)
        elif pattern == "zigzags":
            zigzag = np.stack([zigzag_x, place + 0.1 * (np.arange(17) % 2)], 1)
            canvas.line(zigzag, pattern_colour, width)
        elif pattern == "dots":
            for y in np.arange(first, 1, step):
                canvas.fill(circle(place, y, step * 0.24), pattern_colour)


def _paint_balloon(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a balloon with a knot, a wavy string and, usually, a pattern."""
    rx, ry = rng.uniform(0.56, 0.68), rng.uniform(0.62, 0.68)
    centre_y = -0.96 + ry
    knot_y = centre_y + ry
    sway = rng.uniform(0.1, 0.2) * rng.choice([-1, 1])
    turns = np.linspace(0, 2 * np.pi, 20)
    string = np.stack([sway * np.sin(turns), np.linspace(knot_y, 0.97, 20)], 1)
    canvas.line(string, DARK, 8)

    # The skin is an ellipse, which gets narrower towards the knot.
    skin = oval(0, centre_y, rx, ry)
    skin[:, 0] *= 1 - 0.3 * (skin[:, 1] - centre_y) / ry
    with canvas.inside(skin, colour, 5):
        _draw_pattern(canvas, colour, rng)
        shadow = oval(-0.12, centre_y - 0.08, rx * 1.05, ry * 1.05)
        canvas.line(shadow[:14], shade(colour, 0.8), 14)
    knot = [(0, knot_y - 0.06), (0.14, knot_y + 0.12), (-0.14, knot_y + 0.12)]
    canvas.fill(knot, shade(colour, 0.8), 4)
    highlight = oval(-0.28, centre_y - 0.24, 0.1, 0.2, 25)
    canvas.fill(highlight, shade(colour, 1.8))


def _paint_bell(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a bell with a loop, a clapper and engraved rings."""
    shoulder_x = rng.uniform(0.34, 0.46)
    waist_x = shoulder_x + rng.uniform(0.04, 0.12)
    loop = _arc(0, -0.76, 0.15, 0.15, 0, 360)
    canvas.line(loop, shade(colour, 0.6), 13)
    clapper = circle(0, 0.78, rng.uniform(0.15, 0.2))
    canvas.fill(clapper, shade(colour, 0.45), 4)

    right_half = [
        (0, -0.76),
        (shoulder_x * 0.7, -0.76),
        (shoulder_x, -0.55),
        (waist_x, 0.0),
        (waist_x + 0.1, 0.3),
        (0.88, 0.5),
        (0.96, 0.74),
        (0, 0.74),
    ]
    with canvas.inside(_rounded(_mirrored(right_half)), colour, 5):
        rim = box(-1, 0.54, 1, 0.8)
        canvas.fill(rim, shade(colour, 0.78))
        n_rings = int(rng.integers(1, 4))
        for y in np.linspace(-0.36, rng.uniform(0.1, 0.34), n_rings):
            ring = [(-1, y), (1, y)]
            canvas.line(ring, shade(colour, 0.66), int(rng.integers(7, 13)))
        gleam = [(-shoulder_x * 0.55, -0.5), (-waist_x * 0.6, 0.1), (-0.52, 0.48)]
        canvas.line(gleam, shade(colour, 1.7), 11)


def _paint_butterfly(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a butterfly from above: two pairs of spotted wings, a body and feelers."""
    upper_y, lower_y = rng.uniform(-0.96, -0.78), rng.uniform(0.72, 0.92)
    upper_wing = [
        (0.04, 0.04),
        (0.1, -0.4),
        (0.5, upper_y),
        (0.95, upper_y),
        (0.95, -0.3),
        (0.72, 0.08),
    ]
    lower_x = rng.uniform(0.7, 0.86)
    lower_wing = [(0.04, 0.0), (0.62, 0.0), (lower_x, 0.3), (lower_x, lower_y), (0.3, lower_y)]
    spot_radius = rng.uniform(0.09, 0.15)
    lower_level = rng.choice([0.78, 1.35])
    has_light_spots = rng.random() < 0.5
    spot_colour = shade(colour, 1.75) if has_light_spots else DARK
    for side in (-1, 1):
        for wing, level in ((lower_wing, lower_level), (upper_wing, 1.0)):
            wing_shape = _rounded(np.array(wing) * [side, 1])
            canvas.fill(wing_shape, shade(colour, level), 9)
        spots = ((0.7, -0.56, spot_radius * 1.2), (0.42, -0.24, spot_radius * 0.8))
        for x, y, radius in (*spots, (0.46, 0.46, spot_radius)):
            canvas.fill(circle(side * x, y, radius), spot_colour)
        feeler = [(0, -0.46), (side * 0.1, -0.72), (side * 0.26, -0.9)]
        canvas.line(feeler, DARK, 7)
    body, head = oval(0, 0.04, 0.09, 0.56), circle(0, -0.5, 0.12)
    canvas.fill(body, DARK)
    canvas.fill(head, DARK)


def _paint_cactus(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a cactus with two arms, ribs and spines in a clay pot."""
    right_y, left_y = rng.uniform(-0.06, 0.12, 2)  # of the arms' joints
    right_top, left_top = rng.uniform(-0.62, -0.36, 2)
    trunk = [(0, 0.7), (0, -0.72)]
    right_arm = [(0, right_y), (0.62, right_y), (0.62, right_top)]
    left_arm = [(0, left_y + 0.2), (-0.62, left_y + 0.2), (-0.62, left_top + 0.12)]
    _draw_tubes(canvas, [right_arm, left_arm], colour, int(rng.integers(32, 40)))
    trunk_width = int(rng.integers(50, 60))
    _draw_tubes(canvas, [trunk], colour, trunk_width)

    for x in (-0.1, 0.1):
        rib = [(x, 0.6), (x, -0.8)]
        canvas.line(rib, shade(colour, 0.7), 5)
    n_spines = int(rng.integers(4, 8))
    for y in np.linspace(-0.7, 0.4, n_spines):
        for x in (-0.19, 0, 0.19):
            spine = [(x - 0.04, y + 0.04), (x, y - 0.02), (x + 0.04, y + 0.04)]
            canvas.line(spine, shade(colour, 1.7), 3)

    pot = [(-0.46, 0.54), (0.46, 0.54), (0.36, 0.96), (-0.36, 0.96)]
    pot_rim = box(-0.52, 0.48, 0.52, 0.62)
    canvas.fill(pot, _CLAY, 4)
    canvas.fill(pot_rim, shade(_CLAY, 1.15), 4)


def _paint_cat(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a cat that sits and looks at the viewer, with a raised tail and stripes."""
    tail_x = rng.uniform(0.76, 0.86)
    tail = _rounded([(0.2, 0.8), (tail_x, 0.84), (tail_x, 0.2), (0.62, -0.1)])[4:26]
    _draw_tubes(canvas, [tail], shade(colour, 0.82), 25)
    body_x = rng.uniform(0.5, 0.6)
    body = _rounded(_mirrored([(0, -0.2), (0.34, -0.1), (body_x, 0.4), (body_x, 0.96), (0, 0.96)]))
    canvas.fill(body, colour, 5)
    chest = oval(0, 0.36, 0.2, 0.3)
    canvas.fill(chest, shade(colour, 1.5))
    paw_line = [(0, 0.6), (0, 0.94)]
    canvas.line(paw_line, shade(colour, 0.5), 5)

    ear_y = rng.uniform(-0.98, -0.88)
    head_x = rng.uniform(0.48, 0.56)
    for side in (-1, 1):
        ear = np.array([(0.12, -0.66), (0.5, ear_y), (0.54, -0.4)]) * [side, 1]
        canvas.fill(ear, colour, 5)
        canvas.fill(ear * 0.6 + [side * 0.16, -0.26], shade(colour, 0.6))
    head = oval(0, -0.38, head_x, 0.42)
    with canvas.inside(head, colour, 5):
        n_stripes = int(rng.integers(0, 4))
        for x in np.linspace(-0.05, 0.05, n_stripes) * n_stripes:
            stripe = [(x, -0.84), (x * 0.8, -0.58)]
            canvas.line(stripe, shade(colour, 0.55), 8)
    for side in (-1, 1):
        canvas.fill(oval(side * 0.21, -0.4, 0.11, 0.1), WHITE)
        canvas.fill(oval(side * 0.21, -0.4, 0.055, 0.1), DARK)
        whiskers = [(side * 0.62, -0.26), (side * 0.16, -0.18), (side * 0.6, -0.1)]
        canvas.line(whiskers, DARK, 3)
    nose = [(-0.08, -0.24), (0.08, -0.24), (0, -0.14)]
    canvas.fill(nose, DARK)


def _paint_chair(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a wooden chair from its side: a high back with slats, a seat and four legs."""
    depth = np.array([rng.uniform(0.36, 0.48), -0.2])  # from the near side to the far side
    back_y = rng.uniform(-0.78, -0.68)
    seat_y = rng.uniform(0.12, 0.24)
    front_x = rng.uniform(0.4, 0.48)
    dark = shade(colour, 0.72)
    far_legs = (box(-0.74, back_y, -0.58, 0.95), box(front_x - 0.16, seat_y, front_x, 0.95))
    for leg in far_legs:
        canvas.fill(np.array(leg) + depth, dark, 4)

    # The back: slats between the near post and the far one, or a panel.
    n_slats = int(rng.integers(1, 4))
    gap = (seat_y - 0.2 - back_y) / n_slats
    for slat in range(n_slats):
        y = back_y + 0.08 + slat * gap
        near = np.array([(-0.66, y), (-0.66, y + gap * 0.66)])
        canvas.fill(np.vstack([near, near[::-1] + depth]), colour, 4)

    near_edge = np.array([(-0.74, seat_y), (front_x + 0.06, seat_y)])
    seat = np.vstack([near_edge, near_edge[::-1] + depth])
    near_back_leg, near_front_leg = far_legs
    canvas.fill(near_front_leg, colour, 4)
    canvas.fill(seat, shade(colour, 1.3), 4)
    canvas.fill(box(-0.74, seat_y, front_x + 0.06, seat_y + 0.13), colour, 4)
    canvas.fill(near_back_leg, colour, 4)
    rung_y = rng.uniform(0.5, 0.74)
    canvas.line([(-0.6, rung_y), (front_x - 0.1, rung_y)], shade(colour, 0.6), 9)


def _paint_cherry(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a pair of cherries, whose long stems meet at a leaf."""
    left_radius, right_radius = rng.uniform(0.38, 0.46, 2)
    left_y, right_y = rng.uniform(0.3, 0.52, 2)
    joint_x = rng.uniform(-0.05, 0.15)
    for x, y in ((-0.48, left_y), (0.5, right_y)):
        stem = [(x, y - 0.3), (x * 0.7 + joint_x * 0.3, -0.3), (joint_x, -0.86)]
        canvas.line(stem, shade(LEAF, 0.7), 12)
    leaf = oval(joint_x + 0.34, -0.72, 0.36, 0.16, rng.uniform(-4, 22))
    canvas.fill(leaf, LEAF, 4)
    canvas.line([leaf[20], leaf[0]], shade(LEAF, 0.6), 3)

    for x, y, radius in ((-0.48, left_y, left_radius), (0.5, right_y, right_radius)):
        with canvas.inside(circle(x, y, radius), shade(colour, 0.74), 4):
            canvas.fill(circle(x - 0.06, y - 0.06, radius), colour)
            dent = oval(x, y - radius * 0.78, 0.15, 0.06)
            canvas.fill(dent, shade(colour, 0.55))
        highlight = oval(x - radius * 0.42, y - radius * 0.3, 0.08, 0.13, 30)
        canvas.fill(highlight, shade(colour, 1.8))


def _paint_clock(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw an alarm clock with two bells, two feet, and hands at any time."""
    radius = rng.uniform(0.68, 0.76)
    dial_radius = radius * rng.uniform(0.54, 0.62)
    centre_y = 0.9 - radius
    centre = np.array([0, centre_y])
    hammer = [(0, centre_y - radius), (0, -0.86)]
    canvas.line(hammer, DARK, 11)
    canvas.line([(-0.12, -0.88), (0.12, -0.88)], DARK, 15)
    for side in (-1, 1):
        foot = [(side * 0.4, centre_y + 0.5), (side * 0.66, 0.94)]
        canvas.line(foot, shade(colour, 0.6), 21)
        bell = _arc(0, 0, 0.36, 0.34, 180, 360)
        bell_place = [side * 0.55, centre_y - radius + 0.08]
        canvas.fill(_turned(bell, side * 36) + bell_place, shade(colour, 0.8), 5)

    dial_colour = WHITE if colour != PALETTE["white"] else GLASS
    canvas.fill(circle(0, centre_y, radius), colour, 5)
    canvas.fill(circle(0, centre_y, dial_radius), dial_colour, 5)
    n_marks = int(rng.choice([4, 12]))
    for turn in np.arange(n_marks) * 2 * np.pi / n_marks:
        direction = np.array([np.cos(turn), np.sin(turn)]) * dial_radius
        canvas.line(np.stack([centre + direction * 0.76, centre + direction * 0.88]), DARK, 5)
    for length, width in ((0.5, 12), (0.7, 8)):
        turn = rng.uniform(0, 2 * np.pi)
        tip = centre + np.array([np.cos(turn), np.sin(turn)]) * dial_radius * length
        canvas.line(np.stack([centre, tip]), DARK, width)


def _paint_cup(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a mug of coffee with a handle at its right, and steam."""
    half_foot = rng.uniform(0.42, 0.56)
    top_y = rng.uniform(-0.44, -0.34)
    middle_x = -0.2
    handle_y = rng.uniform(0.12, 0.22)
    handle = oval(0.46, handle_y, rng.uniform(0.34, 0.42), rng.uniform(0.32, 0.4))
    _draw_tubes(canvas, [np.vstack([handle, handle[:1]])], shade(colour, 0.85), 27)
    n_wisps = int(rng.integers(2, 4))
    for x in np.linspace(-0.28, 0.28, n_wisps) + middle_x:
        turns = np.linspace(0, 2 * np.pi, 12)
        wisp = np.stack([x + 0.07 * np.sin(turns), np.linspace(top_y - 0.12, -0.95, 12)], 1)
        canvas.line(wisp, _STEAM, 10)

    body = [
        (middle_x - 0.62, top_y),
        (middle_x + 0.62, top_y),
        (middle_x + half_foot, 0.84),
        (middle_x + half_foot - 0.1, 0.92),
        (middle_x - half_foot + 0.1, 0.92),
        (middle_x - half_foot, 0.84),
    ]
    with canvas.inside(body, colour, 5):
        _draw_pattern(canvas, colour, rng)
        shadow = box(middle_x + 0.4, -1, 1, 1)
        canvas.fill(shadow, shade(colour, 0.8))
    canvas.fill(oval(middle_x, top_y, 0.62, 0.14), shade(colour, 1.3), 4)
    canvas.fill(oval(middle_x, top_y + 0.02, 0.5, 0.09), (84, 50, 30))


def _paint_duck(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a duck that swims to the left, with a round head, a wing and a raised tail."""
    head_x, head_y = rng.uniform(-0.38, -0.28), rng.uniform(-0.54, -0.46)
    head_radius = rng.uniform(0.35, 0.4)
    tail_y = rng.uniform(-0.36, -0.16)
    body = [
        (-0.9, 0.1),
        (-0.3, -0.1),
        (0.2, 0.06),
        (0.6, 0.0),
        (0.98, tail_y - 0.1),
        (0.96, 0.5),
        (0.6, 0.94),
        (-0.5, 0.94),
        (-0.92, 0.6),
    ]
    # The beak is orange, or yellow if the duck is orange.
    beak_colour: Colour = (232, 116, 22) if colour != PALETTE["orange"] else PALETTE["yellow"]
    beak = _rounded([(-0.2, -0.14), (-0.36, -0.2), (-0.4, 0.06), (-0.4, 0.2), (-0.2, 0.2)])
    beak_place = [head_x - head_radius + 0.22, head_y + 0.04]
    with canvas.inside(_rounded(body), colour, 5):
        belly = oval(-0.05, 0.98, 0.9, 0.26)
        canvas.fill(belly, shade(colour, 0.8))
    canvas.fill(beak + beak_place, beak_colour, 4)
    canvas.fill(circle(head_x, head_y, head_radius), colour, 5)
    canvas.fill(oval(head_x + 0.06, head_y + head_radius, 0.26, 0.14), colour)
    eye_x = head_x - head_radius * 0.35
    canvas.fill(circle(eye_x, head_y - 0.08, 0.085), DARK)
    canvas.fill(circle(eye_x - 0.02, head_y - 0.11, 0.03), HIGHLIGHT)

    _draw_wing(canvas, colour, rng)


def _draw_wing(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw the wing of a duck: a tip that points to the tail, and feathers.

    Args:
        canvas: The canvas to draw on.
        colour: The colour of the duck. The wing is darker or lighter.
        rng: The random generator, which varies the wing.
    """
    wing_level = rng.choice([0.72, 1.4])
    tip_x, tip_y = rng.uniform(0.62, 0.78), rng.uniform(0.14, 0.3)
    shoulder_x = rng.uniform(-0.3, -0.16)
    wing = _rounded(
        [(shoulder_x, 0.1), (tip_x, tip_y - 0.2), (tip_x, tip_y), (0.2, 0.84), (-0.34, 0.6)]
    )
    with canvas.inside(wing, shade(colour, wing_level), 5):
        n_feathers = int(rng.integers(2, 5))
        for x in np.linspace(0.4, 0.0, n_feathers):
            feather = _arc(x - 0.3, 0.2, 0.34, 0.36, -10, 100)
            canvas.line(feather, shade(colour, wing_level * 0.72), 6)


def _paint_guitar(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a guitar that leans to the right: a body with a waist, a neck and a head."""
    lean = rng.uniform(38, 50)
    lower_x, waist_x, upper_x = (
        rng.uniform(0.46, 0.54),
        rng.uniform(0.26, 0.34),
        rng.uniform(0.4, 0.48),
    )
    right_half = [
        (0, -0.1),
        (upper_x * 0.8, -0.12),
        (upper_x, 0.16),
        (waist_x, 0.38),
        (lower_x, 0.56),
        (lower_x, 0.92),
        (lower_x * 0.6, 1.02),
        (0, 1.02),
    ]
    neck_colour = shade(colour, 0.45)
    head = [(-0.17, -1.16), (0.17, -1.16), (0.12, -0.9), (-0.12, -0.9)]
    canvas.fill(_turned(_rounded(_mirrored(right_half)), lean), colour, 6)
    canvas.fill(_turned(box(-0.085, -0.95, 0.085, 0.36), lean), neck_colour)
    canvas.fill(_turned(head, lean), colour, 5)
    for y in np.linspace(-1.1, -0.97, int(rng.integers(2, 4))):
        canvas.line(_turned([(-0.22, y), (0.22, y)], lean), _METAL, 6)

    guard = oval(0.2, 0.66, 0.12, 0.2, rng.uniform(-30, 10))
    canvas.fill(_turned(guard, lean), shade(colour, 0.66))
    hole_radius = rng.uniform(0.15, 0.19)
    canvas.fill(_turned(circle(0, 0.46, hole_radius), lean), DARK)
    bridge_y = rng.uniform(0.74, 0.84)
    canvas.fill(_turned(box(-0.2, bridge_y, 0.2, bridge_y + 0.09), lean), DARK)
    for x in (-0.05, 0, 0.05):
        canvas.line(_turned([(x, -0.95), (x, bridge_y)], lean), shade(CREAM, 0.9), 2)


def _paint_key(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a key that points to the lower right: a ring, a shaft and a bit with teeth."""
    turn = rng.uniform(-50, -40)
    width = int(rng.integers(24, 29))
    n_lobes = int(rng.choice([1, 3]))
    bow: list[Shape] = []
    if n_lobes == 1:
        bow.append(_arc(0, -0.72, rng.uniform(0.3, 0.36), rng.uniform(0.28, 0.36), 0, 360))
    else:
        lobe_radius = rng.uniform(0.2, 0.23)
        for lobe_turn in (0, 180, 270):
            x, y = _turned([(0.25, 0)], lobe_turn)[0]
            bow.append(_arc(x, y - 0.62, lobe_radius, lobe_radius, 0, 360))
    shaft: Shape = [(0, -0.42), (0, 1.06)]
    teeth: list[Shape] = []
    n_teeth = int(rng.integers(2, 4))
    for y in np.linspace(0.98, 0.6, n_teeth):
        length = rng.uniform(0.2, 0.32)
        teeth.append([(0, y), (length, y)])
    tubes = [_turned(tube, turn) for tube in (*bow, shaft)]
    _draw_tubes(canvas, [_turned(tooth, turn) for tooth in teeth], colour, 19)
    _draw_tubes(canvas, [*tubes], colour, width)
    collar = [(-0.17, -0.26), (0.17, -0.26)]
    canvas.line(_turned(collar, turn), shade(colour, 0.6), 12)
    gleam = [(-0.04, -0.1), (-0.04, 0.9)]
    canvas.line(_turned(gleam, turn), shade(colour, 1.6), 4)


def _paint_kite(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a kite: a diamond of four panels with a cross, and a tail with bows."""
    lean = rng.uniform(16, 30)
    half_width, cross_y = rng.uniform(0.54, 0.68), rng.uniform(-0.5, -0.3)
    top, bottom = (0.0, -1.0), (0.0, rng.uniform(0.5, 0.66))
    upright_corners = [top, (half_width, cross_y), bottom, (-half_width, cross_y)]
    corners = _turned(upright_corners, lean)
    centre = _turned([(0, cross_y)], lean)[0]
    tail_x, tail_y = corners[2]
    turns = np.linspace(0, 2 * np.pi, 24)
    tail_end = rng.uniform(0.86, 0.98)
    tail_x_values = np.linspace(tail_x, tail_end, 24)
    tail_y_values = np.linspace(tail_y, 0.7, 24) + 0.22 * np.sin(turns * 0.75)
    tail = np.stack([tail_x_values, tail_y_values], 1)
    canvas.line(tail, DARK, 7)
    bow_index = [int(rng.integers(9, 13)), int(rng.integers(19, 23))]
    for x, y in tail[bow_index]:
        for side in (-1, 1):
            bow = [(x, y), (x - 0.1, y + side * 0.17), (x + 0.1, y + side * 0.17)]
            canvas.fill(bow, shade(colour, 0.8), 3)

    # Two panels that face each other are darker or lighter.
    level = rng.choice([0.72, 1.4])
    for panel in range(4):
        triangle = [centre, corners[panel], corners[(panel + 1) % 4]]
        canvas.fill(triangle, shade(colour, level if panel % 2 else 1.0))
    for ends in ([0, 2], [1, 3]):
        canvas.line(corners[ends], shade(colour, 0.4), 6)
    outline = [*corners, corners[0]]
    canvas.line(outline, shade(colour, 0.5), 6)


def _paint_lamp(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a table lamp: a wide shade, a rod, a round base and a chain."""
    half_top, half_bottom = rng.uniform(0.3, 0.46), rng.uniform(0.76, 0.92)
    shade_y = rng.uniform(0.0, 0.14)  # of the lower edge of the lamp's shade
    rod = [(0, shade_y), (0, 0.6)]
    canvas.line(rod, shade(colour, 0.5), 17)
    base_x = rng.uniform(0.2, 0.3)
    base = oval(0, 0.62, base_x, 0.24)
    foot = box(-0.44, 0.82, 0.44, 0.96)
    canvas.fill(base, shade(colour, 0.8), 4)
    canvas.fill(foot, shade(colour, 0.8), 4)
    chain_x = rng.uniform(0.4, 0.54)
    chain = [(chain_x, shade_y), (chain_x, shade_y + 0.34)]
    canvas.line(chain, DARK, 5)
    canvas.fill(circle(chain_x, shade_y + 0.36, 0.06), _BRASS)

    light = oval(0, shade_y, half_bottom - 0.03, 0.1)
    canvas.fill(light, _LIGHT, 4)
    lamp_shade = [
        (-half_top, -0.94),
        (half_top, -0.94),
        (half_bottom, shade_y),
        (-half_bottom, shade_y),
    ]
    with canvas.inside(lamp_shade, colour, 5):
        _draw_pattern(canvas, colour, rng)
        for y in (-0.92, shade_y - 0.02):
            canvas.line([(-1, y), (1, y)], shade(colour, 0.62), 11)


def _paint_leaf(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a leaf with a toothed edge that points to the upper left, with veins and a stem."""
    turn = rng.uniform(-52, -38)
    half_width = rng.uniform(0.42, 0.66)
    n_teeth = int(rng.integers(5, 9))
    depth = rng.uniform(0.05, 0.12)  # of the teeth

    # The right edge from the tip to the stem: the outline of a lens, with teeth that point up.
    fractions = np.linspace(0, 1, 2 * n_teeth + 1)  # of the length of the leaf
    edge_x = half_width * np.sin(np.pi * fractions**0.85) ** 0.8
    edge_x[1:-1:2] += depth
    edge_y = -1.16 + 1.9 * fractions
    right_edge = np.stack([edge_x, edge_y], 1)
    stem = [(0, 0.6), (0.06, 1.2)]
    canvas.line(_turned(stem, turn), shade(colour, 0.5), 14)
    canvas.fill(_turned(_mirrored(right_edge), turn), colour, 5)
    right_side = np.vstack([right_edge, [(0, -1.16)]])
    canvas.fill(_turned(right_side, turn), shade(colour, 0.8))

    midrib = [(0, -1.05), (0, 0.72)]
    canvas.line(_turned(midrib, turn), shade(colour, 0.5), 8)
    n_veins = int(rng.integers(3, 6))
    for y in np.linspace(-0.62, 0.46, n_veins):
        reach = half_width * 0.8 * np.sin(np.pi * (y + 1.16) / 1.9)
        for side in (-1, 1):
            vein = [(0, y), (side * reach, y - reach * 0.55)]
            canvas.line(_turned(vein, turn), shade(colour, 0.55), 4)


def _paint_pear(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a pear with a narrow top, a wide bottom, a stem and a small leaf."""
    neck_x, belly_x = rng.uniform(0.2, 0.28), rng.uniform(0.72, 0.84)
    lean = rng.uniform(-8, 8)
    stem = [(0, -0.5), (0.02, -0.74), (0.1, -0.95)]
    canvas.line(_turned(stem, lean), BARK, 14)
    leaf = oval(-0.22, -0.8, 0.24, 0.1, 20)
    canvas.fill(_turned(leaf, lean), LEAF, 3)

    right_half = [
        (0, -0.66),
        (neck_x, -0.66),
        (neck_x + 0.08, -0.2),
        (belly_x, 0.1),
        (belly_x + 0.06, 0.8),
        (0.4, 1.0),
        (0, 0.94),
    ]
    body = _turned(_rounded(_mirrored(right_half)), lean)
    with canvas.inside(body, shade(colour, 0.78), 5):
        canvas.fill(body * 0.96 + [-0.09, -0.04], colour)
        n_speckles = int(rng.integers(8, 30))
        for x, y in rng.uniform(-0.7, 0.9, (n_speckles, 2)):
            canvas.fill(circle(x, y, 0.026), shade(colour, 0.6))
    highlight = oval(-0.34, 0.3, 0.1, 0.24, rng.uniform(5, 25))
    canvas.fill(highlight, shade(colour, 1.75))


def _paint_rocket(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a rocket that flies upwards: a pointed body, fins, a porthole and a flame."""
    half_width = rng.uniform(0.36, 0.44)
    fin_x, fin_y = rng.uniform(0.74, 0.9), rng.uniform(-0.04, 0.14)
    flame_x, flame_y = rng.uniform(0.2, 0.3), rng.uniform(0.86, 0.97)
    outer_flame = _mirrored([(0, flame_y), (flame_x, 0.5)])
    inner_flame = _mirrored([(0, flame_y - 0.14), (flame_x * 0.5, 0.5)])
    canvas.fill(outer_flame, (240, 120, 20), 3)
    canvas.fill(inner_flame, (255, 226, 90))
    for side in (-1, 1):
        fin = [(0.24, fin_y), (fin_x, 0.5), (fin_x, 0.8), (0.22, 0.52)]
        canvas.fill(np.array(fin) * [side, 1], shade(colour, 0.68), 5)

    right_half = [
        (0, -1.0),
        (0.1, -0.96),
        (half_width, -0.5),
        (half_width + 0.06, 0.1),
        (half_width - 0.1, 0.58),
        (0, 0.58),
    ]
    nose_y = rng.uniform(-0.62, -0.52)
    with canvas.inside(_rounded(_mirrored(right_half)), colour, 5):
        canvas.fill(box(-1, -1, 1, nose_y), shade(colour, 0.68))
        n_bands = int(rng.integers(0, 3))
        for y in np.linspace(0.46, 0.28, n_bands):
            canvas.line([(-1, y), (1, y)], shade(colour, 1.6), 9)
        side_light = box(-half_width * 0.8, -1, -half_width * 0.55, 1)
        canvas.fill(side_light, shade(colour, 1.3))
    n_portholes = int(rng.integers(1, 3))
    for y in np.linspace(-0.28, 0.14, n_portholes):
        canvas.fill(circle(0, y, 0.17), WHITE, 4)
        canvas.fill(circle(0, y, 0.115), shade(GLASS, 0.7))


def _paint_snail(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a snail that creeps to the right, with a spiral shell and two eyes on stalks."""
    skin: Colour = (206, 178, 134)
    neck_x = rng.uniform(0.66, 0.78)
    eye_y = rng.uniform(-0.46, -0.28)
    for x in (neck_x - 0.14, neck_x + 0.16):
        stalk = [(neck_x, 0.24), (x, eye_y)]
        canvas.line(stalk, shade(skin, 0.75), 9)
        canvas.fill(circle(x, eye_y, 0.075), DARK)
    foot = [
        (-1.0, 0.92),
        (-0.5, 0.6),
        (0.3, 0.62),
        (neck_x - 0.24, 0.06),
        (neck_x + 0.26, 0.0),
        (neck_x + 0.2, 0.9),
        (0.3, 0.96),
    ]
    canvas.fill(_rounded(foot), skin, 5)

    radius = rng.uniform(0.68, 0.76)
    centre = np.array([-0.24, 0.74 - radius])
    shell = circle(centre[0], centre[1], radius)
    n_turns = rng.uniform(2.0, 3.2)
    turns = np.linspace(0, 2 * np.pi * n_turns, 90)
    spiral_radius = radius * np.linspace(1, 0.06, 90)
    spiral = np.stack([np.cos(turns + 0.6), np.sin(turns + 0.6)], 1) * spiral_radius[:, None]
    with canvas.inside(shell, colour, 7):
        for turn in np.arange(rng.integers(0, 12)) * 0.6:
            ray = np.array([(0, 0), (np.cos(turn), np.sin(turn))]) * radius
            canvas.line(ray + centre, shade(colour, 0.8), 6)
        canvas.line(spiral + centre, shade(colour, 0.55), 9)
        canvas.line(spiral + centre + [-0.05, -0.05], shade(colour, 1.4), 5)


def _paint_train(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw a steam engine that drives to the left: a chimney, a boiler, a cab and wheels."""
    cab_x, cab_y = rng.uniform(0.2, 0.32), rng.uniform(-0.74, -0.62)
    boiler_y = rng.uniform(-0.22, -0.1)
    for size in np.linspace(0.1, 0.16, int(rng.integers(1, 4))):
        x = -0.72 + size * 5
        canvas.fill(oval(x - 0.1, -0.98 + size, size * 1.4, size), _STEAM)
    chimney = [(-0.72, -0.72), (-0.38, -0.72), (-0.46, boiler_y), (-0.64, boiler_y)]
    dome = oval(-0.1, boiler_y, 0.15, 0.2)
    canvas.fill(chimney, shade(colour, 0.55), 4)
    canvas.fill(dome, shade(colour, 0.75), 4)

    boiler = box(-0.82, boiler_y, cab_x + 0.1, 0.46)
    with canvas.inside(boiler, colour, 4):
        for x in np.linspace(-0.62, cab_x - 0.16, int(rng.integers(2, 5))):
            canvas.line([(x, -1), (x, 1)], shade(colour, 0.68), 7)
        canvas.fill(box(-1, boiler_y + 0.06, 1, boiler_y + 0.14), shade(colour, 1.4))
    canvas.fill(box(cab_x, cab_y, 0.86, 0.46), colour, 5)
    canvas.fill(box(cab_x - 0.1, cab_y - 0.14, 0.97, cab_y), shade(colour, 0.6), 3)
    canvas.fill(box(cab_x + 0.15, cab_y + 0.14, 0.72, -0.12), GLASS, 4)
    canvas.fill(box(-0.86, 0.42, 0.92, 0.56), DARK)
    catcher = [(-0.72, 0.5), (-0.98, 0.9), (-0.62, 0.9)]
    canvas.fill(catcher, shade(colour, 0.55), 4)

    wheel_radius = rng.uniform(0.19, 0.22)
    wheels = ((-0.42, wheel_radius), (0.02, wheel_radius), (0.56, wheel_radius * 1.35))
    for x, radius in wheels:
        y = 0.95 - radius
        canvas.fill(circle(x, y, radius), DARK)
        canvas.fill(circle(x, y, radius * 0.66), shade(colour, 0.85))
        canvas.fill(circle(x, y, radius * 0.24), DARK)


def _paint_umbrella(canvas: Canvas, colour: Colour, rng: Rng) -> None:
    """Draw an open umbrella: a canopy of panels, a tip, and a handle with a hook."""
    n_panels = int(rng.integers(4, 8))
    height = rng.uniform(0.7, 0.86)
    rim_y, scallop_height = rng.uniform(0.0, 0.12), rng.uniform(0.08, 0.18)
    hook_radius = rng.uniform(0.16, 0.26)
    hook = _arc(hook_radius, 0.7, hook_radius, 0.24, 180, 0)
    handle = np.vstack([[(0, rim_y - height - 0.12), (0, 0.7)], hook])
    canvas.line(handle, BARK, 15)

    # The rim of the canopy, from the right to the left, has an arc for each panel.
    rib_x = np.linspace(0.96, -0.96, n_panels + 1)
    rim = []
    for right_x, left_x in pairwise(rib_x):
        middle_x, half = (right_x + left_x) / 2, (right_x - left_x) / 2
        rim.append(_arc(middle_x, rim_y, half, scallop_height, 360, 180))
    canopy = np.vstack([_arc(0, rim_y, 0.96, height, 180, 360), *rim])

    # A rib runs from the top to the rim on a quarter of an ellipse. A panel lies between two ribs.
    ribs = [_arc(0, rim_y, x, height, 270, 360) for x in rib_x]
    level = rng.choice([0.72, 1.5])
    with canvas.inside(canopy, colour, 5):
        for panel in range(0, n_panels, 2):
            panel_shape = np.vstack([ribs[panel], ribs[panel + 1][::-1]])
            canvas.fill(panel_shape, shade(colour, level))
        for rib in ribs:
            canvas.line(rib, shade(colour, 0.5), 5)


# Kind of thing -> its painter, alphabetical.
MORE_PAINTERS: dict[str, Painter] = {
    "balloon": _paint_balloon,
    "bell": _paint_bell,
    "butterfly": _paint_butterfly,
    "cactus": _paint_cactus,
    "cat": _paint_cat,
    "chair": _paint_chair,
    "cherry": _paint_cherry,
    "clock": _paint_clock,
    "cup": _paint_cup,
    "duck": _paint_duck,
    "guitar": _paint_guitar,
    "key": _paint_key,
    "kite": _paint_kite,
    "lamp": _paint_lamp,
    "leaf": _paint_leaf,
    "pear": _paint_pear,
    "rocket": _paint_rocket,
    "snail": _paint_snail,
    "train": _paint_train,
    "umbrella": _paint_umbrella,
}
