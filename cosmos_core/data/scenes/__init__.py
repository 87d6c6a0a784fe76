"""Scenes, the embedded data set: does a dominant thing keep a model from seeing small ones? A
picture has one dominant and two to four small things on textured stuff, captions in which single
sentences are about single elements, a class label and a pixel-exact label map. `scene` renders,
`captions` describes, `layouts` writes files, `vocabulary` is the tokenizer."""

SIDE = 128  # height and width of a scene, in pixels

# Alphabetical, so that an image folder's own numbering of its classes is this one.
THINGS = (
    *("apple", "ball", "boat", "car", "fish"),
    *("house", "ladybird", "mushroom", "sunflower", "tree"),
)
STUFF = ("grass", "water", "brick", "sand", "wood", "snow", "stone", "sky")
CLASSES = THINGS + STUFF  # classes of the label map, in order of their indices: things first

TRAIN, TEST = "train", "test"
SPLIT_SEEDS = {TRAIN: 0, TEST: 1}  # of disjoint streams of scenes, each indexed from 0

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

# The first colour of a kind is its commonest; every colour belongs to at least two kinds, so
# that neither colour nor outline alone names the class.
COLOURS = {  # kind of thing -> the colours it comes in, commonest first
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
