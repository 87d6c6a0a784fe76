"""Scenes: from (seed, index) to an image, its label map, its records and its captions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from cosmos_core.data.scenes import CLASSES, COLOURS, SIDE, SPLIT_SEEDS, STUFF, THINGS
from cosmos_core.data.scenes.captions import LARGE, SMALL, Box, Stuff, Thing, describe, place_of
from cosmos_core.data.scenes.stuff import Image, Rng, sample_texture
from cosmos_core.data.scenes.things import SPRITE_SIDES, VARIANTS, sprite

_SIDES = {LARGE: (0.42, 0.56), SMALL: (0.18, 0.26)}  # as fractions of the scene's side
# Largest turn to either side, in degrees; other things stand upright.
_TURNS = {"ball": 180.0, "ladybird": 60.0, "fish": 18.0, "apple": 18.0}
_TURN = 9.0
_GROUND = tuple(kind for kind in STUFF if kind != "sky")
_COMMON = 0.34  # chance of the commonest colour of a kind; the others share the rest evenly
_TRIES = 48  # positions for a small thing
_MOST_OVERLAP = 0.25  # above which a small thing is left out


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene with everything that is known about it."""

    image: Image  # (128, 128, 3) RGB
    label_map: Image  # (128, 128) indices into CLASSES, no pixel ignored
    label: int  # index into THINGS of the dominant thing
    things: tuple[Thing, ...]  # the dominant thing first, then two to four small ones
    stuff: tuple[Stuff, ...]
    captions: dict[str, list[str]]  # key as in DreamLIP's releases -> sentences


def split_scenes(split: str, count: int, start: int = 0) -> Iterator[Scene]:
    """Yield scenes of a split, from index `start` on. Raises ValueError for unknown splits."""
    if split not in SPLIT_SEEDS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLIT_SEEDS)}")
    return (render_scene(SPLIT_SEEDS[split], index) for index in range(start, start + count))


def render_scene(seed: int, index: int) -> Scene:
    """Render one scene, the same in any process and order; labels take turns."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    label = index % len(THINGS)
    region, kinds = _regions(rng)
    image = sample_texture(rng, kinds[0][0])
    if len(kinds) == 2:
        image = cv2.copyTo(sample_texture(rng, kinds[1][0]), region, image)
    ids = np.zeros((SIDE, SIDE), np.uint8)
    placed = _place_all(rng, _plan(rng, label), image, ids)
    things = tuple(_record(plan, ids == number) for number, plan in enumerate(placed, 1))
    below = [CLASSES.index(kind) for kind, _ in kinds]
    lookup = np.array([0, *(CLASSES.index(plan.kind) for plan in placed)], np.uint8)
    label_map = np.where(region > 0, below[-1], below[0]).astype(np.uint8)
    label_map = np.where(ids > 0, lookup[ids], label_map)
    areas = (np.bincount(label_map.ravel(), minlength=len(CLASSES)) / SIDE**2).tolist()
    stuff = tuple(Stuff(*kind, areas[index]) for kind, index in zip(kinds, below, strict=True))
    return Scene(image, label_map, label, things, stuff, describe(rng, things, stuff))


def _regions(rng: Rng) -> tuple[Image, list[tuple[str, str]]]:
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


def _border(rng: Rng, middle: float) -> npt.NDArray[np.float64]:
    """Return an irregular border: for each of SIDE columns, a height in pixels."""
    knots = rng.normal(0, 3.2, 9).astype(np.float32)[None]
    wobble = cv2.resize(knots, (SIDE, 1), interpolation=cv2.INTER_CUBIC)[0]
    slope = rng.uniform(-0.12, 0.12) * (np.arange(SIDE) - SIDE / 2)
    return middle * SIDE + slope + wobble


class _Plan(NamedTuple):
    kind: str
    colour: str
    size: str


def _plan(rng: Rng, label: int) -> list[_Plan]:
    """Choose kinds and colours: the dominant thing, then two to four small ones."""
    count = int(rng.integers(2, 5))
    order = [THINGS[i] for i in rng.permutation(len(THINGS)) if i != label][:count]
    if rng.random() < 0.08:
        order[-1] = order[0]
    plans = list[_Plan]()
    for kind in (THINGS[label], *order):
        first, *rest = COLOURS[kind]
        common, other = rng.random(2).tolist()
        colour = first if common < _COMMON else rest[int(other * len(rest))]
        plans.append(_Plan(kind, colour, SMALL if plans else LARGE))
    return plans


def _place_all(rng: Rng, plans: list[_Plan], image: Image, ids: Image) -> list[_Plan]:
    """Draw the things in order, numbered from 1, and return those that fit."""
    placed, taken = list[_Plan](), list[Box]()
    for plan in plans:
        patch = _patch(rng, plan)
        h, w = patch.shape[:2]
        x, y, overlap = _position(rng, h, w, taken)
        # Two small things stay in any case: a scene never has only one.
        if overlap > _MOST_OVERLAP and len(placed) > 2:
            continue
        placed.append(plan)
        taken.append((x, y, x + w, y + h))
        under, alpha = image[y : y + h, x : x + w], patch[..., 3:]
        below = (under.astype(np.uint16) * (255 - alpha.astype(np.uint16)) + 127) // 255
        under[:] = np.minimum(patch[..., :3] + below, 255)
        ids[y : y + h, x : x + w][alpha[..., 0] >= 128] = len(placed)
    return placed


def _patch(rng: Rng, plan: _Plan) -> Image:
    """Return the thing at its final size, premultiplied RGBA (h, w, 4)."""
    source = sprite(plan.kind, plan.colour, int(rng.integers(VARIANTS)))[plan.size]
    size, turn, aspect, light = rng.random(4).tolist()
    low, high = _SIDES[plan.size]
    side = (low + (high - low) * size) * SIDE
    stretch = 0.92 + 0.16 * aspect
    flip = -1.0 if rng.random() < 0.5 else 1.0
    stretched = np.diag([flip * min(1.0, stretch), min(1.0, 1 / stretch)])
    scale = stretched * side / SPRITE_SIDES[plan.size]
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


def _position(rng: Rng, height: int, width: int, taken: list[Box]) -> tuple[int, int, float]:
    """Return x, y of the first free position, or the freest, and its covered fraction."""
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


def _record(plan: _Plan, visible: npt.NDArray[np.bool_]) -> Thing:
    x, y, w, h = cv2.boundingRect(visible.view(np.uint8))
    box = (x, y, x + w, y + h)
    return Thing(*plan, place_of(box), box, int(np.count_nonzero(visible)) / SIDE**2)
