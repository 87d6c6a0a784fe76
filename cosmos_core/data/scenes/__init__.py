"""Scenes, the embedded data set: does one dominant thing keep a model from seeing small things?

An image has one dominant thing and two to four small things on textured stuff. It comes with
captions in which each sentence is about one element, a class label, and a pixel-exact label map.
`scene` renders scenes, `captions` describes them, `layouts` writes files, and `vocabulary` has the
tokenizer.
"""

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

TRAIN, TEST = "train", "test"
SPLIT_SEEDS = {TRAIN: 0, TEST: 1}  # a split has its own scenes, indexed from 0

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
