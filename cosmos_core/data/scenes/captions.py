"""Captions of a scene in the manner of three captioners, and choices between two captions.

Each sentence of a long caption is about one element of the scene. Captioners leave elements out,
but say nothing false. A sentence has at most 11 words, no full stop, and only words of the
vocabulary.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple, TypeVar

import numpy as np

from cosmos_core.data.scenes import COLOURS, PALETTE, SIDE, THINGS

T = TypeVar("T")
Captions = dict[str, list[str]]  # key as in DreamLIP's releases -> sentences
Box = tuple[int, int, int, int]

LARGE, SMALL = "large", "small"
_MIN_SENTENCES, _MAX_SENTENCES = 4, 7  # of a long caption
# Pixels between the centres of two things that are clearly beside, above or below each other.
_MIN_RELATION_DISTANCE = 18
# A place is clearly wrong for a thing if its centre is so many pixels outside of the place.
_MIN_WRONG_DISTANCE = 8.0

# Places, the thirds of an image in both directions, row by row, and phrases for them in captions.
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
_PLACES = tuple(PLACE_PHRASES)

SIDES = {"x-": "left of", "x+": "right of", "y-": "above", "y+": "below"}

# Attributes in which the two captions of a choice can differ, and their values.
ATTRIBUTES: dict[str, Sequence[Any]] = {
    "colour": [*PALETTE],
    "place": _PLACES,
    "kind": THINGS,
    "size": (LARGE, SMALL),
}


class Thing(NamedTuple):
    """One thing of a scene."""

    kind: str
    colour: str
    size: str  # LARGE for the dominant thing, else SMALL
    place: str  # a key of PLACE_PHRASES
    box: Box  # x0, y0, x1, y1 of the visible pixels; x1 and y1 are exclusive
    area: float  # visible pixels as a fraction of the image


_Pair = tuple[Thing, Thing]


class Stuff(NamedTuple):
    """One region of stuff."""

    kind: str
    where: str  # `ground`, `background`, `left`, `right` or `everywhere`
    area: float  # visible pixels as a fraction of the image


class Style(NamedTuple):
    """The sentence patterns of one captioner.

    Patterns have these fields: `{a}` is a thing with article and colour, and an adjective if it is
    small; `{bare}` is the same without article; `{place}` is its place; `{b}` is another thing;
    `{side}` is a relation, or a side of the image; `{s}` is stuff.
    """

    # Sentences about the dominant thing, and about small things.
    large: tuple[str, ...]
    small: tuple[str, ...]
    small_adjective: str
    # Sentences about stuff, by its place.
    ground: tuple[str, ...]
    background: tuple[str, ...]
    beside: tuple[str, ...]
    everywhere: tuple[str, ...]
    # Sentences about two things and their relation.
    relation: tuple[str, ...]
    # Short captions.
    short: tuple[str, ...]
    # The chance to leave out a small thing or a kind of stuff.
    omission: float


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


class _Draw:
    """Random choices from one block of random numbers, which is faster than many single draws."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._values = iter(rng.random(192).tolist())

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return next(self._values) < probability

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options, all with the same probability."""
        return options[int(next(self._values) * len(options))]


def place_of(box: Box) -> str:
    """Return the place of a box's centre, a key of PLACE_PHRASES."""
    x0, y0, x1, y1 = box
    column = min(2, (x0 + x1) * 3 // (2 * SIDE))
    row = min(2, (y0 + y1) * 3 // (2 * SIDE))
    return _PLACES[3 * row + column]


def relation_of(box: Box, other: Box) -> str | None:
    """Return where a box lies relative to another: `left of`, `right of`, `above` or `below`.

    Return None if their centres are near each other.
    """
    dx = (box[0] + box[2] - other[0] - other[2]) / 2
    dy = (box[1] + box[3] - other[1] - other[3]) / 2
    if max(abs(dx), abs(dy)) < _MIN_RELATION_DISTANCE:
        return None
    if abs(dx) > abs(dy):
        return SIDES["x-" if dx < 0 else "x+"]
    return SIDES["y-" if dy < 0 else "y+"]


def describe(rng: np.random.Generator, things: Sequence[Thing], stuff: Sequence[Stuff]) -> Captions:
    """Return the captions of a scene; `things` has the dominant thing first, then small things."""
    draw = _Draw(rng)
    bare = things[0].kind if draw.chance(0.2) else _bare(things[0], draw)
    raw = draw.pick(RAW_PATTERNS).format(a=_with_article(bare), bare=bare)
    captions: Captions = {"raw_caption": [raw]}
    for name, style in STYLES.items():
        captions[f"short{name}_captions"] = [_short(style, things, stuff, draw)]
        captions[f"long{name}_captions"] = _long(style, things, stuff, draw)
    return captions


def _short(style: Style, things: Sequence[Thing], stuff: Sequence[Stuff], draw: _Draw) -> str:
    """Return a caption of the dominant thing, and perhaps of another element."""
    small_thing = things[2] if draw.chance(0.5) else things[1]
    pattern = draw.pick(style.short)
    return pattern.format(
        a=_with_article(_bare(things[0], draw)),
        b=_small_phrase(style, small_thing, draw),
        place=PLACE_PHRASES[things[0].place],
        s=stuff[-1].kind,
    )


def _long(style: Style, things: Sequence[Thing], stuff: Sequence[Stuff], draw: _Draw) -> list[str]:
    """Return the sentences of a long caption, one for each element that the captioner notices."""
    bare, place = _bare(things[0], draw), PLACE_PHRASES[things[0].place]
    sentences = [draw.pick(style.large).format(a=_with_article(bare), bare=bare, place=place)]
    all_elements: list[Thing | Stuff] = [*things[1:], *stuff]
    noticed_elements = list(all_elements)
    for element in all_elements:
        can_omit = 1 + len(noticed_elements) > _MIN_SENTENCES
        if can_omit and draw.chance(style.omission):
            noticed_elements.remove(element)
    for element in noticed_elements:
        if isinstance(element, Thing):
            phrase = _small_phrase(style, element, draw)
            place = PLACE_PHRASES[element.place]
            sentences.append(draw.pick(style.small).format(a=phrase, place=place))
        else:
            # The left and the right side share the patterns `beside`.
            patterns = getattr(style, element.where, style.beside)
            sentences.append(draw.pick(patterns).format(s=element.kind, side=element.where))
    sentences += _relation(style, things, draw)
    return sentences[:_MAX_SENTENCES]


def _relation(style: Style, things: Sequence[Thing], draw: _Draw) -> list[str]:
    """Return at most one sentence that relates a small thing to the dominant thing.

    The kind of the dominant thing is unique in a scene.
    """
    if not style.relation or not draw.chance(0.4):
        return []
    small_thing = draw.pick(things[1:])
    side = relation_of(small_thing.box, things[0].box)
    if side is None:
        return []
    phrase = _small_phrase(style, small_thing, draw)
    return [draw.pick(style.relation).format(a=phrase, side=side, b=things[0].kind)]


def _small_phrase(style: Style, thing: Thing, draw: _Draw) -> str:
    """Return a thing with an article, and mostly with an adjective for its size."""
    adjective = style.small_adjective if thing.size == SMALL and draw.chance(0.8) else ""
    return _with_article(_bare(thing, draw, adjective))


def _bare(thing: Thing, draw: _Draw, adjective: str = "") -> str:
    """Return a thing without article, mostly with its colour."""
    colour = "" if draw.chance(0.08) else thing.colour
    return " ".join(word for word in (adjective, colour, thing.kind) if word)


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def join(sentences: Sequence[str], most_tokens: int) -> str:
    """Join sentences with ". ", without the last ones that would exceed `most_tokens`."""
    tokens = 0
    kept_sentences = []
    for sentence in sentences:
        tokens += len(sentence.split())
        if tokens > most_tokens:
            break
        kept_sentences.append(sentence)
        tokens += 1  # the full stop
    return ". ".join(kept_sentences)


def choose(rng: np.random.Generator, things: Sequence[Thing], attribute: str) -> tuple[str, str]:
    """Return a right and a wrong caption that differ in one of ATTRIBUTES.

    `things` has the dominant thing first, and at least two small ones. Both captions are two
    sentences of captioner IB, joined as in its long captions, with colours that the kinds come in:
    models trained on scenes know texts like both. The wrong caption swaps the attribute between two
    things, which keeps the words. If every swap in a scene could be true, the attribute of one
    thing is replaced. One of all possible pairs of captions is drawn.
    """
    options = _swaps(things, attribute) or _replacements(things, attribute)
    right, wrong = options[int(rng.integers(len(options)))]
    return _caption(right), _caption(wrong)


def _swaps(things: Sequence[Thing], attribute: str) -> list[tuple[_Pair, _Pair]]:
    """Return pairs of things, and the same pairs with the attribute swapped and clearly wrong."""
    options = []
    for first, second in combinations(things, 2):
        first_value, second_value = getattr(first, attribute), getattr(second, attribute)
        swapped_first = first._replace(**{attribute: second_value})
        swapped_second = second._replace(**{attribute: first_value})
        if _is_wrong(swapped_first, things) and _is_wrong(swapped_second, things):
            options.append(((first, second), (swapped_first, swapped_second)))
    return options


def _replacements(things: Sequence[Thing], attribute: str) -> list[tuple[_Pair, _Pair]]:
    """Return pairs of things, and the same pairs with a clearly wrong value in the second thing."""
    options = []
    for first, second in combinations(things, 2):
        for value in ATTRIBUTES[attribute]:
            changed_second = second._replace(**{attribute: value})
            if _is_wrong(changed_second, things):
                options.append(((first, second), (first, changed_second)))
    return options


def _caption(pair: Sequence[Thing]) -> str:
    """Describe two things as captioner IB does, whose long captions begin with the large thing."""
    large_first = sorted(pair, key=lambda thing: thing.size != LARGE)
    sentences = [
        f"a {thing.size} {thing.colour} {thing.kind} {PLACE_PHRASES[thing.place]}"
        for thing in large_first
    ]
    return ". ".join(sentences)


def _is_wrong(claimed_thing: Thing, things: Sequence[Thing]) -> bool:
    """Return whether such a thing could be in a scene and is clearly not in this one."""
    if claimed_thing.colour not in COLOURS[claimed_thing.kind]:
        return False
    for thing in things:
        is_same = thing[:3] == claimed_thing[:3]  # in kind, colour and size
        if is_same and _distance(thing, claimed_thing.place) < _MIN_WRONG_DISTANCE:
            return False
    return True


def _distance(thing: Thing, place: str) -> float:
    """Return the distance in pixels from a thing's centre to a place, along the farther axis."""
    row, column = divmod(_PLACES.index(place), 3)
    x0, y0, x1, y1 = thing.box
    # The centre, in thirds of the image.
    x, y = 1.5 * (x0 + x1) / SIDE, 1.5 * (y0 + y1) / SIDE
    return max(column - x, x - column - 1, row - y, y - row - 1, 0.0) * SIDE / 3
