"""Placing things on stuff: from (seed, index) to an image, its label map and its records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from .canvas import LARGE_SIDE, SMALL_SIDE
from .classes import COLOURS, SIDE, STUFF, THINGS
from .stuff import sample_texture
from .things import VARIANTS, sprite

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]

LARGE = "large"
SMALL = "small"
# Side of a thing as a share of the scene's side.
_SHARES = {LARGE: (0.42, 0.56), SMALL: (0.18, 0.26)}
# Largest turn to either side, in degrees; a thing not named here stands upright.
_TURNS = {"ball": 180.0, "ladybird": 60.0, "fish": 18.0, "apple": 18.0}
_TURN = 9.0
_GROUND = ("grass", "water", "brick", "sand", "wood", "snow", "stone")
# Chance of the commonest colour of a kind; the others share the rest.
_COMMON = 0.34
# Positions tried for a small thing, and the overlap above which it is left out.
_TRIES = 48
_MOST_OVERLAP = 0.25

_ROWS = ("upper", "", "lower")
_COLUMNS = ("left", "", "right")
_ALONE = {"upper": "top", "lower": "bottom", "left": "left", "right": "right", "": "center"}


class Thing(NamedTuple):
    """One thing of a scene, as it is visible."""

    kind: str
    colour: str
    size: str
    """`large` (the dominant thing) or `small`."""
    place: str
    """Third of the image its box is centred in: `upper left`, `top`, ..., `center`."""
    box: Box
    """x0, y0, x1, y1 of its visible pixels; the last two exclusive."""
    area: float
    """Visible pixels as a share of the image."""


class Stuff(NamedTuple):
    """One region of stuff: where is `ground`, `background`, `left`, `right` or `everywhere`."""

    kind: str
    where: str
    area: float
    """Visible pixels as a share of the image."""


@dataclass(frozen=True, eq=False)
class Picture:
    """What a scene shows, before anybody describes it."""

    image: Image
    """(SIDE, SIDE, 3) RGB."""
    label_map: Image
    """(SIDE, SIDE) indices into CLASSES; every pixel has one."""
    things: tuple[Thing, ...]
    """The dominant thing first."""
    stuff: tuple[Stuff, ...]


class _Plan(NamedTuple):
    kind: str
    colour: str
    size: str


def place_of(box: Box) -> str:
    """Return the place words of a box: the third of the image its centre is in."""
    column = _COLUMNS[min(2, (box[0] + box[2]) * 3 // (2 * SIDE))]
    row = _ROWS[min(2, (box[1] + box[3]) * 3 // (2 * SIDE))]
    return f"{row} {column}" if row and column else _ALONE[row or column]


def _border(rng: np.random.Generator, middle: float) -> Floats:
    """Return an irregular border: for each of SIDE columns, a height in pixels."""
    knots = rng.normal(0, 3.2, 9).astype(np.float32)[None]
    wobble = cv2.resize(knots, (SIDE, 1), interpolation=cv2.INTER_CUBIC)[0]
    slope = rng.uniform(-0.12, 0.12) * (np.arange(SIDE) - SIDE / 2)
    border: Floats = middle * SIDE + slope + wobble
    return border


def _regions(rng: np.random.Generator) -> tuple[Image, list[tuple[str, str]]]:
    """Return a map (SIDE, SIDE) of 0 and 255, and (kind, where) of the regions 0 and 255."""
    draw = rng.random()
    if draw < 0.1:
        kind = STUFF[int(rng.integers(len(STUFF)))]
        return np.zeros((SIDE, SIDE), np.uint8), [(kind, "everywhere")]
    lines = np.arange(SIDE)
    if draw < 0.78:
        ground = _GROUND[int(rng.integers(len(_GROUND)))]
        others = [kind for kind in STUFF if kind != ground]
        # The sky is only ever above, so it is drawn more often there.
        upper = "sky" if rng.random() < 0.1 else others[int(rng.integers(len(others)))]
        below = lines[:, None] >= _border(rng, rng.uniform(0.35, 0.65))[None]
        return below.astype(np.uint8) * 255, [(upper, "background"), (ground, "ground")]
    first, second = rng.permutation(len(_GROUND))[:2]
    right = lines[None] >= _border(rng, rng.uniform(0.38, 0.62))[:, None]
    return right.astype(np.uint8) * 255, [(_GROUND[first], "left"), (_GROUND[second], "right")]


def _pick_colour(rng: np.random.Generator, kind: str) -> str:
    colours = COLOURS[kind]
    common, other = rng.random(2).tolist()
    return colours[0] if common < _COMMON else colours[1 + int(other * (len(colours) - 1))]


def _plan(rng: np.random.Generator, label: int) -> list[_Plan]:
    """Choose kinds and colours: the dominant thing, then two to four small ones."""
    count = int(rng.integers(2, 5))
    order = [THINGS[i] for i in rng.permutation(len(THINGS)) if i != label][:count]
    if rng.random() < 0.08:
        order[-1] = order[0]
    plans = [_Plan(THINGS[label], _pick_colour(rng, THINGS[label]), LARGE)]
    return plans + [_Plan(kind, _pick_colour(rng, kind), SMALL) for kind in order]


def _patch(rng: np.random.Generator, plan: _Plan) -> Image:
    """Return the thing at its final size, premultiplied RGBA (h, w, 4), cropped to its box."""
    variant = int(rng.integers(VARIANTS))
    drawing = sprite(plan.kind, plan.colour, variant)
    size, turn, aspect, light = rng.random(4).tolist()
    low, high = _SHARES[plan.size]
    side = (low + (high - low) * size) * SIDE
    source, unit = drawing.large, LARGE_SIDE
    if plan.size == SMALL:
        source, unit = drawing.small, SMALL_SIDE
    stretch = 0.92 + 0.16 * aspect
    flip = -1.0 if rng.random() < 0.5 else 1.0
    scale = np.diag([flip * min(1.0, stretch), min(1.0, 1 / stretch)]) * side / unit
    angle = np.radians((2 * turn - 1) * _TURNS.get(plan.kind, _TURN))
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    matrix = np.array([[cos, -sin], [sin, cos]]) @ scale
    canvas = int(side * 1.25) + 4
    offset = (canvas - 1) / 2 - matrix @ np.full(2, (source.shape[0] - 1) / 2)
    patch = cv2.warpAffine(source, np.column_stack([matrix, offset]), (canvas, canvas))
    gain = 0.88 + 0.2 * light
    patch = cv2.multiply(patch, (gain, gain, gain, 1.0))
    x, y, w, h = cv2.boundingRect((patch[..., 3] >= 128).view(np.uint8))
    return np.ascontiguousarray(patch[y : y + h, x : x + w])


def _position(
    rng: np.random.Generator, height: int, width: int, taken: list[Box]
) -> tuple[int, int, float]:
    """Return x, y of a small thing and the share of its box that others take.

    The first position tried that is free wins; without one, the freest.
    """
    x = rng.integers(0, SIDE - width + 1, _TRIES)
    y = rng.integers(0, SIDE - height + 1, _TRIES)
    overlap = np.zeros(_TRIES)
    for rank, (x0, y0, x1, y1) in enumerate(taken):
        wide = np.minimum(x + width, x1) - np.maximum(x, x0)
        tall = np.minimum(y + height, y1) - np.maximum(y, y0)
        # Small things hide each other more than the corner of a large thing's box does.
        weight = 1.0 if rank == 0 else 3.0
        overlap += weight * np.maximum(wide, 0) * np.maximum(tall, 0)
    best = int(overlap.argmin())
    return int(x[best]), int(y[best]), float(overlap[best]) / (height * width)


def _paste(image: Image, ids: Image, patch: Image, corner: tuple[int, int], number: int) -> None:
    """Blend a patch into the image and write its number where it is opaque."""
    x, y = corner
    h, w = patch.shape[:2]
    under = image[y : y + h, x : x + w]
    alpha = patch[..., 3:]
    kept = (under.astype(np.uint16) * (255 - alpha.astype(np.uint16)) + 127) // 255
    under[:] = np.minimum(patch[..., :3] + kept, 255)
    ids[y : y + h, x : x + w][alpha[..., 0] >= 128] = number


def _record(plan: _Plan, visible: npt.NDArray[np.bool_]) -> Thing:
    x, y, w, h = cv2.boundingRect(visible.view(np.uint8))
    box = (x, y, x + w, y + h)
    area = int(np.count_nonzero(visible)) / SIDE**2
    return Thing(plan.kind, plan.colour, plan.size, place_of(box), box, area)


def _place_all(
    rng: np.random.Generator, plans: list[_Plan], image: Image, ids: Image
) -> list[_Plan]:
    """Draw the things in order, numbered from 1, and return those that found room."""
    placed: list[_Plan] = []
    taken: list[Box] = []
    for plan in plans:
        patch = _patch(rng, plan)
        h, w = patch.shape[:2]
        x, y, overlap = _position(rng, h, w, taken)
        # Two small things stay in any case: a scene never has only one.
        if overlap > _MOST_OVERLAP and len(placed) > 2:
            continue
        placed.append(plan)
        taken.append((x, y, x + w, y + h))
        _paste(image, ids, patch, (x, y), len(placed))
    return placed


def _background(rng: np.random.Generator) -> tuple[Image, Image, list[tuple[str, str]]]:
    """Return image, label map and (kind, where) of a scene without things."""
    region, kinds = _regions(rng)
    image = sample_texture(rng, kinds[0][0])
    indices = [len(THINGS) + STUFF.index(kind) for kind, _ in kinds]
    if len(kinds) == 2:
        image = cv2.copyTo(sample_texture(rng, kinds[1][0]), region, image)
    label_map = np.where(region > 0, indices[-1], indices[0]).astype(np.uint8)
    return image, label_map, kinds


def compose(rng: np.random.Generator, label: int) -> Picture:
    """Draw one picture whose dominant thing is `THINGS[label]`."""
    image, label_map, kinds = _background(rng)
    ids = np.zeros((SIDE, SIDE), np.uint8)
    placed = _place_all(rng, _plan(rng, label), image, ids)
    things = tuple(_record(plan, ids == number) for number, plan in enumerate(placed, 1))
    lookup = np.array([0, *(THINGS.index(plan.kind) for plan in placed)], np.uint8)
    label_map = np.where(ids > 0, lookup[ids], label_map)
    counts = np.bincount(label_map.ravel(), minlength=len(THINGS) + len(STUFF)) / SIDE**2
    stuff = tuple(
        Stuff(kind, where, float(counts[len(THINGS) + STUFF.index(kind)])) for kind, where in kinds
    )
    return Picture(image, label_map, things, stuff)
