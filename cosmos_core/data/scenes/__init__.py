"""Scenes, the embedded data set: does a dominant thing keep a model from seeing small ones?

A picture has one dominant and two to four small things on textured stuff, captions in which
single sentences are about single elements, a class label and a pixel-exact label map. Ask for
one by `render_scene`, for a split by `split_scenes`, for files by `write_layouts`.
"""

from .captions import CAPTION_KEYS, CAPTIONERS
from .classes import CLASSES, COLOURS, PALETTE, SIDE, SPLIT_SEEDS, STUFF, TEST, THINGS, TRAIN
from .compose import Stuff, Thing
from .layouts import IGNORED, LAYOUTS, image_captions, joined_caption, write_layouts
from .scene import Scene, render_scene, split_scenes
from .vocabulary import CONTEXT_LENGTH, MERGES_FILE, scenes_tokenizer, words, write_merges

__all__ = [
    "CAPTIONERS",
    "CAPTION_KEYS",
    "CLASSES",
    "COLOURS",
    "CONTEXT_LENGTH",
    "IGNORED",
    "LAYOUTS",
    "MERGES_FILE",
    "PALETTE",
    "SIDE",
    "SPLIT_SEEDS",
    "STUFF",
    "TEST",
    "THINGS",
    "TRAIN",
    "Scene",
    "Stuff",
    "Thing",
    "image_captions",
    "joined_caption",
    "render_scene",
    "scenes_tokenizer",
    "split_scenes",
    "words",
    "write_layouts",
    "write_merges",
]
