"""Scenes, the embedded data set: does one dominant thing keep a model from seeing small things?

An image has one dominant thing and two to four small things on textured stuff. It comes with
captions in which each sentence is about one element, a class label, and a pixel-exact label map.
`scene` renders scenes, `captions` describes them, `questions` asks about single things, `layouts`
writes files, and `vocabulary` has the tokenizer.

There are two versions. Version 1 has 10 kinds of things, and its splits share all drawings and
textures. Version 2 has 30 kinds, and its test scenes have drawings and textures that no training
scene has.
"""

from collections.abc import Mapping
from typing import NamedTuple

SIDE = 128  # height and width of a scene, in pixels

# Alphabetical, as an image folder numbers its classes.
THINGS = (
    "apple",
    "ball",
    "boat",
    "car",
    "fish",
    "house",
    "ladybird",
    "mushroom",
    "sunflower",
    "tree",
)
STUFF = ("grass", "water", "brick", "sand", "wood", "snow", "stone", "sky")
CLASSES = THINGS + STUFF  # of the label map, in the order of their indices

TRAIN, VALIDATION, TEST, TEST_SEEN = "train", "validation", "test", "test-seen"
SPLIT_SEEDS = {TRAIN: 0, TEST: 1}  # a split of version 1 has its own scenes, indexed from 0
LARGE, SMALL = "large", "small"  # the sizes of the dominant thing and of the other things

PALETTE = {  # colour word -> RGB in 0..255
    "red": (214, 40, 40),
    "orange": (242, 132, 28),
    "yellow": (247, 214, 44),
    "green": (66, 168, 62),
    "blue": (44, 96, 214),
    "purple": (138, 66, 178),
    "pink": (244, 138, 184),
    "white": (240, 240, 236),
    "brown": (140, 88, 48),
}

# Kind of thing -> its colours, the commonest first. Every colour belongs to at least two kinds, so
# that a class can be told neither by the colour nor by the outline of a thing.
COLOURS = {
    "apple": ("red", "green", "yellow", "pink"),
    "ball": ("blue", "red", "green", "orange", "purple", "pink"),
    "boat": ("white", "red", "blue", "green", "orange"),
    "car": ("red", "blue", "white", "green", "yellow", "purple"),
    "fish": ("orange", "blue", "red", "yellow", "purple"),
    "house": ("white", "yellow", "blue", "pink", "brown", "red"),
    "ladybird": ("red", "orange", "yellow", "pink"),
    "mushroom": ("red", "brown", "purple", "orange", "blue"),
    "sunflower": ("yellow", "orange", "white", "pink", "purple"),
    "tree": ("green", "orange", "yellow", "pink", "red"),
}


class Split(NamedTuple):
    """The scenes of one split, which are indexed from 0."""

    seed: int
    # The numbers of the drawings of each kind and colour, and of the textures of each kind of
    # stuff, which scenes of the split show.
    drawings: range
    textures: range


class Version(NamedTuple):
    """A version of scenes: the things, colours and sizes that they show."""

    # The prefix of names of data sets, and of `data.shards`.
    name: str
    things: tuple[str, ...]
    # Kind of thing -> its colours.
    colours: Mapping[str, tuple[str, ...]]
    # Size -> the smallest and the largest side of a thing, as fractions of the scene's side.
    side_ranges: Mapping[str, tuple[float, float]]
    splits: Mapping[str, Split]
    # The number of tokens of a text, with the start and the end token.
    context_length: int

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the label map, in the order of their indices."""
        return self.things + STUFF


def _cyclic_colours(things: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return four colours for each kind of thing, so that all colours are about equally frequent.

    The colours of a kind are shifted by one in the palette from the colours of the kind before it.
    So neither does a colour tell the kind, nor a kind the colour.
    """
    palette = tuple(PALETTE)
    colours = {}
    for index, kind in enumerate(things):
        colours[kind] = tuple(palette[(index + shift) % len(palette)] for shift in (0, 1, 3, 6))
    return colours


VERSION_1 = Version(
    name="scenes",
    things=THINGS,
    colours=COLOURS,
    side_ranges={LARGE: (0.42, 0.56), SMALL: (0.18, 0.26)},
    splits={name: Split(seed, range(12), range(10)) for name, seed in SPLIT_SEEDS.items()},
    context_length=64,  # five of the longest sentences joined fit
)

_THINGS_2 = (
    *("apple", "ball", "balloon", "bell", "boat", "butterfly", "cactus", "car", "cat", "chair"),
    *("cherry", "clock", "cup", "duck", "fish", "guitar", "house", "key", "kite", "ladybird"),
    *("lamp", "leaf", "mushroom", "pear", "rocket", "snail", "sunflower", "train", "tree"),
    "umbrella",
)
VERSION_2 = Version(
    name="scenes2",
    things=_THINGS_2,
    colours=_cyclic_colours(_THINGS_2),
    side_ranges={LARGE: (0.46, 0.58), SMALL: (0.22, 0.30)},
    splits={
        TRAIN: Split(20, range(12), range(10)),
        # Settings are chosen on these drawings and textures, which no other split shows.
        VALIDATION: Split(21, range(12, 16), range(10, 13)),
        # These drawings and textures are in no other split either.
        TEST: Split(22, range(16, 22), range(13, 18)),
        # New scenes with the drawings and textures of the training scenes.
        TEST_SEEN: Split(23, range(12), range(10)),
    },
    context_length=40,  # three or four sentences joined fit
)
VERSIONS = {version.name: version for version in (VERSION_1, VERSION_2)}
