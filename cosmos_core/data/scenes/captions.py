"""Captions of a scene in the manner of three captioners, and one alternative text.

Each long caption is a list of sentences about *one* element each, so that a single sentence can
teach a single small thing or one kind of stuff. Captioners leave things out, but say nothing
false. A sentence has at most MAX_SENTENCE words, no full stop, and only the vocabulary's words.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from .compose import Box, Stuff, Thing

CAPTIONERS = ("IB", "SV", "LLA")
CAPTION_KEYS = (
    "raw_caption",
    *(f"{length}{name}_captions" for name in CAPTIONERS for length in ("short", "long")),
)
"""Keys of a scene's captions, as in DreamLIP's releases; each holds a list of sentences."""

Captions = dict[str, list[str]]

MAX_SENTENCE = 11
# Sentences in a long caption.
_FEWEST, _MOST = 4, 7
# Pixels between centres from which a thing is surely beside, above or below another.
_APART = 18

PLACE_PHRASES = {
    "upper left": "in the upper left",
    "top": "at the top",
    "upper right": "in the upper right",
    "left": "on the left",
    "center": "in the center",
    "right": "on the right",
    "lower left": "in the lower left",
    "bottom": "at the bottom",
    "lower right": "in the lower right",
}


class Style(NamedTuple):
    """Sentence patterns of one captioner.

    Fields: `{a}` a thing with article, colour and, if small, size; `{bare}` without article;
    `{place}` its place; `{s}` a kind of stuff; `{b}` a second thing; `{side}` a relation.
    """

    large: tuple[str, ...]
    small: tuple[str, ...]
    small_adjective: str
    ground: tuple[str, ...]
    background: tuple[str, ...]
    beside: tuple[str, ...]
    everywhere: tuple[str, ...]
    relation: tuple[str, ...]
    short: tuple[str, ...]
    omission: float
    """Chance that the captioner leaves out a small thing or a kind of stuff."""


STYLES = {
    "IB": Style(
        large=("a large {bare} {place}",),
        small=("{a} {place}",),
        small_adjective="small",
        ground=("{s} on the ground",),
        background=("{s} in the background",),
        beside=("{s} on the {side} side",),
        everywhere=("{s} everywhere",),
        relation=(),
        short=("{a} and {b}", "{a} {place}", "{a} and some {s}", "{a} with {b}"),
        omission=0.04,
    ),
    "SV": Style(
        large=("the main object is {a} {place}", "a big {bare} fills the scene"),
        small=("{place} sits {a}", "{a} can be seen {place}"),
        small_adjective="tiny",
        ground=("the ground is covered with {s}", "the lower part shows {s}"),
        background=("behind it there is {s}", "the upper part shows {s}"),
        beside=("the {side} side is covered with {s}", "the {side} part shows {s}"),
        everywhere=("the whole scene is covered with {s}",),
        relation=("{a} is {side} the {b}",),
        short=("this scene shows {a} and {b}", "the image shows {a} {place}", "{a} with {s}"),
        omission=0.12,
    ),
    "LLA": Style(
        large=("there is a large {bare} {place}", "the picture shows a large {bare}"),
        small=("there is {a} {place}", "{place} we see {a}", "{a} {place}"),
        small_adjective="little",
        ground=("there is {s} on the ground", "below we see {s}"),
        background=("there is {s} in the background", "above we see {s}"),
        beside=("there is {s} on the {side} side", "{s} covers the {side} side"),
        everywhere=("there is {s} everywhere", "we see only {s} around it"),
        relation=("we see {a} {side} the {b}",),
        short=("there is {a} and {b}", "a picture of {a} with {b}", "we see {a} {place}"),
        omission=0.12,
    ),
}

RAW_PATTERNS = (
    "{a}",
    "{bare}",
    "photo of {a}",
    "a photo of {a}",
    "a photo of the {bare}",
    "a picture of {a}",
    "my {bare}",
    "itap of {a}",
    "there is {a} in the scene",
    "nice {bare} photo",
    "{a} for sale",
)

SIDES = {"x-": "left of", "x+": "right of", "y-": "above", "y+": "below"}


class _Draw:
    """A stream of choices out of one block of random numbers, which is quicker than many."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._values: Iterator[float] = iter(rng.random(192).tolist())

    def chance(self, share: float) -> bool:
        return next(self._values) < share

    def below(self, count: int) -> int:
        return int(next(self._values) * count)

    def pick(self, options: Sequence[str]) -> str:
        return options[self.below(len(options))]


def with_article(words: str) -> str:
    """Put the right indefinite article before words."""
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _bare(thing: Thing, draw: _Draw, adjective: str = "") -> str:
    colour = "" if draw.chance(0.08) else thing.colour
    return " ".join(word for word in (adjective, colour, thing.kind) if word)


def _raw(thing: Thing, draw: _Draw) -> str:
    bare = thing.kind if draw.chance(0.2) else _bare(thing, draw)
    return draw.pick(RAW_PATTERNS).format(a=with_article(bare), bare=bare)


def _about_large(style: Style, thing: Thing, draw: _Draw) -> str:
    bare = _bare(thing, draw)
    place = PLACE_PHRASES[thing.place]
    return draw.pick(style.large).format(a=with_article(bare), bare=bare, place=place)


def _small_phrase(style: Style, thing: Thing, draw: _Draw) -> str:
    adjective = style.small_adjective if thing.size == "small" and draw.chance(0.8) else ""
    return with_article(_bare(thing, draw, adjective))


def _about_small(style: Style, thing: Thing, draw: _Draw) -> str:
    phrase = _small_phrase(style, thing, draw)
    return draw.pick(style.small).format(a=phrase, place=PLACE_PHRASES[thing.place])


def _about_stuff(style: Style, stuff: Stuff, draw: _Draw) -> str:
    patterns = {
        "ground": style.ground,
        "background": style.background,
        "everywhere": style.everywhere,
    }.get(stuff.where, style.beside)
    return draw.pick(patterns).format(s=stuff.kind, side=stuff.where)


def relation_of(box: Box, other: Box) -> str | None:
    """Say how a box lies to another: `left of`, `right of`, `above`, `below`, or None if near."""
    dx = (box[0] + box[2] - other[0] - other[2]) / 2
    dy = (box[1] + box[3] - other[1] - other[3]) / 2
    if max(abs(dx), abs(dy)) < _APART:
        return None
    axis, distance = ("x", dx) if abs(dx) > abs(dy) else ("y", dy)
    return SIDES[axis + ("-" if distance < 0 else "+")]


def _relation(style: Style, things: Sequence[Thing], draw: _Draw) -> list[str]:
    """Relate one small thing to the dominant one, whose kind is unique in the scene."""
    if not style.relation or not draw.chance(0.4):
        return []
    small = things[1 + draw.below(len(things) - 1)]
    side = relation_of(small.box, things[0].box)
    if side is None:
        return []
    phrase = _small_phrase(style, small, draw)
    return [draw.pick(style.relation).format(a=phrase, side=side, b=things[0].kind)]


def _kept(style: Style, elements: Sequence[Thing | Stuff], draw: _Draw) -> list[Thing | Stuff]:
    """Leave out what the captioner overlooks, but never so much that too few are left."""
    spare = 1 + len(elements) - _FEWEST
    kept = []
    for element in elements:
        if spare > 0 and draw.chance(style.omission):
            spare -= 1
        else:
            kept.append(element)
    return kept


def _long(style: Style, things: Sequence[Thing], stuff: Sequence[Stuff], draw: _Draw) -> list[str]:
    sentences = [_about_large(style, things[0], draw)]
    for element in _kept(style, [*things[1:], *stuff], draw):
        if isinstance(element, Thing):
            sentences.append(_about_small(style, element, draw))
        else:
            sentences.append(_about_stuff(style, element, draw))
    sentences += _relation(style, things, draw)
    return sentences[:_MOST]


def _short(style: Style, things: Sequence[Thing], stuff: Sequence[Stuff], draw: _Draw) -> list[str]:
    other = things[1 + int(draw.chance(0.5))]
    sentence = draw.pick(style.short).format(
        a=with_article(_bare(things[0], draw)),
        b=_small_phrase(style, other, draw),
        place=PLACE_PHRASES[things[0].place],
        s=stuff[-1].kind,
    )
    return [sentence]


def describe(rng: np.random.Generator, things: Sequence[Thing], stuff: Sequence[Stuff]) -> Captions:
    """Return a scene's captions: a list of sentences for each of CAPTION_KEYS.

    `things` has the dominant one first and at least two small ones.
    """
    draw = _Draw(rng)
    captions: Captions = {"raw_caption": [_raw(things[0], draw)]}
    for name, style in STYLES.items():
        captions[f"short{name}_captions"] = _short(style, things, stuff, draw)
        captions[f"long{name}_captions"] = _long(style, things, stuff, draw)
    return captions


def join(sentences: Sequence[str], most_tokens: int) -> str:
    """Join sentences with ". ", dropping from the end what goes beyond `most_tokens`.

    Every word and every full stop is one token of the scenes' tokenizer.
    """
    kept: list[str] = []
    used = -1
    for sentence in sentences:
        used += 1 + len(sentence.split())
        if used > most_tokens:
            break
        kept.append(sentence)
    return ". ".join(kept)
