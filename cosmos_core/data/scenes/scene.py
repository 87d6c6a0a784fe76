"""Render scenes: images with label maps, records and captions, from a seed and an index."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from cosmos_core.data.scenes import (
    LARGE,
    SIDE,
    SMALL,
    STUFF,
    TRAIN,
    VERSION_1,
    VERSION_2,
    Split,
    Version,
)
from cosmos_core.data.scenes.captions import Box, Stuff, Thing, describe_scene, place_of
from cosmos_core.data.scenes.sprites import SPRITE_SIDES, draw_sprites
from cosmos_core.data.scenes.stuff import Image, Rng, sample_texture

# The largest turn to either side in degrees. Other kinds of things stand nearly upright.
_MAX_TURNS = {"ball": 180.0, "ladybird": 60.0, "fish": 18.0, "apple": 18.0}
_OTHER_MAX_TURN = 9.0
_OPAQUE = 128  # a pixel belongs to a thing if its alpha is at least this
# The chances that a scene has one region of stuff, and that it has two regions, one above the
# other. Otherwise it has two regions side by side.
_ONE_REGION_CHANCE = 0.1
_TWO_REGIONS_ABOVE_CHANCE = 0.68
_SKY_CHANCE = 0.1  # of the upper region
_SAME_KIND_CHANCE = 0.08  # in version 1, that two small things are of the same kind
_GROUND = tuple(kind for kind in STUFF if kind != "sky")
# The chance of the commonest colour of a kind in version 1; its other colours have equal chances.
_COMMON_COLOUR_CHANCE = 0.34
_N_POSITIONS = 48  # how many random positions are tried for a thing; the freest is taken
_MAX_OVERLAP = 0.25  # a small thing is left out if other things cover more of it


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene, with its labels and captions."""

    image: Image  # (128, 128, 3) RGB
    label_map: Image  # (128, 128) indices into the version's classes; every pixel is labelled
    label: int  # the index of the dominant thing's kind in the version's things
    things: tuple[Thing, ...]  # the dominant thing first, then two to four small things
    stuff: tuple[Stuff, ...]
    captions: dict[str, list[str]]  # key as in DreamLIP's releases -> sentences


def split_scenes(
    split: str,
    count: int,
    start: int = 0,
    *,
    version: Version = VERSION_1,
    is_control: bool = False,
) -> Iterator[Scene]:
    """Return an iterator over scenes of a split, which are rendered one by one.

    Args:
        split: A split of the version, such as "train" or "test". Each split has its own scenes.
        count: The number of scenes.
        start: The index of the first scene in the split.
        version: VERSION_1 or VERSION_2.
        is_control: True for scenes whose dominant thing is rendered as small as the others.

    Raises:
        ValueError: At once, if the split does not exist.
    """
    if split not in version.splits:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(version.splits)}")
    rendering = _Rendering(version, version.splits[split], is_control)
    return (_render(rendering, index) for index in range(start, start + count))


def render_scene(seed: int, index: int) -> Scene:
    """Render a scene of version 1, which depends only on the seed and the index.

    Args:
        seed: The seed of the split.
        index: The number of the scene in its split. The kinds of dominant things take turns by
            index: scenes 0, 10 and 20 show an apple.
    """
    split = VERSION_1.splits[TRAIN]._replace(seed=seed)
    return _render(_Rendering(VERSION_1, split), index)


class _Rendering(NamedTuple):
    """The properties that all scenes of a split have in common."""

    version: Version
    split: Split
    # Whether the dominant thing is as small as the others, at the same place. All else is equal.
    is_control: bool = False


def _render(rendering: _Rendering, index: int) -> Scene:
    """Render a scene.

    Args:
        rendering: The version and the split.
        index: The number of the scene in its split. The kinds of dominant things take turns by
            index. In version 2, so do their colours after all kinds: with 30 kinds and 4 colours,
            scenes 0, 120 and 240 have a dominant thing of the same kind and colour.
    """
    version, split, _ = rendering
    classes = version.classes
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([split.seed, index])))
    label = index % len(version.things)

    # Draw stuff, which fills the whole image. The map is 0 in the first region, and 255 in the
    # second, if there is one.
    region_map, regions = _draw_regions(rng)
    image = sample_texture(rng, regions[0].kind, split.textures)
    if len(regions) == 2:
        second_image = sample_texture(rng, regions[1].kind, split.textures)
        image = cv2.copyTo(second_image, region_map, image)

    # Draw things on top of it. The map has the number of the thing at each pixel, from 1. It is 0
    # for stuff.
    thing_map = np.zeros((SIDE, SIDE), np.uint8)
    if version is VERSION_2:
        planned_things = _plan_balanced_things(rng, index)
    else:
        planned_things = _plan_things(rng, label)
    painted_things = _paint_things(rng, rendering, planned_things, image, thing_map)
    things = []
    for number, planned_thing in enumerate(painted_things, start=1):
        things.append(_describe_thing(planned_thing, is_visible=thing_map == number))

    # Find the class of each pixel: first of the stuff, then of the things that cover it.
    region_labels = [classes.index(region.kind) for region in regions]
    label_map = np.where(region_map > 0, region_labels[-1], region_labels[0]).astype(np.uint8)
    thing_labels = [classes.index(planned_thing.kind) for planned_thing in painted_things]
    label_by_thing_number = np.array([0, *thing_labels], np.uint8)
    label_map = np.where(thing_map > 0, label_by_thing_number[thing_map], label_map)

    # Describe the stuff by the area that is visible of it.
    pixel_counts = np.bincount(label_map.ravel(), minlength=len(classes))
    area_by_label = (pixel_counts / SIDE**2).tolist()
    stuff = []
    for region, region_label in zip(regions, region_labels, strict=True):
        stuff.append(Stuff(region.kind, region.where, area_by_label[region_label]))
    captions = describe_scene(rng, things, stuff)
    return Scene(image, label_map, label, tuple(things), tuple(stuff), captions)


class _Region(NamedTuple):
    """A region of stuff in a scene."""

    kind: str
    where: str  # `ground`, `background`, `left`, `right` or `everywhere`


def _draw_regions(rng: Rng) -> tuple[Image, list[_Region]]:
    """Draw one or two random regions of stuff, which fill a scene.

    Returns:
        A map (SIDE, SIDE), which is 0 in the first region and 255 in the second one, and the
        regions.
    """
    # This random number decides between one region, two above each other, and two side by side.
    layout_draw = rng.random()
    if layout_draw < _ONE_REGION_CHANCE:
        kind = STUFF[int(rng.integers(len(STUFF)))]
        return np.zeros((SIDE, SIDE), np.uint8), [_Region(kind, "everywhere")]

    pixels = np.arange(SIDE)
    if layout_draw < _ONE_REGION_CHANCE + _TWO_REGIONS_ABOVE_CHANCE:
        ground = _GROUND[int(rng.integers(len(_GROUND)))]
        other_kinds = [kind for kind in STUFF if kind != ground]
        # The sky can only be above, so it is drawn more often there.
        if rng.random() < _SKY_CHANCE:
            background = "sky"
        else:
            background = other_kinds[int(rng.integers(len(other_kinds)))]
        horizon = _draw_border(rng, rng.uniform(0.35, 0.65))  # y for each x
        is_below = pixels[:, None] >= horizon[None, :]
        regions = [_Region(background, "background"), _Region(ground, "ground")]
        return is_below.astype(np.uint8) * 255, regions

    left_kind, right_kind = rng.permutation(len(_GROUND))[:2]
    divide = _draw_border(rng, rng.uniform(0.38, 0.62))  # x for each y
    is_right = pixels[None, :] >= divide[:, None]
    regions = [_Region(_GROUND[left_kind], "left"), _Region(_GROUND[right_kind], "right")]
    return is_right.astype(np.uint8) * 255, regions


def _draw_border(rng: Rng, middle: float) -> npt.NDArray[np.float64]:
    """Return an irregular line from left to right: its y in pixels at each of SIDE values of x.

    For a line from top to bottom, x and y change places.

    Args:
        rng: The random generator.
        middle: The mean y of the line as a fraction of the scene's side.
    """
    # A smooth curve through nine random values.
    knots = rng.normal(0, 3.2, 9).astype(np.float32)[None]
    wobble = cv2.resize(knots, (SIDE, 1), interpolation=cv2.INTER_CUBIC)[0]
    slope = rng.uniform(-0.12, 0.12) * (np.arange(SIDE) - SIDE / 2)
    return middle * SIDE + slope + wobble


class _PlannedThing(NamedTuple):
    """A thing that is to be painted into a scene."""

    kind: str
    colour: str
    size: str  # LARGE or SMALL


def _plan_things(rng: Rng, label: int) -> list[_PlannedThing]:
    """Choose the kinds and colours of the things in a scene of version 1.

    Args:
        rng: The random generator.
        label: The index of the dominant thing's kind.

    Returns:
        The dominant thing first, then two to four small things of other kinds.
    """
    kinds = VERSION_1.things
    n_small = int(rng.integers(2, 5))
    other_kinds = [kinds[i] for i in rng.permutation(len(kinds)) if i != label]
    small_kinds = other_kinds[:n_small]
    if rng.random() < _SAME_KIND_CHANCE:
        small_kinds[-1] = small_kinds[0]
    # Choose a colour for each thing.
    planned_things: list[_PlannedThing] = []
    for kind in (kinds[label], *small_kinds):
        common_colour, *other_colours = VERSION_1.colours[kind]
        common_draw, other_draw = rng.random(2).tolist()
        colour = common_colour
        if common_draw >= _COMMON_COLOUR_CHANCE:
            colour = other_colours[int(other_draw * len(other_colours))]
        size = SMALL if planned_things else LARGE
        planned_things.append(_PlannedThing(kind, colour, size))
    return planned_things


def _plan_balanced_things(rng: Rng, index: int) -> list[_PlannedThing]:
    """Choose the kinds and colours of the things in a scene of version 2.

    The kinds of a scene differ, and each colour of a kind has the same chance.

    Args:
        rng: The random generator.
        index: The number of the scene in its split, which decides the dominant thing.

    Returns:
        The dominant thing first, then two to four small things.
    """
    kinds, colours = VERSION_2.things, VERSION_2.colours
    label = index % len(kinds)
    dominant_colours = colours[kinds[label]]
    dominant_colour = dominant_colours[index // len(kinds) % len(dominant_colours)]
    planned_things = [_PlannedThing(kinds[label], dominant_colour, LARGE)]
    n_small = int(rng.integers(2, 5))
    other_kinds = [kinds[i] for i in rng.permutation(len(kinds)) if i != label]
    for kind in other_kinds[:n_small]:
        colour = colours[kind][int(rng.integers(len(colours[kind])))]
        planned_things.append(_PlannedThing(kind, colour, SMALL))
    return planned_things


def _paint_things(
    rng: Rng,
    rendering: _Rendering,
    planned_things: list[_PlannedThing],
    image: Image,
    thing_map: Image,
) -> list[_PlannedThing]:
    """Paint things onto an image, in place.

    A small thing is left out if it finds no free position, unless the scene would have fewer than
    two small things.

    Args:
        rng: The random generator.
        rendering: The version and the split. In a control, the dominant thing is painted small, in
            the middle of the box that it would otherwise have.
        planned_things: The dominant thing, and then small things.
        image: The image of the scene (SIDE, SIDE, 3), which is changed.
        thing_map: A map (SIDE, SIDE), into which the number of each painted thing is written at its
            pixels, counted from 1.

    Returns:
        The things that were painted, in order.
    """
    painted_things: list[_PlannedThing] = []
    boxes: list[Box] = []
    for planned_thing in planned_things:
        is_dominant = planned_thing.size == LARGE
        look = _draw_look(rng, rendering.split)
        patch = _render_thing(planned_thing, look, rendering.version)
        height, width = patch.shape[:2]
        if is_dominant and rendering.version is VERSION_2:
            x, y = _draw_position_in_a_ninth(rng, height, width)
        else:
            x, y, covered_fraction = _find_free_position(rng, height, width, boxes)
            n_small_painted = len(painted_things) - 1
            if covered_fraction > _MAX_OVERLAP and n_small_painted >= 2:
                continue
        boxes.append((x, y, x + width, y + height))

        painted_thing = planned_thing
        if is_dominant and rendering.is_control:
            # Shrink it in the middle of its box.
            painted_thing = planned_thing._replace(size=SMALL)
            patch = _render_thing(painted_thing, look, rendering.version)
            x += (width - patch.shape[1]) // 2
            y += (height - patch.shape[0]) // 2
        painted_things.append(painted_thing)
        is_thing = _blend(patch, image, x, y)
        height, width = is_thing.shape
        thing_map[y : y + height, x : x + width][is_thing] = len(painted_things)
    return painted_things


def _blend(patch: Image, image: Image, x: int, y: int) -> npt.NDArray[np.bool_]:
    """Paint a thing onto an image, in place.

    Args:
        patch: The thing (height, width, 4). Its colours are multiplied by alpha, the last channel.
        image: The image (SIDE, SIDE, 3).
        x: The column of the image at which the patch begins.
        y: The row of the image at which the patch begins.

    Returns:
        A mask (height, width), which is True for each pixel of the patch that belongs to the thing,
        and not to its light and its shadow.
    """
    height, width = patch.shape[:2]
    pixels = image[y : y + height, x : x + width]
    colours, alpha = patch[..., :3], patch[..., 3:]
    # Round (1 - alpha) * background.
    background = (pixels.astype(np.uint16) * (255 - alpha.astype(np.uint16)) + 127) // 255
    pixels[:] = np.minimum(colours + background, 255)
    is_thing: npt.NDArray[np.bool_] = alpha[..., 0] >= _OPAQUE
    return is_thing


class _Look(NamedTuple):
    """How a thing is drawn, by random numbers from 0 to 1."""

    # The number of the drawing of its kind and colour.
    drawing: int
    size_draw: float
    turn_draw: float
    aspect_draw: float
    light_draw: float
    is_mirrored: bool


def _draw_look(rng: Rng, split: Split) -> _Look:
    """Return a random look of a thing, with one of the drawings of a split."""
    drawing = split.drawings[int(rng.integers(len(split.drawings)))]
    size_draw, turn_draw, aspect_draw, light_draw = rng.random(4).tolist()
    is_mirrored = rng.random() < 0.5
    return _Look(drawing, size_draw, turn_draw, aspect_draw, light_draw, is_mirrored)


def _render_thing(planned_thing: _PlannedThing, look: _Look, version: Version) -> Image:
    """Return the image of a thing in premultiplied RGBA (h, w, 4), cropped to its pixels.

    Args:
        planned_thing: The kind, the colour and the size of the thing.
        look: Its drawing, its size within the range of sizes, proportions, turn and brightness.
        version: The version of the scenes, which has its own drawings and sizes.
    """
    kind, colour, size = planned_thing
    sprite = draw_sprites(kind, colour, look.drawing, version.name)[size]

    # Make a matrix that scales, mirrors and turns the sprite. The longer side has the scale 1
    # before it is scaled to `side` pixels.
    min_side, max_side = version.side_ranges[size]
    side = (min_side + (max_side - min_side) * look.size_draw) * SIDE  # in pixels
    aspect = 0.92 + 0.16 * look.aspect_draw  # width / height
    mirror = -1.0 if look.is_mirrored else 1.0
    aspect_matrix = np.diag([mirror * min(1.0, aspect), min(1.0, 1 / aspect)])
    scale_matrix = aspect_matrix * side / SPRITE_SIDES[size]
    max_turn = _MAX_TURNS.get(kind, _OTHER_MAX_TURN)
    angle = np.radians((2 * look.turn_draw - 1) * max_turn)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    matrix = np.array([[cos, -sin], [sin, cos]]) @ scale_matrix

    # Draw the sprite on a canvas that holds the turned thing and the light around it. The offset
    # moves the centre of the sprite to the centre of the canvas.
    canvas_side = int(side * 1.25) + 4
    sprite_centre = np.full(2, (sprite.shape[0] - 1) / 2)
    offset = (canvas_side - 1) / 2 - matrix @ sprite_centre
    affine_matrix = np.column_stack([matrix, offset])
    canvas = cv2.warpAffine(sprite, affine_matrix, (canvas_side, canvas_side))

    # Change the brightness, and crop the canvas to the pixels of the thing.
    gain = 0.88 + 0.2 * look.light_draw
    canvas = cv2.multiply(canvas, (gain, gain, gain, 1.0))
    is_opaque = canvas[..., 3] >= _OPAQUE
    x, y, width, height = cv2.boundingRect(is_opaque.view(np.uint8))
    return np.ascontiguousarray(canvas[y : y + height, x : x + width])


def _draw_position_in_a_ninth(rng: Rng, height: int, width: int) -> tuple[int, int]:
    """Return a random position for a dominant thing: each ninth of the scene has the same chance.

    So a place does not tell whether a thing is dominant.

    Args:
        rng: The random generator.
        height: The height of the thing in pixels.
        width: Its width.

    Returns:
        x and y of its upper left corner in pixels. Its centre is in a ninth, as far as the thing
        does not leave the scene.
    """
    corners = []
    for length in (width, height):
        third = int(rng.integers(3))
        smallest_centre = max(third * SIDE / 3, length / 2)
        largest_centre = min((third + 1) * SIDE / 3, SIDE - length / 2)
        centre = rng.uniform(smallest_centre, max(largest_centre, smallest_centre))
        corner = int(centre - length / 2)
        corners.append(min(max(corner, 0), SIDE - length))
    return corners[0], corners[1]


def _find_free_position(
    rng: Rng, height: int, width: int, boxes: list[Box]
) -> tuple[int, int, float]:
    """Return the best of some random positions for a thing: where it covers least of other things.

    Args:
        rng: The random generator.
        height: The height of the thing in pixels.
        width: Its width in pixels.
        boxes: The boxes (x0, y0, x1, y1) of the things so far, the dominant thing's first.

    Returns:
        x and y of its upper left corner in pixels, and the fraction of its area that overlaps with
        other things. An overlap with a small thing counts three times, so that the fraction can
        exceed 1.
    """
    # Draw positions, and add up the overlap at each of them.
    x = rng.integers(0, SIDE - width + 1, _N_POSITIONS)
    y = rng.integers(0, SIDE - height + 1, _N_POSITIONS)
    overlap = np.zeros(_N_POSITIONS)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        shared_width = np.minimum(x + width, x1) - np.maximum(x, x0)
        shared_height = np.minimum(y + height, y1) - np.maximum(y, y0)
        # Small things hide each other. The corner of the large thing's box is often empty.
        weight = 1.0 if number == 0 else 3.0
        overlap += weight * np.maximum(shared_width, 0) * np.maximum(shared_height, 0)
    best = int(overlap.argmin())
    return int(x[best]), int(y[best]), float(overlap[best]) / (height * width)


def _describe_thing(planned_thing: _PlannedThing, is_visible: npt.NDArray[np.bool_]) -> Thing:
    """Return the record of a painted thing, with its place, its box and its visible area.

    Args:
        planned_thing: The kind, the colour and the size of the thing.
        is_visible: A mask (SIDE, SIDE) of the pixels of the thing that no other thing covers.
    """
    x, y, width, height = cv2.boundingRect(is_visible.view(np.uint8))
    box = (x, y, x + width, y + height)
    return Thing(
        kind=planned_thing.kind,
        colour=planned_thing.colour,
        size=planned_thing.size,
        place=place_of(box),
        box=box,
        area=int(np.count_nonzero(is_visible)) / SIDE**2,
    )
