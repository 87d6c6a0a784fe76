"""Render scenes: images with label maps, records and captions, from a seed and an index."""

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
# The largest turn to either side in degrees. Things that are not named stand upright, nearly.
_MAX_TURNS = {"ball": 180.0, "ladybird": 60.0, "fish": 18.0, "apple": 18.0}
_OTHER_MAX_TURN = 9.0
_GROUND = tuple(kind for kind in STUFF if kind != "sky")
# The chance of the commonest colour of a kind; its other colours have equal chances.
_COMMON_COLOUR_CHANCE = 0.34
_POSITIONS = 48  # random positions among which the freest is taken
_MAX_OVERLAP = 0.25  # a small thing is left out if other things cover more of it


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene, with its labels and captions."""

    image: Image  # (128, 128, 3) RGB
    label_map: Image  # (128, 128) indices into CLASSES; every pixel is labelled
    label: int  # the index of the dominant thing in THINGS
    things: tuple[Thing, ...]  # the dominant thing first, then two to four small things
    stuff: tuple[Stuff, ...]
    captions: dict[str, list[str]]  # key as in DreamLIP's releases -> sentences


def split_scenes(split: str, count: int, start: int = 0) -> Iterator[Scene]:
    """Yield scenes of a split, from index `start` on. Raises ValueError for unknown splits."""
    if split not in SPLIT_SEEDS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLIT_SEEDS)}")
    return (render_scene(SPLIT_SEEDS[split], index) for index in range(start, start + count))


def render_scene(seed: int, index: int) -> Scene:
    """Render a scene, which follows from seed and index. Dominant things take turns by index."""
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    label = index % len(THINGS)
    region_map, regions = _regions(rng)
    image = sample_texture(rng, regions[0].kind)
    if len(regions) == 2:
        image = cv2.copyTo(sample_texture(rng, regions[1].kind), region_map, image)
    # The number of the thing at each pixel, from 1; 0 for stuff.
    thing_map = np.zeros((SIDE, SIDE), np.uint8)
    plans = _place_things(rng, _plan_things(rng, label), image, thing_map)
    things = tuple(_record(plan, thing_map == number) for number, plan in enumerate(plans, start=1))
    region_labels = [CLASSES.index(region.kind) for region in regions]
    label_map = np.where(region_map > 0, region_labels[-1], region_labels[0]).astype(np.uint8)
    label_of_thing = np.array([0, *[CLASSES.index(plan.kind) for plan in plans]], np.uint8)
    label_map = np.where(thing_map > 0, label_of_thing[thing_map], label_map)
    areas = (np.bincount(label_map.ravel(), minlength=len(CLASSES)) / SIDE**2).tolist()
    stuff = tuple(
        Stuff(region.kind, region.where, areas[region_label])
        for region, region_label in zip(regions, region_labels, strict=True)
    )
    return Scene(image, label_map, label, things, stuff, describe(rng, things, stuff))


class _Region(NamedTuple):
    """A region of stuff."""

    kind: str
    where: str  # as in `Stuff`


def _regions(rng: Rng) -> tuple[Image, list[_Region]]:
    """Return one or two random regions of stuff, and a map (SIDE, SIDE) of them.

    The map is 0 in the first region and 255 in the second.
    """
    draw = rng.random()
    if draw < 0.1:
        kind = STUFF[int(rng.integers(len(STUFF)))]
        return np.zeros((SIDE, SIDE), np.uint8), [_Region(kind, "everywhere")]
    lines = np.arange(SIDE)
    if draw < 0.78:
        ground = _GROUND[int(rng.integers(len(_GROUND)))]
        other_kinds = [kind for kind in STUFF if kind != ground]
        # The sky can only be above, so it is drawn more often there.
        if rng.random() < 0.1:
            background = "sky"
        else:
            background = other_kinds[int(rng.integers(len(other_kinds)))]
        is_below = lines[:, None] >= _border(rng, rng.uniform(0.35, 0.65))[None]
        regions = [_Region(background, "background"), _Region(ground, "ground")]
        return is_below.astype(np.uint8) * 255, regions
    left_kind, right_kind = rng.permutation(len(_GROUND))[:2]
    is_right = lines[None] >= _border(rng, rng.uniform(0.38, 0.62))[:, None]
    regions = [_Region(_GROUND[left_kind], "left"), _Region(_GROUND[right_kind], "right")]
    return is_right.astype(np.uint8) * 255, regions


def _border(rng: Rng, middle: float) -> npt.NDArray[np.float64]:
    """Return an irregular border: for each of SIDE columns, a height in pixels."""
    knots = rng.normal(0, 3.2, 9).astype(np.float32)[None]
    wobble = cv2.resize(knots, (SIDE, 1), interpolation=cv2.INTER_CUBIC)[0]
    slope = rng.uniform(-0.12, 0.12) * (np.arange(SIDE) - SIDE / 2)
    return middle * SIDE + slope + wobble


class _Plan(NamedTuple):
    """A thing that is to be placed in a scene."""

    kind: str
    colour: str
    size: str


def _plan_things(rng: Rng, label: int) -> list[_Plan]:
    """Draw kinds and colours: the dominant thing first, then two to four small things."""
    count = int(rng.integers(2, 5))
    small_kinds = [THINGS[i] for i in rng.permutation(len(THINGS)) if i != label][:count]
    if rng.random() < 0.08:
        small_kinds[-1] = small_kinds[0]
    plans = list[_Plan]()
    for kind in (THINGS[label], *small_kinds):
        common_colour, *other_colours = COLOURS[kind]
        common_draw, other_draw = rng.random(2).tolist()
        colour = common_colour
        if common_draw >= _COMMON_COLOUR_CHANCE:
            colour = other_colours[int(other_draw * len(other_colours))]
        plans.append(_Plan(kind, colour, SMALL if plans else LARGE))
    return plans


def _place_things(rng: Rng, plans: list[_Plan], image: Image, thing_map: Image) -> list[_Plan]:
    """Draw the things into the image and the map, in order, and return those that fit."""
    placed_plans = list[_Plan]()
    boxes = list[Box]()
    for plan in plans:
        patch = _patch(rng, plan)
        height, width = patch.shape[:2]
        x, y, overlap = _position(rng, height, width, boxes)
        # Two small things stay in any case: a scene has at least two.
        if overlap > _MAX_OVERLAP and len(placed_plans) > 2:
            continue
        placed_plans.append(plan)
        boxes.append((x, y, x + width, y + height))
        pixels, alpha = image[y : y + height, x : x + width], patch[..., 3:]
        background = (pixels.astype(np.uint16) * (255 - alpha.astype(np.uint16)) + 127) // 255
        pixels[:] = np.minimum(patch[..., :3] + background, 255)
        thing_map[y : y + height, x : x + width][alpha[..., 0] >= 128] = len(placed_plans)
    return placed_plans


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
    angle = np.radians((2 * turn - 1) * _MAX_TURNS.get(plan.kind, _OTHER_MAX_TURN))
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    matrix = np.array([[cos, -sin], [sin, cos]]) @ scale
    canvas = int(side * 1.25) + 4
    offset = (canvas - 1) / 2 - matrix @ np.full(2, (source.shape[0] - 1) / 2)
    patch = cv2.warpAffine(source, np.column_stack([matrix, offset]), (canvas, canvas))
    gain = 0.88 + 0.2 * light
    patch = cv2.multiply(patch, (gain, gain, gain, 1.0))
    x, y, w, h = cv2.boundingRect((patch[..., 3] >= 128).view(np.uint8))
    return np.ascontiguousarray(patch[y : y + h, x : x + w])


def _position(rng: Rng, height: int, width: int, boxes: list[Box]) -> tuple[int, int, float]:
    """Return x and y of the freest of some random positions, and its covered fraction.

    `boxes` belong to the things that are placed already.
    """
    x = rng.integers(0, SIDE - width + 1, _POSITIONS)
    y = rng.integers(0, SIDE - height + 1, _POSITIONS)
    overlap = np.zeros(_POSITIONS)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        shared_width = np.minimum(x + width, x1) - np.maximum(x, x0)
        shared_height = np.minimum(y + height, y1) - np.maximum(y, y0)
        # Small things hide each other more than the corner of the large thing's box does.
        weight = 1.0 if number == 0 else 3.0
        overlap += weight * np.maximum(shared_width, 0) * np.maximum(shared_height, 0)
    best = int(overlap.argmin())
    return int(x[best]), int(y[best]), float(overlap[best]) / (height * width)


def _record(plan: _Plan, is_visible: npt.NDArray[np.bool_]) -> Thing:
    """Return the record of a thing whose visible pixels are given by a mask (SIDE, SIDE)."""
    x, y, width, height = cv2.boundingRect(is_visible.view(np.uint8))
    box = (x, y, x + width, y + height)
    area = int(np.count_nonzero(is_visible)) / SIDE**2
    return Thing(plan.kind, plan.colour, plan.size, place_of(box), box, area)
