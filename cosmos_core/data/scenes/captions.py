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
    """A source of random choices. It draws all random numbers at once, which is faster."""

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
    # The centre is at (x0 + x1) / 2, and a third of the image is SIDE / 3 pixels.
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
    """Return the captions of a scene: a raw one, and a short and a long one of each captioner.

    `things` has the dominant thing first, then at least two small things.
    """
    draw = _Draw(rng)
    bare_phrase = things[0].kind if draw.chance(0.2) else _bare_phrase(things[0], draw)
    raw_pattern = draw.pick(RAW_PATTERNS)
    raw_caption = raw_pattern.format(a=_with_article(bare_phrase), bare=bare_phrase)
    captions: Captions = {"raw_caption": [raw_caption]}
    for name, style in STYLES.items():
        captions[f"short{name}_captions"] = [_short_caption(style, things, stuff, draw)]
        captions[f"long{name}_captions"] = _long_caption(style, things, stuff, draw)
    return captions


def _short_caption(
    style: Style, things: Sequence[Thing], stuff: Sequence[Stuff], draw: _Draw
) -> str:
    """Return a caption of the dominant thing and, in some patterns, of another element."""
    small_thing = things[2] if draw.chance(0.5) else things[1]
    pattern = draw.pick(style.short)
    return pattern.format(
        a=_with_article(_bare_phrase(things[0], draw)),
        b=_phrase_with_size(style, small_thing, draw),
        place=PLACE_PHRASES[things[0].place],
        s=stuff[-1].kind,
    )


def _long_caption(
    style: Style, things: Sequence[Thing], stuff: Sequence[Stuff], draw: _Draw
) -> list[str]:
    """Return the sentences of a long caption, at most _MAX_SENTENCES.

    The first sentence is about the dominant thing. The others are about a small thing or a region
    of stuff each. Some of these elements are left out, by the chance `style.omission`, as long as
    at least _MIN_SENTENCES sentences remain. A sentence about a relation may come last.
    """
    bare_phrase, place_phrase = _bare_phrase(things[0], draw), PLACE_PHRASES[things[0].place]
    large_pattern = draw.pick(style.large)
    sentences = [
        large_pattern.format(a=_with_article(bare_phrase), bare=bare_phrase, place=place_phrase)
    ]
    all_elements: list[Thing | Stuff] = [*things[1:], *stuff]
    noticed_elements = list(all_elements)
    for element in all_elements:
        can_omit = 1 + len(noticed_elements) > _MIN_SENTENCES
        if can_omit and draw.chance(style.omission):
            noticed_elements.remove(element)
    for element in noticed_elements:
        if isinstance(element, Thing):
            phrase = _phrase_with_size(style, element, draw)
            place_phrase = PLACE_PHRASES[element.place]
            sentences.append(draw.pick(style.small).format(a=phrase, place=place_phrase))
        else:
            # The left and the right side share the patterns `beside`.
            patterns = getattr(style, element.where, style.beside)
            sentences.append(draw.pick(patterns).format(s=element.kind, side=element.where))
    relation_sentence = _relation_sentence(style, things, draw)
    if relation_sentence is not None:
        sentences.append(relation_sentence)
    return sentences[:_MAX_SENTENCES]


def _relation_sentence(style: Style, things: Sequence[Thing], draw: _Draw) -> str | None:
    """Return a sentence that relates a small thing to the dominant thing, or None.

    An example is "we see a tiny red ball left of the house". The dominant thing is named by its
    kind, which is unique in a scene.
    """
    if not style.relation or not draw.chance(0.4):
        return None
    small_thing = draw.pick(things[1:])
    relation = relation_of(small_thing.box, things[0].box)
    if relation is None:
        return None
    phrase = _phrase_with_size(style, small_thing, draw)
    return draw.pick(style.relation).format(a=phrase, side=relation, b=things[0].kind)


def _phrase_with_size(style: Style, thing: Thing, draw: _Draw) -> str:
    """Return a phrase for a thing, such as "a tiny red ball"; now and then without the size."""
    adjective = style.small_adjective if thing.size == SMALL and draw.chance(0.8) else ""
    return _with_article(_bare_phrase(thing, draw, adjective))


def _bare_phrase(thing: Thing, draw: _Draw, adjective: str = "") -> str:
    """Return a phrase without article, such as "red ball"; now and then without the colour."""
    colour = "" if draw.chance(0.08) else thing.colour
    return " ".join(word for word in (adjective, colour, thing.kind) if word)


def _with_article(phrase: str) -> str:
    """Return "a red ball" for "red ball", and "an apple" for "apple"."""
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def join(sentences: Sequence[str], most_tokens: int) -> str:
    """Join the first sentences that fit into `most_tokens` tokens with ". ".

    Each word and each full stop is a token.
    """
    n_tokens = 0
    fitting_sentences = []
    for sentence in sentences:
        n_tokens += len(sentence.split())
        if n_tokens > most_tokens:
            break
        fitting_sentences.append(sentence)
        n_tokens += 1  # the full stop
    return ". ".join(fitting_sentences)


def choose(rng: np.random.Generator, things: Sequence[Thing], attribute: str) -> tuple[str, str]:
    """Return a correct and a false caption that differ in one of ATTRIBUTES.

    For the attribute "colour" they may be "a small red ball on the left. a small blue car at the
    top" and "a small blue ball on the left. a small red car at the top".

    `things` has the dominant thing first, and at least two small ones. Both captions are two
    sentences as captioner IB writes them, with colours that the kinds come in: models trained on
    scenes know texts like both. The false caption swaps the attribute between two things, which
    keeps the words. If every swap in a scene could be true, the attribute of one thing is replaced.
    One of all possible pairs of captions is drawn.
    """
    options = _swapped_pairs(things, attribute) or _replaced_pairs(things, attribute)
    correct_pair, false_pair = options[int(rng.integers(len(options)))]
    return _pair_caption(correct_pair), _pair_caption(false_pair)


def _swapped_pairs(things: Sequence[Thing], attribute: str) -> list[tuple[_Pair, _Pair]]:
    """Return pairs of things, and the same pairs with the attribute swapped between the two.

    A pair is left out unless both changed things are clearly false.
    """
    options = []
    for first, second in combinations(things, 2):
        first_value, second_value = getattr(first, attribute), getattr(second, attribute)
        swapped_first = first._replace(**{attribute: second_value})
        swapped_second = second._replace(**{attribute: first_value})
        if _is_clearly_false(swapped_first, things) and _is_clearly_false(swapped_second, things):
            options.append(((first, second), (swapped_first, swapped_second)))
    return options


def _replaced_pairs(things: Sequence[Thing], attribute: str) -> list[tuple[_Pair, _Pair]]:
    """Return pairs of things, and the same pairs with a clearly false value in the second thing."""
    options = []
    for first, second in combinations(things, 2):
        for value in ATTRIBUTES[attribute]:
            changed_second = second._replace(**{attribute: value})
            if _is_clearly_false(changed_second, things):
                options.append(((first, second), (first, changed_second)))
    return options


def _pair_caption(pair: Sequence[Thing]) -> str:
    """Return a sentence about each of two things, the large thing first, as captioner IB writes."""
    large_first = sorted(pair, key=lambda thing: thing.size != LARGE)
    sentences = [
        f"a {thing.size} {thing.colour} {thing.kind} {PLACE_PHRASES[thing.place]}"
        for thing in large_first
    ]
    return ". ".join(sentences)


def _is_clearly_false(claimed_thing: Thing, things: Sequence[Thing]) -> bool:
    """Return whether a thing is clearly not in a scene, although its kind comes in its colour.

    It is not clear if a thing of the same kind, colour and size is near the claimed place.
    """
    if claimed_thing.colour not in COLOURS[claimed_thing.kind]:
        return False
    claimed_look = (claimed_thing.kind, claimed_thing.colour, claimed_thing.size)
    for thing in things:
        has_same_look = (thing.kind, thing.colour, thing.size) == claimed_look
        if has_same_look and _distance_to_place(thing, claimed_thing.place) < _MIN_WRONG_DISTANCE:
            return False
    return True


def _distance_to_place(thing: Thing, place: str) -> float:
    """Return the distance in pixels from a thing's centre to a place, a ninth of the image.

    It is the larger one of the distances in x and in y, and 0 inside of the place.
    """
    row, column = divmod(_PLACES.index(place), 3)
    x0, y0, x1, y1 = thing.box
    # In thirds of the image the centre is (x, y), and the place is from column to column + 1, and
    # from row to row + 1.
    x, y = 1.5 * (x0 + x1) / SIDE, 1.5 * (y0 + y1) / SIDE
    thirds = max(column - x, x - column - 1, row - y, y - row - 1, 0.0)
    return thirds * SIDE / 3
