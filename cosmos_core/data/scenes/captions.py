"""Captions of a scene in the manner of three captioners, and choices between captions. Each
sentence of a long caption is about one element. Captioners leave things out, but say nothing false.
A sentence has at most 11 words, no full stop, and only the vocabulary's words."""

from collections.abc import Sequence
from itertools import accumulate, combinations, product
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cosmos_core.data.scenes import COLOURS, PALETTE, SIDE, THINGS

T = TypeVar("T")
Captions = dict[str, list[str]]  # key as in DreamLIP's releases -> sentences
Box = tuple[int, int, int, int]

LARGE, SMALL = "large", "small"
_FEWEST, _MOST = 4, 7  # sentences in a long caption
_APART = 18  # pixels between centres from which a thing is surely beside, above or below another
_CLEAR = 8.0  # pixels that a centre must lie outside of a place for the place to be clearly wrong

PLACE_PHRASES = {  # the thirds of a picture, row by row, and how captions name them
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
_PLACES = tuple(PLACE_PHRASES)

SIDES = {"x-": "left of", "x+": "right of", "y-": "above", "y+": "below"}

# What the two captions of a choice can differ in, and its values.
ATTRIBUTES: dict[str, Sequence[Any]]
ATTRIBUTES = {"colour": [*PALETTE], "place": _PLACES, "kind": THINGS, "size": (LARGE, SMALL)}


class Thing(NamedTuple):
    """One thing of a scene."""

    kind: str
    colour: str
    size: str  # `large`, the dominant one, or `small`
    place: str  # of PLACE_PHRASES
    box: Box  # x0, y0, x1, y1 of the visible pixels, the last two exclusive
    area: float  # visible pixels as a fraction of the image


class Stuff(NamedTuple):
    """One region of stuff."""

    kind: str
    where: str  # `ground`, `background`, `left`, `right` or `everywhere`
    area: float  # visible pixels as a fraction of the image


class Style(NamedTuple):
    """Sentence patterns of one captioner, of `{a}` a thing with article, colour, size if small;
    `{bare}` without article; its `{place}`; `{b}` another; `{side}` a relation; `{s}` stuff."""

    large: tuple[str, ...]
    small: tuple[str, ...]
    small_adjective: str
    ground: tuple[str, ...]
    background: tuple[str, ...]
    beside: tuple[str, ...]
    everywhere: tuple[str, ...]
    relation: tuple[str, ...]
    short: tuple[str, ...]
    omission: float  # chance to leave out a small thing or a kind of stuff


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
    *("{a}", "{bare}", "photo of {a}", "a photo of {a}", "a photo of the {bare}"),
    *("a picture of {a}", "my {bare}", "itap of {a}", "there is {a} in the scene"),
    *("nice {bare} photo", "{a} for sale"),
)


class _Draw:
    """A stream of choices out of one block of random numbers, which is quicker than many."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._values = iter(rng.random(192).tolist())

    def chance(self, probability: float) -> bool:
        return next(self._values) < probability

    def pick(self, options: Sequence[T]) -> T:
        return options[int(next(self._values) * len(options))]


def place_of(box: Box) -> str:
    """Return the third of the image that the centre of a box is in."""
    column, row = (min(2, (box[axis] + box[axis + 2]) * 3 // (2 * SIDE)) for axis in (0, 1))
    return _PLACES[3 * row + column]


def relation_of(box: Box, other: Box) -> str | None:
    """Return how a box lies to another: `left of`, `right of`, `above`, `below`, None if near."""
    dx = (box[0] + box[2] - other[0] - other[2]) / 2
    dy = (box[1] + box[3] - other[1] - other[3]) / 2
    if max(abs(dx), abs(dy)) < _APART:
        return None
    axis, distance = ("x", dx) if abs(dx) > abs(dy) else ("y", dy)
    return SIDES[axis + ("-" if distance < 0 else "+")]


def describe(rng: np.random.Generator, things: Sequence[Thing], stuff: Sequence[Stuff]) -> Captions:
    """Return the captions of a scene. `things` has the dominant one first, then the small ones."""
    draw = _Draw(rng)
    bare = things[0].kind if draw.chance(0.2) else _bare(things[0], draw)
    raw = draw.pick(RAW_PATTERNS).format(a=_with_article(bare), bare=bare)
    captions: Captions = {"raw_caption": [raw]}
    for name, style in STYLES.items():
        captions[f"short{name}_captions"] = [_short(style, things, stuff, draw)]
        captions[f"long{name}_captions"] = _long(style, things, stuff, draw)
    return captions


def _short(style: Style, things: Sequence[Thing], stuff: Sequence[Stuff], draw: _Draw) -> str:
    other = things[1 + int(draw.chance(0.5))]
    return draw.pick(style.short).format(
        a=_with_article(_bare(things[0], draw)),
        b=_small_phrase(style, other, draw),
        place=PLACE_PHRASES[things[0].place],
        s=stuff[-1].kind,
    )


def _long(style: Style, things: Sequence[Thing], stuff: Sequence[Stuff], draw: _Draw) -> list[str]:
    bare, place = _bare(things[0], draw), PLACE_PHRASES[things[0].place]
    sentences = [draw.pick(style.large).format(a=_with_article(bare), bare=bare, place=place)]
    noticed: list[Thing | Stuff] = [*things[1:], *stuff]
    for element in tuple(noticed):  # captioners overlook some, but never too many
        if 1 + len(noticed) > _FEWEST and draw.chance(style.omission):
            noticed.remove(element)
    for element in noticed:
        if isinstance(element, Thing):
            phrase = _small_phrase(style, element, draw)
            place = PLACE_PHRASES[element.place]
            sentences.append(draw.pick(style.small).format(a=phrase, place=place))
        else:
            patterns = getattr(style, element.where, style.beside)
            sentences.append(draw.pick(patterns).format(s=element.kind, side=element.where))
    sentences += _relation(style, things, draw)
    return sentences[:_MOST]


def _relation(style: Style, things: Sequence[Thing], draw: _Draw) -> list[str]:
    """Relate one small thing to the dominant one, whose kind is unique in the scene."""
    if not style.relation or not draw.chance(0.4):
        return []
    small = draw.pick(things[1:])
    side = relation_of(small.box, things[0].box)
    if side is None:
        return []
    phrase = _small_phrase(style, small, draw)
    return [draw.pick(style.relation).format(a=phrase, side=side, b=things[0].kind)]


def _small_phrase(style: Style, thing: Thing, draw: _Draw) -> str:
    adjective = style.small_adjective if thing.size == SMALL and draw.chance(0.8) else ""
    return _with_article(_bare(thing, draw, adjective))


def _bare(thing: Thing, draw: _Draw, adjective: str = "") -> str:
    colour = "" if draw.chance(0.08) else thing.colour
    return " ".join(word for word in (adjective, colour, thing.kind) if word)


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def join(sentences: Sequence[str], most_tokens: int) -> str:
    """Join sentences with ". ", dropping from the end what exceeds `most_tokens`."""
    used = accumulate(1 + len(sentence.split()) for sentence in sentences)
    return ". ".join(sentences[: sum(tokens - 1 <= most_tokens for tokens in used)])


def choose(rng: np.random.Generator, things: Sequence[Thing], attribute: str) -> tuple[str, str]:
    """Draw a right and a wrong caption that differ in one of ATTRIBUTES, out of all equally good.
    `things` has the dominant one first and at least two small ones. Both captions are two sentences
    of captioner IB joined as in its long captions, and name colours that the kinds come in: models
    trained on scenes know texts like either. The wrong one swaps the attribute between two things,
    which keeps the words; where no swap in a scene is false, it replaces it in one."""
    pairs = list(combinations(things, 2))
    options = []
    for a, b in pairs:
        first, second = getattr(a, attribute), getattr(b, attribute)
        swapped = a._replace(**{attribute: second}), b._replace(**{attribute: first})
        if all(_is_wrong(claim, things) for claim in swapped):
            options.append(((a, b), swapped))
    if not options:
        for (a, b), value in product(pairs, ATTRIBUTES[attribute]):
            claim = b._replace(**{attribute: value})
            if _is_wrong(claim, things):
                options.append(((a, b), (a, claim)))
    right, wrong = options[int(rng.integers(len(options)))]
    return _caption(right), _caption(wrong)


def _caption(pair: Sequence[Thing]) -> str:
    """Describe two things as captioner IB does, whose long captions begin with the large one."""
    return ". ".join(
        f"a {thing.size} {thing.colour} {thing.kind} {PLACE_PHRASES[thing.place]}"
        for thing in sorted(pair, key=lambda thing: thing.size != LARGE)
    )


def _is_wrong(claim: Thing, things: Sequence[Thing]) -> bool:
    """Return whether such a thing could be in some scene and is clearly not in this one."""
    return claim.colour in COLOURS[claim.kind] and all(
        _distance(thing, claim.place) >= _CLEAR for thing in things if thing[:3] == claim[:3]
    )


def _distance(thing: Thing, place: str) -> float:
    """Return the pixels along the farther axis from a thing's centre to the third of a place."""
    row, column = divmod(_PLACES.index(place), 3)
    x0, y0, x1, y1 = thing.box
    x, y = 1.5 * (x0 + x1) / SIDE, 1.5 * (y0 + y1) / SIDE
    return max(column - x, x - column - 1, row - y, y - row - 1, 0.0) * SIDE / 3
