"""One scene: a picture and what captioners say about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .captions import Captions, describe
from .classes import SPLIT_SEEDS, THINGS
from .compose import Image, Stuff, Thing, compose


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene with everything that is known about it."""

    image: Image
    """(128, 128, 3) uint8 RGB."""
    label_map: Image
    """(128, 128) uint8 indices into CLASSES, no pixel ignored."""
    label: int
    """Index into THINGS of the dominant thing."""
    things: tuple[Thing, ...]
    """The dominant thing first, then two to four small ones."""
    stuff: tuple[Stuff, ...]
    captions: Captions
    """A list of sentences for each of CAPTION_KEYS."""


def render_scene(seed: int, index: int) -> Scene:
    """Render one scene, the same in any process and in any order.

    Labels take turns, so that any ten scenes in a row have one of each class.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index])))
    label = index % len(THINGS)
    picture = compose(rng, label)
    captions = describe(rng, picture.things, picture.stuff)
    return Scene(picture.image, picture.label_map, label, picture.things, picture.stuff, captions)


def split_scenes(split: str, count: int, start: int = 0) -> Iterator[Scene]:
    """Yield `count` scenes of a split (`train` or `test`), from index `start` on.

    Raises ValueError for an unknown split.
    """
    if split not in SPLIT_SEEDS:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLIT_SEEDS)}")
    seed = SPLIT_SEEDS[split]
    return (render_scene(seed, index) for index in range(start, start + count))
